"""Where durable subscriptions begin, change and end, on both pairs."""

from __future__ import annotations

import time

import pytest
from support.cluster import Cluster, eventually
from support.durable import (
    ask,
    fail,
    fetch,
    id_of,
    lane,
    log_of,
    on_queue,
    parked,
    position,
    publish,
    reaches,
    sequences,
    subscribe,
)
from support.foreign import Raw, refusal

pytest_plugins = ["support.foreign"]

NOW = {"max_attempts": 1}  # the first failure parks
STARTS = {
    "new": ("new", [6]),
    "untold": (None, [6]),
    "all": ("all", [3, 4, 5, 6]),  # 1 and 2 were purged
    "last": ("last", [5, 6]),
    "sequence-0": ({"sequence": 0}, [3, 4, 5, 6]),
    "sequence-3": ({"sequence": 3}, [4, 5, 6]),
    "sequence-5": ({"sequence": 5}, [6]),
    "window-1": ({"window": 1}, [5, 6]),
    "window-1000": ({"window": 1000.5}, [3, 4, 5, 6]),
}


def test_a_new_subscription_begins_where_it_was_told_to(raw: Raw, topic: str) -> None:
    ask(raw, "retain_fanout", topic=topic, max_age=1000)
    publish(raw, topic, "1", "2", "3", "4")
    fetch(raw, topic, purge=2)
    time.sleep(1.1)
    publish(raw, topic, "5")
    # the one of "window-1" first, before its second is over
    for client, (start, _) in reversed(STARTS.items()):
        subscribe(raw, topic, client, durable={} if start is None else {"start": start})
    publish(raw, topic, "6")
    for client, (_, expected) in STARTS.items():
        taker = raw.taker(f"{topic}_{client}")
        got = []
        for _ in expected:
            job = taker.take()
            got.append(id_of(job).sequence)
            assert job.payload == b"%d" % got[-1]
            taker.complete(job.handle)
        assert got == expected, client
        reaches(raw, topic, client, 6)


def test_last_and_window_of_an_empty_log_begin_with_what_comes(raw: Raw, topic: str) -> None:
    starts = ["new", "all", "last", {"sequence": 0}, {"window": 60}]
    for number, start in enumerate(starts):
        subscribe(raw, topic, f"c{number}", durable={"start": start})
    publish(raw, topic, "1")
    for number in range(len(starts)):
        assert raw.taker(f"{topic}_c{number}").finish() == [b"1"]


