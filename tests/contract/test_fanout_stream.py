"""What docs/protocol.rst promises of answers as they come, on both pairs of servers."""

from __future__ import annotations

import base64
import json
import time
from typing import Any, NamedTuple

import pytest
from support.cluster import Cluster, eventually
from support.durable import fail, subscribe
from support.foreign import Pending, Raw, receipt, refusal
from support.wire import WORK_COMPLETE, WORK_DATA, WORK_FAIL, WORK_STATUS, WORK_WARNING, Wire

pytest_plugins = ["support.foreign"]

MIB = 1024 * 1024


class Streamed(NamedTuple):
    """What a caller was sent: each answer, without ``seconds``, and how the job ended."""

    answers: list[dict[str, Any]]
    seconds: list[float]
    kind: str
    reply: Any  # decoded


def answer_of(data: bytes) -> dict[str, Any]:
    """One answer, which is one line."""
    assert data.endswith(b"\n")
    assert data.count(b"\n") == 1
    return dict(json.loads(data))


def next_answer(pending: Pending, timeout: float = 10.0) -> dict[str, Any]:
    """The next answer; what tells how far the fan-out is goes by."""
    while (got := pending.wire.recv(timeout))[0] == WORK_STATUS:
        pass
    assert got[0] == WORK_DATA, got
    handle, _, data = got[1].partition(b"\0")
    assert handle == pending.handle
    return answer_of(data)


def streamed(pending: Pending, timeout: float = 15.0) -> Streamed:
    """All that comes until the job ends."""
    answers, warnings = [], []
    while True:
        kind, body = pending.wire.recv(timeout)
        data = body.partition(b"\0")[2]
        if kind == WORK_DATA:
            answers.append(answer_of(data))
        elif kind == WORK_WARNING:
            warnings.append(data)
        elif kind != WORK_STATUS:
            break
    assert kind in (WORK_COMPLETE, WORK_FAIL)
    reply = json.loads(data if kind == WORK_COMPLETE else warnings[-1])
    seconds = [answer.pop("seconds") for answer in answers]
    name = {WORK_COMPLETE: "complete", WORK_FAIL: "fail"}[kind]
    return Streamed(answers, seconds, name, reply)


