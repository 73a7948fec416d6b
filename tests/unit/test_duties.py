"""What the parts of a worker are told of its membership."""

from __future__ import annotations

import asyncio
from typing import Any

from gearhorn.broker.duties import MemberDuties

PARTS = ("caches", "presences", "burials", "durable", "changes")


class Part:
    """Notes what it is told."""

    def __init__(self, name: str, told: list[tuple[Any, ...]]) -> None:
        self._name, self._told = name, told

    def __getattr__(self, what: str) -> Any:
        def note(*arguments: Any) -> Any:
            self._told.append((self._name, what, *arguments))
            return asyncio.sleep(0) if what in ("appear", "disappear", "wait_sent") else None

        return note


def test_each_event_goes_to_the_parts_that_it_concerns() -> None:
    told: list[tuple[Any, ...]] = []
    duties = MemberDuties(**{name: Part(name, told) for name in PARTS})  # type: ignore[arg-type]

    async def all_of_them() -> None:
        await duties.appear("me")
        await duties.disappear("me")
        duties.abandon()
        duties.drop("t", False, "alice")
        duties.forget()
        await duties.wait_sent(["t"])
        duties.expire([("t", "alice")])
        duties.bury("peer")

    asyncio.run(all_of_them())
    assert told == [
        ("presences", "appear", "me"),
        ("presences", "disappear", "me"),
        ("durable", "members_changed"),
        ("durable", "abandon"),
        ("caches", "drop", "t", False, "alice"),
        ("caches", "forget"),
        ("caches", "wait_sent", ["t"]),
        ("changes", "expire", [("t", "alice")]),
        ("burials", "add", "peer"),
        ("durable", "members_changed"),
    ]
