"""Reading how far many durable subscriptions are, without a store. What scripts make of it:
tests/contract/test_store_slowest.py."""

from __future__ import annotations

from typing import Any

import pytest
from support.proxy import on_loop
from support.scripted_store import ScriptedConnection

from gearhorn.errors import StoreError
from gearhorn.store.slowest import PAGE, Slowest, read_slowest
from gearhorn.store.wire import Command

LOG: list[bytes | None] = [b"e1", b"7", b"90"]  # its epoch, how many joined, its last sequence


def connection(log: list[bytes | None], *pages: Any) -> Any:
    """A store with a log and lanes in pages, each a list of records."""
    left = list(enumerate(pages, 1))

    def answer(command: Command) -> Any:
        if command[0] == "HMGET":
            return log
        number, records = left.pop(0)
        if isinstance(records, StoreError):
            return records
        found = [part for record in records for part in (b"a client", record)]
        return [b"%d" % (number if left else 0), found]

    return ScriptedConnection(answer)


@on_loop
async def test_the_lowest_position_of_all_pages_counts() -> None:
    store = connection(LOG, [b"me 4 50"], [], [b"- 3 12", b"pull 0 80"], [b"you 9 13"])
    assert await read_slowest(store, "t") == Slowest("e1 7", 12)
    assert [command[2] for command in store.asked[1:]] == [0, 1, 2, 3]
    assert {command[4] for command in store.asked[1:]} == {PAGE}


@on_loop
async def test_the_log_is_read_before_the_lanes() -> None:
    """A lane that is made meanwhile changes the mark: the reading must have the former one."""
    store = connection(LOG, [])
    await read_slowest(store, "t")
    assert [command[0] for command in store.asked] == ["HMGET", "HSCAN"]


@on_loop
async def test_without_lanes_all_of_the_log_is_done_with() -> None:
    assert await read_slowest(connection(LOG, []), "t") == Slowest("e1 7", 90)


@on_loop
async def test_of_a_log_that_is_gone_nothing_is_known() -> None:
    found = await read_slowest(connection([None, None, None], []), "t")
    assert found == Slowest(" 0", 0), "no log has a mark without an epoch"


@on_loop
async def test_a_page_that_is_not_answered_ends_the_reading() -> None:
    with pytest.raises(StoreError, match="away"):
        await read_slowest(connection(LOG, [b"me 1 5"], StoreError("away")), "t")
