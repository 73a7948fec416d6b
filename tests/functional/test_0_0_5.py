"""Requests as gearhorn 0.0.5's client and subscriber classes send them work, byte for byte."""

# What each sends was read in the release on PyPI, gearhorn-0.0.5/gearhorn/client.py
# (GearhornClient) and subscriber.py (GearhornSubscriber), and is spelt out here: which connection
# submits what, in the foreground or background, and JSON as `json.dumps` writes it (`", "`, `": "`,
# non-ASCII escaped).

from __future__ import annotations

import json

import pytest
from support.cluster import Cluster, eventually
from support.foreign import Raw, Taker
from support.wire import JOB_CREATED, Wire

pytest_plugins = ["support.foreign"]


@pytest.fixture
def cluster(gearmand_cluster: Cluster) -> Cluster:
    """gearmand and Redis."""
    return gearmand_cluster


class OldSubscriber:
    """The bytes of GearhornSubscriber: a gear.Worker and a gear.Client, each its connection.

    subscribe() registers the function first, then submits in the foreground and returns as soon
    as the job is created; unsubscribe() the other way round.
    """

    def __init__(self, raw: Raw, client_id: str) -> None:
        self.client_id = client_id
        self.worker: Taker = raw.taker()
        self.client: Wire = raw.wire()

    def subscribe(self, topic: str) -> bytes:
        """Return the handle, which 0.0.5 forgets."""
        self.worker.can_do(f"{topic}_{self.client_id}".encode())
        return self.client.submit(b"subscribe_fanout", self._pair(topic))

    def unsubscribe(self, topic: str) -> bytes:
        """Return the handle, which 0.0.5 forgets."""
        return self.client.submit(b"unsubscribe_fanout", self._pair(topic))

    def _pair(self, topic: str) -> bytes:
        return b'{"client_id": "%s", "topic": "%s"}' % (self.client_id.encode(), topic.encode())


def fanout(raw: Raw, topic: str, payload: bytes, background: bool) -> tuple[Wire, bytes]:
    """The bytes of GearhornClient.submitJob: `payload` is JSON. In the background the fanout job
    itself is a background job too."""
    wire = raw.wire()
    if background:
        body = b'{"topic": "%s", "payload": %s, "background": true}' % (topic.encode(), payload)
    else:
        body = b'{"topic": "%s", "payload": %s}' % (topic.encode(), payload)
    return wire, wire.submit(b"fanout", body, background=background)


def subscribed(cluster: Cluster, topic: str, count: int) -> None:
    """Wait until so many are subscribed: 0.0.5 does not wait itself."""
    probe = {"topic": topic, "payload": "", "background": True}
    reply = b"%d" % count
    eventually(lambda: cluster.run("fanout", **probe).data == reply)


PAYLOADS = {
    b'"in payload"': b"in payload",  # of 0.0.5's own test
    b'"please go home early today."': b"please go home early today.",  # of its README
    b'"gr\\u00fc\\u00dfe \\ud83d\\ude00"': "grüße 😀".encode(),
    b'"a \\"quoted\\"\\n line"': b'a "quoted"\n line',
    b'""': b"",
}


@pytest.mark.parametrize("payload", list(PAYLOADS))
def test_a_foreground_fanout_of_0_0_5_waits_for_its_receivers_and_counts_them(
    raw: Raw, topic: str, payload: bytes
) -> None:
    subscribers = [OldSubscriber(raw, name) for name in ("bob", "alice", "test_receiver")]
    for one in subscribers:
        one.client.outcome(one.subscribe(topic))
    caller, handle = fanout(raw, topic, payload, background=False)
    for one in subscribers:
        job = one.worker.take()
        assert job.function.decode() == f"{topic}_{one.client_id}"
        assert job.payload == PAYLOADS[payload]
        one.worker.complete(job.handle)
    outcome = caller.outcome(handle)
    assert (outcome.kind, outcome.data) == ("complete", b"3")


@pytest.mark.parametrize("payload", list(PAYLOADS))
def test_a_background_fanout_of_0_0_5_reaches_every_receiver(
    raw: Raw, topic: str, payload: bytes
) -> None:
    subscribers = [OldSubscriber(raw, name) for name in ("bob", "alice")]
    for one in subscribers:
        one.client.outcome(one.subscribe(topic))
    caller, handle = fanout(raw, topic, payload, background=True)
    for one in subscribers:
        assert one.worker.finish() == [PAYLOADS[payload]]
    eventually(lambda: caller.status(handle) == (False, False))  # and the fanout job is done


