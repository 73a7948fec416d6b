"""Requests to the workers: pipelined jobs on one connection to each job server, with their fates.

Theory of operation. An application must be able to tell three things apart: a request that was
answered, one that was surely not carried out, and one of which that is not known. A connection ends
without saying which. But a job that was never written to a socket was surely not sent, and the
client of a job server keeps books of that; so:

* what was not written when its connection ended is sent to the next server that is up, until the
  caller's time is over (``NotConnected``, should none come up);
* what was written and not answered is ``Unsure``. It is sent again only where the caller says that
  this does no harm (``is_repeatable``): under a ``unique``, or where the request changes nothing;
* ``busy:`` says that nothing was done, so it is tried again; ``unavailable:`` may come after the
  change was written, so it is treated like ``Unsure``;
* what became of one try is not forgotten by the next: once a request is ``Unsure``, an error that
  says of a later try that nothing was done makes it no surer.

The first server in the order given that is up gets everything: requests of one application keep
their order as long as it stays up.

Rules: runs on one event loop. Nothing waits without a bound: each request has a deadline.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import NamedTuple

from gearhorn.client.pieces import Pieces
from gearhorn.errors import (
    Busy,
    GearhornError,
    NotConnected,
    TimedOut,
    Unavailable,
    Unsure,
    refusal_of,
)
from gearhorn.gearman import packets
from gearhorn.gearman.client import Client
from gearhorn.gearman.link import Connection
from gearhorn.gearman.results import Bound, Result
from gearhorn.gearman.server import Server
from gearhorn.gearman.submission import StreamedSubmission, Submission
from gearhorn.timing import Backoff

REPLY_BYTES = 20 * 1024 * 1024  # more than any reply is long (docs/protocol.rst, "Receipt")
_KIND = packets.SUBMIT[True]["normal"]
_UNSENT, _LOST, _EXPIRED = "unsent", "lost", "expired"


class Sent(NamedTuple):
    """A request on its way: ``fate`` becomes a ``Result``, "unsent", "lost" or "expired"."""

    client: Client
    submission: Submission
    fate: asyncio.Future[Result | str]


class _Fate:
    """An ``Outcome`` of one request: the first thing that becomes of it is its fate.

    ``lost`` before anything was written is "unsent". That is the one case in which a request can be
    sent elsewhere without a doubt, and the books of ``Client`` are the only place that knows it.
    """

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[Result | str]) -> None:
        self.future = future

    def accepted(self, submission: Submission) -> None:
        """The job server has queued the request, or has refused it."""
        if submission.refused:
            self._end(Result(False, text=b"refused by the job server: " + submission.refused[0][1]))

    def lost(self, submission: Submission) -> None:
        """The connection ended before the job server has answered."""
        self._end(_LOST if submission.sent else _UNSENT)

    def finished(self, submission: Submission, index: int, result: Result) -> None:
        """A worker has answered, or the connection ended first."""
        self._end(_LOST if result.lost else result)

    def broke(self, submission: Submission) -> None:
        """Handling an answer failed."""
        self._end(_LOST)

    def _end(self, fate: Result | str) -> None:
        if not self.future.done():
            self.future.set_result(fate)


class _StreamedFate(_Fate):
    """A fate whose reply comes in pieces, which are read while it is still open.

    What comes once it is decided is dropped: the caller has been told by then that the time is
    over, and nothing reads the pieces any more.
    """

    __slots__ = ("_pieces",)

    def __init__(self, future: asyncio.Future[Result | str], pieces: Pieces) -> None:
        super().__init__(future)
        self._pieces = pieces

    def came(self, submission: Submission, index: int, data: bytes) -> None:
        """A worker has sent a piece of its reply."""
        if not self.future.done():
            self._pieces.put(data)


class _Caller(Client):
    """A client of one job server that says when it is up, for those who wait for any server."""

    def __init__(self, jobs: Jobs, server: Server, tls: ssl.SSLContext | None) -> None:
        super().__init__(server, tls, b"gearhorn", REPLY_BYTES)
        self._jobs = jobs

    def went_up(self, connection: Connection) -> None:
        super().went_up(connection)
        self._jobs.changed()

    def went_down(self, connection: Connection) -> None:
        super().went_down(connection)
        self._jobs.changed()


class Jobs:
    """Runs requests on the workers behind some job servers.

    Arguments:
        servers: the job servers, the preferred one first.
        tls: how connections are made; None: in plain text.
    """

    def __init__(self, servers: Sequence[Server], tls: ssl.SSLContext | None = None) -> None:
        self._servers = servers
        self._loop = asyncio.get_running_loop()
        self._came_up = asyncio.Event()
        self._clients = [_Caller(self, server, tls) for server in servers]
        for client in self._clients:
            client.start()

    @property
    def is_up(self) -> bool:
        """Whether any job server is up: connected, and answering."""
        return any(client.is_up for client in self._clients)

    def changed(self) -> None:
        """A job server went up or down."""
        if self.is_up:
            self._came_up.set()
        else:
            self._came_up.clear()

    async def close(self) -> None:
        """Send what was written, and connect no more."""
        for client in self._clients:
            await client.stop()

    def send(self, function: bytes, body: bytes, pieces: Pieces | None = None) -> Sent | None:
        """Send a request to the first server that is up; None: none is.

        It leaves with whatever else this turn of the loop sends, so many requests share one write.
        The caller awaits ``reply``; what comes before it goes to ``pieces``, if there are any.
        """
        for client in self._clients:
            if client.is_up:
                break
        else:
            return None
        tail = packets.tail(b"", body)
        head = packets.heads((function,), _KIND, len(tail))
        fate: asyncio.Future[Result | str] = self._loop.create_future()
        room = Bound(REPLY_BYTES)
        if pieces is None:
            submission = Submission(_Fate(fate), head, tail, True, results=room)
        else:
            outcome = _StreamedFate(fate, pieces)
            submission = StreamedSubmission(outcome, head, tail, True, results=room)
        client.submit(submission)
        return Sent(client, submission, fate)

    async def run(
        self,
        function: str,
        body: bytes,
        *,
        timeout_s: float,
        is_repeatable: bool = False,
        pieces: Pieces | None = None,
    ) -> bytes:
        """Run one request and return the worker's reply.

        Arguments:
            function: which of the workers' functions.
            body: its arguments.
            timeout_s: until when it must be answered, tries and all.
            is_repeatable: whether it may be carried out twice.
            pieces: are given what the worker sends before the reply; None: it is a part of that.

        Raises ``RequestError`` as the worker refused it, ``NotConnected``, ``Unsure`` or
        ``TimedOut``.
        """
        deadline_s = self._loop.time() + timeout_s
        backoff = Backoff(0.02, 1.0)
        name = function.encode()
        earlier: GearhornError | None = None  # the first try that may have been carried out
        while True:
            error = await self._try(name, body, deadline_s, pieces)
            if isinstance(error, bytes):
                return error
            delay_s = backoff.next_s()
            is_over = self._loop.time() + delay_s >= deadline_s
            if is_over or not self.is_to_repeat(error, is_repeatable):
                raise known_after(earlier, error)
            if earlier is None and isinstance(error, Unsure | Unavailable):
                earlier = error
            await asyncio.sleep(delay_s)

    @staticmethod
    def is_to_repeat(error: GearhornError, is_repeatable: bool) -> bool:
        """Whether a request that failed is sent again: it was surely not carried out, or may be
        carried out twice.

        What timed out is not sent again: its first copy still waits at the job server, and the
        caller has no time left.
        """
        if isinstance(error, Busy | NotConnected):
            return True
        is_unknown = isinstance(error, Unsure | Unavailable) and not isinstance(error, TimedOut)
        return is_repeatable and is_unknown

    async def _try(
        self, function: bytes, body: bytes, deadline_s: float, pieces: Pieces | None
    ) -> bytes | GearhornError:
        """Send a request once; return the reply, or why there is none."""
        while (sent := self.send(function, body, pieces)) is None:
            if not await self.until_up(deadline_s):
                return self.not_connected()
        return await self.reply(sent, deadline_s)

    async def until_up(self, deadline_s: float) -> bool:
        """Wait until a job server is up; return False where none is by the deadline."""
        try:
            async with asyncio.timeout_at(deadline_s):
                await self._came_up.wait()
        except TimeoutError:
            return False
        return True

    def not_connected(self) -> NotConnected:
        """Return the error of a request for which no server came up."""
        names = ", ".join(map(str, self._servers))
        return NotConnected(f"no job server answers: {names}; nothing was sent")

    async def reply(self, sent: Sent, deadline_s: float) -> bytes | GearhornError:
        """Return the reply to what was sent, or why there is none."""
        if sent.fate.done():  # as of most messages of a window: no timer is needed
            fate = sent.fate.result()
            return (
                self._timed_out(sent)
                if fate is _EXPIRED
                else self._answer(fate, sent.client.server)
            )
        timer = self._loop.call_at(deadline_s, _expire, sent.fate)
        try:
            fate = await sent.fate
        except asyncio.CancelledError:
            self._give_up(sent)
            raise
        finally:
            timer.cancel()
        if fate is _EXPIRED:
            self._give_up(sent)
            return self._timed_out(sent)
        return self._answer(fate, sent.client.server)

    def _give_up(self, sent: Sent) -> None:
        """Wait no more for a request. Its reply, should one come, is dropped by the client."""
        if sent.client.is_up:
            sent.client.forget(sent.submission)

    def _timed_out(self, sent: Sent) -> GearhornError:
        """Return the error of a request whose time is over. What still waits for room in the
        window, behind others, was not sent."""
        if not sent.submission.sent:
            return self.not_connected()
        return TimedOut(
            f"no reply in time through {sent.client.server}: the request may still be carried "
            "out; is a gearhorn-worker running there?"
        )

    def _answer(self, fate: Result | str, server: Server) -> bytes | GearhornError:
        """Return what a fate comes to: the reply, or the error that says what is known.

        A worker's refusal ends a job with a warning and a failure, and the warning's text is the
        refusal ("Requests, replies, errors" in docs/protocol.rst).
        """
        if isinstance(fate, str):
            if fate is _UNSENT:
                return NotConnected(f"{server} went down; nothing was sent")
            return Unsure(f"{server} went down before it replied: it may have been carried out")
        if fate.ok and not fate.oversized:
            return fate.data
        if fate.ok:
            return Unsure(f"the reply through {server} is over {REPLY_BYTES} bytes")
        text = fate.text.decode(errors="replace")
        return refusal_of(text)


def known_after(earlier: GearhornError | None, error: GearhornError) -> GearhornError:
    """Return what is known of a request that failed with ``error``, after an earlier try.

    ``NotConnected`` and ``Busy`` say that nothing was done, which is true of the last try only.
    Where an earlier one may have been carried out, so may the request be: it is ``Unsure``.
    """
    if not isinstance(earlier, Unsure | Unavailable) or not isinstance(error, NotConnected | Busy):
        return error
    return Unsure(f"{earlier}; it was tried again: {error}")


def _expire(fate: asyncio.Future[Result | str]) -> None:
    if not fate.done():
        fate.set_result(_EXPIRED)
