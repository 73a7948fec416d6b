"""The pool: a bounded number of connections to the store, and a queue of callers that need one.

redis-py has pools too, but they find out only in the middle of a batch that a middlebox has dropped
an idle connection, and repairing that by sending the batch again is what must not be done here. In
this pool nothing is sent twice, and a connection that does not answer is found while it is idle,
when its loss costs nothing.

A connection is in one of three places: idle, in use, or gone. A caller takes the idle one that was
used last, so that under little load the others stay idle and are closed as spare. A connection that
comes back with anything unanswered (its batch was cancelled, or timed out) is closed: the next user
would read the answers of the last.

Rules: runs on the event loop. A connection serves one batch of commands at a time. Idle ones are
asked for a sign of life before any middlebox forgets them, and those that were not needed for a
while are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from gearhorn.errors import StoreError
from gearhorn.store.wire import Wire
from gearhorn.tasks import Tasks

KEEP_S = 3.0  # between two signs of life that an idle connection is asked for
PING_S = 2.0  # without an answer within that it is closed
SPARE_S = 30.0  # an idle connection that was not needed for so long is closed, but for one


class _Idle:
    """A connection that is not in use since ``since_s``, on the loop's clock.

    A sign of life does not count as use: otherwise no connection would ever be spare.
    """

    __slots__ = ("_timer", "since_s", "wire")

    def __init__(self, wire: Wire, since_s: float) -> None:
        self.wire = wire
        self.since_s = since_s
        self._timer: asyncio.TimerHandle | None = None

    def check_later(self, check: Callable[[_Idle], None]) -> None:
        """Call ``check`` with this in ``KEEP_S``, unless it is taken or closed before."""
        self._timer = asyncio.get_running_loop().call_later(KEEP_S, check, self)

    def take(self) -> Wire:
        """Return the connection, which is not idle any more."""
        if self._timer is not None:
            self._timer.cancel()
        return self.wire

    def close(self) -> None:
        """Close the connection."""
        self.take().close()


class Pool:
    """Connections that one batch after another uses.

    Arguments:
        make: makes a connection, or raises ``StoreError``.
        limit: how many are open at most.
    """

    def __init__(self, make: Callable[[], Awaitable[Wire]], limit: int) -> None:
        self._make = make
        self._places = asyncio.Semaphore(limit)  # first come, first served
        self._idle: deque[_Idle] = deque()  # the one that was used last is on the right
        self._used: set[Wire] = set()
        self._stale: set[Wire] = set()  # of those in use: closed when they come back
        # callers with a place but without a connection: the server takes no more clients
        self._hoping: deque[asyncio.Future[None]] = deque()
        self._tasks = Tasks()

    @property
    def size(self) -> int:
        """How many connections are open, idle or in use."""
        return len(self._idle) + len(self._used)

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[Wire]:
        """Lend a connection until the block ends; raises ``StoreError`` where none can be made.

        A caller waits for a place first, however long that takes: it brings a time-out of its own.
        A place is the right to one connection, so there are no more connections than places.
        """
        async with self._places:
            wire = self._pop() or await self._open()
            self._used.add(wire)
            try:
                yield wire
            finally:
                self._back(wire, asyncio.get_running_loop().time())

    def reset(self) -> None:
        """Use no connection again that is open now. Those in use are closed when they come back,
        so that the batches under way on them are finished."""
        self._stale |= self._used
        while self._idle:
            self._idle.popleft().close()

    async def close(self) -> None:
        """Close every connection, those in use too."""
        self.reset()
        await self._tasks.cancel()
        for wire in [*self._used]:
            wire.close()

    def _pop(self) -> Wire | None:
        """Return the idle connection that was used last and can be used, None where there is none.

        A store that was restarted has closed all of them. They are found here, one after the other,
        before anything is sent on them; a command sent on one would have an unknown fate.
        """
        while self._idle:
            idle = self._idle.pop()
            if idle.wire.is_fit:
                return idle.take()
            idle.close()
        return None

    async def _open(self) -> Wire:
        """Make a connection.

        A server that takes no more clients may still have some of ours: then the next one that
        comes back will do. Any failure is taken for that one while a connection of ours is in use.
        Which of its reasons a server has cannot always be told: it may reset the connection before
        its text arrives. If the store is away, the connections in use end soon, and the failure of
        the try after them is raised.
        """
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
        """Wait until a connection comes back; return it, or None where another caller was faster or
        it came back unfit. A caller that is cancelled after its future was resolved passes the news
        on to the next in line, which would otherwise wait although a connection is idle."""
        hope: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._hoping.append(hope)
        try:
            await hope
        except asyncio.CancelledError:
            if hope in self._hoping:
                self._hoping.remove(hope)
            else:
                self._wake()
            raise
        return self._pop()

    def _wake(self) -> None:
        """Tell the first caller that still waits in ``_hope`` that a connection has come back."""
        while self._hoping:
            hope = self._hoping.popleft()
            if not hope.done():
                hope.set_result(None)
                break

    def _back(self, wire: Wire, since_s: float) -> None:
        """Take a connection back that was lent, or asked for a sign of life. Callers that hope for
        one are woken in any case: where it is closed, the server has room for a new one."""
        self._used.discard(wire)
        is_stale = wire in self._stale
        self._stale.discard(wire)
        if is_stale or wire.unanswered or not wire.is_open:
            wire.close()
        else:
            self._rest(_Idle(wire, since_s))
        self._wake()

    def _rest(self, idle: _Idle) -> None:
        """Add an idle connection: one that was used on the right, one that only gave a sign of life
        on the left, behind those that are taken sooner."""
        idle.check_later(self._check)
        if asyncio.get_running_loop().time() - idle.since_s < KEEP_S:
            self._idle.append(idle)
        else:
            self._idle.appendleft(idle)

    def _check(self, idle: _Idle) -> None:
        """Close an idle connection that is spare, or ask it for a sign of life.

        The one that is asked takes a place, like a batch: else the pool could have one connection
        more than it may. While all places are taken it is left alone; callers wait and will use it.
        """
        if asyncio.get_running_loop().time() - idle.since_s > SPARE_S and len(self._idle) > 1:
            self._idle.remove(idle)
            idle.close()
        elif self._places.locked():
            idle.check_later(self._check)
        else:
            self._idle.remove(idle)
            self._used.add(idle.wire)
            self._tasks.spawn(self._ping(idle), "store ping")

    async def _ping(self, idle: _Idle) -> None:
        """Ask a connection for a sign of life; without one it is closed, which costs no batch."""
        try:
            async with self._places, asyncio.timeout(PING_S):
                idle.wire.send([("PING",)])
                await idle.wire.read()
        except (StoreError, TimeoutError):
            idle.wire.close()
        finally:
            self._back(idle.wire, idle.since_s)
