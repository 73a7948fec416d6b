"""The patterns in the store: which there are, all of one moment.

Rules: one round trip. There are ``LIMIT`` patterns at most, so all of them are one reply.
"""

from __future__ import annotations

from typing import NamedTuple

from gearhorn.store.connection import Connection

LIMIT = 10_000  # patterns in a namespace, each with any number of subscriptions


class Patterns(NamedTuple):
    """Which patterns there were at one moment, by the names of their lists. ``word`` is another one
    after every change of that set, and empty where there are none."""

    word: bytes
    names: list[bytes]


class PatternSet:
    """The patterns of one namespace that have subscriptions."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def word(self) -> bytes:
        """Return the word of this moment; raises ``StoreError``."""
        [word] = await self._connection.read([("GET", self._connection.key("patterned"))])
        return word or b""

    async def read(self) -> Patterns:
        """Return all patterns; raises ``StoreError``."""
        key = self._connection.key
        command = self._connection.script("patterns", [key("patterns"), key("patterned")], LIMIT)
        [(word, names)] = await self._connection.read([command])
        return Patterns(word or b"", names)
