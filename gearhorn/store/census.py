"""Census: counts everything that the counters of topics count, and compares.

Theory of operation. The counters (``lua/sums.lua``, ``lua/standing.lua``) are kept in the scripts
that change what they count, so they are exact unless there is a fault in one of those. This module
does not trust that: it reads every lane, every drop counter and every set of parked messages, adds
them up, and tells where a counter is something else. An operator asks for it, tests do so after
every kind of fault, and a store of a former layout gets its first counters from it.

Counting a topic of many subscriptions takes many commands. While messages are delivered, what they
read is of different moments; so a topic that differs is counted again, and what differs each time
with other numbers is movement, and no fault.

Rules: reads pages of ``PAGE``, one topic at a time, with a turn of the loop after each. Every
method raises ``StoreError``.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from math import inf
from typing import Any, NamedTuple

from gearhorn.messages.subscriptions import decode_options
from gearhorn.names import is_pattern
from gearhorn.store.connection import READ_TIMEOUT_S, Command, Connection

PAGE = 1000  # names, lanes or counters in one go: a millisecond of the store
TRIES = 5  # for a topic that differs while it is in use
PAUSE_S = 0.05  # between two of them
NEAR = 16  # positions that a log names itself, here; ``standing.lua`` has up to twice as many
COUNTS = ("lag", "parked", "drops")  # as in the names of the keys ``most:COUNT``


class Counts(NamedTuple):
    """The counters of one topic, as they are kept or as they ought to be."""

    lag: int  # messages of the log behind its slowest lane
    parked: int
    drops: int
    standing: dict[int, int]  # position -> lanes that stand there
    paused: dict[str, float]  # client_id -> the end of its pause by the members' clock
    slow: int | None  # the lowest position, which the log names first; None without lanes


class Difference(NamedTuple):
    """A topic whose counters are not what they count."""

    topic: str
    kept: Counts
    counted: Counts


class Census:
    """Counts the topics of one namespace.

    Arguments:
        connection: to the store.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def topics(self) -> AsyncIterator[str]:
        """Yield every topic that is subscribed or has a counter, each once."""
        key, seen = self._connection.key, set[bytes]()
        for name in (key("topics"), *(key("most", count) for count in COUNTS)):
            async for found in self._scan("ZSCAN", name):
                for topic, _ in found:
                    if topic not in seen and not is_pattern(topic.decode()):
                        seen.add(topic)
                        yield topic.decode()

    async def differences(self) -> AsyncIterator[Difference]:
        """Yield the topics whose counters are wrong."""
        async for topic in self.topics():
            if found := await self._difference(topic):
                yield found

    async def _difference(self, topic: str) -> Difference | None:
        """Return how a topic's counters differ, the same way twice in a row; None: they do not."""
        former = None
        for _ in range(TRIES):
            found = Difference(topic, await self.kept(topic), await self.count(topic))
            if found.kept == found.counted:
                return None
            if found == former:
                return found
            former = found
            await asyncio.sleep(PAUSE_S)
        return None  # it moves faster than it is counted

    async def kept(self, topic: str) -> Counts:
        """Return a topic's counters as they are kept."""
        key = self._connection.key
        commands: list[Command] = [("ZSCORE", key("most", count), topic) for count in COUNTS]
        commands.append(("HGET", key("log", topic), "near"))
        *scores, near = await self._connection.pipeline(commands, READ_TIMEOUT_S)
        lag, parked, drops = (-int(float(score or 0)) for score in scores)
        _, *numbers = map(int, (near or b"-").replace(b"-", b"0", 1).split())
        standing = dict(zip(numbers[::2], numbers[1::2], strict=True))
        async for found in self._scan("HSCAN", key("crowd", topic)):
            standing |= {int(position): int(lanes) for position, lanes in found}
        paused: dict[str, float] = {}
        async for found in self._scan("ZSCAN", key("paused", topic)):
            paused |= {client.decode(): float(end) for client, end in found}
        return Counts(lag, parked, drops, standing, paused, numbers[0] if numbers else None)

    async def count(self, topic: str) -> Counts:
        """Count a topic: what its counters ought to be."""
        key = self._connection.key
        positions: dict[bytes, int] = {}
        async for found in self._scan("HSCAN", key("lanes", topic)):
            positions |= {client: int(record.rpartition(b" ")[2]) for client, record in found}
        drops: dict[bytes, int] = {}
        async for found in self._scan("HSCAN", key("drops", topic)):
            drops |= {client: int(count) for client, count in found}
        paused: dict[str, float] = {}
        async for found in self._scan("HSCAN", key("options", topic)):
            for client, body in found:
                durable = decode_options(body).durable
                if durable and durable.paused_ms:
                    paused[client.decode()] = durable.paused_ms if durable.paused_ms > 0 else inf
        parked, clients = 0, list(positions)
        for at in range(0, len(clients), PAGE):
            pairs = [f"{topic}\0{client.decode()}" for client in clients[at : at + PAGE]]
            sizes = await self._ask([("ZCARD", key("order", pair)) for pair in pairs])
            parked += sum(sizes)
        [last] = await self._ask([("HGET", key("log", topic), "last")])
        slow = min(positions.values(), default=None)
        lag = 0 if slow is None else max(0, int(last or 0) - slow)
        standing = dict(Counter(positions.values()))
        return Counts(lag, parked, sum(drops.values()), standing, paused, slow)

    async def mend(self, topic: str) -> None:
        """Count a topic and keep that, while no member runs."""
        key = self._connection.key
        counts = await self.count(topic)
        log, spread, crowd = (key(name, topic) for name in ("log", "spread", "crowd"))
        await self._ask([("UNLINK", spread, crowd, key("paused", topic)), ("HDEL", log, "near")])
        standing = sorted(counts.standing.items())
        edge = standing[NEAR][0] if len(standing) > NEAR else "-"
        near = f"{edge} " + " ".join(f"{at} {lanes}" for at, lanes in standing[:NEAR])
        commands: list[Command] = [("HSET", log, "near", near)] if standing else []
        standing = standing[NEAR:]
        for at in range(0, len(standing), PAGE):
            piece = standing[at : at + PAGE]
            scores = [number for position, _ in piece for number in (position, position)]
            numbers = [number for pair in piece for number in pair]
            await self._ask([("ZADD", spread, *scores), ("HSET", crowd, *numbers)])
        ends = [(end, client) for client, end in counts.paused.items()]
        for at in range(0, len(ends), PAGE):
            members = [part for pair in ends[at : at + PAGE] for part in pair]
            await self._ask([("ZADD", key("paused", topic), *members)])
        for name, count in zip(COUNTS, (counts.lag, counts.parked, counts.drops), strict=True):
            if count:
                commands.append(("ZADD", key("most", name), -count, topic))
            else:
                commands.append(("ZREM", key("most", name), topic))
        await self._ask(commands)

    async def _ask(self, commands: list[Command]) -> list[Any]:
        """Return the replies to commands."""
        return await self._connection.pipeline(commands, READ_TIMEOUT_S)

    async def _scan(self, command: str, key: str) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        """Yield what a hash or a sorted set holds, in pages; a pair may come twice."""
        cursor = 0
        while True:
            [(following, found)] = await self._ask([(command, key, cursor, "COUNT", PAGE)])
            if found and isinstance(found[0], list | tuple):
                yield [(name, value) for name, value in found]
            else:
                yield list(zip(found[::2], found[1::2], strict=True))
            cursor = int(following)
            if not cursor:
                return
            await asyncio.sleep(0)
