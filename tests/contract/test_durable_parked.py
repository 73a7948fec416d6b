"""What is promised of messages that used up their attempts, on both pairs of servers."""

from __future__ import annotations

import base64
import json
import time

from support.cluster import eventually
from support.durable import (
    ask,
    fail,
    fetch,
    id_of,
    lane,
    on_queue,
    parked,
    publish,
    reaches,
    sequences,
    subscribe,
)
from support.foreign import Raw, refusal

pytest_plugins = ["support.foreign"]

ONCE = {"max_attempts": 1}
BINARY = base64.b64encode(b"\xff\0").decode()


def test_a_parked_message_is_listed_with_what_its_receiver_said(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", durable={"max_attempts": 2, "max_backoff": 0.05})
    subscribe(raw, topic, "bob", durable=ONCE)
    began = time.time()
    [one] = publish(raw, topic, "text")
    publish(raw, topic, BINARY, encoding="base64")
    publish(raw, topic, {"a": 1.50}, "good")
    alice, bob = raw.taker(f"{topic}_alice"), raw.taker(f"{topic}_bob")
    fail(alice, b"first", b"disk full")
    job = alice.take()
    alice.warn(job.handle, b"nearly full")
    alice.exception(job.handle, b"no")
    job = alice.take()
    alice.warn(job.handle, b"half full")
    alice.warn(job.handle, "übervoll".encode())
    alice.fail(job.handle)
    fail(alice, b"third", b"disk full")
    bob.exception(bob.take().handle, b"disk full")
    assert alice.finish() == [b"good"]  # the next message goes on
    reaches(raw, topic, "alice", 4)

    common = {"epoch": one["epoch"], "attempts": 2, "error": "disk full"}
    expected = [
        common | {"sequence": 1, "payload": "text"},
        common | {"sequence": 2, "payload_base64": BINARY, "error": "übervoll"},
        common | {"sequence": 3, "payload": '{"a": 1.5}'},
    ]
    for found, wanted in zip(parked(raw, topic, "alice"), expected, strict=True):
        assert found.items() >= wanted.items()
        assert abs(found["at"] - began) < 30
        assert ("payload" in found) != ("payload_base64" in found)
    [entry] = parked(raw, topic, "bob")
    assert (entry["sequence"], entry["attempts"], entry["error"]) == (1, 1, "disk full")
    assert sequences({"parked": parked(raw, topic, "alice", limit=2)}) == [1, 2]
    assert (lane(raw, topic, "alice")["parked"], lane(raw, topic, "bob")["parked"]) == (3, 1)


def test_parked_messages_are_purged_oldest_first(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", "bob", durable=ONCE)
    publish(raw, topic, "1", "2", "3")
    for client in ("alice", "bob"):
        fail(raw.taker(f"{topic}_{client}"), b"no", b"no", b"no")
        reaches(raw, topic, client, 3)
    purge = {"topic": topic, "client_id": "alice", "action": "purge"}
    assert ask(raw, "parked_fanout", **purge, limit=2) == {"purged": 2}
    assert sequences({"parked": parked(raw, topic, "alice")}) == [3]
    assert ask(raw, "parked_fanout", **purge) == {"purged": 1}
    assert ask(raw, "parked_fanout", **purge) == {"purged": 0}
    assert parked(raw, topic, "alice") == []
    assert sequences({"parked": parked(raw, topic, "bob")}) == [1, 2, 3]
    assert ask(raw, "parked_fanout", **purge | {"action": "redrive"}) == {"redriven": 0}


def test_parked_messages_are_put_back_oldest_first_with_their_history(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", "bob", durable=ONCE | {"max_backoff": 0.05})
    publish(raw, topic, "1", "2", "3")
    alice, bob = raw.taker(f"{topic}_alice"), raw.taker(f"{topic}_bob")
    former = fail(alice, b"no", b"no", b"no")
    fail(bob, b"no")
    assert bob.finish(2) == [b"2", b"3"]
    for client in ("alice", "bob"):
        reaches(raw, topic, client, 3)
    fetch(raw, topic, purge=3)  # a parked message needs no log
    assert fetch(raw, topic)["messages"] == []

    redrive = {"topic": topic, "client_id": "alice", "action": "redrive"}
    assert ask(raw, "parked_fanout", **redrive, limit=2) == {"redriven": 2}
    again = [alice.take()]
    alice.complete(again[0].handle)
    again += fail(alice, b"still not")
    eventually(lambda: len(parked(raw, topic, "alice")) == 2)
    assert [job.payload for job in again] == [b"1", b"2"]
    for before, after in zip(former, again, strict=False):
        assert id_of(after)[:2] == id_of(before)[:2]
        assert id_of(after).term > id_of(before).term
    found = parked(raw, topic, "alice")
    assert [(one["sequence"], one["attempts"], one["error"]) for one in found] == [
        (2, 2, "still not"),
        (3, 1, "no"),
    ]
    subscribe(raw, topic, "alice", durable={"max_attempts": 2})
    assert ask(raw, "parked_fanout", **redrive) == {"redriven": 2}
    third = fail(alice, b"never", b"never ever")  # an attempt more is allowed now
    assert [job.payload for job in third] == [b"2", b"2"]
    assert id_of(third[0]).term > id_of(again[1]).term
    publish(raw, topic, "4")
    assert alice.finish(2) == [b"3", b"4"]
    reaches(raw, topic, "alice", 4)
    [one] = parked(raw, topic, "alice")
    assert (one["sequence"], one["attempts"], one["error"]) == (2, 4, "never ever")
    assert sequences({"parked": parked(raw, topic, "bob")}) == [1]
    assert bob.finish() == [b"4"]  # nothing was put back for others
    assert on_queue(raw, f"{topic}_bob") == (0, 0)


def test_only_durable_subscriptions_have_parked_messages(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice")
    ask(raw, "subscribe_fanout", topic=topic, client_id="direct")
    for action in ("list", "redrive", "purge"):
        request = {"topic": topic, "client_id": "alice", "action": action}
        ask(raw, "parked_fanout", **request)
        for other in ({"client_id": "direct"}, {"client_id": "nobody"}, {"topic": f"{topic}-not"}):
            text = refusal(raw.ask("parked_fanout", **request | other))
            assert text.startswith("unknown: "), (action, other, text)


def test_parked_messages_are_listed_in_pages(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", durable=ONCE)
    publish(raw, topic, *(f"{number}".ljust(7_000_000, "x") for number in (1, 2)), "3", "4", "5")
    fail(raw.taker(f"{topic}_alice"), *[b"no"] * 5)
    reaches(raw, topic, "alice", 5)
    request = {"topic": topic, "client_id": "alice", "action": "list"}
    pages, after = [], 0
    while after is not None:
        outcome = raw.ask("parked_fanout", **request, after=after)
        assert len(outcome.data) <= 16 * 1024 * 1024
        reply = json.loads(outcome.data)
        pages.append(sequences(reply))
        after = reply.get("after")
    assert pages == [[1], [2, 3, 4, 5]]  # 8 MiB of payloads
    page = ask(raw, "parked_fanout", **request, after=2, limit=2)
    assert (sequences(page), page["after"]) == ([3, 4], 4)
    assert ask(raw, "parked_fanout", **request, after=5) == {"parked": []}
    text = refusal(raw.ask("parked_fanout", **request, after=-1))
    assert text.startswith("bad_request: after"), text


def test_what_grows_in_json_makes_a_smaller_page(raw: Raw, topic: str) -> None:
    ask(raw, "retain_fanout", topic=topic, max_age=1000)
    publish(raw, topic, *["\1" * 1_400_000] * 3)  # six times that in a reply
    reply = raw.ask("fetch_fanout", topic=topic, after=0)
    assert len(reply.data) <= 16 * 1024 * 1024
    assert sequences(json.loads(reply.data)) == [1]


def test_nothing_is_put_back_for_a_subscription_that_pulls(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", durable=ONCE)
    publish(raw, topic, "1", "2")
    fail(raw.taker(f"{topic}_alice"), b"no", b"no")
    reaches(raw, topic, "alice", 2)
    subscribe(raw, topic, "alice", durable={"pull": True})
    request = {"topic": topic, "client_id": "alice"}
    text = refusal(raw.ask("parked_fanout", **request, action="redrive"))
    assert text.startswith("bad_request: action: "), text
    assert sequences({"parked": parked(raw, topic, "alice")}) == [1, 2]
    assert ask(raw, "parked_fanout", **request, action="purge", limit=1) == {"purged": 1}


def test_as_many_are_parked_as_the_topic_may_have(raw: Raw, topic: str) -> None:
    ask(raw, "retain_fanout", topic=topic, max_messages=3)
    subscribe(raw, topic, "alice", durable=ONCE)
    taker = raw.taker(f"{topic}_alice")
    for number in range(1, 7):
        publish(raw, topic, str(number))
        fail(taker, b"no")
        reaches(raw, topic, "alice", number)
    assert sequences({"parked": parked(raw, topic, "alice")}) == [4, 5, 6]
    described = ask(raw, "describe_fanout", topic=topic)
    assert described["topics"][topic]["subscriptions"]["alice"]["drops"] == 3
