"""What is promised of fan-outs of all kinds that are under way together, on both pairs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.cluster import Cluster
from support.foreign import Raw

pytest_plugins = ["support.foreign"]

CLIENTS = ["alice", "bob", "carol"]


def subscribe(cluster: Cluster, topic: str) -> list[str]:
    """Subscribe three clients, one of them with envelopes; their queues."""
    cluster.subscribe(topic, "alice", "bob")
    cluster.subscribe(topic, "carol", envelope=True)
    return [f"{topic}_{client}" for client in CLIENTS]


def number_of(copy: bytes) -> int:
    """The number that a plain or enveloped copy begins with."""
    decoded = json.loads(copy)
    return int(str(decoded["payload"] if isinstance(decoded, dict) else decoded).split()[0])


@pytest.mark.parametrize("pattern", ["bf", "fb", "bbf", "bff", "b" * 20 + "f" * 20])
def test_background_and_foreground_together_are_each_answered(
    cluster: Cluster, raw: Raw, topic: str, pattern: str
) -> None:
    queues = subscribe(cluster, topic)
    count = 120
    requests = [
        {"topic": topic, "payload": number, "background": pattern[number % len(pattern)] == "b"}
        for number in range(count)
    ]
    batch = raw.batch(requests)
    receivers = [cluster.receiver(queue) for queue in queues]
    for outcome in batch.outcomes():
        assert (outcome.kind, outcome.data) == ("complete", b"3")
    for receiver in receivers:
        assert [number_of(copy) for copy in receiver.wait(count)] == [*range(count)]
        receiver.close()


def test_a_timeout_withdraws_no_background_copy_that_went_with_it(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    queues = subscribe(cluster, topic)
    requests = [
        {"topic": topic, "payload": number, "background": not number % 2, "timeout": 0.5}
        for number in range(100)
    ]
    ended = raw.batch(requests).outcomes()
    assert [outcome.kind for outcome in ended] == ["complete", "fail"] * 50
    assert cluster.publish(topic, 100).data == b"3"
    for queue in queues:
        taker = raw.taker(queue)
        got = [number_of(copy) for copy in taker.finish()]
        while got[-1] != 100:
            got += [number_of(copy) for copy in taker.finish()]
        assert [number for number in got if not number % 2] == [*range(0, 101, 2)]


def test_large_and_small_of_every_kind_keep_one_order(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    queues = subscribe(cluster, topic)
    requests: list[dict[str, Any]] = []
    for number in range(60):
        # from below to far above the window of copies on their way
        size = (1, 100, 20_000, 300_000, 1_500_000)[number * 7 % 5]
        request: dict[str, object] = {"topic": topic, "payload": str(number).ljust(size)}
        request["background"] = bool(number * 3 % 7 % 2)
        if number % 4 == 1:
            request["exclude"] = ["nobody"]
        elif number % 4 == 2:
            request["receipt"] = True
        requests.append(request)
    receivers = [cluster.receiver(queue) for queue in queues]
    for request, outcome in zip(requests, raw.batch(requests).outcomes(), strict=True):
        assert outcome.kind == "complete"
        if request.get("receipt"):
            assert json.loads(outcome.data)["copies"] == 3
        else:
            assert outcome.data == b"3"
    for receiver in receivers:
        assert [number_of(copy) for copy in receiver.wait(60)] == [*range(60)]
        receiver.close()


def test_receipts_of_fanouts_side_by_side_do_not_mix(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    queues = subscribe(cluster, topic)
    receivers = [
        cluster.receiver(
            queue, behave=lambda wire, job: wire.complete(job.handle, job.function + job.payload)
        )
        for queue in queues[:2]
    ]
    requests = [
        {
            **{"topic": topic, "payload": str(number), "exclude": ["carol"]},
            **{"receipt": True, "background": number % 3 == 0},
        }
        for number in range(150)
    ]
    for number, outcome in enumerate(raw.batch(requests).outcomes()):
        results = {c: f"{topic}_{c}{number}" for c in ("alice", "bob")} if number % 3 else {}
        assert json.loads(outcome.data)["results"] == results
    for receiver in receivers:
        receiver.close()


def test_a_full_queue_among_them_confuses_nothing(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "bob")
    cluster.subscribe(topic, "dave", max_backlog=5)
    receiver = cluster.receiver(f"{topic}_bob", answer=b"thanks")
    requests = [
        {"topic": topic, "payload": number, "background": number % 2 == 1, "receipt": True}
        for number in range(60)
    ]
    for request in requests[:10:2]:  # dave takes nothing: these end at their timeout
        request["timeout"] = 1
    ended = raw.batch(requests).outcomes()
    for number, outcome in enumerate(ended):
        got = json.loads(outcome.data)
        assert got["dropped"] == (["dave"] if number >= 5 else [])
        assert got["copies"] == (1 if number >= 5 else 2)
        assert got["pending"] == (["dave"] if number < 5 and number % 2 == 0 else [])
        assert got["results"] == ({"bob": "thanks"} if number % 2 == 0 else {})
    assert [number_of(copy) for copy in receiver.wait(60)] == [*range(60)]
    receiver.close()
    assert raw.taker(f"{topic}_dave").finish(2) == [b"1", b"3"]