def test_each_answer_comes_when_its_receiver_has_finished(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice", "bob", "carol")
    alice, bob = raw.taker(f"{topic}_alice"), raw.taker(f"{topic}_bob")
    began = time.monotonic()
    pending = raw.fanout(topic, "x", stream=True, timeout=2.5)
    bob.finish(1, b"42 files")
    first = next_answer(pending)
    assert 0 <= first.pop("seconds") <= time.monotonic() - began
    assert first == {"client_id": "bob", "result": "42 files"}, "the others have not finished"
    time.sleep(0.3)
    job = alice.take()
    alice.warn(job.handle, b"disk full")
    alice.fail(job.handle)
    second = next_answer(pending)
    assert 0.3 <= second.pop("seconds") <= time.monotonic() - began
    assert second == {"client_id": "alice", "error": "disk full"}
    rest = streamed(pending)
    assert rest.answers == [], "there is none of a receiver that does not finish"
    assert rest.kind == "fail"
    assert sorted(rest.reply) == [["alice", "disk full"], ["carol", "no answer in 2.5 s"]]


def test_the_reply_is_as_without_it(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice", "bob")
    takers = raw.taker(f"{topic}_alice"), raw.taker(f"{topic}_bob")
    for options in ({}, {"receipt": True}, {"quorum": 2}, {"receipt": True, "quorum": "50%"}):
        replies = []
        for stream in (False, True):
            pending = raw.fanout(topic, "x", stream=stream, **options)
            for taker in takers:
                taker.finish(1, b"thanks")
                time.sleep(0.05)  # a quorum is reached by the same one
            replies.append(streamed(pending))
        plain, with_stream = replies
        assert plain.answers == []
        expected = 1 if options.get("quorum") == "50%" else 2
        assert len(with_stream.answers) == expected
        assert (plain.kind, plain.reply) == (with_stream.kind, with_stream.reply)


def test_a_receipt_has_the_results_besides(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice")
    pending = raw.fanout(topic, "x", stream=True, receipt=True)
    raw.taker(f"{topic}_alice").finish(1, b"\xff\x00")
    outcome = streamed(pending)
    coded = base64.b64encode(b"\xff\x00").decode()
    assert outcome.answers == [{"client_id": "alice", "result_base64": coded}]
    assert outcome.reply["results_base64"] == {"alice": coded}


def test_what_a_receiver_sends_in_parts_is_one_answer(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice", "bob")
    alice, bob = raw.taker(f"{topic}_alice"), raw.taker(f"{topic}_bob")
    pending = raw.fanout(topic, "x", stream=True)
    job = alice.take()
    for part in (b"one ", b"two "):
        alice.send(WORK_DATA, job.handle, part)
    alice.complete(job.handle, b"three")
    assert next_answer(pending)["result"] == "one two three"
    bob.finish(1)
    assert streamed(pending).answers == [{"client_id": "bob", "result": ""}]


def test_results_above_8_mib_in_all_are_omitted(cluster: Cluster, raw: Raw, topic: str) -> None:
    clients = ["a", "b", "c", "d"]
    cluster.subscribe(topic, *clients)
    takers = {client: raw.taker(f"{topic}_{client}") for client in clients}
    pending = raw.fanout(topic, "x", stream=True)
    answers = []
    for client, size in zip(clients, (5 * MIB, 4 * MIB, 0, 3 * MIB), strict=True):
        takers[client].finish(1, size * b"x")
        if client != "d":
            answers.append(next_answer(pending))
    outcome = streamed(pending)
    assert (outcome.kind, outcome.reply) == ("complete", 4)
    [first, second, third], [fourth] = answers, outcome.answers
    assert len(first["result"]) == 5 * MIB
    assert (second["omitted"], "result" in second) == (True, False)
    assert (third["result"], len(fourth["result"])) == ("", 3 * MIB)
    assert "omitted" not in first.keys() | third.keys() | fourth.keys()


def test_a_queue_without_room_is_told_of(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice")
    cluster.subscribe(topic, "bob", max_backlog=1)
    assert cluster.publish(topic, "fills", exclude=["alice"]).data == b"1"
    pending = raw.fanout(topic, "x", stream=True)
    assert next_answer(pending).items() >= {"client_id": "bob", "error": "queue full"}.items()
    raw.taker(f"{topic}_alice").finish()
    outcome = streamed(pending)
    assert outcome.answers == [{"client_id": "alice", "result": ""}]
    assert (outcome.kind, outcome.reply) == ("fail", [["bob", "queue full"]])


def test_durable_receivers_are_told_of_without_results(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    subscribe(raw, topic, "alice", "bob", durable=True)
    cluster.subscribe(topic, "carol")
    pending = raw.fanout(topic, "x", stream=True)
    raw.taker(f"{topic}_alice").finish(1, b"not shown")
    answer = next_answer(pending)
    assert answer.keys() == {"client_id", "seconds"}
    assert answer["client_id"] == "alice"
    fail(raw.taker(f"{topic}_bob"), b"park: no such user")
    answer = next_answer(pending)
    assert answer.items() >= {"client_id": "bob", "error": "parked: no such user"}.items()
    raw.taker(f"{topic}_carol").finish(1, b"shown")
    outcome = streamed(pending)
    assert outcome.answers == [{"client_id": "carol", "result": "shown"}]
    assert outcome.reply == [["bob", "parked: no such user"]]


def test_without_receivers_nothing_is_sent(raw: Raw, topic: str) -> None:
    outcome = streamed(raw.fanout(topic, "x", stream=True))
    assert (outcome.answers, outcome.kind, outcome.reply) == ([], "complete", 0)


def test_in_the_background_it_means_nothing(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice")
    outcome = streamed(raw.fanout(topic, "x", stream=True, background=True))
    assert (outcome.answers, outcome.kind, outcome.reply) == ([], "complete", 1)


@pytest.mark.parametrize("value", ["yes", 1, None, [], {}])
def test_a_stream_is_asked_for_with_a_boolean(raw: Raw, topic: str, value: Any) -> None:
    text = refusal(raw.ask("fanout", topic=topic, payload="x", stream=value))
    assert text.startswith("bad_request: stream: expected boolean")


def test_a_thousand_answers_come_as_they_are_given(cluster: Cluster, raw: Raw, topic: str) -> None:
    clients = [f"c{number:04}" for number in range(1000)]
    cluster.subscribe(topic, *clients)
    taker = raw.taker(*(f"{topic}_{client}" for client in clients))
    pending = raw.fanout(topic, "x", stream=True, receipt=True)
    jobs = [taker.take() for _ in clients]
    for job in jobs[:-1]:
        taker.complete(job.handle, 1024 * b"r")
    first = next_answer(pending)
    assert len(first["result"]) == 1024, "though the last receiver has not finished"
    rest = [next_answer(pending) for _ in range(998)]
    taker.complete(jobs[-1].handle, 1024 * b"r")
    outcome = streamed(pending)
    assert len(outcome.answers) == 1
    seen = [answer["client_id"] for answer in (first, *rest, *outcome.answers)]
    assert sorted(seen) == clients
    assert sorted(outcome.reply["delivered"]) == clients
    times = [first["seconds"], *(answer["seconds"] for answer in rest), *outcome.seconds]
    assert times == sorted(times)


def test_a_caller_that_reads_nothing_or_leaves_harms_no_other(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    clients = [f"c{number:02}" for number in range(60)]
    cluster.subscribe(topic, *clients)
    taker = raw.taker(*(f"{topic}_{client}" for client in clients))
    deaf = raw.fanout(topic, "x", stream=True)
    gone = raw.fanout(topic, "y", stream=True)
    jobs = [taker.take() for _ in range(2 * len(clients))]
    gone.wire.close()
    for job in jobs:
        taker.complete(job.handle, 100 * 1024 * b"r")
    with Wire(raw.address) as other:
        handle = other.submit(b"fanout", json.dumps({"topic": "other", "payload": 1}).encode())
        assert other.outcome(handle).data == b"0"
    outcome = streamed(deaf)
    assert (len(outcome.answers), outcome.kind, outcome.reply) == (60, "complete", 60)
    eventually(lambda: receipt(raw.ask("fanout", topic="other", payload=1, receipt=True)))
