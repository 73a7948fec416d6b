"""Held off: changes whose queue is being drained, until that is over.

Theory of operation. A drain discards everything on a queue. A subscription of that queue name made
meanwhile would lose the copies that came for it, so the store refuses it for as long as the drain's
mark stands ("unsubscribe_fanout" in docs/protocol.rst). The caller need not know of that: its
request waits here and is written when the mark has gone. A drain of this member's own tells so at
once; of those of other members the store is asked now and then.

Rules: runs on the event loop. A request that waits here takes no place that others need: its job
is released, so that the worker goes on grabbing. One question to the store asks for all queues at
once, whatever the number of requests; a drain of this member wakes those that wait for it without
one. What waits is bounded in number, for each queue and in all, and in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from gearhorn.errors import RequestError, StoreError, Unavailable
from gearhorn.tasks import Tasks
from gearhorn.timing import now_s

POLL_S = 0.1  # between two questions to the store
LIMIT = 1024  # requests that wait
LIMIT_EACH = 128  # of those, for one queue


class Request(Protocol):
    """A change and who asked for it."""

    def hold(self, until_s: float) -> float:
        """Let the worker take other jobs while this one waits; return until when it may wait:
        what a former call was told, if there was one."""

    def fail(self, error: RequestError) -> None:
        """Refuse it."""


_Request = TypeVar("_Request", bound=Request)
_Put_contra = TypeVar("_Put_contra", contravariant=True)


class _Waiting(NamedTuple, Generic[_Request]):
    request: _Request
    until_s: float


class DrainMarks(Protocol):
    """Where it is known which queues are being drained."""

    async def draining(self, queues: Sequence[bytes]) -> set[bytes]:
        """Return which of some queues are being drained; raises ``StoreError``."""


class RequestLine(Protocol[_Put_contra]):
    """Where requests wait for their turn."""

    def put(self, *requests: _Put_contra) -> None:
        """Add requests."""


class HeldOff(Generic[_Request]):
    """Requests that wait for the end of a drain, and then go back to the line.

    Arguments:
        store: knows which queues are being drained.
        line: takes them back.
        limit_s: how many seconds a request waits, in all its stays here, before it is refused with
            ``unavailable:``.
    """

    def __init__(self, store: DrainMarks, line: RequestLine[_Request], limit_s: float) -> None:
        self._store = store
        self._line = line
        self._limit_s = limit_s
        self._waiting: dict[bytes, list[_Waiting[_Request]]] = {}
        self._came = asyncio.Event()
        self._polling: asyncio.Task[None] | None = None
        self._tasks = Tasks()

    @property
    def count(self) -> int:
        """How many requests wait."""
        return sum(map(len, self._waiting.values()))

    def add(self, queue: bytes, request: _Request) -> None:
        """Let a request wait for the end of a drain, or refuse it.

        It is refused where it has waited for too long already, and where so many wait, for this
        queue or in all, that there is no place.
        """
        own = self._waiting.get(queue, ())
        until_s = request.hold(now_s() + self._limit_s)
        if now_s() > until_s:
            request.fail(
                Unavailable(
                    f"queue {queue.decode()} is being drained for too long; try again later"
                )
            )
        elif len(own) >= LIMIT_EACH or self.count >= LIMIT:
            request.fail(
                Unavailable(
                    f"queue {queue.decode()} is being drained, and many wait; try again later"
                )
            )
        else:
            self._waiting.setdefault(queue, []).append(_Waiting(request, until_s))
            self._came.set()
            if self._polling is None:
                self._polling = self._tasks.keep("held off", self._poll)

    def release(self, queue: bytes) -> None:
        """Give the requests for a queue back to the line: its drain is over."""
        waiting = self._waiting.pop(queue, ())
        if waiting:
            self._line.put(*(entry.request for entry in waiting))

    async def _poll(self) -> None:
        """Ask about the drains that requests wait for, without end.

        A request comes back to the line when its drain is over, and may be held off again by the
        next one: the script that writes it decides, not this.
        """
        while True:
            if not self._waiting:
                self._came.clear()
                await self._came.wait()
            await asyncio.sleep(POLL_S)
            self._refuse_late()
            queues = list(self._waiting)
            if not queues:
                continue
            try:
                still = await self._store.draining(queues)
            except StoreError:
                continue  # nothing can be written now, either
            for queue in queues:
                if queue not in still:
                    self.release(queue)

    def _refuse_late(self) -> None:
        at_s = now_s()
        for queue, waiting in list(self._waiting.items()):
            late = [entry for entry in waiting if entry.until_s < at_s]
            if late:
                self._waiting[queue] = [entry for entry in waiting if entry.until_s >= at_s]
                if not self._waiting[queue]:
                    del self._waiting[queue]
            for entry in late:
                entry.request.fail(
                    Unavailable(f"queue {queue.decode()} is still being drained; try again")
                )
