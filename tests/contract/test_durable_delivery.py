"""What docs/protocol.rst promises of deliveries that succeed, on both pairs of servers."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from support.cluster import Cluster, eventually
from support.durable import (
    fail,
    for_a_while,
    id_of,
    lane,
    log_of,
    on_queue,
    position,
    publish,
    reaches,
    subscribe,
)
from support.foreign import Raw, receipt

pytest_plugins = ["support.foreign"]

BINARY = b"\xff\0\x01 no text"


def test_a_delivery_is_the_payload_and_its_unique_id_names_the_message(
    raw: Raw, topic: str
) -> None:
    subscribe(raw, topic, "alice")
    body = b'{"topic": "%s", "payload": {"b": [1, 2.50], "a": "\\u00fc"}, "receipt": true'
    raised = [
        *publish(raw, topic, "grüße", "", "with\0NUL"),
        receipt(raw.ask("fanout", body % topic.encode() + b', "background": 1}')),
        *publish(raw, topic, base64.b64encode(BINARY).decode(), encoding="base64"),
    ]
    assert [one["sequence"] for one in raised] == [1, 2, 3, 4, 5]
    [epoch] = {one["epoch"] for one in raised}
    alice = raw.taker(f"{topic}_alice")
    jobs = []
    for _ in raised:
        jobs.append(alice.take())
        alice.complete(jobs[-1].handle)
    assert [job.payload for job in jobs] == [
        "grüße".encode(),
        b"",
        b"with\0NUL",
        b'{"b": [1, 2.50], "a": "\\u00fc"}',
        BINARY,
    ]
    ids = [id_of(job) for job in jobs]
    assert [(one.epoch8, one.sequence) for one in ids] == [(epoch[:8], n) for n in range(1, 6)]
    assert len({one.term for one in ids}) == 1
    numbers = [one.number for one in ids]
    assert numbers == sorted(set(numbers))
    reaches(raw, topic, "alice", 5)


def test_an_envelope_tells_what_a_receiver_cannot_see(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice", durable={"max_backoff": 0.1}, envelope=True)
    began = time.time()
    [first] = publish(raw, topic, "text", unique="u1")
    publish(raw, topic, base64.b64encode(BINARY).decode(), encoding="base64")
    alice = raw.taker(f"{topic}_alice")

    def envelope(payload: bytes) -> dict[str, Any]:
        found = json.loads(payload)
        assert abs(found.pop("at") - began) < 30
        return dict(found)

    expected = {"topic": topic, "sequence": 1, "epoch": first["epoch"], "payload": "text"}
    expected["unique"] = "u1"
    assert envelope(fail(alice, b"once more")[0].payload) == expected | {"attempt": 1}
    again = alice.take()
    assert envelope(again.payload) == expected | {"attempt": 2}
    alice.complete(again.handle)
    assert envelope(alice.finish()[0]) == {
        "topic": topic,
        "sequence": 2,
        "epoch": first["epoch"],
        "attempt": 1,
        "payload_base64": base64.b64encode(BINARY).decode(),
    }


def test_a_message_is_sent_when_the_one_before_it_is_acknowledged(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice")
    publish(raw, topic, "1", "2", "3")
    queue = f"{topic}_alice"
    alice, other = raw.taker(queue), raw.taker(queue)
    for number in (b"1", b"2", b"3"):
        job = alice.take()
        assert job.payload == number
        for_a_while(lambda: on_queue(raw, queue) == (1, 1))
        assert other.grab_now() is None
        alice.complete(job.handle)
    eventually(lambda: on_queue(raw, queue) == (0, 0))
    reaches(raw, topic, "alice", 3)


def test_in_flight_messages_are_sent_at_once_and_the_position_keeps_the_order(
    raw: Raw, topic: str
) -> None:
    subscribe(raw, topic, "alice", durable={"in_flight": 3})
    publish(raw, topic, "1", "2", "3", "4", "5")
    queue = f"{topic}_alice"
    alice = raw.taker(queue)
    first, second, third = (alice.take() for _ in range(3))
    assert [job.payload for job in (first, second, third)] == [b"1", b"2", b"3"]
    for_a_while(lambda: on_queue(raw, queue) == (3, 3))
    alice.complete(second.handle)
    fourth = alice.take()
    assert fourth.payload == b"4"
    assert position(raw, topic, "alice") == 0
    alice.complete(first.handle)
    assert alice.take().payload == b"5"
    reaches(raw, topic, "alice", 2)
    assert lane(raw, topic, "alice")["lag"] == 3
    alice.complete(third.handle)
    alice.complete(fourth.handle)
    reaches(raw, topic, "alice", 4)


def test_direct_and_durable_subscribers_are_counted_and_served_side_by_side(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "direct")
    assert publish(raw, topic, "before")[0].keys().isdisjoint({"sequence", "epoch"})
    subscribe(raw, topic, "alice", "bob")
    assert cluster.publish(topic, "1").data == b"3"
    assert cluster.publish(topic, "2", exclude=["alice", "nobody"]).data == b"2"
    assert cluster.publish(topic, "3", exclude=["direct", "bob"]).data == b"1"
    assert cluster.publish(topic, "4", exclude=["direct", "alice", "bob"]).data == b"0"
    assert raw.taker(f"{topic}_direct").finish(3) == [b"before", b"1", b"2"]
    assert raw.taker(f"{topic}_alice").finish(2) == [b"1", b"3"]
    assert raw.taker(f"{topic}_bob").finish(2) == [b"1", b"2"]
    assert log_of(raw, topic)["last"] == 4
    for client in ("alice", "bob"):  # what they are excluded from is done with
        reaches(raw, topic, client, 4)
        assert on_queue(raw, f"{topic}_{client}") == (0, 0)
