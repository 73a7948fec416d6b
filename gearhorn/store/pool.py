"""The pool: a bounded number of connections to the store, and whoever needs one queues.

Rules: runs on the event loop. A connection serves one batch of commands at a time; one on which
anything is unanswered afterwards is closed. Idle ones are asked for a sign of life before any
middlebox forgets them, and those that were not needed for a while are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from gearhorn.errors import StoreError
from gearhorn.store.wire import Wire
from gearhorn.tasks import Tasks

KEEP_S = 3.0  # an idle connection is asked so often
PING_S = 2.0  # and answers within that, or is closed
SPARE_S = 30.0  # unneeded for so long, it is closed


class _Idle:
    """A connection that nobody uses, since ``since_s``."""

    __slots__ = ("since_s", "timer", "wire")

    def __init__(self, wire: Wire, since_s: float) -> None:
        self.wire = wire
        self.since_s = since_s
        self.timer: asyncio.TimerHandle | None = None


class Pool:
    """At most ``most`` connections, each made by ``make``."""

    def __init__(self, make: Callable[[], Awaitable[Wire]], most: int) -> None:
        self._make = make
        self._places = asyncio.Semaphore(most)  # first come, first served
        self._idle: deque[_Idle] = deque()  # the one that was used last is on the right
        self._used: set[Wire] = set()
        self._stale: set[Wire] = set()  # of those in use: closed when they come back
        self._hoping: deque[asyncio.Future[None]] = deque()  # the server takes no more clients
        self._tasks = Tasks()

    @property
    def size(self) -> int:
        """How many connections are open."""
        return len(self._idle) + len(self._used)

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[Wire]:
        """Lend a connection; raises ``StoreError`` where none can be made."""
        async with self._places:
            wire = self._pop() or await self._open()
            self._used.add(wire)
            try:
                yield wire
            finally:
                self._back(wire, asyncio.get_running_loop().time())

    def reset(self) -> None:
        """Use no connection again that is open now."""
        self._stale |= self._used
        while self._idle:
            self._close(self._idle.popleft())

    async def close(self) -> None:
        """Close every connection, those in use too."""
        self.reset()
        await self._tasks.cancel()
        for wire in [*self._used]:
            wire.close()

    def _pop(self) -> Wire | None:
        while self._idle:
            idle = self._idle.pop()
            if idle.wire.is_fit:
                if idle.timer is not None:
                    idle.timer.cancel()
                return idle.wire
            self._close(idle)
        return None

    async def _open(self) -> Wire:
        """Make a connection. A server that takes no more clients may still have some of ours: then
        the next one that comes back will do. (Which of its reasons a server has cannot always be
        told: it may reset the connection before its words arrive.)"""
        while True:
            try:
                return await self._make()
            except StoreError:
                wire = self._pop()
                if wire is None and not self._used:
                    raise
            wire = wire or await self._hope()
            if wire is not None:
                return wire

    async def _hope(self) -> Wire | None:
        """Wait until a connection comes back; return it, unless somebody else was faster."""
        hope: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._hoping.append(hope)
        try:
            await hope
        except asyncio.CancelledError:
            if hope in self._hoping:
                self._hoping.remove(hope)
            else:  # it was for another one
                self._wake()
            raise
        return self._pop()

    def _wake(self) -> None:
        while self._hoping:
            hope = self._hoping.popleft()
            if not hope.done():
                hope.set_result(None)
                break

    def _back(self, wire: Wire, since_s: float) -> None:
        self._used.discard(wire)
        is_stale = wire in self._stale
        self._stale.discard(wire)
        if is_stale or wire.unanswered or not wire.is_open:
            wire.close()
        else:
            self._rest(_Idle(wire, since_s))
        self._wake()

    def _rest(self, idle: _Idle) -> None:
        loop = asyncio.get_running_loop()
        idle.timer = loop.call_later(KEEP_S, self._look, idle)
        if loop.time() - idle.since_s < KEEP_S:
            self._idle.append(idle)
        else:
            self._idle.appendleft(idle)

    def _look(self, idle: _Idle) -> None:
        """Keep an idle connection alive, or close it."""
        loop = asyncio.get_running_loop()
        if loop.time() - idle.since_s > SPARE_S and len(self._idle) > 1:
            self._idle.remove(idle)
            self._close(idle)
        elif self._places.locked():  # others wait and will use it
            idle.timer = loop.call_later(KEEP_S, self._look, idle)
        else:
            self._idle.remove(idle)
            self._used.add(idle.wire)
            self._tasks.spawn(self._ping(idle), "store ping")

    async def _ping(self, idle: _Idle) -> None:
        try:
            async with self._places, asyncio.timeout(PING_S):
                idle.wire.send([("PING",)])
                await idle.wire.read()
        except (StoreError, TimeoutError):
            idle.wire.close()
        finally:
            self._back(idle.wire, idle.since_s)

    def _close(self, idle: _Idle) -> None:
        if idle.timer is not None:
            idle.timer.cancel()
        idle.wire.close()
