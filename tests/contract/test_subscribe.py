"""What docs/protocol.rst promises of subscribing and unsubscribing, on both pairs of servers."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable

import pytest
from support.cluster import Cluster, eventually
from support.foreign import Raw, refusal
from support.wire import admin

pytest_plugins = ["support.foreign"]


def waiting(cluster: Cluster, queue: str) -> int:
    """How many jobs a queue holds."""
    lines = (line.split("\t") for line in admin(cluster.address, "status"))
    return sum(int(total) for name, total, *_ in lines if name == queue)


# Replies


@pytest.mark.parametrize("function", ["subscribe_fanout", "register_fanout_subscriber"])
def test_a_subscribe_tells_the_queue_and_the_version(
    cluster: Cluster, raw: Raw, topic: str, function: str
) -> None:
    outcome = raw.ask(function, topic=topic, client_id="ålice")
    reply = json.loads(outcome.data)
    assert outcome.kind == "complete"
    assert reply.keys() == {"queue", "version"}
    assert reply["queue"] == f"{topic}_ålice"
    assert type(reply["version"]) is int
    assert cluster.publish(topic, "x").data == b"1"
    assert raw.taker(f"{topic}_ålice").finish() == [b"x"]


def test_the_version_counts_changes(raw: Raw, topic: str) -> None:
    versions = []
    for function in ("subscribe_fanout", "unsubscribe_fanout") * 3:
        reply = json.loads(raw.ask(function, topic=topic, client_id="alice").data)
        versions.append(reply["version"])
    assert versions == list(range(versions[0], versions[0] + 6))


def test_an_unsubscribe_tells_the_version(raw: Raw, topic: str) -> None:
    pair = {"topic": topic, "client_id": "alice"}
    raw.ask("subscribe_fanout", **pair)
    reply = json.loads(raw.ask("unsubscribe_fanout", **pair).data)
    assert reply.keys() == {"version"}
    assert type(reply["version"]) is int


def test_unsubscribing_an_unknown_pair_is_a_success(cluster: Cluster, raw: Raw, topic: str) -> None:
    for client, drain in (("alice", False), ("alice", True)):
        outcome = raw.ask("unsubscribe_fanout", topic=topic, client_id=client, drain=drain)
        assert outcome.kind == "complete"
        assert not json.loads(outcome.data).get("drained")
    cluster.subscribe(topic, "bob")
    assert raw.ask("unsubscribe_fanout", topic=topic, client_id="alice").kind == "complete"
    assert cluster.publish(topic, "x").data == b"1"


def test_subscribing_again_is_a_success_and_makes_no_second_copy(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    for _ in range(3):
        cluster.subscribe(topic, "alice")
    assert cluster.publish(topic, "x").data == b"1"
    alice = raw.taker(f"{topic}_alice")
    assert alice.finish() == [b"x"]
    assert alice.grab_now() is None


@pytest.mark.parametrize("function", ["subscribe_fanout", "register_fanout_subscriber"])
def test_a_change_may_be_submitted_in_the_background(
    cluster: Cluster, raw: Raw, topic: str, function: str
) -> None:
    body = json.dumps({"topic": topic, "client_id": "alice"}).encode()
    raw.wire().submit(function.encode(), body, background=True)
    eventually(lambda: cluster.publish(topic, "x").data == b"1")
    raw.wire().submit(b"unsubscribe_fanout", body, background=True)
    eventually(lambda: cluster.publish(topic, "x").data == b"0")


# The guarantee


def test_what_is_published_after_a_change_follows_it(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    alice = raw.taker(f"{topic}_alice")
    for number in range(50):
        cluster.subscribe(topic, "alice")
        assert cluster.publish(topic, f"in {number}").data == b"1"
        outcome = raw.ask("unsubscribe_fanout", topic=topic, client_id="alice")
        assert outcome.kind == "complete"
        assert cluster.publish(topic, f"out {number}").data == b"0"
    assert alice.finish(50) == [b"in %d" % number for number in range(50)]
    assert alice.grab_now() is None


def test_it_follows_while_others_publish_to_the_topic(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "other")
    busy = raw.wire()
    body = json.dumps({"topic": topic, "payload": "noise", "background": True}).encode()
    for number in range(50):
        for _ in range(20):
            busy.submit(b"fanout", body, background=True)
        cluster.subscribe(topic, "alice")
        assert cluster.publish(topic, f"in {number}").data == b"2"
        raw.ask("unsubscribe_fanout", topic=topic, client_id="alice")
        assert cluster.publish(topic, f"out {number}").data == b"1"
    got = raw.taker(f"{topic}_alice").finish(waiting(cluster, f"{topic}_alice"))
    assert [payload for payload in got if payload != b"noise"] == [
        b"in %d" % number for number in range(50)
    ]


def test_it_follows_whichever_member_handles_the_message(
    make_cluster: Callable[..., Cluster], topic: str
) -> None:
    cluster = make_cluster(workers=3)
    with Raw(cluster.address) as raw:
        alice = raw.taker(f"{topic}_alice")
        for number in range(20):
            cluster.subscribe(topic, "alice")
            together = [raw.fanout(topic, "in", background=True) for _ in range(9)]
            assert [pending.outcome().data for pending in together] == [b"1"] * 9, number
            assert raw.ask("unsubscribe_fanout", topic=topic, client_id="alice").kind == "complete"
            together = [raw.fanout(topic, "out", background=True) for _ in range(9)]
            assert [pending.outcome().data for pending in together] == [b"0"] * 9, number
        assert alice.finish(180) == [b"in"] * 180
        assert alice.grab_now() is None


def test_many_changes_at_once_are_each_made(cluster: Cluster, raw: Raw, topic: str) -> None:
    clients = [f"c{number}" for number in range(300)]
    for function, left in (("subscribe_fanout", b"300"), ("unsubscribe_fanout", b"0")):
        asked = [raw.start(function, topic=topic, client_id=client) for client in clients]
        replies = [json.loads(pending.outcome().data) for pending in asked]
        assert len({reply["version"] for reply in replies}) == 300
        assert cluster.publish(topic, "x").data == left


# The envelope


def test_an_envelope_says_what_the_receiver_cannot_see(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice", envelope=True)
    cluster.subscribe(topic, "bob")
    began = time.time()
    assert cluster.publish(topic, "grüße\0", unique="one").data == b"2"
    job = raw.taker(f"{topic}_alice").take()
    envelope = json.loads(job.payload)
    assert began - 1 <= envelope.pop("at") <= time.time() + 1
    assert envelope == {"topic": topic, "unique": "one", "payload": "grüße\0"}
    assert raw.taker(f"{topic}_bob").finish() == ["grüße\0".encode()]


@pytest.mark.parametrize(
    ("given", "told"),
    [(b'""', ""), (b'"\\u00e9"', "é"), (b'{"a":  [1, 2.0 ]}', '{"a":  [1, 2.0 ]}')],
)
def test_an_envelope_holds_what_the_copy_would(
    cluster: Cluster, raw: Raw, topic: str, given: bytes, told: str
) -> None:
    cluster.subscribe(topic, "alice", envelope=True)
    body = b'{"topic": "%s", "payload": %s, "background": true}' % (topic.encode(), given)
    assert raw.ask("fanout", body).data == b"1"
    envelope = json.loads(raw.taker(f"{topic}_alice").take().payload)
    assert envelope.keys() == {"topic", "at", "payload"}
    assert envelope["payload"] == told


def test_what_is_not_text_is_enveloped_as_base64(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice", envelope=True)
    data = bytes(range(256))
    coded = base64.b64encode(data).decode()
    assert cluster.publish(topic, coded, encoding="base64", unique="ü").data == b"1"
    envelope = json.loads(raw.taker(f"{topic}_alice").take().payload)
    assert envelope.keys() == {"topic", "at", "unique", "payload_base64"}
    assert (envelope["unique"], envelope["payload_base64"]) == ("ü", coded)


def test_foreground_copies_are_enveloped_too(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice", envelope=True)
    pending = raw.fanout(topic, "x", unique="mine", receipt=True)
    alice = raw.taker(f"{topic}_alice")
    [copy] = alice.finish(1, b"thanks")
    envelope = json.loads(copy)
    assert envelope.keys() == {"topic", "at", "unique", "payload"}
    assert envelope["unique"] == "mine"  # as published, without the member's prefix
    assert json.loads(pending.outcome().data)["results"] == {"alice": "thanks"}


# Options of a subscription that is made again


def test_an_option_that_is_not_given_again_is_kept(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice", envelope=True, max_backlog=2)
    cluster.subscribe(topic, "alice")
    cluster.subscribe(topic, "alice", overflow="drop_new")
    assert [cluster.publish(topic, "x").data for _ in range(3)] == [b"1", b"1", b"0"]
    copies = raw.taker(f"{topic}_alice").finish(2)
    assert [json.loads(copy)["payload"] for copy in copies] == ["x", "x"]


def test_an_option_that_is_given_again_is_replaced(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice", envelope=True, max_backlog=2)
    cluster.subscribe(topic, "alice", envelope=False)
    assert [cluster.publish(topic, "x").data for _ in range(3)] == [b"1", b"1", b"0"]
    alice = raw.taker(f"{topic}_alice")
    assert alice.finish(2) == [b"x", b"x"]
    cluster.subscribe(topic, "alice", envelope=True)
    assert cluster.publish(topic, "y").data == b"1"
    assert json.loads(alice.take().payload)["payload"] == "y"


def test_a_refused_subscribe_changes_no_option(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice")
    request = {"topic": topic, "client_id": "alice", "envelope": True}
    assert refusal(raw.ask("subscribe_fanout", **request, max_backlog=0)).startswith("bad_")
    assert refusal(raw.ask("subscribe_fanout", **request, ttl=0)).startswith("bad_")
    assert cluster.publish(topic, "x").data == b"1"
    assert raw.taker(f"{topic}_alice").finish() == [b"x"]


def test_a_subscription_that_ended_leaves_no_options(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice", envelope=True)
    raw.ask("unsubscribe_fanout", topic=topic, client_id="alice")
    cluster.subscribe(topic, "alice")
    assert cluster.publish(topic, "x").data == b"1"
    assert raw.taker(f"{topic}_alice").finish() == [b"x"]
