"""Pages of summaries in every order, without a store. On real ones: contract/test_summaries.py."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.proxy import on_loop

from gearhorn.broker import summaries
from gearhorn.broker.summaries import SummaryPages
from gearhorn.fanout.filled_queues import Filled
from gearhorn.messages.codec import encode
from gearhorn.messages.describe import decode_describe
from gearhorn.store.summaries import Counted

TOPICS = sorted([*(f"a.{n:02}" for n in range(25)), *(f"b.{n:02}" for n in range(25)), "c"])
HAVE = {name: n % 4 for n, name in enumerate(TOPICS)}  # the count of each
BY_COUNT = sorted(TOPICS, key=lambda name: (-HAVE[name], name))


class Store:
    """Topics with one count, which is each of the counters."""

    def __init__(self) -> None:
        self.read_names = 0

    async def names(self, behind: str, limit: int) -> list[str]:
        """The next names."""
        found = [name for name in TOPICS if name > behind][:limit]
        self.read_names += len(found)
        return found

    async def most(self, _: str, place: tuple[int, str], limit: int) -> list[tuple[int, str]]:
        """The next of those that have any."""
        at = (-place[0], place[1])
        order = [(HAVE[name], name) for name in BY_COUNT if HAVE[name]]
        found = [one for one in order if (-one[0], one[1]) > at][:limit]
        self.read_names += len(found)
        return found

    async def has_none(self, _: str, topics: list[str]) -> list[bool]:
        """Whether each has none."""
        return [not HAVE[name] for name in topics]

    async def read(self, topics: list[str]) -> list[Counted]:
        """The counts of topics."""
        return [Counted(1, 0, 0, HAVE.get(name, 0), 0, 0, {}) for name in topics]


class Bed:
    """Pages of summaries over such a store."""

    def __init__(self) -> None:
        self.store = Store()
        order = [(-HAVE[name], name) for name in BY_COUNT if HAVE[name]]
        waiting = Filled(True, {name: (HAVE[name], 1) for _, name in order}, order)

        class Parts:
            async def recent(self) -> Filled:
                return waiting

            async def counts(self, topics: list[str]) -> list[int]:
                return [0 for _ in topics]

        parts: Any = Parts()
        store: Any = self.store
        self.pages = SummaryPages(store=store, filled=parts, patterns=parts)

    async def whole(self, **request: Any) -> tuple[list[str], int]:
        """The topics of all pages, and how many pages there were."""
        found: list[str] = []
        cursor: dict[str, str] = {}
        count = 0
        while True:
            body = json.dumps({"summary": True} | request | cursor).encode()
            page = json.loads(encode(await self.pages.page(decode_describe(body))))
            found += page["topics"]
            count += 1
            if page["cursor"] is None:
                return found, count
            cursor = {"cursor": page["cursor"]}
            assert count < 100


@on_loop
@pytest.mark.parametrize("limit", [1, 3, 12, 13, 38, 39, 50, 51, 52, 100])
@pytest.mark.parametrize("sort", ["name", "lag", "parked", "drops", "backlog"])
async def test_pages_have_every_topic_once_in_order(sort: str, limit: int) -> None:
    found, count = await Bed().whole(sort=sort, limit=limit)
    assert found == (TOPICS if sort == "name" else BY_COUNT)
    assert count <= len(TOPICS) // limit + 2


@on_loop
@pytest.mark.parametrize("sort", ["name", "lag", "backlog"])
@pytest.mark.parametrize("scanned", [3, 10_000])
@pytest.mark.parametrize("match", ["a.*", "b.>", "*.07", "c", ">", "*", "none.*"])
async def test_only_what_matches_is_told(
    monkeypatch: pytest.MonkeyPatch, sort: str, scanned: int, match: str
) -> None:
    monkeypatch.setattr(summaries, "SCANNED", scanned)
    monkeypatch.setattr(summaries, "NAMES", 3)
    found, _ = await Bed().whole(sort=sort, match=match, limit=4)
    order = TOPICS if sort == "name" else BY_COUNT
    ends = {"a.*": "a.", "b.>": "b.", ">": "", "*": "c", "c": "c"}
    if match == "*.07":
        assert sorted(found) == ["a.07", "b.07"]
    else:
        assert found == [name for name in order if name.startswith(ends.get(match, "?"))]


@on_loop
async def test_a_page_reads_no_more_than_is_on_it() -> None:
    bed = Bed()
    for sort in ("name", "lag"):
        body = json.dumps({"summary": True, "sort": sort, "limit": 5}).encode()
        await bed.pages.page(decode_describe(body))
    assert bed.store.read_names == 10
    await bed.whole(match="b.*", limit=100)
    assert bed.store.read_names < 40, "what begins otherwise is not read"
