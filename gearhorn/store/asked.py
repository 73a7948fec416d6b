"""Requests of this process that the store carries out once, however often they are asked.

Rules: each has a number that rises; the store keeps what became of the last thousand
(see ``asked.lua``).
"""

from __future__ import annotations

import contextlib
import itertools
import secrets

from gearhorn.errors import StoreError
from gearhorn.store.connection import Connection


class Asked:
    """The numbers of one asker. ``key`` is where the store keeps what became of its requests."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self.key = connection.key("asked", secrets.token_hex(8))
        self._is_used = False

    def next(self) -> int:
        """Return the number of a new request."""
        self._is_used = True
        return next(self._numbers)

    async def close(self) -> None:
        """Have the store forget them; it does so by itself after a day."""
        if self._is_used:
            with contextlib.suppress(StoreError):
                await self._connection.pipeline([("UNLINK", self.key)])
