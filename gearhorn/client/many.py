"""Many messages, pipelined: each is sent without waiting for the answers to those before it.

Rules: on one event loop; no task of its own for a message. Their order is kept: what waits for a
job server holds up those behind it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple, Protocol

from gearhorn.client.jobs import Jobs, Sent, known_after
from gearhorn.client.observers import Observed, Operation
from gearhorn.client.payloads import Headers, Payload, Request, request_of
from gearhorn.client.results import Published, Results, published_of
from gearhorn.client.settings import Functions
from gearhorn.errors import BadRequest, GearhornError
from gearhorn.messages.codec import encode


class Outgoing(NamedTuple):
    """One message for ``publish_many``; its fields are the arguments of ``publish``."""

    topic: str
    payload: Payload = b""
    unique: str | None = None
    headers: Headers | None = None
    exclude: Iterable[str] = ()
    priority: str = "normal"
    expires: float | None = None


def background(outgoing: Outgoing, *, receipt: bool) -> Request:
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


class Sender(Protocol):
    """A publisher, as far as many messages need it."""

    functions: Functions

    @property
    def jobs(self) -> Jobs:
        """The connections, which begin when they are first asked for."""

    @property
    def is_observed(self) -> bool:
        """Whether there are observers."""

    def observed(self, operation: Operation, request: Request) -> Observed:
        """Return a request as its observers see it and have changed it."""

    async def send(self, request: Request, timeout_s: float) -> bytes:
        """Run a ``fanout`` request; return its reply."""


# A message on its way: its request, how it was sent, until when, and who sees it; or why it cannot
# be sent at all.
_Out = tuple[Request, Sent | None, float, Observed | None] | BadRequest


class Many:
    """Messages on their way, up to a window of them unanswered.

    Arguments:
        publisher: whose connections they take.
        window: how many may be unanswered at once.
        timeout_s: the seconds that each of them has.

    A message is sent without a task of its own: that would cost more than all the rest. Only one
    that was not answered well goes through ``Jobs.run``, behind those that are under way.
    """

    def __init__(self, publisher: Sender, window: int, timeout_s: float) -> None:
        self._publisher = publisher
        self._is_observed = publisher.is_observed
        self._function = publisher.functions.fanout.encode()
        self._window = max(1, window)
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._out: deque[_Out] = deque()
        self._results: list[Published | GearhornError] = []
        self._is_down = False  # a message has waited for a job server in vain

    @cached_property
    def _jobs(self) -> Jobs:
        """The connections, which begin when something is sent."""
        return self._publisher.jobs

    async def add(self, message: Outgoing | tuple[str, Payload]) -> None:
        """Send one message; wait first where the window is full, or no job server is up.

        Waiting here rather than later keeps the order in which messages are sent. Where a server
        was waited for in vain, those that follow do not wait again until one is up. What cannot be
        encoded has ``BadRequest`` as its result, as if the worker had refused it.
        """
        outgoing = Outgoing(*message)
        if len(self._out) >= self._window:
            await self._take()
        try:
            request = background(outgoing, receipt=False)
        except Exception as error:
            self._out.append(_unsendable(error))
            return
        observed = None
        deadline_s = self._loop.time() + self._timeout_s
        if self._is_observed:
            observed = self._publisher.observed("publish", request)
            request = observed.request
            if observed.reply is not None:
                self._out.append((request, None, deadline_s, observed))
                return
        try:
            body = encode(request)
        except Exception as error:
            refusal = _unsendable(error)
            if observed is not None:
                observed.ended(refusal)
            self._out.append(refusal)
            return
        sent = self._jobs.send(self._function, body)
        if sent is not None:
            self._is_down = False
        elif not self._is_down:  # wait here, so that the order is kept
            try:
                self._is_down = not await self._jobs.until_up(deadline_s)
            except asyncio.CancelledError as error:
                if observed is not None:
                    observed.ended(error)
                raise
            sent = self._jobs.send(self._function, body)
        self._out.append((request, sent, deadline_s, observed))

    async def add_all(self, messages: Iterable[Outgoing | tuple[str, Payload]]) -> None:
        """Send several messages."""
        for message in messages:
            await self.add(message)

    async def finish(self) -> Results:
        """Wait for what is under way; return what became of everything."""
        while self._out:
            await self._take()
        return Results(self._results)

    def leave(self, error: BaseException) -> None:
        """Wait for nothing more, because of an error: observers are told that whatever is under way
        has ended with it."""
        while self._out:
            out = self._out.popleft()
            if not isinstance(out, BadRequest) and out[3] is not None:
                out[3].ended(error)

    async def _take(self) -> None:
        """Take the result of the oldest message, which is under way until that is known."""
        out = self._out[0]
        if isinstance(out, BadRequest):
            self._results.append(out)
            self._out.popleft()
            return
        request, sent, deadline_s, observed = out
        if observed is None:
            self._results.append(await self._result(request, sent, deadline_s))
            self._out.popleft()
            return
        result: Published | GearhornError
        if isinstance(observed.reply, bytes):
            result = published_of(observed.reply)
        else:
            result = observed.reply or await self._result(request, sent, deadline_s)
        self._out.popleft()
        observed.ended(result)
        self._results.append(result)

    async def _result(
        self, request: Request, sent: Sent | None, deadline_s: float
    ) -> Published | GearhornError:
        """Return what became of a message, which is sent again where that is right."""
        if sent is None:
            return self._jobs.not_connected()
        earlier: GearhornError | None = None
        try:
            reply = await self._jobs.reply(sent, deadline_s)
            if isinstance(reply, bytes):
                return published_of(reply)
            if not self._jobs.is_to_repeat(reply, isinstance(request.unique, str)):
                return reply
            earlier = reply
            left_s = max(0.001, deadline_s - self._loop.time())
            return published_of(await self._publisher.send(request, left_s))
        except GearhornError as error:
            return known_after(earlier, error)


def _unsendable(error: Exception) -> BadRequest:
    """Return the result of a message that cannot be encoded: its payload is no JSON, or a text has
    half a surrogate pair."""
    return BadRequest(f"the message cannot be encoded: {type(error).__name__}: {error}")
