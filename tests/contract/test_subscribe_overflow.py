"""What happens where a queue is full, on both pairs of servers (``overflow``)."""

from __future__ import annotations

import json

import pytest
from support.bulk import Pipeline, fanout_body
from support.cluster import Cluster, eventually
from support.foreign import Raw, receipt

pytest_plugins = ["support.foreign"]


def drops(raw: Raw, topic: str, client: str) -> int:
    """How many copies a subscription has lost, as the store counts."""
    told = json.loads(raw.ask("describe_fanout", topic=topic).data)
    return int(told["topics"][topic]["subscriptions"][client]["drops"])


def test_the_oldest_copies_go_where_that_was_asked_for(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice")
    cluster.subscribe(topic, "newest", max_backlog=5, overflow="drop_old")
    for number in range(12):
        assert cluster.publish(topic, str(number)).data == b"2"
    assert raw.taker(f"{topic}_newest").finish(5) == [b"7", b"8", b"9", b"10", b"11"]
    assert len(raw.taker(f"{topic}_alice").finish(12)) == 12
    eventually(lambda: drops(raw, topic, "newest") == 7)


def test_a_flood_leaves_the_newest_in_order(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "newest", max_backlog=10, overflow="drop_old")
    pipeline = Pipeline(cluster.address, window=100)
    for number in range(1000):
        pipeline.submit("fanout", fanout_body(topic, str(number)))
    assert set(pipeline.finish()) == {("complete", b"1")}
    pipeline.close()
    expected = [str(number).encode() for number in range(990, 1000)]
    assert raw.taker(f"{topic}_newest").finish(10) == expected


def test_a_receiver_that_reads_meanwhile_sees_no_copy_out_of_order(
    cluster: Cluster, topic: str
) -> None:
    cluster.subscribe(topic, "newest", max_backlog=3, overflow="drop_old")
    receiver = cluster.receiver(f"{topic}_newest")
    pipeline = Pipeline(cluster.address, window=50)
    for number in range(2000):
        pipeline.submit("fanout", fanout_body(topic, str(number)))
    pipeline.finish()
    pipeline.close()
    eventually(lambda: receiver.payloads and receiver.payloads[-1] == b"1999")
    numbers = [int(payload) for payload in receiver.payloads]
    assert numbers == sorted(numbers)
    receiver.close()


def test_a_foreground_copy_makes_room_too(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "newest", max_backlog=2, overflow="drop_old")
    for number in range(2):
        cluster.publish(topic, str(number))
    request = {"topic": topic, "payload": "2", "receipt": True, "timeout": 1}
    receipt = json.loads(raw.ask("fanout", **request).data)
    assert (receipt["copies"], receipt["dropped"], receipt["pending"]) == (1, [], ["newest"])
    cluster.publish(topic, "3")
    eventually(lambda: drops(raw, topic, "newest") >= 1)
    assert raw.taker(f"{topic}_newest").finish(1)


def test_where_everything_is_running_the_new_copy_is_dropped(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "newest", max_backlog=1, overflow="drop_old")
    assert cluster.publish(topic, "0").data == b"1"
    taken = []
    receiver = cluster.receiver(f"{topic}_newest", behave=lambda wire, job: taken.append(job))
    receiver.wait(1)
    receipt = json.loads(cluster.publish(topic, "1", receipt=True).data)
    assert (receipt["copies"], receipt["dropped"]) == (0, ["newest"])
    receiver.close()


@pytest.mark.parametrize("with_receipt", [True, False])
def test_a_foreground_copy_that_is_discarded_to_make_room_is_told_as_dropped(
    cluster: Cluster, raw: Raw, topic: str, with_receipt: bool
) -> None:
    cluster.subscribe(topic, "old", max_backlog=1, overflow="drop_old")
    cluster.subscribe(topic, "good")
    pending = raw.fanout(topic, "first", receipt=with_receipt)
    raw.taker(f"{topic}_good").finish()
    assert cluster.publish(topic, "second", exclude=["good"]).data == b"1"
    outcome = pending.outcome()
    if with_receipt:
        told = receipt(outcome)
        assert (told["copies"], told["delivered"]) == (1, ["good"])
        assert (told["dropped"], told["failed"], told["pending"]) == (["old"], {}, [])
    else:
        assert outcome.kind == "fail"
        assert json.loads(outcome.warnings[-1]) == [["old", "queue full"]]
    assert raw.taker(f"{topic}_old").finish() == [b"second"]


@pytest.mark.parametrize("limit", [2, 200])
def test_no_copy_lands_on_a_queue_that_was_drained(
    cluster: Cluster, raw: Raw, topic: str, limit: int
) -> None:
    for _ in range(3):
        cluster.subscribe(topic, "newest", max_backlog=limit, overflow="drop_old")
        wire = raw.wire()
        body = fanout_body(topic, "x")
        for _ in range(limit + 600):
            wire.submit(b"fanout", body, background=True)
        request = {"topic": topic, "client_id": "newest", "drain": True}
        outcome = raw.start("unsubscribe_fanout", **request).outcome(30)
        assert outcome.kind == "complete"
        assert cluster.publish(topic, "after those").data == b"0"
        assert raw.taker(f"{topic}_newest").grab_now() is None
