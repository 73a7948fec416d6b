"""Turns of the event loop: what is written in one leaves in one send, before it is over.

Two small writes and then a read do 23 jobs/s, because the kernel holds the second write back until
the other end has acknowledged the first. So a connection collects what is written, and is flushed
once, at the end of the turn. A turn that began with a read ends with what that read brought about;
any other ends in the next iteration of the loop.

Rules: runs on the event loop.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar, Protocol
from weakref import WeakKeyDictionary


class Sender(Protocol):
    """A connection, as far as its turn is concerned."""

    def flush(self) -> None:
        """Hand what was written to the kernel now."""

    def broke(self, event: str, error: Exception) -> None:
        """A fault in gearhorn, which the log calls ``event``, costs this connection."""


class Turn:
    """The connections of one loop that have something to send before its turn is over.

    There is one for the loop and not one for each connection, because what one connection reads
    makes others write: a fanout job that came in here leaves as copies there. They leave in the
    same turn.
    """

    _turns: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Turn]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._awake: list[Sender] = []
        self._is_reading = False  # the turn ends with what was read

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Turn:
        """Return the loop's own. It goes with the loop, which tests make many of."""
        return cls._turns.setdefault(loop, cls())

    def add(self, connection: Sender) -> None:
        """Have the connection flushed when the turn ends.

        Of a turn without a read nothing else announces the end, so the first of its connections has
        it called.
        """
        if not self._awake and not self._is_reading:
            asyncio.get_running_loop().call_soon(self.end)
        self._awake.append(connection)

    def begin(self) -> None:
        """Something is read now: ``end`` is called when it has been handled."""
        self._is_reading = True

    def end(self) -> None:
        """Flush all, in the order they were woken.

        The list is taken first: an outcome that is told during a flush may wake a connection again,
        which is then for the next turn.
        """
        self._is_reading = False
        awake, self._awake = self._awake, []
        for connection in awake:
            try:
                connection.flush()
            except Exception as error:  # the others have something to send, too
                connection.broke("what goes to a job server was not handled", error)
