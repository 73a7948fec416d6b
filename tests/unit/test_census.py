"""Counting topics anew, without a store. On real ones: tests/contract/test_store_census.py."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import pytest
from support.plain_store import PlainStore
from support.proxy import on_loop

from gearhorn.store import census
from gearhorn.store.census import Census, Counts


def store() -> Any:
    """A store with two topics, a pattern, and what they have; without any counter."""
    lanes = {f"c{n}": f"me 1 {position}" for n, position in enumerate([5, 5, 7, 9])}
    return PlainStore(
        topics={"direct": "0", "kept": "0", " pattern": "0"},
        **{
            "lanes:kept": lanes,
            "log:kept": {"last": "9"},
            "options:kept": {
                "c1": '{"durable":{"paused_ms":-1}}',
                "c2": '{"durable":{"paused_ms":99}}',
                "c3": '{"durable":{}}',
            },
            "drops:kept": {"c0": "3", "c9": "4"},
            "order:kept\0c0": {"1": "1", "2": "2"},
            "order:kept\0c3": {"4": "4"},
        },
    )


KEPT = Counts(4, 3, 7, {5: 2, 7: 1, 9: 1}, {"c1": inf, "c2": 99}, 5)
NONE = Counts(0, 0, 0, {}, {}, None)


@on_loop
async def test_everything_is_counted() -> None:
    found = Census(store())
    assert await found.count("kept") == KEPT
    assert await found.count("direct") == NONE
    assert [topic async for topic in found.topics()] == ["direct", "kept"], "no pattern"


@on_loop
@pytest.mark.parametrize("near", [1, 2, 16])
async def test_what_is_mended_agrees(monkeypatch: pytest.MonkeyPatch, near: int) -> None:
    monkeypatch.setattr(census, "NEAR", near)
    data = store()
    found = Census(data)
    assert [one.topic async for one in found.differences()] == ["kept"]
    for topic in ("kept", "direct"):
        await found.mend(topic)
    assert await found.kept("kept") == KEPT
    assert [one async for one in found.differences()] == []
    positions = data.data["log:kept"]["near"].split()[1::2]
    assert positions == ["5", "7", "9"][:near], "the lowest, in order"
    assert ("spread:kept" in data.data) == ("crowd:kept" in data.data) == (near < 3)
    data.data["lanes:kept"].clear()
    await found.mend("kept")
    assert await found.kept("kept") == Counts(0, 0, 7, {}, KEPT.paused, None)
    assert "kept" not in data.data["most:lag"]


@on_loop
@pytest.mark.parametrize(
    "wrong",
    [
        lambda data: data["most:lag"].update(kept="-5"),
        lambda data: data["most:drops"].update(gone="-5"),
        lambda data: data["log:kept"].update(near="- 5 2 7 1 9 2"),
        lambda data: data["log:kept"].update(near="- 7 1 5 2 9 1"),
        lambda data: data.update({"crowd:kept": {"12": "1"}}),
        lambda data: data["order:kept\0c3"].clear(),
        lambda data: data["drops:kept"].update(c1="1"),
    ],
)
async def test_what_is_wrong_is_found(wrong: Callable[[dict[str, Any]], None]) -> None:
    data = store()
    found = Census(data)
    await found.mend("kept")
    wrong(data.data)
    assert len([one async for one in found.differences()]) == 1


@on_loop
async def test_a_topic_that_moves_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted is of another moment than the counter: each time something else differs."""
    monkeypatch.setattr(census, "PAUSE_S", 0.0)
    data = store()
    found = Census(data)
    await found.mend("kept")
    kept, last = found.kept, 9

    async def moving(topic: str) -> Counts:
        nonlocal last
        last += 1
        counts = await kept(topic)
        data.data["log:kept"]["last"] = str(last)
        return counts

    monkeypatch.setattr(found, "kept", moving)
    assert [one async for one in found.differences()] == []
