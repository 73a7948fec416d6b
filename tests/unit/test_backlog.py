"""Which backlogs are polled, when, and what of them goes to the limits."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from structlog.testing import capture_logs
from support.limits import run, subscribers

from gearhorn.fanout.backlog import Backlog
from gearhorn.fanout.copies import Subscribers
from gearhorn.fanout.limits import EAGER_LIMIT
from gearhorn.fanout.merged import Merged


class Admin:
    """Stands for a job server's text commands."""

    def __init__(self) -> None:
        self.jobs: dict[bytes, int] = {}
        self.asked = 0
        self.error: OSError | None = None

    async def backlog(self) -> dict[bytes, int]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return self.jobs


class Limits:
    """Writes down what is found filling up; all lists have one lowest limit."""

    def __init__(self, lowest: int) -> None:
        self.remembered = 0
        self.lowest_limit = lowest
        self.finds: list[tuple[int, str, dict[bytes, int]]] = []

    def lowest(self, subscribers: Subscribers, above: int = 0) -> int:
        return self.lowest_limit

    async def found(self, place: int, subscribers: Subscribers, waiting: dict[bytes, int]) -> None:
        self.finds.append((place, subscribers.topic, waiting))


class Bed:
    """Job servers, limits and cached lists around a backlog."""

    def __init__(self, *lists: Subscribers, servers: int = 1, lowest: int = 40_000) -> None:
        self.admins = [Admin() for _ in range(servers)]
        self.clients = [SimpleNamespace(is_up=True, server=f"s{n}") for n in range(servers)]
        self.limits = Limits(lowest)
        self.members = SimpleNamespace(count=1)
        self._lists = {found.topic: found for found in lists}
        job_servers: Any = SimpleNamespace(admins=self.admins, clients=self.clients)
        limits: Any = self.limits
        members: Any = self.members
        self.backlog = Backlog(job_servers, limits, members)

    def peek(self, topic: str) -> Subscribers | None:
        """Stands for the directory."""
        return self._lists.get(topic)

    async def poll(self) -> None:
        directory: Any = self
        await self.backlog.poll(directory)


def test_queues_that_are_a_quarter_full_are_found_by_topic() -> None:
    async def test() -> None:
        bed = Bed(subscribers("t", "a", "b"), subscribers("u", "a"))
        bed.admins[0].jobs = {b"t_a": 10_000, b"t_b": 9_999, b"u_a": 40_001, b"other": 50_000}
        await bed.poll()
        assert bed.limits.finds == [(0, "t", {b"t_a": 10_000}), (0, "u", {b"u_a": 40_001})]

    run(test)


def test_low_limits_are_found_only_where_they_are_exceeded() -> None:
    async def test() -> None:
        bed = Bed(subscribers("t", "a", "b"), lowest=10)
        bed.limits.remembered = 1
        bed.admins[0].jobs = {b"t_a": 10, b"t_b": 11, b"\xff_a": 50}
        await bed.poll()
        assert bed.limits.finds == [(0, "t", {b"t_b": 11})]

    run(test)


def test_a_server_that_cannot_be_asked_is_left_out() -> None:
    async def test() -> None:
        bed = Bed(subscribers("t", "a"), servers=3)
        for admin in bed.admins:
            admin.jobs = {b"t_a": 40_000}
        bed.clients[0].is_up = False
        bed.admins[1].error = OSError("gone")
        with capture_logs() as lines:
            await bed.poll()
        assert [place for place, _, _ in bed.limits.finds] == [2]
        assert [(line["event"], line["server"]) for line in lines] == [("backlog is unknown", "s1")]
        assert bed.admins[0].asked == 0

    run(test)


def test_one_reading_serves_all_who_describe_at_once() -> None:
    async def test() -> None:
        bed = Bed(servers=2)
        bed.admins[0].jobs, bed.admins[1].jobs = {b"t_a": 1}, {b"t_a": 2, b"t_b": 3}
        answers = await asyncio.gather(bed.backlog.recent(), bed.backlog.recent())
        for jobs, at in answers:
            assert (jobs, at is not None) == ({b"t_a": 3, b"t_b": 3}, True)
        await bed.backlog.recent()
        assert bed.admins[0].asked == 1

    run(test)


def test_what_no_server_tells_has_no_time() -> None:
    async def test() -> None:
        bed = Bed()
        bed.clients[0].is_up = False
        assert await bed.backlog.recent() == ({}, None)

    run(test)


def test_a_list_may_carry_its_members_share_of_a_quarter_of_its_limit() -> None:
    async def test() -> None:
        found = subscribers("t", "a")
        bed = Bed(found, lowest=4 * EAGER_LIMIT)
        assert bed.backlog.allowance(found) == EAGER_LIMIT + 1
        bed.members.count = 4
        assert bed.backlog.allowance(found) == EAGER_LIMIT // 4 + 1

    run(test)


def test_polls_that_lists_ask_for_are_one_at_a_time() -> None:
    async def test() -> None:
        found = subscribers("t", "a")
        bed = Bed(found, lowest=8)
        directory: Any = bed
        for _ in range(3):
            assert found.carries()
            bed.backlog.poll_soon(found, directory)
            assert not found.carries()
            found.allow(0)
        await asyncio.sleep(0.01)
        assert bed.admins[0].asked == 1
        bed.backlog.poll_soon(found, directory)
        await asyncio.sleep(0.01)
        assert bed.admins[0].asked == 2

    run(test)


def test_the_queues_of_patterns_are_found_by_their_own_lists_and_topics_by_theirs() -> None:
    async def test() -> None:
        own = subscribers("t.a", "alice")
        pattern = Subscribers(" t.*", [b"t.*_alice"], enveloped=0)
        bed = Bed(Merged(own, [pattern]), pattern)
        bed.admins[0].jobs = {b"t.*_alice": 10_000, b"t.a_alice": 10_000, b"t.*_bob": 9_999}
        await bed.poll()
        assert bed.limits.finds == [
            (0, " t.*", {b"t.*_alice": 10_000}),
            (0, "t.a", {b"t.a_alice": 10_000}),
        ]

    run(test)
