"""What docs/protocol.rst promises of waiting for durable receivers, on both pairs of servers."""

from __future__ import annotations

import json
import time

from support.cluster import Cluster
from support.durable import QUICK, fail, publish, reaches, subscribe
from support.foreign import Raw, receipt

pytest_plugins = ["support.foreign"]


def test_the_reply_comes_when_durable_receivers_have_acknowledged(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "direct")
    subscribe(raw, topic, "alice", durable=QUICK)
    subscribe(raw, topic, "bob")
    [before] = publish(raw, topic, "before", exclude=["direct", "bob"])
    counted = raw.fanout(topic, "x")
    told = raw.fanout(topic, "y", receipt=True)
    excluding = raw.fanout(topic, "z", exclude=["alice", "direct"])
    direct, alice, bob = (raw.taker(f"{topic}_{client}") for client in ("direct", "alice", "bob"))
    assert direct.finish(2, b"thanks") == [b"x", b"y"]
    assert bob.finish(2) == [b"x", b"y"]
    statuses = []
    while (2, 3) not in statuses:
        statuses += counted.progress()
    assert told.progress()[-1][1] == 3
    assert alice.finish() == [b"before"]  # the messages of a queue keep their order
    fail(alice, b"an attempt that fails is not the end")
    assert alice.finish() == [b"x"]
    outcome = counted.outcome()
    assert (outcome.kind, outcome.data, outcome.warnings) == ("complete", b"3", [])
    assert alice.finish(1, b"acknowledged") == [b"y"]
    got = receipt(told.outcome())
    assert sorted(got.pop("delivered")) == ["alice", "bob", "direct"]
    assert got.pop("results")["direct"] == "thanks"
    assert got == {
        "copies": 3,
        "failed": {},
        "pending": [],
        "dropped": [],
        "sequence": before["sequence"] + 2,
        "epoch": before["epoch"],
    }
    assert bob.finish() == [b"z"]
    assert excluding.outcome().data == b"1"


def test_what_is_pending_at_the_timeout_is_no_failure_and_comes_later(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "direct")
    subscribe(raw, topic, "alice", "away")
    subscribe(raw, topic, "puller", durable={"pull": True})
    direct, alice = raw.taker(f"{topic}_direct"), raw.taker(f"{topic}_alice")
    began = time.monotonic()
    told = raw.fanout(topic, "x", timeout=0.7, receipt=True)
    counted = raw.fanout(topic, "y", timeout=0.7)
    assert alice.finish(2) == direct.finish(2) == [b"x", b"y"]
    got = receipt(told.outcome())
    assert 0.7 <= time.monotonic() - began < 2
    assert (sorted(got["delivered"]), got["failed"]) == (["alice", "direct"], {})
    assert (sorted(got["pending"]), got["sequence"]) == (["away", "puller"], 1)
    outcome = counted.outcome()
    assert (outcome.kind, outcome.data, outcome.warnings) == ("complete", b"2", [])
    # only those that are not durable fail by being late
    outcome = raw.fanout(topic, "z", timeout=0.2).outcome()
    assert (outcome.kind, len(outcome.warnings)) == ("fail", 1)
    assert [client for client, _ in json.loads(outcome.warnings[0])] == ["direct"]
    assert raw.taker(f"{topic}_away").finish(3) == [b"x", b"y", b"z"]
    assert alice.finish() == [b"z"]
    for client in ("alice", "away"):
        reaches(raw, topic, client, 3)


def test_durable_receivers_count_for_a_quorum(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "direct")
    subscribe(raw, topic, "alice", "bob")
    two, all_of_two = raw.fanout(topic, "x", quorum=2), raw.fanout(topic, "y", quorum="60%")
    direct, alice = raw.taker(f"{topic}_direct"), raw.taker(f"{topic}_alice")
    assert alice.finish() == [b"x"]
    while (1, 3) not in two.progress():
        time.sleep(0.01)
    assert direct.finish() == [b"x"]
    assert two.outcome().data == b"2"
    assert alice.finish() == [b"y"]
    bob = raw.taker(f"{topic}_bob")
    assert bob.finish(2) == [b"x", b"y"]
    assert all_of_two.outcome().data == b"2"  # durable ones alone
    assert direct.finish() == [b"y"]


def test_a_message_that_is_parked_while_its_caller_waits_has_failed(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", durable={"max_attempts": 1})
    subscribe(raw, topic, "bob", durable=QUICK | {"max_attempts": 2})
    pending = raw.fanout(topic, "x", receipt=True)
    began = time.monotonic()
    fail(raw.taker(f"{topic}_alice"), b"disk full")
    bob = raw.taker(f"{topic}_bob")
    fail(bob, b"first")
    bob.exception(bob.take().handle, b"second")
    got = receipt(pending.outcome())
    assert time.monotonic() - began < 5  # long before its timeout
    assert got["failed"].keys() == {"alice", "bob"}
    assert "disk full" in got["failed"]["alice"]
    assert "second" in got["failed"]["bob"]
    assert (got["delivered"], got["pending"], got["sequence"]) == ([], [], 1)


def test_a_second_caller_of_one_unique_waits_for_the_same_message(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", "bob")
    first = raw.fanout(topic, "x", unique="u", receipt=True)
    assert raw.taker(f"{topic}_alice").finish() == [b"x"]
    reaches(raw, topic, "alice", 1)
    second = raw.fanout(topic, "again", unique="u", receipt=True)
    second.progress()
    assert raw.taker(f"{topic}_bob").finish() == [b"x"]
    for caller in (first, second):
        got = receipt(caller.outcome(5))
        assert (sorted(got["delivered"]), got["sequence"]) == (["alice", "bob"], 1)


def test_an_acknowledgement_of_a_log_that_was_made_anew_is_none_of_the_former_message(
    raw: Raw, topic: str
) -> None:
    """Both have number 1, and one process waits for both."""
    subscribe(raw, topic, "alice")
    former = raw.fanout(topic, "former", receipt=True, timeout=1)
    taker = raw.taker(f"{topic}_alice")
    assert taker.take().payload == b"former"
    assert raw.ask("unsubscribe_fanout", topic=topic, client_id="alice").kind == "complete"
    subscribe(raw, topic, "alice")
    second = raw.taker(f"{topic}_alice")
    later = raw.fanout(topic, "later", receipt=True, timeout=20)
    assert second.finish() == [b"later"]
    told = receipt(later.outcome())
    assert (told["delivered"], told["sequence"]) == (["alice"], 1)
    told = receipt(former.outcome())
    assert (told["delivered"], told["pending"], told["sequence"]) == ([], ["alice"], 1)


def test_a_background_receipt_has_the_messages_number(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice")
    [got] = publish(raw, topic, "x")
    epoch = got.pop("epoch")
    assert len(epoch) >= 8
    assert got == {
        "copies": 1,
        "delivered": [],
        "failed": {},
        "pending": [],
        "dropped": [],
        "results": {},
        "sequence": 1,
    }
