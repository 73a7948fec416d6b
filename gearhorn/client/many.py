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

from gearhorn.client.jobs import Jobs, Sent
from gearhorn.client.observers import Observed, Operation
from gearhorn.client.payloads import Headers, Payload, Request, request_of
from gearhorn.client.results import Published, Results, published_of
from gearhorn.client.settings import Functions
from gearhorn.errors import GearhornError
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


class _Out(NamedTuple):
    """A message on its way; one that was answered by an observer was not sent."""

    request: Request
    sent: Sent | None
    deadline_s: float
    observed: Observed | None


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
        was waited for in vain, those that follow do not wait again until one is up.
        """
        request = background(Outgoing(*message), receipt=False)
        if len(self._out) >= self._window:
            await self._take()
        observed = None
        if self._publisher.is_observed:
            observed = self._publisher.observed("publish", request)
            request = observed.request
        deadline_s = self._loop.time() + self._timeout_s
        sent = None
        if observed is None or observed.reply is None:
            sent = await self._send(encode(request), deadline_s)
        self._out.append(_Out(request, sent, deadline_s, observed))

    async def _send(self, body: bytes, deadline_s: float) -> Sent | None:
        """Send a request; None: no job server was up in time."""
        sent = self._jobs.send(self._function, body)
        if sent is None and not self._is_down:  # wait here, so that the order is kept
            self._is_down = not await self._jobs.until_up(deadline_s)
            sent = self._jobs.send(self._function, body)
        if sent is not None:
            self._is_down = False
        return sent

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
        out = self._out.popleft()
        result = await self._result(out)
        if out.observed is not None:
            out.observed.ended(result)
        self._results.append(result)

    async def _result(self, out: _Out) -> Published | GearhornError:
        """Return what became of a message. One that was not sent, although no observer has
        answered it, had no job server."""
        try:
            if out.sent is not None:
                reply = await self._jobs.reply(out.sent, out.deadline_s)
            elif out.observed is not None and out.observed.reply is not None:
                reply = out.observed.reply
            else:
                return self._jobs.not_connected()
            if isinstance(reply, bytes):
                return published_of(reply)
            is_repeatable = isinstance(out.request.unique, str)
            if out.sent is None or not self._jobs.is_to_repeat(reply, is_repeatable):
                return reply
            left_s = max(0.001, out.deadline_s - self._loop.time())
            return published_of(await self._publisher.send(out.request, left_s))
        except GearhornError as error:
            return error
