"""Migrating a store, without one. With real ones: tests/functional/test_cli.py."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.plain_store import PlainStore
from support.proxy import on_loop

from gearhorn.errors import StartError
from gearhorn.store import migration
from gearhorn.store.keys import BETWEEN, FORMER, SCHEMA
from gearhorn.store.migration import migrate

LEASE = "1 4 20 patterns"  # renewals, version, lease in ms


def store(schema: bytes | None, **more: Any) -> Any:
    """A store of a layout, with a topic that has no counters."""
    topic = {"lanes:t": {"alice": "- 0 1"}, "log:t": {"last": "3"}}
    if schema is not None:
        topic["schema"] = schema.decode()  # type: ignore[assignment]
    return PlainStore(topics={"t": "0"}, **topic, **more)


@on_loop
@pytest.mark.parametrize("layout", [FORMER, BETWEEN, SCHEMA])
async def test_every_topic_gets_its_counters(
    monkeypatch: pytest.MonkeyPatch, layout: bytes
) -> None:
    monkeypatch.setattr(migration, "TOLD", 1)
    data, told = store(layout), list[int]()
    assert await migrate(data, told.append) == 1
    assert told == [1]
    assert data.data["schema"] == SCHEMA.decode()
    assert data.data["most:lag"] == {"t": "-2"}
    writes = [command for command in data.asked if command[0] == "SET"]
    assert [command[2] for command in writes] == [BETWEEN, SCHEMA]


@on_loop
async def test_patterns_are_still_told_by_the_layout() -> None:
    data = store(FORMER + b"+patterns", patterns={" a.*": "0"})
    await migrate(data, print)
    assert data.data["schema"] == SCHEMA.decode() + "+patterns"


@on_loop
@pytest.mark.parametrize("layout", [None, b"3", b"", b"6"])
async def test_other_layouts_are_left_alone(layout: bytes | None) -> None:
    data = store(layout)
    before = str(data.data)
    with pytest.raises(StartError, match="the store holds"):
        await migrate(data, print)
    assert str(data.data) == before


@on_loop
async def test_nothing_is_done_while_a_member_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration, "MARGIN_S", 0.1)
    data = store(FORMER, members={"dead": LEASE, "host-1": LEASE})

    def renew() -> None:
        data.data["members"]["host-1"] = "2 4 20 patterns"

    asyncio.get_running_loop().call_later(0.05, renew)
    with pytest.raises(StartError, match="host-1 runs"):
        await migrate(data, print)
    assert data.data["schema"] == FORMER.decode()
    assert "most:lag" not in data.data


@on_loop
async def test_a_member_that_died_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration, "MARGIN_S", 0.0)
    data = store(FORMER, members={"dead": LEASE})
    assert await migrate(data, print) == 1


@on_loop
async def test_a_member_that_joins_meanwhile_leaves_it_unfinished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(migration, "MARGIN_S", 0.1)
    monkeypatch.setattr(migration, "TOLD", 1)
    data = store(FORMER)

    def join(_: int) -> None:
        data.data["members"] = {"host-1": LEASE}
        asyncio.get_running_loop().call_later(
            0.05, lambda: data.data["members"].update({"host-1": "2 4 20"})
        )

    with pytest.raises(StartError, match="host-1 runs"):
        await migrate(data, join)
    assert data.data["schema"] == BETWEEN.decode(), "to be begun again"
