"""What is promised of subscriptions that want the latest message only, on both pairs of servers."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from support.cluster import eventually
from support.durable import (
    QUICK,
    ask,
    fail,
    fetch,
    for_a_while,
    lane,
    on_queue,
    parked,
    publish,
    reaches,
    sequences,
    subscribe,
)
from support.foreign import Raw, receipt, refusal

pytest_plugins = ["support.foreign"]

LATEST: dict[str, Any] = {"latest": True}


def skipped(raw: Raw, topic: str, client: str = "alice") -> int:
    return int(lane(raw, topic, client)["skipped"])


@pytest.mark.parametrize("latest", [0, 1, None, "", "a b", "é", "x" * 65, [], {}])
def test_a_bad_choice_is_refused(raw: Raw, topic: str, latest: Any) -> None:
    request = {"topic": topic, "client_id": "alice", "durable": {"latest": latest}}
    text = refusal(raw.ask("subscribe_fanout", **request))
    assert text.startswith("bad_request: durable.latest: expected "), text


def test_a_lane_that_is_free_goes_to_the_newest_and_counts_what_it_passed_by(
    raw: Raw, topic: str
) -> None:
    subscribe(raw, topic, "alice", durable=LATEST)
    subscribe(raw, topic, "bob")
    publish(raw, topic, "1")
    alice = raw.taker(f"{topic}_alice")
    job = alice.take()
    publish(raw, topic, "2", "3", "4")
    assert lane(raw, topic, "alice").items() >= {"latest": True, "skipped": 0}.items()
    alice.complete(job.handle)
    assert (job.payload, *alice.finish()) == (b"1", b"4")
    reaches(raw, topic, "alice", 4)
    assert skipped(raw, topic) == 2
    for_a_while(lambda: on_queue(raw, f"{topic}_alice") == (0, 0))
    assert raw.taker(f"{topic}_bob").finish(4) == [b"1", b"2", b"3", b"4"]
    assert (skipped(raw, topic, "bob"), lane(raw, topic, "bob")["latest"]) == (0, False)


def test_of_each_value_of_a_header_the_newest_in_the_order_of_sequences(
    raw: Raw, topic: str
) -> None:
    subscribe(raw, topic, "alice", durable={"latest": "Symbol", "paused": True})
    for payload, symbol in (("1", "a"), ("2", "b"), ("3", "a"), ("4", "c"), ("5", "b")):
        publish(raw, topic, payload, headers={"SYMBOL": symbol})
    publish(raw, topic, "6", "7")  # without it: one value more
    subscribe(raw, topic, "alice", durable={"paused": False})
    assert lane(raw, topic, "alice")["latest"] == "symbol"
    assert raw.taker(f"{topic}_alice").finish(4) == [b"3", b"4", b"5", b"7"]
    reaches(raw, topic, "alice", 7)
    assert skipped(raw, topic) == 3


def test_excluded_and_expired_messages_are_not_the_newest(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", durable=LATEST | {"paused": True})
    publish(raw, topic, "1", "2")
    publish(raw, topic, "3", exclude=["alice"])
    publish(raw, topic, "4", expires=0.01)
    for_a_while(lambda: on_queue(raw, f"{topic}_alice") == (0, 0))
    subscribe(raw, topic, "alice", durable={"paused": False})
    assert raw.taker(f"{topic}_alice").finish() == [b"2"]
    reaches(raw, topic, "alice", 4)
    assert lane(raw, topic, "alice").items() >= {"skipped": 1, "expired": 1}.items()


def test_a_message_that_fails_gives_way_to_a_newer_one(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", durable=LATEST)  # a rest takes two seconds or more
    publish(raw, topic, "1")
    alice = raw.taker(f"{topic}_alice")
    fail(alice, b"no")
    eventually(lambda: lane(raw, topic, "alice")["attempts"] == 1)
    publish(raw, topic, "2")
    assert alice.finish() == [b"2"]
    reaches(raw, topic, "alice", 2)
    assert lane(raw, topic, "alice").items() >= {"skipped": 1, "attempts": 0, "parked": 0}.items()


def test_of_one_value_one_message_is_under_way_whatever_may_be_in_flight(
    raw: Raw, topic: str
) -> None:
    durable = {"latest": "k", **QUICK, "in_flight": 3, "timeout": 30}
    subscribe(raw, topic, "alice", durable=durable)
    alice = raw.taker(f"{topic}_alice")
    for payload, value in (("1", "a"), ("2", "a"), ("3", "b"), ("4", "a")):
        publish(raw, topic, payload, headers={"k": value})
    first, other = alice.take(), alice.take()
    assert (first.payload, other.payload) == (b"1", b"3")
    for_a_while(lambda: alice.grab_now() is None)
    alice.fail(first.handle)
    newest = alice.take()
    assert newest.payload == b"4"
    alice.complete(newest.handle)
    alice.complete(other.handle)
    reaches(raw, topic, "alice", 4)
    for_a_while(lambda: alice.grab_now() is None)
    assert skipped(raw, topic) == 2


def test_a_message_that_fails_for_good_is_parked_and_a_redrive_is_delivered(
    raw: Raw, topic: str
) -> None:
    subscribe(raw, topic, "alice", durable={**LATEST, **QUICK, "max_attempts": 1})
    alice = raw.taker(f"{topic}_alice")
    publish(raw, topic, "1")
    fail(alice, b"no")
    eventually(lambda: [one["sequence"] for one in parked(raw, topic, "alice")] == [1])
    publish(raw, topic, "2")
    assert alice.finish() == [b"2"]
    ask(raw, "parked_fanout", topic=topic, client_id="alice", action="redrive")
    assert alice.finish() == [b"1"]
    assert skipped(raw, topic) == 0


def test_a_batch_is_of_one_message(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", durable={"latest": "k", "batch": 10, "paused": True})
    for value in "aab":
        publish(raw, topic, value, headers={"k": value})
    subscribe(raw, topic, "alice", durable={"paused": False})
    batches = [json.loads(text) for text in raw.taker(f"{topic}_alice").finish(2)]
    assert [[one["sequence"] for one in batch] for batch in batches] == [[2], [3]]


def test_an_option_that_is_given_later_counts_from_then_on(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice")
    alice = raw.taker(f"{topic}_alice")
    publish(raw, topic, "1", "2", "3")
    job = alice.take()
    subscribe(raw, topic, "alice", durable=LATEST)
    time.sleep(0.5)  # the lane that is held gets to know it
    alice.complete(job.handle)
    assert alice.finish() == [b"3"]
    reaches(raw, topic, "alice", 3)
    subscribe(raw, topic, "alice", durable={"latest": False})
    time.sleep(0.5)
    publish(raw, topic, "4", "5")
    assert alice.finish(2) == [b"4", b"5"]
    assert skipped(raw, topic) == 1
    subscribe(raw, topic, "alice", durable=False)
    subscribe(raw, topic, "alice")
    assert skipped(raw, topic) == 0


def test_a_pull_subscription_is_given_every_message(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", durable=LATEST | {"pull": True})
    publish(raw, topic, "1", "2")
    assert sequences(fetch(raw, topic, client_id="alice")) == [1, 2]


def test_a_publisher_that_waits_for_a_message_that_was_passed_by_is_answered(
    raw: Raw, topic: str
) -> None:
    subscribe(raw, topic, "alice", durable=LATEST)
    alice = raw.taker(f"{topic}_alice")
    publish(raw, topic, "1")
    job = alice.take()
    waiting = raw.start("fanout", topic=topic, payload="2", receipt=True, timeout=20)
    eventually(lambda: lane(raw, topic, "alice")["lag"] == 2)
    publish(raw, topic, "3")
    alice.complete(job.handle)
    assert alice.finish() == [b"3"]
    assert receipt(waiting.outcome())["delivered"] == ["alice"]


def test_thousands_are_passed_by_at_once(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", durable=LATEST | {"paused": True})
    subscribe(raw, topic, "bob", durable={"latest": "k", "paused": True})
    count = 3000
    for number in range(count):
        raw.ask("fanout", topic=topic, payload=f"{number}", background=True)
    for client in ("alice", "bob"):
        subscribe(raw, topic, client, durable={"paused": False})
        assert raw.taker(f"{topic}_{client}").finish() == [f"{count - 1}".encode()]
        reaches(raw, topic, client, count)
        assert skipped(raw, topic, client) == count - 1
