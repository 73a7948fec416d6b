"""Requests for parked messages: pages, actions, and what is unknown."""

from __future__ import annotations

import asyncio
from typing import Any

from support.proxy import on_loop
from support.requests import Job
from support.windows import EPOCH, trouble

from gearhorn.durable.parked import LISTED, ParkedRequests
from gearhorn.durable.reply import REPLIES
from gearhorn.messages.logs import Info, Parked

PART = 3  # messages that the store gives at once


class Lanes:
    """Parked messages of one subscription."""

    def __init__(self, *sequences: int, size: int = 1) -> None:
        self.is_there = True
        self.taken: list[tuple[str, int | None]] = []
        self._parked = {
            sequence: Parked(EPOCH, trouble(3), Info(0.0), b"x" * size) for sequence in sequences
        }

    async def list_parked(
        self, topic: str, client_id: str, after: int, limit: int
    ) -> tuple[list[tuple[int, Parked]], bool] | None:
        if not self.is_there:
            return None
        behind = [pair for pair in self._parked.items() if pair[0] > after]
        page = behind[: min(limit, PART)]
        return page, len(page) == len(behind)

    async def take_parked(
        self, topic: str, client_id: str, action: str, limit: int | None
    ) -> int | None:
        self.taken.append((action, limit))
        return len(self._parked) if self.is_there else None


async def asked(lanes: Lanes, **request: Any) -> Any:
    """The reply to a request."""
    parts: Any = lanes, asyncio.Semaphore(REPLIES)
    job: Any = Job(topic="t", client_id="me", **request)
    ParkedRequests(*parts).handle(job)
    return await job.reply()


def sequences(reply: Any) -> list[int]:
    return [message["sequence"] for message in reply["parked"]]


@on_loop
async def test_a_list_is_gathered_from_parts_and_says_where_the_next_page_begins() -> None:
    lanes = Lanes(*range(1, 9))
    reply = await asked(lanes, action="list", limit=5)
    assert (sequences(reply), reply["after"]) == ([1, 2, 3, 4, 5], 5)
    reply = await asked(lanes, action="list", after=5)
    assert (sequences(reply), reply.get("after")) == ([6, 7, 8], None)


@on_loop
async def test_a_list_without_a_limit_has_a_hundred() -> None:
    reply = await asked(Lanes(*range(1, 202)), action="list")
    assert len(sequences(reply)) == LISTED


@on_loop
async def test_a_message_for_which_there_is_no_room_begins_the_next_page() -> None:
    lanes = Lanes(1, 2, size=6 * 1024 * 1024)
    reply = await asked(lanes, action="list")
    assert (sequences(reply), reply["after"]) == ([1], 1)
    reply = await asked(lanes, action="list", after=1)
    assert sequences(reply) == [2]


@on_loop
async def test_messages_are_put_back_or_purged_and_counted() -> None:
    lanes = Lanes(1, 2)
    assert await asked(lanes, action="redrive", limit=7) == {"redriven": 2}
    assert await asked(lanes, action="purge") == {"purged": 2}
    assert lanes.taken == [("redrive", 7), ("purge", None)]


@on_loop
async def test_who_has_no_durable_subscription_is_unknown() -> None:
    lanes = Lanes()
    lanes.is_there = False
    for action in ("list", "redrive", "purge"):
        assert "client me has no durable subscription" in await asked(lanes, action=action)
