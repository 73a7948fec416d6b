"""What docs/protocol.rst promises of subscriptions that fetch, on both pairs of servers."""

from __future__ import annotations

import json
import time

from support.cluster import Cluster, eventually
from support.durable import (
    fetch,
    for_a_while,
    lane,
    log_of,
    on_queue,
    position,
    publish,
    reaches,
    sequences,
    subscribe,
)
from support.foreign import Raw, refusal

pytest_plugins = ["support.foreign"]

PULL = {"pull": True}


def test_a_pull_subscription_reads_from_its_position_and_nothing_is_delivered(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    subscribe(raw, topic, "alice", durable=PULL)
    subscribe(raw, topic, "bob", durable=PULL)
    assert cluster.publish(topic, "1").data == b"2"
    publish(raw, topic, "2", "3", "4")
    alice = {"client_id": "alice"}
    assert sequences(fetch(raw, topic, **alice)) == [1, 2, 3, 4]
    assert sequences(fetch(raw, topic, **alice, limit=1)) == [1]  # reading moves nothing
    assert sequences(fetch(raw, topic, **alice, ack=2)) == [3, 4]
    assert sequences(fetch(raw, topic, **alice, ack=1)) == [3, 4]  # never back
    assert sequences(fetch(raw, topic, **alice, ack=0)) == [3, 4]
    text = refusal(raw.ask("fetch_fanout", topic=topic, **alice, ack=5))
    assert text.startswith("bad_request: ack"), text
    assert lane(raw, topic, "alice").items() >= {"position": 2, "lag": 2, "pull": True}.items()
    assert position(raw, topic, "bob") == 0
    taker = raw.taker(f"{topic}_alice", f"{topic}_bob")
    for_a_while(lambda: on_queue(raw, f"{topic}_alice") == (0, 0) and taker.grab_now() is None)

    waiting = raw.start("fetch_fanout", topic=topic, **alice, ack=4, wait=10)
    waiting.progress()
    publish(raw, topic, "5")
    told = json.loads(waiting.outcome().data)
    assert (sequences(told), told["first"], told["last"]) == ([5], 1, 5)
    assert position(raw, topic, "alice") == 4

    assert fetch(raw, topic, after=0, purge=5)["first"] == 1  # bob has not done with anything
    reply = fetch(raw, topic, client_id="bob", ack=3, purge=5)
    assert (reply["first"], sequences(reply)) == (4, [4, 5])


def test_only_a_pull_subscription_acknowledges_by_fetching(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice")
    publish(raw, topic, "1", "2")
    text = refusal(raw.ask("fetch_fanout", topic=topic, client_id="alice", ack=1))
    assert text.startswith("bad_request: ack"), text
    text = refusal(raw.ask("fetch_fanout", topic=topic, after=0, ack=1))
    assert text.startswith("bad_request: ack"), text
    assert (position(raw, topic, "alice"), log_of(raw, topic)["first"]) == (0, 1)
    assert raw.taker(f"{topic}_alice").finish(2) == [b"1", b"2"]


def test_a_subscription_turns_to_pull_and_back_where_it_stands(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice")
    publish(raw, topic, "1", "2", "3")
    queue = f"{topic}_alice"
    alice = raw.taker(queue)
    assert alice.finish() == [b"1"]
    reaches(raw, topic, "alice", 1)
    eventually(lambda: on_queue(raw, queue) == (1, 0))
    subscribe(raw, topic, "alice", durable=PULL)
    assert sequences(fetch(raw, topic, client_id="alice")) == [2, 3]
    assert sequences(fetch(raw, topic, client_id="alice", ack=2)) == [3]
    time.sleep(0.3)  # what waited on the queue is withdrawn
    assert alice.grab_now() is None
    subscribe(raw, topic, "alice", durable={"pull": False})
    assert alice.finish() == [b"3"]
    reaches(raw, topic, "alice", 3)


def test_messages_that_exclude_the_client_are_not_fetched(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", "bob", durable=PULL)
    publish(raw, topic, "1", "2", exclude=["alice"])
    waiting = raw.start("fetch_fanout", topic=topic, client_id="alice", wait=20, limit=2)
    waiting.progress()
    publish(raw, topic, "3", exclude=["alice"])
    eventually(lambda: position(raw, topic, "alice") == 3)  # what is not for it does not hold it up
    publish(raw, topic, "4")
    assert sequences(json.loads(waiting.outcome().data)) == [4]
    publish(raw, topic, "5", exclude=["alice"])
    publish(raw, topic, "6")
    assert sequences(fetch(raw, topic, client_id="alice")) == [4, 6]
    assert sequences(fetch(raw, topic, client_id="alice", limit=1)) == [4]
    assert sequences(fetch(raw, topic, client_id="alice", ack=4, limit=1)) == [6]
    assert position(raw, topic, "alice") == 5
    assert sequences(fetch(raw, topic, client_id="alice", ack=6)) == []
    publish(raw, topic, *"789", exclude=["alice"])
    told = fetch(raw, topic, client_id="alice")
    assert (sequences(told), told["last"]) == ([], 9)
    assert lane(raw, topic, "alice").items() >= {"position": 9, "lag": 0}.items()
    assert sequences(fetch(raw, topic, client_id="bob")) == list(range(1, 10))
    assert sequences(fetch(raw, topic)) == list(range(1, 10))  # without a client_id: all


def test_a_long_run_of_messages_that_exclude_the_client_is_passed_in_one_fetch(
    raw: Raw, topic: str
) -> None:
    subscribe(raw, topic, "alice", durable=PULL)
    body = {"topic": topic, "payload": "", "exclude": ["alice"], "background": True}
    for _ in range(6):
        raw.batch([body] * 500).outcomes()
    publish(raw, topic, "at last")
    found = fetch(raw, topic, client_id="alice", limit=1)
    assert sequences(found) == [3001]
    assert position(raw, topic, "alice") == 3000
