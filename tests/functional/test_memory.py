"""A worker's memory under the largest requests, results and reasons that it may be sent."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable

import pytest
from support.cluster import Cluster, Worker
from support.foreign import Raw, receipt, refusal

pytest_plugins = ["support.foreign"]
MakeCluster = Callable[..., Cluster]

MIB = 1024 * 1024


def start(make_cluster: MakeCluster, topic: str, clients: int) -> tuple[Cluster, Worker]:
    """A worker that has fanned out once, with so many subscribers."""
    cluster = make_cluster(options=("--lease", "3"))
    cluster.subscribe(topic, *(f"c{number}" for number in range(clients)))
    assert cluster.publish(topic, "x").data == b"%d" % clients
    with Raw(cluster.address) as raw:
        for number in range(clients):
            raw.taker(f"{topic}_c{number}").finish()
    (worker,) = cluster.workers
    worker.peak_bytes()
    return cluster, worker


def test_results_take_8_mib_while_they_arrive(make_cluster: MakeCluster, topic: str) -> None:
    cluster, worker = start(make_cluster, topic, 20)
    before = worker.peak_bytes()
    with Raw(cluster.address) as raw:
        pending = raw.fanout(topic, "x", receipt=True, timeout=60)
        taker = raw.taker(*(f"{topic}_c{number}" for number in range(20)))
        jobs = [taker.take() for _ in range(20)]
        for job in jobs:
            for _ in range(4):
                taker.data(job.handle, b"r" * MIB)
        for job in jobs:
            taker.complete(job.handle)
        got = receipt(pending.outcome(60))
    assert sorted(got["delivered"]) == sorted(f"c{number}" for number in range(20))
    assert sorted([*got["results"], *got["results_omitted"]]) == sorted(got["delivered"])
    assert sum(map(len, got["results"].values())) <= 8 * MIB
    assert len(got["results"]) >= 1
    assert worker.peak_bytes() - before < 48 * MIB  # of 80


def test_a_caller_that_takes_no_answers_takes_no_memory(
    make_cluster: MakeCluster, topic: str
) -> None:
    cluster, worker = start(make_cluster, topic, 16)
    before = worker.peak_bytes()
    with Raw(cluster.address) as raw:
        taker = raw.taker(*(f"{topic}_c{number}" for number in range(16)))
        for turn in range(16):
            pending = raw.fanout(topic, "x", stream=True, timeout=60)
            jobs = [taker.take() for _ in range(16)]
            if turn % 2:
                pending.wire.close()  # others stay and read nothing
            for job in jobs:
                taker.complete(job.handle, b"r" * (MIB // 2 - 100))
            taker.echo()
        assert raw.ask("fanout", topic="other", payload=1).data == b"0"
    assert worker.peak_bytes() - before < 64 * MIB  # of 128


@pytest.mark.parametrize("with_receipt", [True, False])
def test_reasons_are_short_and_few_bytes_in_all(
    make_cluster: MakeCluster, topic: str, with_receipt: bool
) -> None:
    cluster, worker = start(make_cluster, topic, 400)
    before = worker.peak_bytes()
    with Raw(cluster.address) as raw:
        pending = raw.fanout(topic, "x", receipt=with_receipt, timeout=60)
        taker = raw.taker(*(f"{topic}_c{number}" for number in range(400)))
        jobs = [taker.take() for _ in range(400)]
        for number, job in enumerate(jobs):
            size = 4 * MIB if number < 10 else 8000
            if number % 2:
                taker.exception(job.handle, b"\x01" * size)
            else:
                taker.warn(job.handle, b"\x01" * size)
                taker.fail(job.handle)
        outcome = pending.outcome(60)
    told = outcome.data if with_receipt else outcome.warnings[-1]
    assert len(told) <= 16 * MIB
    failed = receipt(outcome)["failed"] if with_receipt else dict(json.loads(told))
    assert failed.keys() == {f"c{number}" for number in range(400)}
    assert set(failed.values()) == {"\x01" * 4096, "failed"}
    assert sum(map(len, failed.values())) < MIB + 400 * len("failed")
    assert worker.peak_bytes() - before < 48 * MIB


@pytest.mark.may_stand(1.0, "a request of 60 MB is decoded in one turn, which takes 0.1 s alone")
@pytest.mark.parametrize(
    ("key", "piece", "says"),
    [
        ("background", b"[],", ""),
        ("unknown", b'{"a":1},', ""),
        ("exclude", b'"abc",', "bad_request: exclude: expected at most"),
        ("payload", b"[],", "too_large: "),
    ],
)
def test_the_longest_request_costs_at_most_three_times_its_bytes(
    make_cluster: MakeCluster, topic: str, key: str, piece: bytes, says: str
) -> None:
    cluster, worker = start(make_cluster, topic, 1)
    before = worker.peak_bytes()
    fields = {"topic": b'"%b"' % topic.encode(), "payload": b"1", "background": b"true"}
    fields[key] = b"[%b%b]" % (piece * (60 * MIB // len(piece)), piece[:-1])
    body = b"{%b}" % b",".join(b'"%b":%b' % (name.encode(), text) for name, text in fields.items())
    with Raw(cluster.address) as raw:
        outcome = raw.ask("fanout", body)
        if says:
            assert refusal(outcome).startswith(says)
        else:
            assert (outcome.kind, outcome.data) == ("complete", b"1")
    assert worker.peak_bytes() - before < 3 * len(body)


@pytest.mark.parametrize("encoded", [False, True])
def test_the_longest_message_costs_at_most_three_times_its_bytes_and_what_is_unread(
    make_cluster: MakeCluster, topic: str, encoded: bool
) -> None:
    cluster, worker = start(make_cluster, topic, 3)
    before = worker.peak_bytes()
    payload = os.urandom(8 * MIB) if encoded else b"x" * (8 * MIB)
    text = base64.b64encode(payload).decode() if encoded else payload.decode()
    more = {"encoding": "base64"} if encoded else {}
    body = json.dumps({"topic": topic, "payload": text, "background": True} | more).encode()
    with Raw(cluster.address) as raw:
        assert raw.ask("fanout", body).data == b"3"
        # what the job server is too busy to read waits in the socket's buffer besides
        unread = len(payload)
        assert worker.peak_bytes() - before < 3 * len(body) + 4 * MIB + unread
        for number in range(3):
            assert raw.taker(f"{topic}_c{number}").finish() == [payload]


def test_what_waits_for_receivers_is_held_once(make_cluster: MakeCluster, topic: str) -> None:
    cluster, worker = start(make_cluster, topic, 1)
    cluster.subscribe(topic, "enveloped", envelope=True)
    coded = base64.b64encode(os.urandom(4 * MIB)).decode()
    cluster.publish(topic, "again")
    with Raw(cluster.address) as raw:
        takers = [raw.taker(f"{topic}_{client}") for client in ("c0", "enveloped")]
        for taker in takers:
            taker.finish()
        worker.peak_bytes()
        before = worker.peak_bytes()
        waiting = []
        for _ in range(16):
            waiting.append(raw.fanout(topic, coded, encoding="base64", timeout=60))
            for taker in takers:
                taker.take(30)
        worker.peak_bytes()  # the first of these had what was on its way
        assert worker.peak_bytes() - before < 16 * 4 * MIB * 1.5


def test_after_a_quorum_no_payload_is_held(make_cluster: MakeCluster, topic: str) -> None:
    cluster, worker = start(make_cluster, topic, 2)
    worker.peak_bytes()
    before = worker.peak_bytes()
    with Raw(cluster.address) as raw:
        taker = raw.taker(f"{topic}_c0")
        for _ in range(16):
            pending = raw.fanout(topic, "x" * (4 * MIB), quorum=1, timeout=600)
            taker.finish()
            assert pending.outcome(30).data == b"1"
        worker.peak_bytes()
        assert worker.peak_bytes() - before < 16 * MIB  # of 64


def test_what_is_over_max_fanout_bytes_is_told_busy_and_has_room_later(
    make_cluster: MakeCluster, topic: str
) -> None:
    cluster = make_cluster(options=("--max-fanout-bytes", "20M"))
    cluster.subscribe(topic, "a", "b")
    payload = "x" * (7 * MIB)
    with Raw(cluster.address) as raw:
        first, second = raw.fanout(topic, payload), raw.fanout(topic, payload, quorum=1)
        taker = raw.taker(f"{topic}_a")
        jobs = [taker.take(), taker.take()]
        text = refusal(raw.ask("fanout", topic=topic, payload=payload))
        assert text.startswith("busy: ")
        taker.complete(jobs[1].handle)
        assert second.outcome().data == b"1"  # its copy for b stays out, without the payload
        third = raw.fanout(topic, payload)
        taker.complete(jobs[0].handle)
        assert taker.finish() == [payload.encode()]
        assert raw.taker(f"{topic}_b").finish(3) == [payload.encode()] * 3
        assert (first.outcome().data, third.outcome().data) == (b"2", b"2")
