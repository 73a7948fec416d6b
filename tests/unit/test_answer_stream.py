"""What a caller is told of each receiver as it finishes, without servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.fanouts import Bench, Job, long_list, message

from gearhorn.fanout import answer_stream
from gearhorn.fanout.answer_stream import AnswerStream
from gearhorn.fanout.foreground import Foreground
from gearhorn.fanout.places import RESULTS_BYTES
from gearhorn.fanout.running import Plan
from gearhorn.gearman.packets import WORK_DATA
from gearhorn.gearman.results import DISCARDED, DONE, Result
from gearhorn.messages.answers import (
    encode_acknowledged,
    encode_error,
    encode_omitted,
    encode_result,
)
from gearhorn.messages.events import LOG_DROPPED


def on_bench(test: Callable[[Bench], Awaitable[None]], *clients: str, **options: Any) -> None:
    async def main() -> None:
        await test(Bench(*clients, **options))

    asyncio.run(main())


def start(bench: Bench, **options: Any) -> tuple[Job, Foreground]:
    """A fan-out with a stream, whose copies are on their way."""
    job = Job()
    plan = Plan(job, message(b"x", stream=True, **options), bench.subscribers)  # type: ignore[arg-type]
    plan.enter(bench.places)
    fanout = Foreground(bench.outbox, plan)
    fanout.send(None)
    return job, fanout


def told(job: Job) -> list[dict[str, Any]]:
    """What the caller was told so far, without the seconds."""
    answers = []
    for part in job.parts:
        assert part.endswith(b"\n")
        answer = json.loads(part)
        assert 0 <= answer.pop("seconds") < 10
        answers.append(answer)
    return answers


# What is sent


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (encode_result("a", 0.5, b"42 files"), {"result": "42 files"}),
        (encode_result("a", 0.5, b""), {"result": ""}),
        (encode_result("a", 0.5, b"a\nb\0"), {"result": "a\nb\0"}),
        (encode_result("a", 0.5, b"\xff\xfe"), {"result_base64": "//4="}),
        (encode_omitted("a", 0.5), {"omitted": True}),
        (encode_acknowledged("a", 0.5), {}),
        (encode_error("a", 0.5, "disk full"), {"error": "disk full"}),
    ],
)
def test_an_answer_is_one_line_of_json(answer: bytes, expected: dict[str, Any]) -> None:
    assert answer.count(b"\n") == 1
    assert answer.endswith(b"\n")
    assert json.loads(answer) == {"client_id": "a", "seconds": 0.5, **expected}


# When


def test_each_receiver_is_told_of_when_it_finishes_and_the_reply_is_as_ever() -> None:
    async def test(bench: Bench) -> None:
        job, _ = start(bench)
        server = bench.servers[0]
        first, second, third = server.accept(3)
        server.complete(second, b"thanks")
        assert told(job) == [{"client_id": "b", "result": "thanks"}]
        server.warn(first, b"disk full")
        server.fail(first)
        server.fail(third)
        assert told(job)[1:] == [
            {"client_id": "a", "error": "disk full"},
            {"client_id": "c", "error": "failed"},
        ]
        [(kind, text)] = job.answers
        assert (kind, json.loads(text)) == ("fail", [["a", "disk full"], ["c", "failed"]])

    on_bench(test, "a", "b", "c")


def test_a_receipt_has_the_results_all_the_same() -> None:
    async def test(bench: Bench) -> None:
        job, _ = start(bench, receipt=True)
        server = bench.servers[0]
        [handle] = server.accept(1)
        server.complete(handle, b"thanks")
        assert told(job) == [{"client_id": "a", "result": "thanks"}]
        [(_, receipt)] = job.answers
        assert json.loads(receipt)["results"] == {"a": "thanks"}

    on_bench(test, "a")


def test_nothing_is_told_once_a_quorum_is_answered() -> None:
    async def test(bench: Bench) -> None:
        job, _ = start(bench, quorum=1)
        server = bench.servers[0]
        first, second = server.accept(2)
        server.complete(first, b"1")
        server.complete(second, b"2")
        assert told(job) == [{"client_id": "a", "result": "1"}]
        assert job.answers == [("complete", b"1")]
        assert bench.places.held == 0

    on_bench(test, "a", "b")


def test_copies_without_room_are_told_of_too() -> None:
    async def test(bench: Bench) -> None:
        job, _ = start(bench, receipt=True)
        server = bench.servers[0]
        [first] = server.accept(1)
        server.refuse()
        [third] = server.accept(1)
        server.warn(third, DISCARDED)
        server.fail(third)
        server.complete(first)
        assert told(job) == [
            {"client_id": "b", "error": "queue full"},
            {"client_id": "c", "error": "queue full"},
            {"client_id": "a", "result": ""},
        ]
        [(_, receipt)] = job.answers
        assert json.loads(receipt)["dropped"] == ["b", "c"]

    on_bench(test, "a", "b", "c")


def test_what_a_lost_server_had_is_told_of_once() -> None:
    async def test(bench: Bench) -> None:
        here, there = bench.servers
        job, _ = start(bench)
        here.accept(1)
        there.accept(1)
        bench.cluster.lose(1)
        await asyncio.sleep(0)
        assert told(job) == []
        [again] = here.accept(1)
        here.complete(again, b"again")
        assert told(job) == [{"client_id": "b", "result": "again"}]

    on_bench(test, "a", "b", servers=2, routes={"a": 0, "b": 1})


def test_results_of_8_mib_in_all_are_told_and_the_rest_without_them() -> None:
    async def test(bench: Bench) -> None:
        job, _ = start(bench)
        server = bench.servers[0]
        handles = server.accept(4)
        for handle in handles[:2]:
            for _ in range(8):  # half of all
                server.receive((WORK_DATA, handle + b"\0" + RESULTS_BYTES // 16 * b"x"))
        server.complete(handles[2], b"no room")
        server.complete(handles[0])
        server.fail(handles[1])  # what it sent is no result: there is room again
        server.complete(handles[3], b"small")
        answers = told(job)
        assert [answer["client_id"] for answer in answers] == ["c", "a", "b", "d"]
        assert answers[0] == {"client_id": "c", "omitted": True}
        assert len(answers[1]["result"]) == RESULTS_BYTES // 2
        assert answers[3]["result"] == "small"
        assert [kind for kind, _ in job.answers] == ["fail"]
        assert bench.places.held == 0

    on_bench(test, "a", "b", "c", "d")


def test_what_json_makes_of_results_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_stream, "REPLY_BYTES", 500)
    job = Job()
    stream = AnswerStream(job, long_list("t", ["a", "b", "c"]))  # type: ignore[arg-type]
    for index in range(2):
        stream.finished(index, Result(True, 60 * b"\0"))  # six bytes each
    stream.finished(2, Result(True, b"small"))
    assert [len(answer.get("result", "")) for answer in told(job)] == [60, 0, 5]
    assert told(job)[1] == {"client_id": "b", "omitted": True}
    stream.finished(0, DONE)
    assert told(job)[3] == {"client_id": "a", "result": ""}


def test_durable_receivers_are_told_of_without_results() -> None:
    job = Job()
    stream = AnswerStream(job, long_list("t", ["a"]))  # type: ignore[arg-type]
    stream.done("d1", "", False)
    stream.done("d2", "disk full", False)
    stream.done("d3", LOG_DROPPED, False)
    stream.done("d4", "", True)
    stream.expired([0])
    assert told(job) == [
        {"client_id": "d1"},
        {"client_id": "d2", "error": "parked: disk full"},
        {"client_id": "d3", "error": LOG_DROPPED},
        {"client_id": "d4", "error": "expired"},
        {"client_id": "a", "error": "expired"},
    ]


def test_receivers_of_a_long_list_have_their_names() -> None:
    names = [f"c{number:05}" for number in range(5000)]
    job = Job()
    stream = AnswerStream(job, long_list("t", names))  # type: ignore[arg-type]
    for index in (0, 4095, 4999):
        stream.dropped(index)
    assert [answer["client_id"] for answer in told(job)] == [names[0], names[4095], names[4999]]


def test_without_a_stream_nothing_is_told() -> None:
    async def test(bench: Bench) -> None:
        job = Job()
        plan = Plan(job, message(b"x"), bench.subscribers)  # type: ignore[arg-type]
        plan.enter(bench.places)
        Foreground(bench.outbox, plan).send(None)
        [handle] = bench.servers[0].accept(1)
        bench.servers[0].complete(handle, b"not told")
        assert job.parts == []

    on_bench(test, "a")
