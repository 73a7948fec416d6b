"""When foreground fan-outs reply, and with what: every copy is sorted once, by what happened."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.fanouts import Bench, Job, long_list, message

from gearhorn.errors import Busy
from gearhorn.fanout.foreground import Foreground
from gearhorn.fanout.places import COPY_BYTES, LINGERING, REASONS_BYTES, RESULTS_BYTES, Places
from gearhorn.fanout.running import Plan
from gearhorn.fanout.tally import SLICE, Tally
from gearhorn.gearman.packets import WORK_DATA
from gearhorn.gearman.results import DISCARDED, REASON_BYTES

Test = Callable[[Bench], None] | Callable[[Bench], Awaitable[None]]


def on_bench(test: Test, *clients: str, **options: Any) -> None:
    async def main() -> None:
        done = test(Bench(*clients, **options))
        if done is not None:
            await done

    asyncio.run(main())


def start(bench: Bench, payload: bytes = b"x", **options: Any) -> tuple[Job, Foreground]:
    job = Job()
    fanout = foreground(bench, job, payload, **options)
    fanout.send(None)
    return job, fanout


def foreground(bench: Bench, job: Job, payload: bytes = b"x", **options: Any) -> Foreground:
    plan = Plan(job, message(payload, **options), bench.subscribers)  # type: ignore[arg-type]
    plan.enter(bench.places)
    return Foreground(bench.outbox, plan)


def receipt(job: Job) -> dict[str, Any]:
    ((kind, data),) = job.answers
    assert kind == "complete"
    decoded = json.loads(data)
    assert isinstance(decoded, dict)
    return decoded


def test_a_quorum_waits_until_the_last_copy_is_accepted() -> None:
    def test(bench: Bench) -> None:
        job, _ = start(bench, quorum=1)
        (handle,) = bench.servers[0].accept(1)
        bench.servers[0].complete(handle)
        bench.servers[0].accept(1)
        assert job.answers == []
        bench.servers[0].accept(1)
        assert job.answers == [("complete", b"1")]

    on_bench(test, "a", "b", "c")


@pytest.mark.parametrize("is_lost_before", [True, False])
def test_a_quorum_waits_for_copies_of_a_lost_server_only_before_its_reply(
    is_lost_before: bool,
) -> None:
    async def test(bench: Bench) -> None:
        here, there = bench.servers
        job, _ = start(bench, quorum=1)
        there.accept(1)
        (handle,) = here.accept(1)
        if is_lost_before:
            bench.cluster.lose(1)
            here.complete(handle)
            await asyncio.sleep(0)
            assert job.answers == []
            here.accept(1)
        else:
            here.complete(handle)
            assert job.answers == [("complete", b"1")]
            bench.cluster.lose(1)
            await asyncio.sleep(0)
            assert bench.outbox.is_idle  # the caller has its reply: nothing is sent again
        assert job.answers == [("complete", b"1")]

    on_bench(test, "a", "b", servers=2, routes={"a": 0, "b": 1})


def test_it_waits_for_copies_that_no_server_can_take() -> None:
    async def test(bench: Bench) -> None:
        job, _ = start(bench, quorum=1)
        first, _second = bench.servers[0].accept(2)
        bench.servers[0].complete(first)
        assert job.answers == [("complete", b"1")]
        again, _ = start(bench, quorum=1)
        (third,) = bench.servers[0].accept(1)
        bench.servers[0].complete(third)
        bench.cluster.lose(0)
        await asyncio.sleep(0)
        assert again.answers == []
        bench.cluster.find(0)
        bench.servers[0].accept(1)
        assert again.answers == [("complete", b"1")]

    on_bench(test, "a", "b")


def test_a_failure_too_waits_until_every_copy_is_accepted() -> None:
    def test(bench: Bench) -> None:
        job, _ = start(bench, quorum=2)
        (handle,) = bench.servers[0].accept(1)
        bench.servers[0].fail(handle)
        assert job.answers == []
        bench.servers[0].accept(1)
        assert job.answers == [("fail", b'[["a","failed"]]')]

    on_bench(test, "a", "b")


def test_what_waits_for_room_is_not_accepted_yet() -> None:
    def test(bench: Bench) -> None:
        job, fanout = start(bench, quorum=1)
        (handle,) = bench.servers[0].accept(1)
        bench.servers[0].refuse()
        bench.servers[0].complete(handle)
        assert job.answers == []
        assert bench.room.held == [(fanout, 1)]
        fanout.drop_held(1)
        assert job.answers == [("complete", b"1")]
        assert bench.drops.indexes == [1]

    on_bench(test, "a", "b", drop_old=[1])


@pytest.mark.parametrize("with_receipt", [True, False])
def test_a_copy_that_was_discarded_to_make_room_is_dropped(with_receipt: bool) -> None:
    def test(bench: Bench) -> None:
        job, _ = start(bench, receipt=with_receipt)
        good, old = bench.servers[0].accept(2)
        bench.servers[0].complete(good)
        bench.servers[0].warn(old, DISCARDED)
        bench.servers[0].fail(old)
        if with_receipt:
            told = receipt(job)
            assert (told["copies"], told["delivered"], told["dropped"]) == (1, ["good"], ["old"])
            assert told["failed"] == {}
        else:
            assert job.answers == [("fail", b'[["old","queue full"]]')]
        assert bench.drops.indexes == []  # who discarded it has counted it

    on_bench(test, "good", "old")


def test_a_receipt_at_the_timeout_counts_what_was_accepted_and_sorts_each_copy_once() -> None:
    async def test(bench: Bench) -> None:
        job, fanout = start(bench, receipt=True, timeout_s=0.05)
        first, second, third = bench.servers[0].accept(3)
        bench.servers[0].complete(first)
        bench.servers[0].warn(second, b"disk full")
        bench.servers[0].fail(second)
        bench.servers[0].refuse()
        while not job.answers:
            await asyncio.sleep(0.01)
        told = receipt(job)
        assert told["copies"] == 3
        assert told["delivered"] == ["a"]
        assert told["failed"] == {"b": "disk full"}
        assert told["dropped"] == ["d"]
        assert told["pending"] == ["c", "e"]
        bench.servers[0].complete(third)  # too late for anything
        assert fanout.over
        assert bench.outbox.is_idle

    on_bench(test, "a", "b", "c", "d", "e")


def test_at_the_timeout_a_quorum_fails_unless_every_copy_was_accepted() -> None:
    async def test(bench: Bench) -> None:
        job, _ = start(bench, quorum=1, timeout_s=0.05)
        (first,) = bench.servers[0].accept(1)
        bench.servers[0].complete(first)
        while not job.answers:
            await asyncio.sleep(0.01)
        assert job.answers == [("fail", b'[["b","no answer in 0.05 s"]]')]

    on_bench(test, "a", "b")


def test_after_a_quorum_the_payload_is_gone_and_the_others_stay_until_the_timeout() -> None:
    async def test(bench: Bench) -> None:
        job, fanout = start(bench, b"x" * 5000, quorum=1, timeout_s=0.2)
        first, second = bench.servers[0].accept(2)
        assert all(part.tail == b"" for part in fanout.parts)
        assert bench.places.held == 5000 + 2 * COPY_BYTES
        bench.servers[0].complete(first)
        assert job.answers == [("complete", b"1")]
        assert fanout.message.payload == b""
        assert (bench.places.waiting, bench.places.lingering) == (0, 1)
        assert bench.places.held == 2 * COPY_BYTES
        assert not bench.outbox.is_idle
        bench.servers[0].complete(second)
        assert (bench.places.lingering, bench.places.held) == (0, 0)
        assert bench.outbox.is_idle
        _, late = start(bench, b"x" * 5000, quorum=1, timeout_s=0.05)
        third, _ = bench.servers[0].accept(2)
        bench.servers[0].complete(third)
        assert not bench.outbox.is_idle
        while not bench.outbox.is_idle:
            await asyncio.sleep(0.01)
        assert late.over
        assert bench.cluster.admins[0].withdrawn == [b"H:4"]
        assert bench.places.held == 0

    on_bench(test, "a", "b")


def test_results_share_8_mib_from_their_first_byte_on() -> None:
    def test(bench: Bench) -> None:
        job, _ = start(bench, receipt=True)
        server = bench.servers[0]
        one, two, three, four = server.accept(4)
        before = bench.places.held
        for handle in (one, two):
            for _ in range(8):
                server.receive((WORK_DATA, handle + b"\0" + b"r" * (RESULTS_BYTES // 16)))
        assert bench.places.held == before + RESULTS_BYTES
        server.receive((WORK_DATA, three + b"\0" + b"no room for this"))
        assert bench.places.held == before + RESULTS_BYTES
        server.fail(two)  # what it sent is no result: there is room again
        server.complete(four, b"for this there is")
        server.complete(one)
        server.complete(three, b"nor for the end of it")
        told = receipt(job)
        assert told["delivered"] == ["a", "c", "d"]
        assert told["results"] == {"a": "r" * (RESULTS_BYTES // 2), "d": "for this there is"}
        assert told["results_omitted"] == ["c"]
        assert bench.places.held == 0

    on_bench(test, "a", "b", "c", "d")


def test_reasons_are_cut_and_share_a_mebibyte() -> None:
    count = REASONS_BYTES // REASON_BYTES + 10

    def test(bench: Bench) -> None:
        job, _ = start(bench)
        server = bench.servers[0]
        handles = server.accept(256) + server.accept(count - 256)
        for handle in handles:
            for _ in range(3):  # the last one counts
                server.warn(handle, b"w" * (2 * REASON_BYTES))
        for handle in handles:
            server.fail(handle)
        ((kind, data),) = job.answers
        reasons = [reason for _, reason in json.loads(data)]
        assert kind == "fail"
        assert reasons == ["w" * REASON_BYTES] * (count - 10) + ["failed"] * 10
        assert bench.places.held == 0

    on_bench(test, *(f"c{number}" for number in range(count)))


@pytest.mark.parametrize("with_receipt", [True, False])
def test_the_reply_of_a_long_list_is_made_while_the_loop_turns(with_receipt: bool) -> None:
    async def test(bench: Bench) -> None:
        count = 40 * SLICE
        names = [f"c{number:07}" for number in range(count)]
        bench.subscribers = long_list("t", names)
        job = Job()
        fanout = foreground(bench, job, receipt=with_receipt, timeout_s=0.02)
        turns = 0
        while not fanout.replied:
            await asyncio.sleep(0)
        fanout.done("nobody", "")  # what comes late changes nothing
        while not job.answers:
            turns += 1
            assert not bench.outbox.is_idle
            await asyncio.sleep(0)
        assert turns > 4
        if with_receipt:
            assert receipt(job)["pending"] == names
        else:
            ((kind, data),) = job.answers
            assert kind == "fail"
            assert json.loads(data) == [[name, "no answer in 0.02 s"] for name in names]
        assert (bench.places.waiting, bench.places.lingering, bench.places.held) == (0, 0, 0)

    on_bench(test)


@pytest.mark.parametrize("is_long", [True, False])
def test_a_reply_that_cannot_be_made_leaves_no_place_behind(
    monkeypatch: pytest.MonkeyPatch, is_long: bool
) -> None:
    def raises(*_: object, **__: object) -> bytes:
        raise RuntimeError("a fault")

    monkeypatch.setattr(Tally, "receipt", raises)

    async def test(bench: Bench) -> None:
        names = [f"c{number:07}" for number in range(3 * SLICE)]
        if is_long:
            bench.subscribers = long_list("t", names)
        job = Job()
        foreground(bench, job, receipt=True, timeout_s=0.02)
        while not job.answers:
            await asyncio.sleep(0)
        assert job.answers == [("fail", b"internal error")]
        assert (bench.places.waiting, bench.places.lingering, bench.places.held) == (0, 0, 0)

    with capture_logs() as logs:
        on_bench(test, "a", "b")
    assert [line["log_level"] for line in logs] == ["critical"]


def test_places_are_few_and_of_few_bytes() -> None:
    places = Places(2, 10_000)
    one, two = places.enter(4000, 1), places.enter(4000, 1)
    with pytest.raises(Busy, match=r"2 foreground fan-outs .* --max-foreground allows no more"):
        places.enter(0, 0)
    one.answer()
    assert (places.waiting, places.lingering) == (1, 1)
    with pytest.raises(Busy):
        places.enter(8000, 1)
    three = places.enter(4000, 1)
    assert not three.take(2000)
    assert three.take(100)
    for place in (one, two, three, one):
        place.leave()
        place.give(10)  # late words of what is over
        assert not place.take(1)
        place.answer()
    assert (places.waiting, places.lingering, places.held) == (0, 0, 0)
    places.enter(20_000, 1)  # the first may always; and what is dropped has left
    assert (places.waiting, places.lingering, places.held) == (0, 0, 0)


def test_fanouts_that_a_quorum_answered_are_bounded_in_number_too() -> None:
    places = Places(2, 1 << 30)
    lingering = []
    for _ in range(2 * LINGERING):
        lingering.append(places.enter(1000, 1))
        lingering[-1].answer()
    with pytest.raises(Busy):
        places.enter(0, 0)
    lingering.pop().leave()
    assert places.enter(0, 0).take(1)


def test_garbage_collection_does_not_walk_through_the_durable_receivers_of_each_fan_out() -> None:
    names = tuple(f"c{number}" for number in range(1000))

    def test(bench: Bench) -> None:
        plan = Plan(Job(), message(b"x"), bench.subscribers, [])  # type: ignore[arg-type]
        plan.enter(bench.places)
        plan.receivers = names
        fanout = Foreground(bench.outbox, plan)
        for name in names[:500]:
            fanout.done(name, "")
        assert (len(fanout.missing()), fanout.misses(names[7])) == (500, False)
        gc.collect()  # tuples of plain values are found to be such by it
        found = [one for one in gc.get_referents(fanout, fanout._tally) if gc.is_tracked(one)]
        assert max(len(gc.get_referents(one)) for one in found) < 100

    on_bench(test)
