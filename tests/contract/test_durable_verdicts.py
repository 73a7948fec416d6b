"""What a receiver may ask for with a failure, on both pairs of servers: another attempt after a
time of its own, or none."""

from __future__ import annotations

import json
import time

import pytest
from support.cluster import eventually
from support.durable import fail, lane, parked, publish, reaches, subscribe
from support.foreign import Raw, Taker, receipt
from support.wire import Assigned

pytest_plugins = ["support.foreign"]

SLACK_S = 1.5  # machines are shared


def again(taker: Taker, began: float, timeout: float = 10.0) -> tuple[Assigned, float]:
    """The next attempt, and after how many seconds it came."""
    job = taker.take(timeout)
    return job, time.monotonic() - began


def test_a_receiver_says_when_it_is_to_be_tried_again(raw: Raw, topic: str) -> None:
    """Sooner than the back-off of two seconds, and later."""
    subscribe(raw, topic, "soon", "late", durable=True)
    publish(raw, topic, "1", "2")
    soon, late = raw.taker(f"{topic}_soon"), raw.taker(f"{topic}_late")
    fail(soon, b"retry_after: 0.4")
    began = time.monotonic()
    fail(late, b"retry_after: 4.5\n")  # a shell's line end
    job, took_s = again(soon, began)
    assert job.payload == b"1"
    assert 0.35 <= took_s <= 0.4 + SLACK_S
    assert lane(raw, topic, "soon")["attempts"] == 1, "it counts"
    soon.complete(job.handle)
    assert soon.finish() == [b"2"]
    job, took_s = again(late, began)
    assert job.payload == b"1"
    assert 4.4 <= took_s <= 4.5 + SLACK_S