def test_a_start_beyond_the_log_is_refused_and_leaves_nothing(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    start = {"topic": topic, "client_id": "alice", "durable": {"start": {"sequence": 1}}}
    text = refusal(raw.ask("subscribe_fanout", **start))
    assert text.startswith("bad_request: ")
    assert "sequence" in text
    assert refusal(raw.ask("fetch_fanout", topic=topic, after=0)).startswith("unknown: ")
    assert cluster.publish(topic, "nobody").data == b"0"
    subscribe(raw, topic, "bob")
    publish(raw, topic, "1")
    start["durable"] = {"start": {"sequence": 2}}
    assert "sequence" in refusal(raw.ask("subscribe_fanout", **start))
    assert cluster.publish(topic, "2").data == b"1"
    # one that is no new subscription has begun already
    ask(raw, "subscribe_fanout", **start | {"client_id": "bob"})
    assert raw.taker(f"{topic}_bob").finish(2) == [b"1", b"2"]


def test_subscribing_again_keeps_the_position_and_every_option_that_is_not_given(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    options = {"in_flight": 1, "timeout": 7, "max_attempts": 3, "max_backoff": 9, "batch": 1}
    subscribe(raw, topic, "alice", durable=options, max_backlog=77)
    publish(raw, topic, "1", "2")
    alice = raw.taker(f"{topic}_alice")
    assert alice.finish() == [b"1"]
    reaches(raw, topic, "alice", 1)
    subscribe(raw, topic, "alice", durable={"timeout": 8.5, "start": "all"})
    cluster.subscribe(topic, "alice", overflow="drop_old")
    subscribe(raw, topic, "alice", durable=True)
    subscribe(raw, topic, "alice", durable={})
    told = lane(raw, topic, "alice")
    expected = options | {"timeout": 8.5, "max_backlog": 77, "overflow": "drop_old"}
    assert told.items() >= (expected | {"position": 1, "pull": False}).items()
    assert alice.finish() == [b"2"]
    reaches(raw, topic, "alice", 2)
    subscribe(raw, topic, "alice", durable={"in_flight": 2})
    publish(raw, topic, "3", "4", "5")
    assert [alice.take().payload for _ in range(2)] == [b"3", b"4"]
    assert on_queue(raw, f"{topic}_alice") == (2, 2)


def test_a_direct_subscription_becomes_durable_and_direct_again(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice")
    cluster.publish(topic, "direct")
    subscribe(raw, topic, "alice", durable=NOW)
    publish(raw, topic, "bad", "worse", "good")
    alice = raw.taker(f"{topic}_alice")
    assert alice.finish() == [b"direct"]
    assert [job.payload for job in fail(alice, b"no", b"no")] == [b"bad", b"worse"]
    assert alice.finish() == [b"good"]
    reaches(raw, topic, "alice", 3)
    end = {"topic": topic, "client_id": "alice", "durable": False}
    reply = ask(raw, "subscribe_fanout", **end)
    assert reply.keys() == {"queue", "version", "parked_discarded"}
    assert (reply["queue"], reply["parked_discarded"]) == (f"{topic}_alice", 2)
    assert refusal(raw.ask("fetch_fanout", topic=topic, after=0)).startswith("unknown: ")
    listing = raw.ask("parked_fanout", topic=topic, client_id="alice", action="list")
    assert refusal(listing).startswith("unknown: ")
    assert cluster.publish(topic, "direct again").data == b"1"
    job = alice.take()
    assert (job.payload, job.unique.count(b":")) == (b"direct again", 0)
    subscribe(raw, topic, "alice")  # it remembers nothing
    assert (position(raw, topic, "alice"), parked(raw, topic, "alice")) == (0, [])


@pytest.mark.parametrize("is_retained", [False, True], ids=["unretained", "retained"])
def test_a_log_goes_with_its_last_durable_subscription_unless_it_is_retained(
    cluster: Cluster, raw: Raw, topic: str, is_retained: bool
) -> None:
    cluster.subscribe(topic, "direct")
    subscribe(raw, topic, "alice", "bob", durable=NOW)
    if is_retained:
        ask(raw, "retain_fanout", topic=topic, max_messages=10)
    [one] = publish(raw, topic, "1")
    fail(raw.taker(f"{topic}_alice"), b"no")
    eventually(lambda: parked(raw, topic, "alice"))
    end = {"topic": topic, "client_id": "alice"}
    reply = ask(raw, "unsubscribe_fanout", **end)
    assert reply.keys() == {"version", "parked_discarded"}
    assert reply["parked_discarded"] == 1
    assert sequences(fetch(raw, topic)) == [1]  # bob has it before him
    assert raw.taker(f"{topic}_bob").finish() == [b"1"]
    reply = ask(raw, "unsubscribe_fanout", **end | {"client_id": "bob"})
    assert reply.get("parked_discarded", 0) == 0
    if is_retained:
        assert fetch(raw, topic)["epoch"] == one["epoch"] == log_of(raw, topic)["epoch"]
        [two] = publish(raw, topic, "2")
        assert (two["sequence"], two["epoch"]) == (2, one["epoch"])
    else:
        assert refusal(raw.ask("fetch_fanout", topic=topic, after=0)).startswith("unknown: ")
        assert "sequence" not in publish(raw, topic, "2")[0]
        subscribe(raw, topic, "carol", durable={"start": "all"})
        [fresh] = publish(raw, topic, "new life")
        assert fresh["epoch"] != one["epoch"]
    assert raw.taker(f"{topic}_direct").finish(2) == [b"1", b"2"]
