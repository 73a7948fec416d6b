"""What docs/protocol.rst promises of several messages in one job, on both pairs of servers."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from support.cluster import eventually
from support.durable import (
    id_of,
    lane,
    on_queue,
    parked,
    publish,
    reaches,
    subscribe,
)
from support.foreign import Raw, Taker
from support.wire import Assigned

pytest_plugins = ["support.foreign"]


def batch(taker: Taker) -> tuple[Assigned, list[dict[str, Any]]]:
    """Take a job and read its envelopes."""
    job = taker.take()
    envelopes = json.loads(job.payload)
    assert isinstance(envelopes, list)
    assert id_of(job).sequence == envelopes[0]["sequence"]
    return job, envelopes


def test_a_batch_is_an_array_of_envelopes_also_of_one(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", durable={"batch": 10})
    queue = f"{topic}_alice"
    [one] = publish(raw, topic, "text")
    eventually(lambda: on_queue(raw, queue) == (1, 0))
    publish(raw, topic, base64.b64encode(b"\xff").decode(), encoding="base64")
    publish(raw, topic, {"a": 1}, unique="u3", exclude=["bob"])
    publish(raw, topic, *[str(number) for number in range(4, 15)])
    publish(raw, topic, "not for alice", exclude=["alice"])
    alice, began = raw.taker(queue), time.time()
    jobs, got = [], []
    for position in (1, 11, 15):
        job, envelopes = batch(alice)
        jobs.append(job)
        got.append(envelopes)
        assert on_queue(raw, queue) == (1, 1)
        alice.complete(job.handle)
        reaches(raw, topic, "alice", position)
    [[first], many, rest] = got
    for envelope in (first, *many, *rest):
        assert abs(envelope.pop("at") - began) < 30
    common = {"topic": topic, "epoch": one["epoch"], "attempt": 1}
    assert first == common | {"sequence": 1, "payload": "text"}
    assert many[0] == common | {"sequence": 2, "payload_base64": "/w=="}
    assert many[1] == common | {"sequence": 3, "unique": "u3", "payload": '{"a": 1}'}
    assert [envelope["sequence"] for envelope in many] == [*range(2, 12)]
    assert [envelope["sequence"] for envelope in rest] == [12, 13, 14]
    assert {id_of(job).epoch8 for job in jobs} == {one["epoch"][:8]}


def test_of_a_batch_that_fails_only_the_bad_message_is_parked(raw: Raw, topic: str) -> None:
    attempts = {"once": 1, "twice": 2}
    for client, most in attempts.items():
        options = {"batch": 5, "max_attempts": most, "max_backoff": 0.1}
        subscribe(raw, topic, client, durable=options)
    [first] = publish(raw, topic, "0")
    queues = [f"{topic}_{client}" for client in attempts]
    for queue in queues:
        eventually(lambda queue=queue: on_queue(raw, queue) == (1, 0))
    publish(raw, topic, "1", "2", "bad", "4", "5", "6")
    for client, most in attempts.items():
        taker = raw.taker(f"{topic}_{client}")
        acknowledged: list[str] = []
        tried: list[list[str]] = []
        uniques = set[bytes]()
        while acknowledged[-1:] != ["6"]:
            job, envelopes = batch(taker)
            tried.append([envelope["payload"] for envelope in envelopes])
            assert job.unique not in uniques
            uniques.add(job.unique)
            if "bad" in tried[-1]:
                taker.warn(job.handle, b"disk full")
                taker.fail(job.handle)
            else:
                taker.complete(job.handle)
                acknowledged += tried[-1]
        assert acknowledged == ["0", "1", "2", "4", "5", "6"]
        assert tried[:3] == [["0"], ["1", "2", "bad", "4", "5"], ["1"]]
        assert 1 <= tried.count(["bad"]) <= most
        reaches(raw, topic, client, 7)
        [one] = parked(raw, topic, client)
        assert (one["sequence"], one["epoch"], one["payload"]) == (4, first["epoch"], "bad")
        assert one["error"] == "disk full"
        assert one["attempts"] >= most
        assert lane(raw, topic, client).items() >= {"attempts": 0, "parked": 1, "lag": 0}.items()


def test_batches_go_out_side_by_side(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", durable={"batch": 2, "in_flight": 2, "max_backoff": 0.1})
    publish(raw, topic, *[str(number) for number in range(1, 10)])
    alice = raw.taker(f"{topic}_alice")
    seen: list[int] = []
    while sorted(set(seen)) != list(range(1, 10)):
        jobs = [batch(alice)]
        if len(set(seen)) < 6:
            jobs.append(batch(alice))
        for job, envelopes in reversed(jobs):
            assert len(envelopes) <= 2
            seen += [envelope["sequence"] for envelope in envelopes]
            alice.complete(job.handle)
    assert len(seen) == 9
    reaches(raw, topic, "alice", 9)
