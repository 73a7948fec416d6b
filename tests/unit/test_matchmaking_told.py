"""Matchmaking: what a member that is told of changes does before it answers."""

from __future__ import annotations

import asyncio
import json

import pytest
from support.matchmaking import Bench, Job, run, turn

# Being told


def test_lists_are_dropped_before_the_answer_is_given() -> None:
    async def test(bench: Bench) -> None:
        order: list[str] = []
        job = Job(b'{"member":"peer","changes":[{"topic":"t","version":7,"removed":false}]}')
        bench.drop = lambda topic, *_: order.append(f"drop {topic}")  # type: ignore[method-assign]
        job.complete = lambda data=b"": order.append("answer")  # type: ignore[method-assign]
        bench.matchmaker.handle("me", job)  # type: ignore[arg-type]
        assert order == ["drop t", "answer"]

    run(test)


def test_an_answer_names_the_member_that_was_asked_and_the_highest_version() -> None:
    async def test(bench: Bench) -> None:
        job = bench.handle(("a", 9, False), ("b", 7, False))
        assert [json.loads(data) for data in job.completed] == [{"member": "me", "version": 9}]
        assert bench.events == [("drop", "a"), ("drop", "b")]
        assert bench.known.heard_ == [[9, 7]]

    run(test)


def test_lanes_go_with_the_list_unless_the_teller_says_that_none_are_concerned() -> None:
    async def test(bench: Bench) -> None:
        changes = [
            {"topic": "direct", "version": 5, "durable": False},
            {"topic": "durable", "version": 6, "durable": True},
            {"topic": "unsaid", "version": 7},
        ]
        job = Job(json.dumps({"member": "peer", "changes": changes}).encode())
        bench.matchmaker.handle("me", job)  # type: ignore[arg-type]
        dropped = [topic for event, topic in bench.events if event == "drop"]
        assert dropped == ["direct", "durable", "unsaid"]
        assert bench.lanes == ["durable", "unsaid"], "an older teller cannot know"

    run(test)


@pytest.mark.parametrize("removed", [False, True])
def test_of_a_pattern_the_answer_waits_until_what_it_matches_is_dropped(removed: bool) -> None:
    async def test(bench: Bench) -> None:
        job = bench.handle(("t", 6, False), (" a.*", 7, removed))
        assert job.completed == []
        assert bench.known.heard_ == []
        await turn()
        dropped = [("drop", "t"), ("drop", " a.*"), ("drop matching", " a.*")]
        assert bench.events == dropped + [("sent", " a.*")] * removed
        assert [json.loads(data) for data in job.completed] == [{"member": "me", "version": 7}]
        assert bench.known.heard_ == [[6, 7]]

    run(test)


@pytest.mark.parametrize("removed", [True, None])
def test_of_a_removal_the_answer_waits_for_what_holds_the_old_list(removed: bool | None) -> None:
    async def test(bench: Bench) -> None:
        bench.settling = asyncio.get_running_loop().create_future()
        job = bench.handle(("added", 6, False), ("removed", 7, removed))
        await turn()
        assert bench.events == [("drop", "added"), ("drop", "removed"), ("sent", "removed")]
        assert job.completed == []
        assert bench.known.heard_ == [], "nor is it known in the store"
        other = bench.handle(("another", 8, False))
        assert len(other.completed) == 1, "nobody else waits"
        bench.settling.set_result(None)
        await turn()
        assert [json.loads(data) for data in job.completed] == [{"member": "me", "version": 7}]
        assert bench.known.heard_ == [[8], [6, 7]]

    run(test)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"member":"peer"}', b'{"changes":[]}', b"\0"])
def test_who_says_something_else_is_refused_and_nothing_is_dropped(body: bytes) -> None:
    async def test(bench: Bench) -> None:
        job = Job(body)
        bench.matchmaker.handle("me", job)  # type: ignore[arg-type]
        assert len(job.failed) == 1
        assert job.failed[0].startswith("bad_request: ")
        assert (job.completed, bench.events, bench.known.heard_) == ([], [], [])

    run(test)
