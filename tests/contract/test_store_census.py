"""The counters of topics against a full count, whatever happens to a store, on both kinds."""

from __future__ import annotations

import contextlib
import random

import pytest
from support.logs import NOTHING, LogBench, direct, durable, item, run
from support.servers import Redis
from support.store import expire, subscribe, unsubscribe

from gearhorn.errors import BadRequest
from gearhorn.store.census import COUNTS, Census
from gearhorn.store.rounds import FailureWrite

pytest_plugins = ["support.store"]

STEPS = 250
CLIENTS = [f"c{number}" for number in range(70)]  # more positions than a log tells by itself
ACTS = (
    ["subscribe"] * 6
    + ["append", "advance"] * 8
    + ["together"] * 2
    + ["park"] * 4
    + ["redrive", "purge", "late", "drop", "drop", "end", "direct", "pull", "push", "fetch"]
    + ["fetch", "pause", "pause", "recount", "all"]
)


class Walk:
    """A random walk over all that changes what is counted of a topic.

    Arguments:
        bench: the store.
        seed: of the walk.
    """

    def __init__(self, bench: LogBench, seed: int) -> None:
        self._bench = bench
        self._random = random.Random(seed)
        self.counted = 0  # times that a counter was not 0
        self.spread = 0  # times that lanes stood at more positions than a log names itself

    async def go(self) -> None:
        """Walk, and compare after each piece of it."""
        await self._bench.join()
        for step in range(STEPS):
            act = self._random.choice(ACTS)
            await getattr(self, f"_{act}")(self._random.choice(CLIENTS))
            if not step % 10 or step > STEPS - 10:
                assert await self._bench.differences() == [], f"after {act}"
                for count in COUNTS:
                    self.counted += await self._bench.ask("ZCARD", f"most:{count}")
                self.spread += await self._bench.ask("EXISTS", "spread", topic="t")

    async def _subscribe(self, client: str) -> None:
        await self._bench.one(durable("t", client, self._random.choice(["new", "all", "last"])))

    async def _all(self, _: str) -> None:
        for client in CLIENTS:
            await self._bench.one(durable("t", client, "new"))

    async def _append(self, _: str) -> None:
        items = [item("x")] * self._random.randint(1, 9)
        await self._bench.append_items("t", *items)  # where there is no log nothing happens

    async def _taken(self, client: str) -> tuple[int, int, int]:
        """A lane's TERM and position, and the log's last message; TERM 0 where it has no lane."""
        acquired = await self._bench.acquire("t", client)
        if acquired is None:
            return 0, 0, 0
        last = int((await self._bench.state("t"))["last"])
        return acquired.term, acquired.position, last

    async def _advance(self, _: str) -> None:
        for client in self._random.sample(CLIENTS, 25):
            term, position, last = await self._taken(client)
            if term:
                to = self._random.randint(position, last)
                assert await self._bench.settle("t", client, term, to)
                assert await self._bench.settle("t", client, term, position), "it never goes back"

    async def _together(self, client: str) -> None:
        """Many lanes in one command: all to one position, or each to its own."""
        found, left = await self._bench.lanes.acquire("me", {"t": CLIENTS})
        lanes = found.get("t", [])
        assert left <= {"t"}, client
        if lanes:
            state = await self._bench.state("t")
            last, is_one = int(state["last"]), self._random.random() < 0.5
            writes = [
                (
                    lane.client_id,
                    lane.term,
                    last if is_one else self._random.randint(lane.position, last),
                    state["epoch"],
                    None,
                    0,
                    0,
                )
                for lane in lanes
            ]
            await self._bench.lanes.round("me", NOTHING._replace(positions={"t": writes}))

    async def _park(self, client: str) -> None:
        term, position, last = await self._taken(client)
        if position < last:
            for sequence in range(position + 1, min(last, position + 4) + 1):
                await self._bench.park("t", client, term, sequence)
                await self._bench.park("t", client, term, sequence)
            await self._bench.settle("t", client, term, min(last, position + 4))

    async def _redrive(self, client: str) -> None:
        with contextlib.suppress(BadRequest):  # it is read from
            await self._bench.lanes.take_parked("t", client, "redrive", 2)

    async def _purge(self, client: str) -> None:
        await self._bench.lanes.take_parked("t", client, "purge", 1)

    async def _late(self, client: str) -> None:
        parked = await self._bench.listed("t", client)
        term, *_ = await self._taken(client)
        if parked and term:
            await self._bench.note(FailureWrite("t", client, term, "late", parked[:2]))

    async def _drop(self, client: str) -> None:
        store = self._bench.subscriptions
        number = store.number_drops()
        for _ in range(2):
            await store.count_drops(number, {("t", client): 3, ("t", "gone"): 1})

    async def _end(self, client: str) -> None:
        await self._bench.one(unsubscribe("t", client))

    async def _direct(self, client: str) -> None:
        await self._bench.one(direct("t", client))

    async def _pull(self, client: str) -> None:
        await self._bench.one(durable("t", client, pull=True))

    async def _push(self, client: str) -> None:
        await self._bench.one(durable("t", client, pull=False))

    async def _fetch(self, client: str) -> None:
        await self._pull(client)
        last = int((await self._bench.state("t"))["last"])
        await self._bench.fetch("t", client, ack=self._random.randint(0, last))

    async def _pause(self, client: str) -> None:
        for paused in self._random.sample([True, False, 0.5, 99.0], 2):
            await self._bench.one(durable("t", client, paused=paused))

    async def _recount(self, _: str) -> None:
        await Census(self._bench.connection).mend("t")


