"""What is promised of messages that are published twice, on both pairs of servers."""

from __future__ import annotations

import json

from support.cluster import Cluster
from support.durable import ask, fetch, publish, reaches, sequences, subscribe
from support.foreign import Raw, receipt

pytest_plugins = ["support.foreign"]


def test_the_same_unique_is_logged_once_and_its_direct_copies_are_sent_again(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "direct")
    subscribe(raw, topic, "alice")
    direct, alice = raw.taker(f"{topic}_direct"), raw.taker(f"{topic}_alice")
    [first] = publish(raw, topic, "first", unique="u1")
    assert direct.finish() == [b"first"]
    [second] = publish(raw, topic, "second", unique="u1")
    assert direct.finish() == [b"second"]
    assert (second["sequence"], second["epoch"]) == (first["sequence"], first["epoch"])
    assert cluster.publish(topic, "third", unique="u1").data == b"2"
    assert publish(raw, topic, "other", unique="u2")[0]["sequence"] == 2
    assert alice.finish(2) == [b"first", b"other"]
    reaches(raw, topic, "alice", 2)
    # also when the first is done with and forgotten
    assert fetch(raw, topic, purge=2)["messages"] == []
    assert publish(raw, topic, "fourth", unique="u1")[0]["sequence"] == 1
    assert publish(raw, topic, "fifth")[0]["sequence"] == 3
    assert alice.finish() == [b"fifth"]
    assert publish(raw, f"{topic}-other", "x", unique="u1")[0].get("sequence") is None


def test_a_dash_stands_for_the_payload(raw: Raw, topic: str) -> None:
    ask(raw, "retain_fanout", topic=topic, max_age=1000)
    payloads = ["a", "b", "a", {"k": 1}, '{"k": 1}', "-", "a"]
    got = [one["sequence"] for one in publish(raw, topic, *payloads, unique="-")]
    assert got == [1, 2, 1, 3, 3, 4, 1]
    assert [one["sequence"] for one in publish(raw, topic, "a", "a")] == [5, 6]  # without unique
    long = "é" * 200
    pairs = [(long + "1", 7), (long + "2", 8), (long + "1", 7), ("", 9), ("", 10)]
    for unique, expected in pairs:
        assert publish(raw, topic, "x", unique=unique)[0]["sequence"] == expected, unique
    told = fetch(raw, topic)
    assert sequences(told) == list(range(1, 11))
    assert told["messages"][6]["unique"] == long + "1"


def test_callers_at_the_same_time_get_one_number(raw: Raw, topic: str) -> None:
    ask(raw, "retain_fanout", topic=topic, max_age=1000)
    common = {"topic": topic, "background": True, "receipt": True, "unique": "u"}
    outcomes = raw.batch(common | {"payload": str(number)} for number in range(50)).outcomes()
    assert {receipt(one)["sequence"] for one in outcomes} == {1}
    [message] = fetch(raw, topic)["messages"]
    assert json.loads(message["payload"]) in range(50)
