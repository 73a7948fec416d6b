"""Where a member is present, and what happens when it disappears."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gearhorn.members import presence
from gearhorn.members.presence import Presences, connection_name


class Connections:
    """Stands for the connections of one presence."""

    made: list[Connections]

    def __init__(self, servers: Any, tls: Any, name: bytes, handlers: dict[bytes, Any]) -> None:
        self.name, self.handlers = name, handlers
        self.is_there = False
        self.made.append(self)

    async def appear(self) -> None:
        self.is_there = True

    async def stop(self) -> None:
        self.is_there = False


class Burials:
    def __init__(self) -> None:
        self.members: list[str] = []

    def add(self, member: str) -> None:
        self.members.append(member)


class Matchmaker:
    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []

    def handle(self, member: str, job: object) -> None:
        self.told.append((member, job))


class Listener:
    def hear(self, job: object) -> None:
        """Take one message."""


def test_a_member_serves_both_its_queues_until_it_disappears(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Connections.made = []
    monkeypatch.setattr(presence, "Presence", Connections)
    burials, matchmaker = Burials(), Matchmaker()
    presences = Presences(
        servers=[],
        tls=None,
        matchmaker=matchmaker,  # type: ignore[arg-type]
        listener=Listener(),
        burials=burials,  # type: ignore[arg-type]
    )

    async def test() -> None:
        assert not presences.is_present
        await presences.appear("a")
        await presences.appear("b")
        first, second = Connections.made
        assert first.is_there
        assert first.name == connection_name("a") == b"gearhorn-a"
        assert set(first.handlers) == {b"__matchmaking_a", b"__gossip_a"}
        first.handlers[b"__matchmaking_a"]("job")
        assert matchmaker.told == [("a", "job")], "it is told under which id"
        await presences.disappear("a")
        assert (first.is_there, second.is_there) == (False, True)
        assert burials.members == ["a"]
        await presences.disappear("unknown")
        await presences.stop()
        assert not second.is_there
        assert not presences.is_present
        assert burials.members == ["a", "unknown", "b"]

    asyncio.run(test())
