"""The set of patterns is read in one round trip, with its word."""

from __future__ import annotations

import asyncio
from typing import Any

from gearhorn.store.patterns import LIMIT, Patterns, PatternSet


class Connection:
    """Answers each command with what the test says."""

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)
        self.asked: list[tuple[Any, ...]] = []

    def key(self, name: str) -> str:
        return name

    def script(self, *parts: Any) -> tuple[Any, ...]:
        return parts

    async def read(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        self.asked += commands
        return [self.replies.pop(0) for _ in commands]


def test_all_patterns_come_with_their_word() -> None:
    connection = Connection([b"7", [b" a.*"]], [None, []], b"7", None)
    patterns = PatternSet(connection)  # type: ignore[arg-type]
    assert asyncio.run(patterns.read()) == Patterns(b"7", [b" a.*"])
    assert asyncio.run(patterns.read()) == Patterns(b"", [])
    assert asyncio.run(patterns.word()) == b"7"
    assert asyncio.run(patterns.word()) == b""
    assert connection.asked[0] == ("patterns", ["patterns", "patterned"], LIMIT)
