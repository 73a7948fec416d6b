"""Requests of this process that the store carries out once, however often they are asked.

Theory of operation. Some scripts must not be carried out twice: an append would log a message
twice, a redrive would take more messages than were asked for. When their reply is lost, the process
has to ask again, and the store has to recognise the repetition. So each process has a random name,
under which the store keeps a hash, and numbers its requests from 1 on. A script first looks up its
number, and returns the kept result if there is one; else it does its work and keeps the result, in
the same atomic step. The hash is a ring of 1,024 slots, which bounds its memory: a process has far
fewer requests under way, and a request that is so late that its slot was overwritten does nothing.

The hash outlives the process. A process that stops in order removes its own; the hash of a process
that crashed is forgotten a day after its last request (``Askers``). A key with an expiry would do
that by itself, but a store that runs short of memory may be set to remove such keys first.

Rules: one name for each ``Asked``; a number is used for one request only.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets

from gearhorn.errors import StoreError
from gearhorn.store.connection import Connection

IDLE_MS = 60_000  # of the members' clock, between two searches for askers that ask no more


class Asked:
    """The numbers of one asker.

    A process has several askers (appends, redrives, drop counters), so that a burst of one kind
    does not overwrite the slots of another. Scripts that look numbers up get ``keys``: the hash of
    what became of this asker's requests, and the sorted set of all askers.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self.keys = (
            connection.key("asked", secrets.token_hex(8)),
            connection.key("askers"),
        )
        self._is_used = False

    def next(self) -> int:
        """Return the number of a new request. A repetition of a request keeps its number."""
        self._is_used = True
        return next(self._numbers)

    async def close(self) -> None:
        """Have the store forget this asker; call it once no request is under way any more.

        A store that does not answer forgets the asker after a day. An asker without requests has
        left nothing there, so that a process which only reads ends without a round trip.
        """
        if self._is_used:
            own, askers = self.keys
            with contextlib.suppress(StoreError):
                await self._connection.pipeline([("UNLINK", own), ("ZREM", askers, own)])


class Askers:
    """All askers of one namespace, as one member sees them.

    Every member prunes, and none is elected for it: the script (``forget.lua``) checks again what
    it forgets, so members that prune at the same time do no harm.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._idle: list[bytes] = []  # the keys of those that are to be forgotten next
        self._due_ms = 0

    async def prune(self, clock_ms: int) -> None:
        """Forget askers that have asked nothing for a day, up to a hundred in one call. While there
        are none, the store is asked once a minute.

        Each call forgets the askers that the call before named, since a script has to be given the
        names of its keys. An asker that asks in between is spared.

        ``clock_ms`` is the caller's reading of the members' clock. Raises ``StoreError``.
        """
        if clock_ms < self._due_ms:
            return
        self._due_ms = clock_ms + IDLE_MS  # also where this fails: an outage is not made worse
        names = [name.decode() for name in self._idle]
        keys = [self._connection.key("askers"), self._connection.key("clock"), *names]
        [self._idle] = await self._connection.pipeline(
            [self._connection.script("forget", keys, clock_ms)]
        )
        if self._idle:
            self._due_ms = 0
