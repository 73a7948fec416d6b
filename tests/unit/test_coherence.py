"""What is forgotten when a topic changes, and in which order what holds a former list is waited
for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from gearhorn.broker.coherence import Coherence
from gearhorn.members.caches import Caches
from gearhorn.names import GOSSIP


class Part:
    """Stands for any part: notes what it is asked for."""

    def __init__(self, name: str, events: list[str]) -> None:
        self._name, self._events = name, events
        self.is_up = self.has_unsent = True

    def __getattr__(self, what: str) -> Any:
        if what == "portions":
            return Part("portions", self._events)

        def note(*arguments: Any) -> Any:
            self._events.append(f"{self._name} {what}")
            return [] if what == "barriers" else nothing()

        return note


class _Nothing:
    def __await__(self) -> Any:
        return iter(())


def nothing() -> Awaitable[None]:
    """What may be awaited, or not."""
    return _Nothing()


def made() -> tuple[Caches, list[str], dict[str, Part]]:
    events: list[str] = []
    names = "directory", "limits", "durable", "job_servers", "outbox", "overflow", "drops"
    parts = {name: Part(name, events) for name in (*names, "gossiper", "control")}
    return Coherence(**parts), events, parts  # type: ignore[arg-type]


def test_a_change_concerns_the_parts_that_hold_something_of_it() -> None:
    caches, events, _ = made()
    caches.drop("t", True, "alice")
    assert events == ["durable changed", "directory drop", "limits changed"]
    events.clear()
    caches.drop("t", False, "")
    assert events == ["directory drop"]
    events.clear()
    caches.drop(GOSSIP, False, "alice")
    assert events == ["directory drop", "gossiper listeners_changed", "limits changed"]


def test_everything_is_forgotten_where_anything_may_have_changed() -> None:
    caches, events, _ = made()
    caches.forget()
    forgotten = ["directory forget", "durable changed", "gossiper listeners_changed"]
    assert sorted(events) == [*forgotten, "limits forget"]


def test_copies_are_waited_for_in_the_order_of_their_way() -> None:
    caches, events, parts = made()
    asyncio.run(caches.wait_sent(["t"]))
    way = [
        *("directory wait_served", "durable wait_logged", "portions wait_sent"),
        *("job_servers barrier", "overflow wait_sent", "job_servers barrier"),
        *("outbox wait_counted", "drops wait_written"),
    ]
    assert events == way
    events.clear()
    asyncio.run(caches.wait_sent(None))
    assert events == [*way[:-1], "control barriers", way[-1]]
    events.clear()
    asyncio.run(caches.wait_sent([]))
    assert events == []
    parts["job_servers"].is_up = parts["outbox"].has_unsent = False
    asyncio.run(caches.wait_sent(["t"]))
    assert events == [*way[:2], *way[-2:]], "without a server there is nothing to wait for"


def test_copies_that_are_sent_again_after_drops_were_counted_are_waited_for() -> None:
    caches, events, parts = made()
    outbox: Any = parts["outbox"]
    counting = [True, True, False]

    async def wait_counted(topics: object, born: int) -> bool:
        events.append("counted")
        return counting.pop(0)

    outbox.wait_counted = wait_counted
    asyncio.run(caches.wait_sent(["t"]))
    copies = ["portions wait_sent", "job_servers barrier", "overflow wait_sent"]
    again = [*copies, "job_servers barrier", "counted"]
    assert events[2:] == [*again, *again, *again, "drops wait_written"]