def test_a_subscriber_of_0_0_5_does_not_wait_and_is_subscribed_soon(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    subscriber = OldSubscriber(raw, "bob")
    subscriber.subscribe(topic)
    subscribed(cluster, topic, 1)
    fanout(raw, topic, b'"after"', background=True)
    while subscriber.worker.finish() != [b"after"]:
        pass


def test_a_reply_of_this_release_is_one_that_0_0_5_passes_over(raw: Raw, topic: str) -> None:
    # 0.0.5 replied with nothing; its subscriber reads no reply, and takes any WORK_COMPLETE
    subscriber = OldSubscriber(raw, "bob")
    for submit in (subscriber.subscribe, subscriber.unsubscribe):
        outcome = subscriber.client.outcome(submit(topic))
        assert (outcome.kind, outcome.warnings, outcome.statuses) == ("complete", [], [])
        assert type(json.loads(outcome.data)) is dict


def test_an_unsubscribed_one_of_0_0_5_gets_nothing_more(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    bob, alice = OldSubscriber(raw, "bob"), OldSubscriber(raw, "alice")
    for one in (bob, alice):
        one.client.outcome(one.subscribe(topic))
    bob.client.outcome(bob.unsubscribe(topic))
    assert cluster.publish(topic, "x").data == b"1"
    assert alice.worker.finish() == [b"x"]
    assert bob.worker.grab_now() is None


def test_many_subscriptions_of_one_0_0_5_subscriber_share_its_connection(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    bob = OldSubscriber(raw, "bob")
    names = [f"{topic}-{number}" for number in range(20)]
    for name in names:
        bob.subscribe(name)  # none is waited for
    for name in names:
        subscribed(cluster, name, 1)
    got = {bob.worker.take().function.decode() for _ in names}
    assert got == {f"{name}_bob" for name in names}


def test_a_fanout_of_0_0_5_to_nobody_is_a_success(raw: Raw, topic: str) -> None:
    caller, handle = fanout(raw, topic, b'"x"', background=False)
    outcome = caller.outcome(handle)
    assert (outcome.kind, outcome.data) == ("complete", b"0")


def test_a_failing_receiver_fails_the_fanout_of_0_0_5(raw: Raw, topic: str) -> None:
    bob = OldSubscriber(raw, "bob")
    bob.client.outcome(bob.subscribe(topic))
    caller, handle = fanout(raw, topic, b'"x"', background=False)
    bob.worker.exception(bob.worker.take().handle, b"disk full")
    outcome = caller.outcome(handle)
    assert outcome.kind == "fail"
    assert json.loads(outcome.warnings[-1]) == [["bob", "disk full"]]


def test_whole_packets_of_0_0_5_work_as_they_were_sent(raw: Raw) -> None:
    """Recorded from gear 0.16.0 under those classes, for the example of 0.0.5's README."""
    worker, subscriber, publisher = raw.taker(), raw.wire(), raw.wire()
    worker.send_raw(b"\0REQ\0\0\0\x01\0\0\0\x0fofficememos_bob")
    pair = b'{"client_id": "bob", "topic": "officememos"}'
    subscriber.send_raw(b"\0REQ\0\0\0\x07\0\0\0\x3esubscribe_fanout\0\0" + pair)
    outcome = subscriber.outcome(subscriber.expect(JOB_CREATED))
    assert outcome.kind == "complete"

    memo = b'{"topic": "officememos", "payload": "please go home early today."'
    publisher.send_raw(b"\0REQ\0\0\0\x07\0\0\0\x4afanout\0\0" + memo + b"}")
    handle = publisher.expect(JOB_CREATED)
    assert worker.finish() == [b"please go home early today."]
    outcome = publisher.outcome(handle)
    assert (outcome.kind, outcome.data) == ("complete", b"1")

    background = memo + b', "background": true}'
    publisher.send_raw(b"\0REQ\0\0\0\x12\0\0\0\x5efanout\0\0" + background)
    publisher.expect(JOB_CREATED)
    assert worker.finish() == [b"please go home early today."]

    subscriber.send_raw(b"\0REQ\0\0\0\x07\0\0\0\x40unsubscribe_fanout\0\0" + pair)
    assert subscriber.outcome(subscriber.expect(JOB_CREATED)).kind == "complete"
    publisher.send_raw(b"\0REQ\0\0\0\x07\0\0\0\x4afanout\0\0" + memo + b"}")
    assert publisher.outcome(publisher.expect(JOB_CREATED)).data == b"0"


@pytest.mark.parametrize("background", [b"", b'"background": true, '])
def test_before_python_3_7_the_keys_came_in_any_order(
    raw: Raw, topic: str, background: bytes
) -> None:
    bob = raw.taker(f"{topic}_bob")
    body = b'{"topic": "%s", "client_id": "bob"}' % topic.encode()
    assert raw.ask("subscribe_fanout", body).kind == "complete"
    body = b'{"payload": "x", %s"topic": "%s"}' % (background, topic.encode())
    pending = raw.start("fanout", body)
    assert bob.finish() == [b"x"]
    assert pending.outcome().data == b"1"
