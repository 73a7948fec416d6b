"""Publishing and asking, for asyncio.

Rules: nothing is repeated behind the caller's back (see ``jobs``); nothing waits without a bound.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import NamedTuple

from gearhorn.client.connected import Connected
from gearhorn.client.jobs import Sent
from gearhorn.client.payloads import Headers, Payload, Request, request_of
from gearhorn.client.pieces import Pieces
from gearhorn.client.results import (
    Answer,
    Answers,
    Failure,
    Published,
    Receipt,
    Results,
    Streamed,
    published_of,
    receipt_of,
)
from gearhorn.errors import GearhornError, NotDelivered
from gearhorn.messages.codec import encode
from gearhorn.messages.fanout import copies_needed

GRACE_S = 10.0  # that a worker has beyond the time that receivers have


class Outgoing(NamedTuple):
    """One message for ``publish_many``; its fields are the arguments of ``publish``."""

    topic: str
    payload: Payload = b""
    unique: str | None = None
    headers: Headers | None = None
    exclude: Iterable[str] = ()
    priority: str = "normal"
    expires: float | None = None


def _background(outgoing: Outgoing, *, receipt: bool) -> Request:
    """Return the request that publishes a message without waiting for its receivers."""
    return request_of(
        outgoing.topic,
        outgoing.payload,
        unique=outgoing.unique,
        headers=outgoing.headers,
        exclude=outgoing.exclude,
        priority=outgoing.priority,
        expires=outgoing.expires,
        background=True,
        receipt=receipt,
    )


class Publisher(Connected):
    """Publishes through the workers behind some job servers; for one event loop.

    Arguments:
        servers: "HOST", "HOST:PORT" or "[IPV6]:PORT" each, the preferred one first; none:
            ``$GEARHORN_SERVERS``, then localhost:4730.
        tls: how connections are made; None: in plain text.
        timeout: seconds that a request has where it says nothing else.
        functions: the workers' functions, where an operator has renamed them.

    Raises ``ValueError`` for what names no server, and ``OSError`` for a TLS file that is no good.
    """

    async def publish(
        self,
        topic: str,
        payload: Payload = b"",
        *,
        unique: str | None = None,
        headers: Headers | None = None,
        exclude: Iterable[str] = (),
        priority: str = "normal",
        expires: float | None = None,
        timeout: float | None = None,
    ) -> Published:
        """Publish one message; return once every copy is accepted or the message is logged.

        Arguments:
            topic: what it is published to.
            payload: bytes as they are, text as UTF-8, any other object as JSON.
            unique: an id under which it may be repeated ("Unique ids" in docs/protocol.rst).
            headers: texts that travel with it, for durable subscriptions and envelopes.
            exclude: client_ids that get no copy.
            priority: "low", "normal" or "high".
            expires: seconds after which it is not to be processed any more.
            timeout: seconds, instead of the publisher's own.

        Raises ``RequestError`` (refused), ``NotConnected`` (nothing was sent), ``Unsure`` and
        ``TimedOut`` (sent, and not known whether it was carried out; with ``unique`` it was
        repeated until the time was over), ``TypeError`` (the payload cannot be JSON).
        """
        outgoing = Outgoing(topic, payload, unique, headers, exclude, priority, expires)
        request = _background(outgoing, receipt=True)
        return published_of(await self.send(request, self._seconds(timeout)))

    async def send(self, request: Request, timeout_s: float) -> bytes:
        """Run a ``fanout`` request; return its reply. Raises what ``publish`` raises."""
        is_repeatable = isinstance(request.unique, str)
        return await self._run(
            self.functions.fanout, encode(request), timeout_s, is_repeatable=is_repeatable
        )

    async def publish_many(
        self,
        messages: Iterable[Outgoing | tuple[str, Payload]]
        | AsyncIterable[Outgoing | tuple[str, Payload]],
        *,
        window: int = 256,
        timeout: float | None = None,
    ) -> Results:
        """Publish many messages, pipelined; return what became of each, in their order.

        One by one, each message costs a round trip to the worker; here they are sent without
        waiting, and leave in the order in which they are given. The results know the number of
        copies only, neither drops nor positions: receipts would cost the worker as much as copies.

        Arguments:
            messages: ``Outgoing`` or (topic, payload) each.
            window: how many may be unanswered at once.
            timeout: seconds that each has, instead of the publisher's own.

        A message that fails does not end the others; ``Results.raise_any`` raises the first error.
        """
        many = self.begin_many(window, timeout)
        if isinstance(messages, AsyncIterable):
            async for message in messages:
                await many.add(message)
        else:
            await many.add_all(messages)
        return await many.finish()

    def begin_many(self, window: int = 256, timeout: float | None = None) -> Many:
        """Return what takes messages one by one, as ``publish_many`` does all of them: for callers
        that do not have them in one iterable."""
        return Many(self, window, self._seconds(timeout))

    async def deliver(
        self,
        topic: str,
        payload: Payload = b"",
        *,
        timeout: float = 30.0,
        quorum: int | str | None = None,
        exclude: Iterable[str] = (),
        headers: Headers | None = None,
        unique: str | None = None,
    ) -> Receipt:
        """Publish one message and wait for its receivers.

        It is delivered when they have processed it, not when they have it. Those that are left when
        the time is over, or a quorum is reached, go on with it all the same.

        Arguments:
            timeout: seconds that receivers have.
            quorum: how many must succeed, or a part such as "50%"; None: all.
            topic, payload, exclude, headers, unique: as in ``publish``.

        Raises ``NotDelivered`` with the receipt where too few have succeeded, and what
        ``publish`` raises.
        """
        request = request_of(
            topic,
            payload,
            unique=unique,
            headers=headers,
            exclude=exclude,
            receipt=True,
            timeout=timeout,
            quorum=quorum,
        )
        receipt = receipt_of(await self.send(request, timeout + GRACE_S))
        if receipt.succeeded < copies_needed(quorum, receipt.addressed):
            raise NotDelivered(_shortfall(receipt), receipt)
        return receipt

    async def ask(
        self,
        topic: str,
        payload: Payload = b"",
        *,
        timeout: float = 30.0,
        quorum: int | str | None = None,
        exclude: Iterable[str] = (),
        headers: Headers | None = None,
    ) -> Answers:
        """Publish one message and return what each receiver answered.

        An answer is what the receiver's job returns: what a handler of this library returns, or the
        output of ``gearman -w``. All of them together have 8 MiB; what does not fit is named in
        ``Answers.receipt.omitted``.

        Arguments: as in ``deliver``. Raises what ``publish`` raises; hosts that fail or do not
        answer are no error, but ``failed`` and ``missing`` of what is returned.
        """
        request = request_of(
            topic,
            payload,
            headers=headers,
            exclude=exclude,
            receipt=True,
            timeout=timeout,
            quorum=quorum,
        )
        return Answers(receipt_of(await self.send(request, timeout + GRACE_S)))

    async def ask_iter(
        self,
        topic: str,
        payload: Payload = b"",
        *,
        timeout: float = 30.0,
        quorum: int | str | None = None,
        exclude: Iterable[str] = (),
        headers: Headers | None = None,
    ) -> AsyncIterator[Answer | Failure]:
        """Publish one message and yield what each receiver answers, as it does.

        The message is published when the first answer is waited for. Each host is there once: with
        its answer, or with a ``Failure`` where it failed, was not asked, or has not answered when
        the time is over or the quorum is reached; these come last. To leave early is no loss: the
        receivers go on all the same.

        Arguments: as in ``deliver``. Raises what ``publish`` raises; ``Unsure`` and ``TimedOut``
        may come after answers.
        """
        request = request_of(
            topic,
            payload,
            headers=headers,
            exclude=exclude,
            receipt=True,
            stream=True,
            timeout=timeout,
            quorum=quorum,
        )
        # The reply is waited for by a task of its own, whose end ends the pieces: so answers are
        # yielded while it is open, and what it raises is raised behind them. A receipt is asked for
        # besides, since a stream does not tell of hosts that have not finished, nor of answers that
        # came faster than the caller reads. A caller that leaves ends the task, and with it the
        # wait for the job: what the worker still sends of it is dropped.
        pieces, answers = Pieces(), Streamed()
        asking = self._run(
            self.functions.fanout,
            encode(request),
            timeout + GRACE_S,
            is_repeatable=False,
            pieces=pieces,
        )
        reply = asyncio.ensure_future(asking)
        reply.add_done_callback(pieces.end)
        try:
            async for piece in pieces.read():
                answer = answers.take(piece)
                if answer is not None:
                    yield answer
            for said in answers.rest(receipt_of(await reply)):
                yield said
        finally:
            reply.cancel()
            await asyncio.gather(reply, return_exceptions=True)


def _shortfall(receipt: Receipt) -> str:
    """Say who has not processed a message."""
    parts = [f"{receipt.succeeded} of {receipt.addressed} receivers have processed it"]
    if receipt.failed:
        client_id, reason = next(iter(receipt.failed.items()))
        more = f" and {len(receipt.failed) - 1} more" if len(receipt.failed) > 1 else ""
        parts.append(f"failed: {client_id} ({reason}){more}")
    others = (
        ("pending", receipt.pending),
        ("dropped", receipt.dropped),
        ("expired", receipt.expired),
    )
    for name, clients in others:
        if clients:
            more = f" and {len(clients) - 3} more" if len(clients) > 3 else ""
            parts.append(f"{name}: {', '.join(clients[:3])}{more}")
    return "; ".join(parts)


class Many:
    """Messages on their way, up to a window of them unanswered.

    Arguments:
        publisher: whose connections they take.
        window: how many may be unanswered at once.
        timeout_s: the seconds that each of them has.

    A message is sent without a task of its own: that would cost more than all the rest. Only one
    that was not answered well goes through ``Jobs.run``, behind those that are under way.
    """

    def __init__(self, publisher: Publisher, window: int, timeout_s: float) -> None:
        self._publisher = publisher
        self._jobs = publisher.jobs
        self._function = publisher.functions.fanout.encode()
        self._window = max(1, window)
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._out: deque[tuple[Request, Sent | None, float]] = deque()
        self._results: list[Published | GearhornError] = []
        self._is_down = False  # a message has waited for a job server in vain

    async def add(self, message: Outgoing | tuple[str, Payload]) -> None:
        """Send one message; wait first where the window is full, or no job server is up.

        Waiting here rather than later keeps the order in which messages are sent. Where a server
        was waited for in vain, those that follow do not wait again until one is up.
        """
        request = _background(Outgoing(*message), receipt=False)
        if len(self._out) >= self._window:
            await self._take()
        deadline_s = self._loop.time() + self._timeout_s
        body = encode(request)
        sent = self._jobs.send(self._function, body)
        if sent is None and not self._is_down:  # wait here, so that the order is kept
            self._is_down = not await self._jobs.until_up(deadline_s)
            sent = self._jobs.send(self._function, body)
        if sent is not None:
            self._is_down = False
        self._out.append((request, sent, deadline_s))

    async def add_all(self, messages: Iterable[Outgoing | tuple[str, Payload]]) -> None:
        """Send several messages."""
        for message in messages:
            await self.add(message)

    async def finish(self) -> Results:
        """Wait for what is under way; return what became of everything."""
        while self._out:
            await self._take()
        return Results(self._results)

    async def _take(self) -> None:
        """Take the result of the oldest message."""
        request, sent, deadline_s = self._out.popleft()
        self._results.append(await self._result(request, sent, deadline_s))

    async def _result(
        self, request: Request, sent: Sent | None, deadline_s: float
    ) -> Published | GearhornError:
        if sent is None:
            return self._jobs.not_connected()
        try:
            reply = await self._jobs.reply(sent, deadline_s)
            if isinstance(reply, bytes):
                return published_of(reply)
            if not self._jobs.is_to_repeat(reply, isinstance(request.unique, str)):
                return reply
            left_s = max(0.001, deadline_s - self._loop.time())
            return published_of(await self._publisher.send(request, left_s))
        except GearhornError as error:
            return error
