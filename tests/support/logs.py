"""Durable topics in a store, as one member sees them without a worker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from gearhorn.errors import StoreError
from gearhorn.messages.codec import encode
from gearhorn.messages.logs import FailureHistory, Info, Logged, Parked
from gearhorn.store.census import Census, Difference
from gearhorn.store.lanes import Acquired, LaneRecord, Lanes, record_of
from gearhorn.store.log import Item, Log, Place, fresh_epoch
from gearhorn.store.rounds import FailureWrite, Parking, PositionWrite, Round
from gearhorn.store.subscriptions import Applied, Change
from support.servers import Redis
from support.store import Bench, subscribe

INFO = encode(Info(1.0))
NOTHING = Round({}, [], [], [], {}, {})


def item(payload: str | bytes = b"", repeats: str = "") -> Item:
    """A message to append."""
    return repeats, INFO, payload.encode() if isinstance(payload, str) else payload


def durable(topic: str, client_id: str, start: Any = "new", **options: Any) -> Change:
    """Subscribe durably."""
    given = json.dumps({"durable": options}).encode()
    return subscribe(topic, client_id, given)._replace(start=json.dumps(start).encode())


def direct(topic: str, client_id: str) -> Change:
    """End durability, or be direct from the beginning."""
    return subscribe(topic, client_id, b'{"durable":false}')


def retain(topic: str, **settings: Any) -> Change:
    """Change a topic's retention; None is null."""
    return Change("retain", topic, "", b"", json.dumps(settings).encode())


def parked_in(acquired: Acquired) -> list[int]:
    """What a new owner is told not to take from the log."""
    return sorted({number for some in acquired.parked for number in some})


