"""In which order a change is written, told, answered and drained, and what is refused."""

from __future__ import annotations

import asyncio
import json

from support.changes import Bench, answered, run

from gearhorn.errors import StoreError, StoreRefused
from gearhorn.store.subscriptions import Applied


def test_a_change_is_written_told_and_then_answered() -> None:
    async def test(bench: Bench) -> None:
        job = bench.ask("subscribe", "alice")
        await answered(job)
        assert bench.events == ["write subscribe alice", "drop t", "tell t", "heard [1]"]
        assert json.loads(job.outcome.removeprefix("complete "))["version"] == 1

    run(test)


def test_requests_that_came_together_are_one_round() -> None:
    async def test(bench: Bench) -> None:
        jobs = [bench.ask("subscribe", f"c{number}") for number in range(3)]
        await answered(*jobs)
        assert bench.events.count("tell t t t") == 1

    run(test)


def test_a_drain_comes_after_the_copies_of_the_former_list_and_before_the_answer() -> None:
    async def test(bench: Bench) -> None:
        job = bench.ask("unsubscribe", "alice", drain=True)
        await answered(job)
        at = [bench.events.index(event) for event in ("sent t", "drain t_alice", "unmark t_alice")]
        assert at == sorted(at)
        assert json.loads(job.outcome.removeprefix("complete "))["drained"] == 3

    run(test)


def test_a_queue_that_another_pair_owns_is_refused_alone() -> None:
    async def test(bench: Bench) -> None:
        bench.store.applied["a"] = Applied(0, False, owner=("t2", "b"))
        taken, fine = bench.ask("subscribe", "a"), bench.ask("subscribe", "c")
        await answered(taken, fine)
        assert taken.outcome.startswith("fail queue_taken: t_a belongs to topic t2, client b")
        assert fine.outcome.startswith("complete")

    run(test)


def test_one_that_the_store_refuses_is_refused_alone() -> None:
    async def test(bench: Bench) -> None:
        bench.store.applied["a"] = Applied(0, False, error=StoreRefused("no"))
        refused, fine = bench.ask("subscribe", "a"), bench.ask("subscribe", "c")
        await answered(refused, fine)
        assert refused.outcome == "fail unavailable: the store: no"
        assert fine.outcome.startswith("complete")

    run(test)


def test_what_was_refused_and_is_written_after_all_is_told_before_anything_else() -> None:
    async def test(bench: Bench) -> None:
        bench.store.failures = [StoreError("gone")]
        bench.store.written = [Applied(7, False)]
        job = bench.ask("subscribe", "alice")
        await answered(job)
        assert job.outcome == "fail unavailable: the store: gone"
        while "tell t" not in bench.events:
            await asyncio.sleep(0.001)
        later = bench.ask("subscribe", "bob")
        await answered(later)
        assert bench.events.index("tell t") < bench.events.index("write subscribe bob")

    run(test)


def test_while_it_is_not_known_what_was_written_others_are_refused() -> None:
    async def test(bench: Bench) -> None:
        bench.store.failures = [StoreError("gone"), StoreError("gone"), StoreError("gone")]
        first = bench.ask("subscribe", "alice")
        await answered(first)
        second = bench.ask("subscribe", "bob")
        await answered(second)
        assert second.outcome == "fail unavailable: the store: gone"
        while bench.store.failures:
            await asyncio.sleep(0.01)
        third = bench.ask("subscribe", "carol")
        await answered(third)
        assert third.outcome.startswith("complete")

    run(test)


def test_what_is_drained_for_another_request_is_held_off_and_then_written() -> None:
    async def test(bench: Bench) -> None:
        bench.store.applied["alice"] = Applied(0, False)  # its queue is being drained
        job = bench.ask("subscribe", "alice")
        await answered(job)
        assert bench.events.count("write subscribe alice") == 2
        assert job.outcome.startswith("complete")

    run(test)


def test_what_this_member_ends_by_itself_needs_nobody_to_answer() -> None:
    async def test(bench: Bench) -> None:
        bench.queue.expire([("t", "old")])
        bench.queue.overflow("t", "full", 5)
        while bench.events.count("write overflow full") < 1:
            await asyncio.sleep(0.001)
        assert bench.events[:2] == ["write expire old", "write overflow full"]

    run(test)


def test_a_bad_request_is_refused_and_not_written() -> None:
    async def test(bench: Bench) -> None:
        job = bench.ask("subscribe", "")
        assert job.outcome.startswith("fail bad_name: client_id is empty")
        assert bench.events == []

    run(test)