@pytest.mark.parametrize("seed", range(6))
def test_counters_are_what_a_full_count_gives(server: Redis, seed: int) -> None:
    async def test(bench: LogBench) -> None:
        walk = Walk(bench, seed)
        await walk.go()
        assert walk.counted > 20
        assert walk.spread > 3
        for client in CLIENTS:
            await bench.one(unsubscribe("t", client))
        left = {name for name in await bench.keys() if "most" in name or name.endswith(":t")}
        assert left == set(), "what is over leaves no counter"

    run(server, test)


def test_messages_missed_by_a_subscription_that_is_read_from_are_counted(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice", pull=True)
        await bench.append("t", *"abcdefgh")
        await bench.ask("HSET", "log", "max_messages", 2, topic="t")
        await bench.append("t", "i")
        await bench.fetch("t", "alice")
        assert (await Census(bench.connection).kept("t"))[:3] == (2, 0, 7)

    run(server, test)


def test_counts_of_direct_subscriptions_and_of_patterns(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.one(subscribe("t", "alice", b'{"ttl":1}'))
        await bench.one(subscribe(" news.*", "bob"))
        drops = {("t", "alice"): 5, (" news.*", "bob"): 7}
        await bench.subscriptions.count_drops(bench.subscriptions.number_drops(), drops)
        assert await bench.ask("ZRANGE", "most:drops", 0, -1) == [b"t"], "patterns are no topics"
        assert (await bench.one(expire("t", "alice"), clock_ms=5000)).existed
        assert await bench.ask("EXISTS", "most:drops") == 0

    run(server, test)


@pytest.mark.parametrize("count", COUNTS)
def test_a_wrong_counter_is_found_and_mended(server: Redis, count: str) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        await bench.append("t", "a")
        await bench.ask("ZADD", f"most:{count}", -9, "t")
        await bench.ask("ZADD", f"most:{count}", -9, "gone")
        found = await bench.differences()
        assert {one.topic for one in found} == {"t", "gone"}
        for one in found:
            await Census(bench.connection).mend(one.topic)
        assert await bench.differences() == []

    run(server, test)


def test_a_counter_that_cannot_be_written_stops_nothing(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.join()
        for count in COUNTS:
            await bench.ask("SET", f"most:{count}", "something else")
        await bench.begin("t", "alice")
        await bench.append("t", "a", "b")
        acquired = await bench.acquire("t", "alice")
        assert acquired is not None
        assert await bench.park("t", "alice", acquired.term, 1)
        assert await bench.settle("t", "alice", acquired.term, 2)
        await bench.subscriptions.count_drops(1, {("t", "alice"): 3})
        assert await bench.lanes.take_parked("t", "alice", "purge", None) == 1
        assert (await bench.one(unsubscribe("t", "alice"))).existed
        for count in COUNTS:
            await bench.ask("DEL", f"most:{count}")

    run(server, test)