class LogBench(Bench):
    """One member's view of a store with logs."""

    def __init__(self, server: Redis, namespace: str = "test") -> None:
        super().__init__(server, namespace)
        self.log = Log(self.connection)
        self.lanes = Lanes(self.connection)

    async def append_items(
        self, topic: str, *items: Item, clock_ms: int = 0
    ) -> list[Logged] | None:
        """Append messages; where each stands."""
        appends = self.log.number({topic: items})
        found = (await self.log.append(appends, clock_ms))[topic]
        if isinstance(found, StoreError):
            raise found
        return found

    async def append(self, topic: str, *payloads: str | bytes, clock_ms: int = 0) -> list[int]:
        """Append messages, none of which repeats another; their sequences."""
        logged = await self.append_items(topic, *map(item, payloads), clock_ms=clock_ms)
        assert logged is not None
        return [one.sequence for one in logged]

    async def restart(self, topic: str) -> None:
        """As if another server had taken over since something was last logged."""
        await self.ask("HSET", "log", "run", "another", topic=topic)

    async def ask(self, command: str, *parts: Any, topic: str = "") -> Any:
        """The reply to ``COMMAND KEY ...``; the key is one of the namespace, or of the topic."""
        key, *more = parts
        return await super().ask(command, f"{key}:{topic}" if topic else key, *more)

    async def state(self, topic: str) -> dict[str, Any]:
        """A log's fields, numbers as such."""
        [found] = await self.log.describe([topic])
        assert found is not None
        texts = ("epoch", "run", "mark", "near")
        return {name: one if name in texts else float(one) for name, one in found.items()}

    async def bounds(self, topic: str) -> tuple[int, int]:
        """A log's first and last sequence; the messages kept are exactly these."""
        state = await self.state(topic)
        first, last = int(state["first"]), int(state["last"])
        kept = [one.sequence for one in await self.log.read(topic, 0, 10**6)]
        assert kept == list(range(first, last + 1))
        assert await self.ask("XLEN", "messages", topic=topic) == len(kept)
        return first, last

    async def due_ms(self, topic: str) -> float | None:
        """When a log is pruned next."""
        due: float | None = await self.ask("ZSCORE", "due", topic)
        return due

    async def prune(self, topic: str, clock_ms: int) -> int:
        """Prune what is due; how many messages of this topic are forgotten."""
        before = (await self.state(topic))["first"]
        await self.log.prune(clock_ms)
        return int((await self.state(topic))["first"] - before)

    async def fetch(
        self,
        topic: str,
        client_id: str = "",
        epoch: str = "",
        ack: int | None = None,
        purge: int | None = None,
    ) -> Place:
        """Acknowledge and purge; where the log stands."""
        place = await self.log.fetch(topic, client_id, epoch=epoch, ack=ack, purge=purge)
        assert place is not None
        return place

    async def begin(self, topic: str, client_id: str, start: Any = "new", **more: Any) -> Applied:
        """Subscribe durably."""
        clock_ms = more.pop("clock_ms", 0)
        return await self.one(durable(topic, client_id, start, **more), clock_ms)

    async def held(self, topic: str, client_id: str) -> LaneRecord | None:
        """A lane as the store holds it."""
        record = await self.ask("HGET", "lanes", client_id, topic=topic)
        return record_of(record) if record else None

    async def position(self, topic: str, client_id: str) -> int:
        """How far a durable subscription is."""
        held = await self.held(topic, client_id)
        assert held is not None
        return held.position

    async def acquire(self, topic: str, client_id: str, member: str = "me") -> Acquired | None:
        """Take a lane; None where that is not possible."""
        found, _ = await self.lanes.acquire(member, {topic: [client_id]})
        return found[topic][0] if found else None

    async def settle(
        self,
        topic: str,
        client_id: str,
        term: int,
        position: int,
        epoch: str | None = None,
        member: str = "me",
        ahead: Sequence[tuple[int, int, str]] | None = None,
        expired: int = 0,
        skipped: int = 0,
    ) -> bool:
        """Move a lane's position; whether it was allowed. The epoch is the log's, unless given."""
        if epoch is None:
            epoch = (await self.state(topic))["epoch"]
        one: PositionWrite = (client_id, term, position, epoch, ahead, expired, skipped)
        reply = await self.lanes.round(member, NOTHING._replace(positions={topic: [one]}))
        assert reply.fenced in (set(), {(topic, client_id)})
        return not reply.fenced

    def parking(
        self, topic: str, client_id: str, term: int, sequence: int, attempts: int = 20
    ) -> Parking:
        """A message to set aside; its payload is its sequence, unless the log says otherwise."""
        size = len(str(sequence))
        return Parking(topic, client_id, term, sequence, parked(sequence, attempts), size)

    async def park(
        self,
        topic: str,
        client_id: str,
        term: int,
        *sequences: int,
        member: str = "me",
        attempts: int = 20,
    ) -> bool:
        """Set messages aside; whether it was allowed."""
        parkings = [self.parking(topic, client_id, term, one, attempts) for one in sequences]
        reply = await self.lanes.round(member, NOTHING._replace(parkings=parkings))
        assert reply.fenced in (set(), {(topic, client_id)})
        return not reply.fenced

    async def note(self, one: FailureWrite, member: str = "me") -> None:
        """Keep, or forget, what failed attempts left behind."""
        await self.lanes.round(member, NOTHING._replace(notes=[one]))

    async def listed(self, topic: str, client_id: str, limit: int = 100) -> list[int] | None:
        """The parked messages."""
        found = await self.lanes.list_parked(topic, client_id, 0, limit)
        return None if found is None else [sequence for sequence, _ in found[0]]

    async def keys(self) -> set[str]:
        """The names of all keys of the namespace."""
        prefix = self.connection.key("").rstrip(":")
        [found] = await self.connection.pipeline([("KEYS", "*")])
        names = {name.decode() for name in found}
        assert all(name.startswith(prefix) for name in names)
        own = {name.removeprefix(prefix).lstrip(":") for name in names}
        return {name for name in own if not name.startswith("asked:") and name != "askers"}

    async def everything(self) -> dict[str, bytes]:
        """All that the namespace holds."""
        names = sorted(await self.keys())
        return {name: await self.ask("DUMP", name) for name in names}

    async def differences(self) -> list[Difference]:
        """Where counters of topics are not what a full count gives."""
        return [found async for found in Census(self.connection).differences()]

    async def close(self) -> None:
        """Close every connection."""
        await self.log.close()
        await self.lanes.close()
        await self.connection.close()


def trouble(attempts: int = 1, due_ms: int = 0, since: int = 0) -> FailureHistory:
    """What failed attempts left behind."""
    return FailureHistory(attempts, 1.0, 2.0, "no", due_ms, since)


def parked(sequence: int, attempts: int = 20) -> Parked:
    """A message that was set aside after so many attempts."""
    return Parked(fresh_epoch(), trouble(attempts), Info(1.0), b"%d" % sequence)


def failed(
    topic: str, client_id: str, term: int, sequence: int, one: FailureHistory | None
) -> FailureWrite:
    """The note of a failed attempt, or that it is of no use any more."""
    if one is None:
        return FailureWrite(topic, client_id, term, "clear", [sequence])
    return FailureWrite(topic, client_id, term, "fail", [sequence], encode(one))


def run(
    server: Redis,
    test: Callable[[LogBench], Coroutine[None, None, None]],
    namespace: str = "test",
    is_planted: bool = False,
) -> None:
    """Run a test on connections of its own. Whatever it did, the counters of topics are exact,
    unless it planted lanes or messages without the scripts that count them."""

    async def main() -> None:
        bench = LogBench(server, namespace)
        try:
            await test(bench)
            assert is_planted or await bench.differences() == []
        finally:
            await bench.close()

    asyncio.run(main())
