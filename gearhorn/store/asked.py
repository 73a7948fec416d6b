"""Requests of this process that the store carries out once, however often they are asked.

Theory of operation. Some scripts must not be carried out twice: an append would log a message
twice, a redrive would take more than was asked. When their reply is lost, the only safe thing is to
ask again with a way to tell. So each process has a random name, under which the store keeps a hash,
and numbers its requests from 1 on. A script first looks up its number, and returns the kept result
if there is one; else it does its work and keeps the result, in the same atomic step. The hash is a
ring of 1,024 slots, which bounds its memory: a process has far fewer requests under way, and a
request that is so late that its slot was overwritten does nothing.

The hash outlives the process. It is removed when the process stops in order; what crashed ones left
is forgotten a day after their last request (``Askers``). A key with an expiry would do that by
itself, but a store that runs short of memory may be set to remove such keys first.

Rules: one name for each ``Asked``; a number is used for one request only.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets

from gearhorn.errors import StoreError
from gearhorn.store.connection import Connection

IDLE_MS = 60_000  # between two searches for askers that ask no more


class Asked:
    """The numbers of one asker. Its scripts get ``keys``: the hash of what became of its requests,
    and the sorted set of all askers."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self.keys = (
            connection.key("asked", secrets.token_hex(8)),
            connection.key("askers"),
        )
        self._is_used = False

    def next(self) -> int:
        """Return the number of a new request."""
        self._is_used = True
        return next(self._numbers)

    async def close(self) -> None:
        """Have the store forget them. Where it does not answer, it forgets them after a day."""
        if self._is_used:
            own, askers = self.keys
            with contextlib.suppress(StoreError):
                await self._connection.pipeline([("UNLINK", own), ("ZREM", askers, own)])


class Askers:
    """All askers of one namespace, as one member sees them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._idle: list[bytes] = []  # the keys of those that are to be forgotten next
        self._due_ms = 0

    async def prune(self, clock_ms: int) -> None:
        """Forget askers that have asked nothing for a day, up to a hundred in one call. While there
        are none, the store is asked once a minute.

        ``clock_ms`` is the caller's reading of the members' clock. Raises ``StoreError``.
        """
        if clock_ms < self._due_ms:
            return
        self._due_ms = clock_ms + IDLE_MS
        names = [name.decode() for name in self._idle]
        keys = [self._connection.key("askers"), self._connection.key("clock"), *names]
        [self._idle] = await self._connection.pipeline(
            [self._connection.script("forget", keys, clock_ms)]
        )
        if self._idle:
            self._due_ms = 0
