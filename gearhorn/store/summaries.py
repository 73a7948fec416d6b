"""Summaries in the store: what is counted of topics, and which topics have most.

Everything here is a counter, or the size of a key: nothing that is counted is read.

Rules: a command is about ``TOGETHER`` topics, or ``NAMES`` names at most. Every method raises
``StoreError``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from gearhorn.store.connection import Command, Connection
from gearhorn.timing import MembersClock

TOGETHER = 50  # topics that are counted in one round trip: half a millisecond of the store
NAMES = 1_000  # that are read in one
COUNTERS = ("lag", "parked", "drops")


class Counted(NamedTuple):
    """What the store has counted of a topic."""

    subscriptions: int
    durable: int
    paused: int
    lag: int  # of the slowest durable subscription
    parked: int
    drops: int
    log: dict[str, str]  # its fields; empty where there is none


class StoredSummaries:
    """The counters of one namespace.

    Arguments:
        connection: to the store.
        clock: the members', by which pauses end.
    """

    def __init__(self, connection: Connection, clock: MembersClock) -> None:
        self._connection = connection
        self._clock = clock

    async def names(self, behind: str, limit: int) -> list[str]:
        """Return the next topics in the order of names, behind one ("": from the beginning)."""
        first = f"({behind}" if behind else "-"
        command = "ZRANGEBYLEX", self._connection.key("topics"), first, "+", "LIMIT", 0, limit
        [found] = await self._connection.read([command])
        return [name.decode() for name in found]

    async def most(self, counter: str, place: tuple[int, str], limit: int) -> list[tuple[int, str]]:
        """Return the next (count, topic) in the order of a counter, behind such a place."""
        keys = [self._connection.key("most", counter)]
        command = self._connection.script("most", keys, *place, limit)
        [found] = await self._connection.read([command])
        return [
            (-int(float(score)), topic.decode())
            for topic, score in zip(found[::2], found[1::2], strict=True)
        ]

    async def has_none(self, counter: str, topics: Sequence[str]) -> list[bool]:
        """Return of each topic whether a counter has none."""
        if not topics:
            return []
        command = "ZMSCORE", self._connection.key("most", counter), *topics
        [found] = await self._connection.read([command])
        return [score is None for score in found]

    async def read(self, topics: Sequence[str]) -> list[Counted]:
        """Return what is counted of some topics."""
        key = self._connection.key
        found = []
        for at in range(0, len(topics), TOGETHER):
            commands: list[Command] = []
            for topic in topics[at : at + TOGETHER]:
                commands += ("ZCARD", key("clients", topic)), ("HLEN", key("lanes", topic))
                until = f"({self._clock.clock_ms}"
                commands.append(("ZCOUNT", key("paused", topic), until, "+inf"))
                commands += [("ZSCORE", key("most", counter), topic) for counter in COUNTERS]
                commands.append(("HGETALL", key("log", topic)))
            replies = iter(await self._connection.read(commands))
            found += [_counted(reply) for reply in zip(*[replies] * 7, strict=True)]
        return found

    async def existing(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Return of each (topic, client_id) whether it is subscribed."""
        key = self._connection.key
        commands: list[Command] = [
            ("ZSCORE", key("clients", topic), client_id) for topic, client_id in pairs
        ]
        replies = await self._connection.read(commands) if commands else ()
        return [score is not None for score in replies]


def _counted(reply: Sequence[Any]) -> Counted:
    """Return what the replies about one topic say."""
    subscriptions, durable, paused, *scores, log = reply
    lag, parked, drops = (-int(float(score or 0)) for score in scores)
    fields = {name.decode(): value.decode() for name, value in log.items()}
    return Counted(subscriptions, durable, paused, lag, parked, drops, fields)
