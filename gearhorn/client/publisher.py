"""Publishing and asking, for asyncio.

Rules: nothing is repeated behind the caller's back (see ``jobs``); nothing waits without a bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from gearhorn.client.connected import Connected
from gearhorn.client.many import Many, Outgoing, background
from gearhorn.client.observers import Observed, Operation, RequestObserver
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

R = TypeVar("R")


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

    def __init__(self, *servers: str, **settings: Any) -> None:
        super().__init__(*servers, **settings)
        self._observers: tuple[RequestObserver, ...] = ()

    def observe(self, observer: RequestObserver) -> None:
        """Have an observer see each request from here on."""
        self._observers += (observer,)

    def unobserve(self, observer: RequestObserver) -> None:
        """Have an observer see no more requests; without effect where it sees none."""
        self._observers = tuple(one for one in self._observers if one is not observer)

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
        request = background(outgoing, receipt=True)
        return await self._request("publish", request, self._seconds(timeout), published_of)

    async def send(self, request: Request, timeout_s: float, pieces: Pieces | None = None) -> bytes:
        """Run a ``fanout`` request; return its reply. Raises what ``publish`` raises."""
        return await self._run(
            self.functions.fanout,
            encode(request),
            timeout_s,
            is_repeatable=isinstance(request.unique, str),
            pieces=pieces,
        )

    async def _request(
        self,
        operation: Operation,
        request: Request,
        timeout_s: float,
        end: Callable[[bytes], R],
        *,
        pieces: Pieces | None = None,
    ) -> R:
        """Run a request; return what ``end`` makes of its reply, or raise what that raises."""
        if not self._observers:
            return end(await self.send(request, timeout_s, pieces))
        observed = self.observed(operation, request)
        try:
            value = end(await self._reply(observed, timeout_s, pieces))
        except BaseException as error:
            observed.ended(error)
            raise
        observed.ended(value)
        return value

    def observed(self, operation: Operation, request: Request) -> Observed:
        """Return a request as its observers see it and have changed it."""
        return Observed(self._observers, operation, request)

    @property
    def is_observed(self) -> bool:
        """Whether there are observers."""
        return bool(self._observers)

    async def _reply(self, observed: Observed, timeout_s: float, pieces: Pieces | None) -> bytes:
        """Send what observers have not answered; return the reply."""
        if observed.reply is None:
            return await self.send(observed.request, timeout_s, pieces)
        if isinstance(observed.reply, GearhornError):
            raise observed.reply
        return observed.reply

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

        A message that fails does not end the others, nor does one that cannot be encoded, whose
        result is ``BadRequest``; ``Results.raise_any`` raises the first error. What the iterable
        raises is raised once those before it have their results.
        """
        many = self.begin_many(window, timeout)
        try:
            try:
                if isinstance(messages, AsyncIterable):
                    async for message in messages:
                        await many.add(message)
                else:
                    await many.add_all(messages)
            except Exception:
                await many.finish()
                raise
            return await many.finish()
        except BaseException as error:
            many.leave(error)
            raise

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
        end = partial(_delivered, quorum)
        return await self._request("deliver", request, timeout + GRACE_S, end)

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
        return await self._request("ask", request, timeout + GRACE_S, _answers_of)

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
        asking = self._request("ask", request, timeout + GRACE_S, receipt_of, pieces=pieces)
        reply = asyncio.ensure_future(asking)
        reply.add_done_callback(pieces.end)
        try:
            async for piece in pieces.read():
                answer = answers.take(piece)
                if answer is not None:
                    yield answer
            for said in answers.rest(await reply):
                yield said
        finally:
            reply.cancel()
            await asyncio.gather(reply, return_exceptions=True)


def _delivered(quorum: int | str | None, reply: bytes) -> Receipt:
    """Return the receipt of a message; raises ``NotDelivered`` where too few have succeeded."""
    receipt = receipt_of(reply)
    if receipt.succeeded < copies_needed(quorum, receipt.addressed):
        raise NotDelivered(_shortfall(receipt), receipt)
    return receipt


def _answers_of(reply: bytes) -> Answers:
    return Answers(receipt_of(reply))


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