def test_a_time_of_none_is_at_once_and_counts(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", durable={"max_attempts": 3})
    publish(raw, topic, "bad", "good")
    taker = raw.taker(f"{topic}_alice")
    began = time.monotonic()
    fail(taker, *3 * [b"retry_after: 0"])
    assert time.monotonic() - began < 2
    assert taker.finish() == [b"good"]
    [message] = parked(raw, topic, "alice")
    assert (message["attempts"], message["error"]) == (3, "retry_after: 0")


def test_max_backoff_is_the_longest_time_that_is_heeded(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", durable={"max_backoff": 0.5})
    publish(raw, topic, "x")
    taker = raw.taker(f"{topic}_alice")
    fail(taker, b"retry_after: 86400")
    _, took_s = again(taker, time.monotonic())
    assert 0.4 <= took_s <= 0.5 + SLACK_S


def test_a_receiver_has_a_message_parked_at_once(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", durable={"max_attempts": 0, "max_backoff": 0.1})
    publish(raw, topic, "bad", "good")
    taker = raw.taker(f"{topic}_alice")
    fail(taker, b"disk full", b"park: no such user\n")
    assert taker.finish() == [b"good"], "the next one is not held up"
    [message] = parked(raw, topic, "alice")
    expected = {"sequence": 1, "attempts": 2, "error": "no such user", "payload": "bad"}
    assert message.items() >= expected.items()
    assert message["first_at"] <= message["at"]
    redriven = raw.ask("parked_fanout", topic=topic, client_id="alice", action="redrive")
    assert json.loads(redriven.data) == {"redriven": 1}
    fail(taker, b"park: still no such user")
    [message] = eventually(lambda: parked(raw, topic, "alice"))
    assert (message["attempts"], message["error"]) == (3, "still no such user")


def test_a_caller_is_told_why_its_message_was_parked(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", "bob", durable=True)
    takers = raw.taker(f"{topic}_alice"), raw.taker(f"{topic}_bob")
    with_receipt = raw.fanout(topic, "1", receipt=True)
    for taker in takers:
        fail(taker, b"park: no such user")
    reason = "parked: no such user"
    assert receipt(with_receipt.outcome())["failed"] == {"alice": reason, "bob": reason}
    plain = raw.fanout(topic, "2")
    for taker in takers:
        fail(taker, b"park: no such user")
    outcome = plain.outcome()
    assert outcome.kind == "fail"
    assert sorted(json.loads(outcome.warnings[-1])) == [["alice", reason], ["bob", reason]]


@pytest.mark.parametrize(
    "text",
    ["retry_after: soon", "retry_after: -1", "retry_after:", "retry_after: 1 s", "park:", "park: "],
)
def test_what_is_malformed_is_a_reason_like_any_other(raw: Raw, topic: str, text: str) -> None:
    subscribe(raw, topic, "alice", durable={"max_attempts": 2, "max_backoff": 0.3})
    publish(raw, topic, "x")
    taker = raw.taker(f"{topic}_alice")
    fail(taker, text.encode())
    began = time.monotonic()
    job, took_s = again(taker, began)
    assert took_s >= 0.25
    taker.warn(job.handle, text.encode())
    taker.fail(job.handle)
    [message] = eventually(lambda: parked(raw, topic, "alice"))
    assert (message["attempts"], message["error"]) == (2, text)


def test_the_last_warning_counts_and_only_with_a_failure(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", durable={"max_backoff": 0.2})
    publish(raw, topic, "1", "2")
    taker = raw.taker(f"{topic}_alice")
    job = taker.take()
    taker.warn(job.handle, b"park: no such user")
    taker.warn(job.handle, b"disk full")
    taker.fail(job.handle)
    job = taker.take()
    assert job.payload == b"1", "it is not parked"
    taker.warn(job.handle, b"park: no such user")
    taker.complete(job.handle)
    assert taker.finish() == [b"2"]
    assert parked(raw, topic, "alice") == []
    reaches(raw, topic, "alice", 2)


def test_an_exception_may_ask_for_the_same(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", durable=True)
    publish(raw, topic, "1")
    taker = raw.taker(f"{topic}_alice")
    taker.exception(taker.take().handle, b"park: no such user")
    [message] = eventually(lambda: parked(raw, topic, "alice"))
    assert (message["attempts"], message["error"]) == (1, "no such user")


def test_a_batch_waits_as_long_as_it_asks_for_and_is_tried_one_by_one(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", durable={"batch": 10, "in_flight": 1})
    publish(raw, topic, "0")
    taker = raw.taker(f"{topic}_alice")
    first = taker.take()
    publish(raw, topic, "1", "2", "3")
    taker.complete(first.handle)
    batch = taker.take()
    assert [one["payload"] for one in json.loads(batch.payload)] == ["1", "2", "3"]
    taker.warn(batch.handle, b"retry_after: 0.4")
    taker.fail(batch.handle)
    began = time.monotonic()
    for payload in ("1", "2", "3"):
        single, took_s = again(taker, began)
        [envelope] = json.loads(single.payload)
        assert (envelope["payload"], envelope["attempt"]) == (payload, 2)
        assert 0.35 <= took_s <= 0.4 + SLACK_S
        taker.complete(single.handle)
    reaches(raw, topic, "alice", 4)


def test_a_batch_cannot_be_parked_but_its_messages_can(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", durable={"batch": 10, "max_backoff": 0.3})
    publish(raw, topic, "0")
    taker = raw.taker(f"{topic}_alice")
    first = taker.take()
    publish(raw, topic, "1", "2", "3")
    taker.warn(first.handle, b"park: one message is a batch as well")
    taker.fail(first.handle)
    batch = taker.take()
    assert len(json.loads(batch.payload)) == 3
    taker.warn(batch.handle, b"park: one of these")
    taker.fail(batch.handle)
    for payload in ("1", "2", "3"):
        single = taker.take()
        [envelope] = json.loads(single.payload)
        assert (envelope["payload"], envelope["attempt"]) == (payload, 2)
        if payload == "2":
            taker.warn(single.handle, b"park: this one")
            taker.fail(single.handle)
        else:
            taker.complete(single.handle)
    reaches(raw, topic, "alice", 4)
    told = {message["sequence"]: message["error"] for message in parked(raw, topic, "alice")}
    assert told == {1: "one message is a batch as well", 3: "this one"}
