"""What is promised of order: each queue gets the messages as they were taken, on both."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from support.cluster import Cluster
from support.foreign import Raw
from support.wire import ERROR, JOB_CREATED, SUBMIT_JOB, SUBMIT_JOB_BG, Wire, packet

pytest_plugins = ["support.foreign"]

WINDOW = 200  # submits on their way at once


def pipeline(wire: Wire, bodies: Iterator[bytes], background: bool) -> list[bytes]:
    """Submit fan-outs without waiting for answers; return the handles in order."""
    kind = SUBMIT_JOB_BG if background else SUBMIT_JOB
    handles: list[bytes] = []
    sent = 0
    for body in bodies:
        wire.send_raw(packet(kind, b"fanout", b"", body))
        sent += 1
        while sent - len(handles) >= WINDOW:
            handles += created(wire)
    while len(handles) < sent:
        handles += created(wire)
    return handles


def created(wire: Wire) -> list[bytes]:
    """The handle of the next packet, if it is a JOB_CREATED."""
    kind, body = wire.recv()
    assert kind != ERROR, body
    return [body] if kind == JOB_CREATED else []


def message(topic: str, number: int, **options: object) -> bytes:
    """A fan-out in the background whose payload is a number."""
    return json.dumps({"topic": topic, "payload": number, "background": True, **options}).encode()


def numbers(payloads: list[bytes]) -> list[int]:
    """What plain and enveloped copies of `message` say."""
    decoded = [json.loads(payload) for payload in payloads]
    return [int(one["payload"]) if isinstance(one, dict) else one for one in decoded]


@pytest.mark.parametrize("background", [True, False])
def test_each_queue_gets_thousands_of_pipelined_messages_in_order(
    cluster: Cluster, raw: Raw, topic: str, background: bool
) -> None:
    count = 3_000
    cluster.subscribe(topic, "alice", "bob")
    cluster.subscribe(topic, "carol", envelope=True)
    pipeline(raw.wire(), (message(topic, number) for number in range(count)), background)
    for client in ("alice", "bob", "carol"):
        receiver = cluster.receiver(f"{topic}_{client}")
        assert numbers(receiver.wait(count, 20)) == [*range(count)]
        receiver.close()


def test_the_order_holds_while_the_list_changes(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice")
    caller = raw.wire()
    total = 0
    for turn in range(10):
        pipeline(caller, (message(topic, total + number) for number in range(100)), True)
        total += 100
        # lists are read anew, some with a limit to be set first
        options = {"max_backlog": 5_000 + turn} if turn % 3 == 0 else {}
        cluster.subscribe(topic, f"c{turn}", **options)
    assert cluster.publish(topic, total).data == b"11"
    assert numbers(raw.taker(f"{topic}_alice").finish(total + 1)) == [*range(total + 1)]
    for turn in range(10):
        late = raw.taker(f"{topic}_c{turn}")
        got = numbers(late.finish())
        while got[-1] != total:
            got += numbers(late.finish())
        assert got == [*range(got[0], total + 1)]


def test_the_order_holds_across_topics_that_must_be_read_first(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    names = [f"{topic}-{number}" for number in range(30)]
    for name in names:
        cluster.subscribe(name, "alice")
    pipeline(
        raw.wire(),
        (message(name, number) for number in range(20) for name in names),
        True,
    )
    for name in names:
        assert numbers(raw.taker(f"{name}_alice").finish(20)) == [*range(20)]


def test_each_of_many_callers_messages_stay_in_order(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice")
    callers = [raw.wire() for _ in range(10)]
    for number in range(100):
        for at, caller in enumerate(callers):
            body = {"topic": topic, "payload": [at, number], "background": True}
            caller.submit(b"fanout", json.dumps(body).encode(), background=True)
    copies = [json.loads(copy) for copy in raw.taker(f"{topic}_alice").finish(1_000)]
    for at in range(10):
        assert [number for caller, number in copies if caller == at] == [*range(100)]


def test_replies_of_pipelined_fanouts_are_each_their_own(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    sizes = [1, 3, 0, 5, 2]
    for at, size in enumerate(sizes):
        cluster.subscribe(f"{topic}-{at}", *(f"c{number}" for number in range(size)))
    batch = raw.batch(
        {"topic": f"{topic}-{number % 5}", "payload": number, "background": True}
        for number in range(500)
    )
    replies = [outcome.data for outcome in batch.outcomes()]
    assert replies == [b"%d" % sizes[number % 5] for number in range(500)]
