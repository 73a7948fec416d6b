"""Pages of subscriptions, without a store. What a page costs a real one:
tests/contract/test_store_listing.py."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.scripted_store import ScriptedConnection

from gearhorn.errors import StoreError
from gearhorn.names import is_pattern
from gearhorn.store import listing as module
from gearhorn.store.listing import Listing
from gearhorn.store.wire import Command

Pair = tuple[str, str]
topics = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d", " a", " b.*"]),
    st.sets(st.sampled_from("123456789"), min_size=1),
    max_size=8,
)


class Store:
    """Subscriptions by topic. The last of each topic has options, and has lost copies."""

    def __init__(self, subscriptions: dict[str, set[str]]) -> None:
        self.subscriptions = {topic: sorted(names) for topic, names in subscriptions.items()}
        self.connection: Any = ScriptedConnection(self._answer)
        self.is_refused = False
        self.limit = 2000  # of one command

    @property
    def pairs(self) -> list[Pair]:
        return [(topic, name) for topic in sorted(self.subscriptions) for name in self._of(topic)]

    def _of(self, topic: str) -> list[str]:
        return self.subscriptions.get(topic, [])

    def _answer(self, command: Command) -> Any:
        if self.is_refused:
            return StoreError("away")
        kind, key, *rest = command
        topic = key.rpartition(":")[2]
        if kind == "ZRANGEBYLEX":
            low, _, _, _, count = rest
            names = [
                name
                for name in sorted(self.subscriptions)
                if is_pattern(name) == (topic == "patterns")
            ]
            found = [name for name in names if low == "-" or name > low[1:]]
            return [name.encode() for name in found[:count]]
        if kind == "ZCARD":
            return len(self._of(topic))
        if kind == "HMGET":
            last = self._of(topic)[-1:]
            return [b"7" if client.decode() in last else None for client in rest]
        assert kind == "page"
        _, _, low, count = rest
        assert count <= self.limit, "the store is held for no longer than a page"
        found = [name for name in self._of(topic) if low == b"-" or name.encode() > low[1:]]
        last = self._of(topic)[-1:]
        bodies = [b'{"envelope":true}' if name in last else None for name in found[:count]]
        return [[name.encode() for name in found[:count]], 0, bodies if any(bodies) else []]


async def page_of(
    store: Store, topic: str | None, after: Pair | None, limit: int
) -> tuple[list[Pair], bool]:
    """The pairs on one page, and whether more may follow."""
    found, more = await Listing(store.connection).page(topic, after, limit)
    for name, subscriptions in found:
        last = store.subscriptions[name][-1]
        for stored in subscriptions:
            is_last = stored.client_id == last
            assert stored.options.envelope == is_last
            assert stored.drops == (7 if is_last else 0)
    assert len({name for name, _ in found}) == len(found), "a topic is on a page once"
    return [(name, stored.client_id) for name, stored_ in found for stored in stored_], more


async def all_pages(store: Store, topic: str | None, limit: int) -> list[Pair]:
    """What all pages have, one after the other."""
    pairs: list[Pair] = []
    after, more = None, True
    while more:
        found, more = await page_of(store, topic, after, limit)
        assert len(found) == limit or not more or not found
        pairs += found
        after = pairs[-1] if pairs else None
    return pairs


@given(topics, st.integers(1, 30), st.integers(1, 4), st.integers(1, 5))
def test_pages_have_each_subscription_once_and_in_order(
    subscriptions: dict[str, set[str]], limit: int, together: int, page: int
) -> None:
    store = Store(subscriptions)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(module, "TOGETHER", together)
        monkeypatch.setattr(module, "PAGE", page)
        store.limit = page
        assert asyncio.run(all_pages(store, None, limit)) == store.pairs
        for topic in subscriptions:
            own = [pair for pair in store.pairs if pair[0] == topic]
            assert asyncio.run(all_pages(store, topic, limit)) == own


@pytest.mark.parametrize(
    ("topic", "after", "pairs"),
    [
        (None, ("a", "1"), [("a", "2"), ("c", "1")]),
        (None, ("a", "2"), [("c", "1")]),
        (None, ("b", "5"), [("c", "1")]),  # a topic that is gone
        ("c", ("a", "1"), [("c", "1")]),  # a cursor of another topic
        ("b", None, []),
    ],
)
def test_a_page_begins_behind_its_cursor(
    topic: str | None, after: Pair | None, pairs: list[Pair]
) -> None:
    store = Store({"a": {"1", "2"}, "c": {"1"}})
    assert asyncio.run(page_of(store, topic, after, 9)) == (pairs, False)


def test_a_topic_that_has_grown_since_its_size_was_read_is_read_to_its_end() -> None:
    store = Store({"a": {"1"}, "b": {"1"}})
    original = store.connection.read

    async def read(commands: list[Command], *more: Any) -> Any:
        replies = await original(commands, *more)
        if commands[0][0] == "ZCARD":
            store.subscriptions["a"] = list("12345")
        return replies

    store.connection.read = read
    pairs, _ = asyncio.run(page_of(store, None, None, 99))
    assert pairs == store.pairs


def test_a_page_ends_before_its_description_is_longer_than_a_reply(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PAGE_BYTES", 3000)
    store = Store({"a": {"1", "2", "3", "4", "5"}})
    found, more = asyncio.run(page_of(store, None, None, 99))
    assert (found, more) == ([("a", "1"), ("a", "2"), ("a", "3")], True)
    monkeypatch.setattr(module, "PAGE_BYTES", 1)
    assert asyncio.run(all_pages_of_one(store)) == store.pairs, "one is on each page at least"


async def all_pages_of_one(store: Store) -> list[Pair]:
    """What all pages have, of which none has room for two."""
    pairs: list[Pair] = []
    more = True
    while more:
        found, more = await page_of(store, None, pairs[-1] if pairs else None, 99)
        assert len(found) <= 1
        pairs += found
    return pairs


def test_a_store_that_does_not_answer_ends_the_page() -> None:
    store = Store({"a": {"1"}})
    store.is_refused = True
    with pytest.raises(StoreError, match="away"):
        asyncio.run(page_of(store, None, None, 9))
