"""Which lanes a member looks at: one that changed alone, those of a topic part by part."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping
from types import SimpleNamespace
from typing import Any

from gearhorn.durable.changed_lanes import ChangedLanes
from gearhorn.durable.ownership import TURN, Ownership
from gearhorn.messages.subscriptions import DurableOptions
from gearhorn.store.lanes import LaneRecord, LanesOfTopics

OTHERS = LaneRecord("another", 1, 0), DurableOptions(), False
PART = 3  # lanes, unless a test says more


class Store:
    """Lanes of which another member has each; a topic is read some lanes at a time."""

    def __init__(self, part: int = PART, **topics: int) -> None:
        self.part = part
        self.lanes = {topic: [f"c{n}" for n in range(count)] for topic, count in topics.items()}
        self.read: list[str] = []  # lanes that were read
        self.parts = 0

    async def topics(self, after: str | None = None) -> list[str]:
        return [] if after else sorted(self.lanes)

    async def page(self, cursors: Mapping[str, int]) -> tuple[LanesOfTopics, dict[str, int]]:
        found: LanesOfTopics = {}
        more = {}
        self.parts += 1
        for topic, cursor in cursors.items():
            lanes = self.lanes.get(topic, [])
            found[topic] = dict.fromkeys(lanes[cursor : cursor + self.part], OTHERS)
            self.read += found[topic]
            if cursor + self.part < len(lanes):
                more[topic] = cursor + self.part
        return found, more

    async def find(self, wanted: Mapping[str, Collection[str]]) -> LanesOfTopics:
        found: LanesOfTopics = {}
        for topic, clients in wanted.items():
            found[topic] = {c: OTHERS for c in clients if c in self.lanes.get(topic, [])}
            self.read += clients
        return found

    async def acquire(self, member: str, wanted: Any) -> tuple[dict[str, Any], set[str]]:
        return {}, set()


class Here:
    """The lanes of this member."""

    def begin_run(self, run_id: str) -> None:
        """As `Deliverer.begin_run`."""

    def __init__(self, *lanes: tuple[str, str]) -> None:
        self.held: dict[str, dict[str, Any]] = {}
        for topic, client in lanes:
            self.held.setdefault(topic, {})[client] = self.Lane(topic, client)

    class Lane:
        state = None
        term = 1

        def __init__(self, topic: str, client: str) -> None:
            self.topic, self.client = topic, client

    @property
    def topics(self) -> list[str]:
        return list(self.held)

    def find(self, topic: str) -> dict[str, Any]:
        return self.held.get(topic, {})

    def fence(self, lane: Lane) -> None:
        del self.held[lane.topic][lane.client]


class Membership:
    """Two members."""

    def __init__(self) -> None:
        self.id = "me"
        self.clock_ms = 0
        self.peers = {"another": None}
        self.joined = asyncio.Event()
        self.joined.set()


def look(
    store: Store, here: Here, ask: Callable[[Ownership, ChangedLanes], Coroutine[Any, Any, None]]
) -> None:
    """Ask an ownership that has looked at everything once."""

    async def main() -> None:
        parts: Any = {
            "lanes": store,
            "membership": Membership(),
            "deliverer": here,
            "redrives": None,
        }
        changed = ChangedLanes()
        ownership = Ownership(**parts, changed_lanes=changed, server=SimpleNamespace(run_id="run"))
        loop = asyncio.create_task(ownership.run())
        while not store.parts or changed.came.is_set():
            await asyncio.sleep(0)
        store.read.clear()
        store.parts = 0
        try:
            async with asyncio.timeout(10):
                await ask(ownership, changed)
        finally:
            loop.cancel()

    asyncio.run(main())


def test_of_a_subscription_that_changed_its_lane_alone_is_looked_at() -> None:
    store, here = Store(t=1000), Here(("t", "gone"), ("t", "c5"))

    async def ask(ownership: Ownership, changed: ChangedLanes) -> None:
        here.held = Here(("t", "gone"), ("t", "left")).held
        changed.add("t", "gone")
        changed.add("t", "c7")
        await ownership.wait_ended(["t"])

    look(store, here, ask)
    assert sorted(store.read) == ["c7", "gone"]
    assert (store.parts, list(here.find("t"))) == (0, ["left"])


def test_a_topic_is_looked_at_part_by_part_and_what_is_not_there_ends() -> None:
    store, here = Store(t=10, u=2), Here()

    async def ask(ownership: Ownership, changed: ChangedLanes) -> None:
        here.held = Here(("t", "gone"), ("u", "stays")).held
        changed.add("t")
        changed.add("t", "c1")
        await ownership.wait_ended(["t"])

    look(store, here, ask)
    assert sorted(store.read) == sorted(store.lanes["t"])
    assert (store.parts, here.find("t"), list(here.find("u"))) == (4, {}, ["stays"])


def test_every_topic_is_looked_at_also_one_of_which_the_store_has_nothing() -> None:
    store, here = Store(t=4), Here()

    async def ask(ownership: Ownership, changed: ChangedLanes) -> None:
        here.held = Here(("t", "gone"), ("u", "gone")).held
        await ownership.wait_ended(None)

    look(store, here, ask)
    assert here.find("t") == here.find("u") == {}


def test_the_lanes_of_many_topics_are_looked_at_in_many_turns_of_the_loop() -> None:
    store = Store(200, **{f"t{number}": 200 for number in range(50)})
    here = Here(*((f"t{number}", "c0") for number in range(50)))
    turns = 0

    async def ask(ownership: Ownership, changed: ChangedLanes) -> None:
        nonlocal turns
        changed.add_all()
        while len(store.read) < 10_000 or changed.came.is_set():
            await asyncio.sleep(0)
            turns += 1

    look(store, here, ask)
    assert len(store.read) == 10_000, "each is read once"
    assert turns >= 10_000 // (TURN + store.part)
