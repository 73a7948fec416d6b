"""The numbers under which the store carries a request out once, without a store. What the scripts
keep under them: tests/contract/test_store_askers.py."""

from __future__ import annotations

from typing import Any

import pytest
from support.proxy import on_loop
from support.scripted_store import ScriptedConnection

from gearhorn.errors import StoreError
from gearhorn.store.asked import IDLE_MS, Asked, Askers
from gearhorn.store.wire import Command


def connection(*replies: Any) -> Any:
    """A store that answers its commands with these replies in turn, then with nothing to do."""
    left = list(replies)

    def answer(_: Command) -> Any:
        return left.pop(0) if left else []

    return ScriptedConnection(answer)


def test_two_askers_of_a_process_share_no_hash_and_one_register() -> None:
    store = connection()
    first, second = Asked(store), Asked(store)
    assert first.keys[0] != second.keys[0]
    assert first.keys[1] == second.keys[1] == store.key("askers")


def test_a_number_is_given_once_and_they_rise_from_one() -> None:
    asked = Asked(connection())
    assert [asked.next() for _ in range(3)] == [1, 2, 3]


@on_loop
async def test_an_asker_that_stops_has_the_store_forget_its_hash() -> None:
    store = connection()
    asked = Asked(store)
    asked.next()
    await asked.close()
    own, askers = asked.keys
    assert store.asked == [("UNLINK", own), ("ZREM", askers, own)]


@on_loop
async def test_an_asker_that_never_asked_leaves_the_store_alone() -> None:
    store = connection()
    await Asked(store).close()
    assert store.asked == []


@on_loop
async def test_an_asker_stops_though_the_store_does_not_answer() -> None:
    asked = Asked(connection(StoreError("away")))
    asked.next()
    await asked.close()


@on_loop
async def test_with_nothing_to_forget_the_store_is_asked_once_a_minute() -> None:
    store = connection()
    askers = Askers(store)
    for clock_ms in (0, 1, IDLE_MS - 1, IDLE_MS, IDLE_MS + 1):
        await askers.prune(clock_ms)
    keys = store.key("askers"), store.key("clock")
    assert store.asked == [("forget", *keys, 0), ("forget", *keys, IDLE_MS)]


@on_loop
async def test_what_one_answer_names_is_forgotten_by_the_next_call_at_once() -> None:
    store = connection([b"idle"])
    askers = Askers(store)
    await askers.prune(5)
    await askers.prune(5)
    await askers.prune(5)
    keys = store.key("askers"), store.key("clock")
    assert store.asked == [("forget", *keys, 5), ("forget", *keys, "idle", 5)]


@on_loop
async def test_after_an_error_the_same_are_named_a_minute_later() -> None:
    store = connection([b"idle"], StoreError("away"))
    askers = Askers(store)
    await askers.prune(0)
    with pytest.raises(StoreError):
        await askers.prune(0)
    await askers.prune(1)
    assert len(store.asked) == 2, "an outage is not made worse"
    await askers.prune(IDLE_MS)
    assert store.asked[-1] == (*store.asked[-2][:-1], IDLE_MS)
