"""Requests of this process that the store carries out once, however often they are asked.

Rules: each has a number that rises; the store keeps what became of the last thousand
(see ``asked.lua``), until the asker takes that away or has asked nothing for a day. No key has an
expiry: a store that runs short of memory may be told to take such keys first.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets

from gearhorn.errors import StoreError
from gearhorn.store.connection import Connection

LOOK_MS = 60_000  # between two looks for askers that ask no more


class Asked:
    """The numbers of one asker. Its scripts are given ``keys``: where the store keeps what became
    of its requests, and where the asker stands among the others."""

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
        """Have the store forget them; it does so by itself after a day."""
        if self._is_used:
            own, askers = self.keys
            with contextlib.suppress(StoreError):
                await self._connection.pipeline([("UNLINK", own), ("ZREM", askers, own)])


class Askers:
    """All that ask in one namespace."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._idle: list[bytes] = []  # the keys of those that are to be forgotten next
        self._due_ms = 0

    async def prune(self, clock_ms: int) -> None:
        """Forget those that have asked nothing for a day, up to a hundred; looks once a minute
        while there are none. ``clock_ms`` is the caller's reading of the members' clock.

        Raises ``StoreError``.
        """
        if clock_ms < self._due_ms:
            return
        self._due_ms = clock_ms + LOOK_MS
        names = [name.decode() for name in self._idle]
        keys = [self._connection.key("askers"), self._connection.key("clock"), *names]
        [self._idle] = await self._connection.pipeline(
            [self._connection.script("forget", keys, clock_ms)]
        )
        if self._idle:
            self._due_ms = 0
