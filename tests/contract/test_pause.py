"""What is promised of subscriptions that are paused, on both pairs of servers."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from support.cluster import Cluster, eventually
from support.durable import (
    QUICK,
    ask,
    fail,
    fetch,
    for_a_while,
    id_of,
    lane,
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

SOON = 1.0  # until a pause ends that is to end
PULL = {"pull": True}


def pause(raw: Raw, topic: str, client: str = "alice", paused: Any = True) -> None:
    subscribe(raw, topic, client, durable={"paused": paused})


@pytest.mark.parametrize("paused", [0, -1, 1e9 + 1, "5", None, [], {}])
def test_a_bad_pause_is_refused(raw: Raw, topic: str, paused: Any) -> None:
    request = {"topic": topic, "client_id": "alice", "durable": {"paused": paused}}
    text = refusal(raw.ask("subscribe_fanout", **request))
    assert text.startswith("bad_request: durable.paused: expected "), text


def test_nothing_is_delivered_meanwhile_and_all_of_it_in_order_afterwards(
    raw: Raw, topic: str
) -> None:
    subscribe(raw, topic, "alice", "bob")
    queue = f"{topic}_alice"
    alice, bob = raw.taker(queue), raw.taker(f"{topic}_bob")
    publish(raw, topic, "1")
    assert alice.finish() == [b"1"]
    reaches(raw, topic, "alice", 1)
    pause(raw, topic)
    publish(raw, topic, "2", "3", "4")
    assert bob.finish(4) == [b"1", b"2", b"3", b"4"]  # the others go on
    for_a_while(lambda: on_queue(raw, queue) == (0, 0) and alice.grab_now() is None)
    told = lane(raw, topic, "alice")
    shown = {"paused": True, "paused_until": None, "position": 1, "lag": 3, "member": None}
    assert told.items() >= shown.items()
    pause(raw, topic, paused=False)
    assert alice.finish(3) == [b"2", b"3", b"4"]
    reaches(raw, topic, "alice", 4)
    assert lane(raw, topic, "alice").items() >= {"paused": False, "paused_until": None}.items()


def test_a_pause_ends_by_itself(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", "bob")
    began = time.time()
    pause(raw, topic, paused=600)
    pause(raw, topic, paused=SOON)  # the last one counts
    pause(raw, topic, client="bob", paused=600)
    publish(raw, topic, "1", "2")
    told = lane(raw, topic, "alice")
    if told["paused"]:
        assert abs(told["paused_until"] - began - SOON) < 0.5 * SOON + time.time() - began
    told = lane(raw, topic, "bob")
    assert told["paused"]
    assert abs(told["paused_until"] - began - 600) < 30
    assert raw.taker(f"{topic}_alice").finish(2) == [b"1", b"2"]
    assert time.time() - began >= 0.9 * SOON
    assert not lane(raw, topic, "alice")["paused"]
    assert on_queue(raw, f"{topic}_bob") == (0, 0)


def test_the_first_subscribe_may_pause_and_another_option_keeps_the_pause(
    raw: Raw, topic: str
) -> None:
    pause(raw, topic)
    publish(raw, topic, "1")
    subscribe(raw, topic, "alice")
    subscribe(raw, topic, "alice", durable={"in_flight": 2}, envelope=True)
    taker = raw.taker(f"{topic}_alice")
    for_a_while(lambda: on_queue(raw, f"{topic}_alice") == (0, 0) and taker.grab_now() is None)
    pause(raw, topic, paused=False)
    [envelope] = taker.finish()
    assert json.loads(envelope)["payload"] == "1"


def test_what_is_under_way_finishes_and_what_waits_on_the_queue_is_taken_back(
    raw: Raw, topic: str
) -> None:
    subscribe(raw, topic, "alice", durable={"in_flight": 2})
    queue = f"{topic}_alice"
    publish(raw, topic, "1", "2", "3")
    alice = raw.taker(queue)
    job = alice.take()
    assert job.payload == b"1"
    pause(raw, topic)
    eventually(lambda: on_queue(raw, queue) == (1, 1))  # the second one is not there any more
    alice.complete(job.handle)
    reaches(raw, topic, "alice", 1)
    for_a_while(lambda: on_queue(raw, queue) == (0, 0) and alice.grab_now() is None)
    pause(raw, topic, paused=False)
    assert alice.finish(2) == [b"2", b"3"]


def test_attempts_and_parked_messages_stand_still(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", durable={**QUICK, "max_attempts": 3})
    queue = f"{topic}_alice"
    publish(raw, topic, "bad")
    alice = raw.taker(queue)
    first = fail(alice, b"no")[0]
    eventually(lambda: lane(raw, topic, "alice")["attempts"] == 1)
    pause(raw, topic)
    for_a_while(lambda: on_queue(raw, queue)[1] == 0 and alice.grab_now() is None, 0.5)
    told = lane(raw, topic, "alice")
    assert told.items() >= {"attempts": 1, "parked": 0, "position": 0}.items()
    pause(raw, topic, paused=False)
    second = fail(alice, b"no", b"no")[0]
    assert id_of(second).term > id_of(first).term
    eventually(lambda: lane(raw, topic, "alice")["parked"] == 1)  # after three in all
    pause(raw, topic)
    assert ask(raw, "parked_fanout", topic=topic, client_id="alice", action="redrive") == {
        "redriven": 1
    }
    publish(raw, topic, "good")
    for_a_while(lambda: on_queue(raw, queue) == (0, 0) and not parked(raw, topic, "alice"))
    pause(raw, topic, paused=False)
    assert alice.finish(2) == [b"bad", b"good"]


def test_a_paused_pull_subscription_is_given_nothing_and_may_acknowledge(
    raw: Raw, topic: str
) -> None:
    subscribe(raw, topic, "alice", durable=PULL)
    publish(raw, topic, "1", "2", "3")
    alice = {"client_id": "alice"}
    assert sequences(fetch(raw, topic, **alice)) == [1, 2, 3]
    pause(raw, topic)
    assert lane(raw, topic, "alice").items() >= {"paused": True, "pull": True}.items()
    reply = fetch(raw, topic, **alice, ack=1)
    assert (sequences(reply), reply["last"]) == ([], 3)
    assert position(raw, topic, "alice") == 1  # of what it had been given before
    assert sequences(fetch(raw, topic, **alice, wait=0.2)) == []
    assert sequences(fetch(raw, topic)) == [1, 2, 3]  # whoever reads the log as such
    waiting = raw.start("fetch_fanout", topic=topic, **alice, wait=20)
    waiting.progress()
    pause(raw, topic, paused=False)
    assert sequences(json.loads(waiting.outcome().data)) == [2, 3]


def test_a_fetch_waits_for_the_end_of_a_pause(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", durable={**PULL, "paused": SOON})
    publish(raw, topic, "1")
    began = time.monotonic()
    assert sequences(fetch(raw, topic, client_id="alice", wait=20)) == [1]
    assert time.monotonic() - began < 10


def test_a_publisher_that_waits_is_told_that_it_is_pending(raw: Raw, topic: str) -> None:
    pause(raw, topic)
    told = ask(raw, "fanout", topic=topic, payload="1", timeout=0.3, receipt=True)
    assert told["pending"] == ["alice"]
    pause(raw, topic, paused=False)
    assert raw.taker(f"{topic}_alice").finish() == [b"1"]


def test_nothing_is_sent_after_the_reply(cluster: Cluster, raw: Raw, topic: str) -> None:
    """A receiver that comes after the reply gets nothing that was not under way."""
    subscribe(raw, topic, "alice", durable={"in_flight": 10})
    queue = f"{topic}_alice"
    for _ in range(5):
        publish(raw, topic, "1", "2")
        pause(raw, topic)
        eventually(lambda: on_queue(raw, queue) == (0, 0))
        for _ in range(3):
            cluster.publish(topic, "3")
        for_a_while(lambda: on_queue(raw, queue) == (0, 0))
        pause(raw, topic, paused=False)
        eventually(lambda: on_queue(raw, queue) != (0, 0))
