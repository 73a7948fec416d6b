"""What is promised of messages that expire, on both pairs of servers."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from support.cluster import eventually
from support.durable import (
    ask,
    fail,
    fetch,
    for_a_while,
    lane,
    log_of,
    on_queue,
    parked,
    publish,
    reaches,
    sequences,
    subscribe,
)
from support.foreign import Raw, receipt, refusal

pytest_plugins = ["support.foreign"]

SOON = 0.3  # until a message expires that is to expire
LATE = 600  # and one that is not to


def expired(raw: Raw, topic: str, client: str) -> int:
    return int(lane(raw, topic, client)["expired"])


@pytest.mark.parametrize("seconds", [0, -1, 1e9 + 1, "5", None, True, [], {}])
def test_a_bad_time_is_refused(raw: Raw, topic: str, seconds: Any) -> None:
    text = refusal(raw.ask("fanout", topic=topic, payload="p", expires=seconds))
    assert text.startswith("bad_request: expires: expected ")


def test_envelopes_say_when_a_message_expires(raw: Raw, topic: str) -> None:
    ask(raw, "subscribe_fanout", topic=topic, client_id="alice", envelope=True)
    subscribe(raw, topic, "bob", envelope=True)
    began = time.time()
    publish(raw, topic, "p", expires=LATE)
    publish(raw, topic, "p")
    fetched = fetch(raw, topic)["messages"]
    for queue in ("alice", "bob"):
        first, second = map(json.loads, raw.taker(f"{topic}_{queue}").finish(2))
        for envelope in (first, fetched[0]):
            assert abs(envelope["expires_at"] - began - LATE) < 30
        assert "expires_at" not in second
    assert "expires_at" not in fetched[1]


def test_a_durable_lane_skips_and_counts_what_has_expired(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", "bob")
    publish(raw, topic, "first")
    alice = raw.taker(f"{topic}_alice")
    first = alice.take()
    publish(raw, topic, "short", "short", "short", expires=SOON)
    publish(raw, topic, "not for alice", expires=SOON, exclude=["alice"])
    publish(raw, topic, "long", expires=LATE)
    publish(raw, topic, "plain")
    assert raw.taker(f"{topic}_bob").finish() == [b"first"]
    time.sleep(SOON + 0.1)
    alice.complete(first.handle)
    assert alice.finish(2) == [b"long", b"plain"]
    reaches(raw, topic, "alice", 7)
    assert expired(raw, topic, "alice") == 3
    assert log_of(raw, topic)["last"] == 7
    assert sequences(fetch(raw, topic)) == list(range(1, 8))  # shown to who reads the log


def test_what_waits_on_the_queue_is_taken_back_when_it_expires(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice")
    queue = f"{topic}_alice"
    publish(raw, topic, "short", expires=1.0)
    eventually(lambda: on_queue(raw, queue) == (1, 0))
    publish(raw, topic, "long")
    reaches(raw, topic, "alice", 1)
    assert expired(raw, topic, "alice") == 1
    assert raw.taker(queue).finish() == [b"long"]


def test_what_a_receiver_has_goes_on(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice")
    publish(raw, topic, "short", expires=0.5)
    alice = raw.taker(f"{topic}_alice")
    job = alice.take()
    for_a_while(lambda: lane(raw, topic, "alice")["position"] == 0, 0.8)
    alice.complete(job.handle)
    reaches(raw, topic, "alice", 1)
    assert expired(raw, topic, "alice") == 0


def test_one_that_expires_while_it_waits_for_a_retry_is_skipped(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", durable={"max_backoff": 3600})
    publish(raw, topic, "short", expires=1.0)
    publish(raw, topic, "long")
    alice = raw.taker(f"{topic}_alice")
    fail(alice, b"disk full")
    eventually(lambda: lane(raw, topic, "alice")["attempts"] == 1)
    assert alice.finish() == [b"long"]  # which waited behind it: no attempt of 2 s later
    reaches(raw, topic, "alice", 2)
    told = lane(raw, topic, "alice")
    assert (told["expired"], told["attempts"], told["parked"]) == (1, 0, 0)


def test_one_that_was_put_back_and_has_expired_is_skipped(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", durable={"max_attempts": 1})
    publish(raw, topic, "short", expires=1.0, headers={"a": "b"})
    publish(raw, topic, "other")
    alice = raw.taker(f"{topic}_alice")
    fail(alice, b"disk full", b"disk full")
    eventually(lambda: lane(raw, topic, "alice")["parked"] == 2)
    [short, other] = parked(raw, topic, "alice")
    assert short["expires_at"] > time.time() - 30
    assert "expires_at" not in other
    time.sleep(1.1)
    assert len(parked(raw, topic, "alice")) == 2  # it stays where it is
    reply = ask(raw, "parked_fanout", topic=topic, client_id="alice", action="redrive")
    assert reply == {"redriven": 2}
    assert alice.finish() == [b"other"]
    eventually(lambda: expired(raw, topic, "alice") == 1)
    assert parked(raw, topic, "alice") == []
    publish(raw, topic, "next")
    assert alice.finish() == [b"next"]


def test_a_batch_has_nothing_that_has_expired(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", durable={"batch": 10})
    alice = raw.taker(f"{topic}_alice")
    publish(raw, topic, "first")
    first = alice.take()
    for number in range(6):
        publish(raw, topic, str(number), expires=SOON if number % 2 else LATE)
    time.sleep(SOON + 0.1)
    alice.complete(first.handle)
    payloads: list[str] = []
    while len(payloads) < 3:
        payloads += [one["payload"] for one in json.loads(alice.finish()[0])]
    assert payloads == ["0", "2", "4"]
    reaches(raw, topic, "alice", 7)
    assert expired(raw, topic, "alice") == 3


def test_what_expires_during_a_pause_is_skipped_after_it(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", durable={"paused": True})
    publish(raw, topic, "short", expires=SOON)
    publish(raw, topic, "long", expires=LATE)
    time.sleep(SOON + 0.1)
    assert (expired(raw, topic, "alice"), lane(raw, topic, "alice")["position"]) == (0, 0)
    subscribe(raw, topic, "alice", durable={"paused": False})
    assert raw.taker(f"{topic}_alice").finish() == [b"long"]
    reaches(raw, topic, "alice", 2)
    assert expired(raw, topic, "alice") == 1


def test_of_a_batch_on_the_queue_the_others_are_delivered(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", durable={"batch": 10})
    queue = f"{topic}_alice"
    publish(raw, topic, "first", expires=LATE)
    eventually(lambda: on_queue(raw, queue) == (1, 0))
    alice = raw.taker(queue)
    first = alice.take()
    publish(raw, topic, "0", "2", expires=LATE)
    publish(raw, topic, "1", expires=1.0)
    alice.complete(first.handle)
    eventually(lambda: on_queue(raw, queue)[0] == 1)
    eventually(lambda: expired(raw, topic, "alice") == 1)
    payloads = [json.loads(job)[0]["payload"] for job in alice.finish(2)]
    assert payloads == ["0", "2"]
    reaches(raw, topic, "alice", 4)


def test_a_pull_subscription_is_not_given_what_has_expired(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "carol", durable={"pull": True})
    publish(raw, topic, "1", "2", expires=SOON)
    publish(raw, topic, "3")
    publish(raw, topic, "4", expires=SOON)
    publish(raw, topic, "5")
    time.sleep(SOON + 0.1)
    assert sequences(fetch(raw, topic, client_id="carol", limit=1)) == [3]
    assert lane(raw, topic, "carol")["position"] == 2  # past what it is not given
    assert sequences(fetch(raw, topic, client_id="carol", ack=3)) == [5]
    assert lane(raw, topic, "carol")["position"] == 4
    assert sequences(fetch(raw, topic)) == [1, 2, 3, 4, 5]


def test_a_foreground_caller_is_told_what_has_expired(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", "bob")
    ask(raw, "subscribe_fanout", topic=topic, client_id="dave")
    publish(raw, topic, "first")
    alice, bob = raw.taker(f"{topic}_alice"), raw.taker(f"{topic}_bob")
    dave = raw.taker(f"{topic}_dave")
    dave.finish()
    held = alice.take()  # alice stands still, bob does not
    bob.finish()
    request = {"topic": topic, "payload": "p", "expires": 1.0, "timeout": 60}
    whole = raw.start("fanout", **request, receipt=True)
    number = raw.start("fanout", **request)
    enough = raw.start("fanout", **request, quorum=2)
    too_many = raw.start("fanout", **request, quorum=3)
    bob.finish(4)
    dave.finish(4)
    assert enough.outcome().data == b"2"
    time.sleep(1.2)
    alice.complete(held.handle)
    told = receipt(whole.outcome())
    assert told["expired"] == ["alice"]
    assert sorted(told["delivered"]) == ["bob", "dave"]
    assert (told["copies"], told["failed"], told["pending"]) == (3, {}, [])
    for pending in (number, too_many):
        outcome = pending.outcome()
        assert outcome.kind == "fail"
        assert json.loads(outcome.warnings[-1]) == [["alice", "expired"]]
    assert expired(raw, topic, "alice") == 4


def test_a_receipt_has_no_such_key_where_nothing_expired(raw: Raw, topic: str) -> None:
    ask(raw, "subscribe_fanout", topic=topic, client_id="alice")
    pending = raw.start("fanout", topic=topic, payload="p", expires=LATE, receipt=True)
    raw.taker(f"{topic}_alice").finish()
    assert "expired" not in receipt(pending.outcome())


def test_a_subscription_that_is_made_anew_counts_from_nothing(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", "bob")
    publish(raw, topic, "1", expires=SOON)
    for client in ("alice", "bob"):
        eventually(lambda client=client: expired(raw, topic, client) == 1)
    subscribe(raw, topic, "alice")  # again: a repeated subscribe keeps it
    assert expired(raw, topic, "alice") == 1
    ask(raw, "unsubscribe_fanout", topic=topic, client_id="alice")
    ask(raw, "subscribe_fanout", topic=topic, client_id="bob", durable=False)
    subscribe(raw, topic, "alice", "bob")
    assert [expired(raw, topic, client) for client in ("alice", "bob")] == [0, 0]
