"""What docs/protocol.rst promises of unsubscribing with drain, on both pairs of servers."""

from __future__ import annotations

import json

from support.cluster import Cluster
from support.foreign import Pending, Raw

pytest_plugins = ["support.foreign"]

DRAIN_S = 5.0  # longer than any drain here may take


def leave(raw: Raw, topic: str, client: str = "alice", **options: object) -> dict[str, int]:
    """Unsubscribe; the reply."""
    request = {"topic": topic, "client_id": client, **options}
    outcome = raw.start("unsubscribe_fanout", **request).outcome(DRAIN_S)
    assert outcome.kind == "complete", outcome
    reply: dict[str, int] = json.loads(outcome.data)
    return reply


def test_a_drain_discards_what_waits_and_counts_it(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice", "bob")
    for number in range(20):
        priority = ("low", "normal", "high")[number % 3]
        assert cluster.publish(topic, str(number), priority=priority).data == b"2"
    reply = leave(raw, topic, drain=True)
    assert reply.keys() == {"version", "drained"}
    assert reply["drained"] == 20
    assert raw.taker(f"{topic}_alice").grab_now() is None
    assert len(raw.taker(f"{topic}_bob").finish(20)) == 20


def test_a_drain_of_an_empty_queue_counts_nothing(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice")
    assert leave(raw, topic, drain=True)["drained"] == 0


def test_without_drain_what_waits_stays(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice")
    assert cluster.publish(topic, "kept").data == b"1"
    assert "drained" not in leave(raw, topic)
    assert "drained" not in leave(raw, topic, drain=False)
    assert raw.taker(f"{topic}_alice").finish() == [b"kept"]


def test_what_a_pair_that_is_gone_has_left_on_its_queue_is_drained(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice")
    assert cluster.publish(topic, "left").data == b"1"
    leave(raw, topic)
    assert leave(raw, topic, drain=True)["drained"] == 1
    assert raw.taker(f"{topic}_alice").grab_now() is None


def test_what_a_pair_that_is_gone_has_left_is_not_drained_once_another_owns_the_queue(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "b_c")
    assert cluster.publish(topic, "kept").data == b"1"
    leave(raw, topic, "b_c")
    cluster.subscribe(f"{topic}_b", "c")
    assert "drained" not in leave(raw, topic, "b_c", drain=True)
    assert raw.taker(f"{topic}_b_c").finish() == [b"kept"]


def test_of_many_drains_at_once_one_removes_and_counts(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice")
    for number in range(30):
        cluster.publish(topic, str(number))
    request = {"topic": topic, "client_id": "alice", "drain": True}
    asked = [raw.start("unsubscribe_fanout", **request) for _ in range(10)]
    replies = [json.loads(pending.outcome(DRAIN_S).data) for pending in asked]
    assert sorted(reply.get("drained", 0) for reply in replies) == [0] * 9 + [30]
    assert raw.taker(f"{topic}_alice").grab_now() is None


def test_a_drained_foreground_fanout_fails(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice", "bob")
    pending = raw.fanout(topic, "x")
    raw.taker(f"{topic}_bob").finish()
    assert leave(raw, topic, drain=True)["drained"] == 1
    outcome = pending.outcome(5)
    assert outcome.kind == "fail"
    assert [client for client, _ in json.loads(outcome.warnings[-1])] == ["alice"]


def test_a_drained_foreground_job_of_somebody_else_fails(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice")
    wire = raw.wire()
    job = Pending(wire, wire.submit(f"{topic}_alice".encode(), b"not gearhorn's"))
    assert leave(raw, topic, drain=True)["drained"] == 1
    assert job.outcome(5).kind == "fail"


def test_what_a_receiver_has_taken_is_not_drained(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice")
    pending = raw.fanout(topic, "in hand")
    alice = raw.taker(f"{topic}_alice")
    job = alice.take()
    assert cluster.publish(topic, "waits").data == b"1"
    assert leave(raw, topic, drain=True)["drained"] == 1
    alice.complete(job.handle)
    assert pending.outcome().data == b"1"


def test_fanouts_submitted_before_are_sent_and_then_drained(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    body = json.dumps({"topic": topic, "payload": "x" * 1000, "background": True}).encode()
    caller = raw.wire()
    for _ in range(10):
        cluster.subscribe(topic, "alice")
        for _ in range(50):
            caller.submit(b"fanout", body, background=True)
        assert cluster.publish(topic, "last").data == b"1"  # they are taken in this order
        assert leave(raw, topic, drain=True)["drained"] == 51
    assert raw.taker(f"{topic}_alice").grab_now() is None


def test_a_subscription_waits_for_the_drain_of_its_queue(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(f"{topic}_b", "c")
    alice = None
    for number in range(10):
        pairs = [(f"{topic}_b", "c"), (topic, "b_c")]
        old, new = pairs[number % 2], pairs[(number + 1) % 2]
        for count in range(20):
            assert cluster.publish(old[0], str(count)).data == b"1"
        leaving = raw.start("unsubscribe_fanout", topic=old[0], client_id=old[1], drain=True)
        coming = raw.start("subscribe_fanout", topic=new[0], client_id=new[1])
        assert json.loads(leaving.outcome(DRAIN_S).data)["drained"] == 20
        assert coming.outcome().kind == "complete"
        assert cluster.publish(new[0], "first").data == b"1"
        alice = raw.taker(f"{topic}_b_c")
        assert alice.finish() == [b"first"]
        assert alice.grab_now() is None
        alice.close()
