"""What the command does to a store instead of serving, without a store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.plain_store import PlainStore
from support.proxy import on_loop

from gearhorn.cli import upkeep
from gearhorn.cli.upkeep import check_store, migrate_store
from gearhorn.config import Config
from gearhorn.errors import StoreError
from gearhorn.store.keys import FORMER, SCHEMA


def data_of(monkeypatch: pytest.MonkeyPatch, schema: bytes) -> Any:
    """A store that the command finds, with a topic whose counters are missing."""
    topic = {"lanes:t": {"alice": "- 0 1"}, "log:t": {"last": "3"}, "schema": schema.decode()}
    data = PlainStore(topics={"t": "0", "u": "0"}, **topic)
    monkeypatch.setattr(upkeep, "Connection", lambda *_: data)
    return data


@on_loop
async def test_counters_are_compared_and_mended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = data_of(monkeypatch, FORMER)
    assert await check_store(Config(), asyncio.Event()) == 1
    assert "t: kept Counts(lag=0," in capsys.readouterr().out
    assert await migrate_store(Config(), asyncio.Event()) == 0
    assert "2 topics were counted" in capsys.readouterr().out
    assert data.data["schema"] == SCHEMA.decode()
    assert await check_store(Config(), asyncio.Event()) == 0
    assert "Every counter" in capsys.readouterr().out
    assert data.closed == 3


@on_loop
async def test_what_cannot_be_done_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await migrate_store(Config(redis="nonsense"), asyncio.Event()) == 2
    assert capsys.readouterr().err.startswith("Error: --redis: ")
    data_of(monkeypatch, b"3")
    assert await migrate_store(Config(), asyncio.Event()) == 1
    assert capsys.readouterr().err.startswith("Error: the store holds layout '3'")
    data = data_of(monkeypatch, SCHEMA)

    async def check() -> None:
        raise StoreError("away")

    monkeypatch.setattr(data, "check", check)
    assert await check_store(Config(), asyncio.Event()) == 1
    assert capsys.readouterr().err == "Error: away\n"


@on_loop
async def test_a_signal_ends_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data_of(monkeypatch, FORMER).data["members"] = {"dead": "1 1 60000"}
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, stop.set)
    assert await migrate_store(Config(), stop) == 1
    assert "begin again" in capsys.readouterr().err
