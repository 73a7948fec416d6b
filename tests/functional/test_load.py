"""Many requests side by side: nobody waits for somebody else, and the order holds."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

from support.bulk import Pipeline, fanout_body, run_all, subscribe_all
from support.cluster import Cluster

MakeCluster = Callable[..., Cluster]


def test_ten_thousand_bad_requests_harm_no_good_one(make_cluster: MakeCluster, topic: str) -> None:
    cluster = make_cluster()
    cluster.subscribe(topic, "alice")
    alice = cluster.receiver(f"{topic}_alice")
    bad = [
        ("fanout", b"\xff\xfe"),
        ("fanout", b"[" * 5000),
        ("fanout", b'{"topic": "' + b"x" * 300 + b'", "payload": 1}'),
        ("fanout", b'{"topic": "__matchmaking", "payload": 1}'),
        ("fanout", b'{"topic": 1, "payload": 1}'),
        ("subscribe_fanout", b'{"topic": "a b", "client_id": "c"}'),
        ("subscribe_fanout", b'{"topic": "subscribe", "client_id": "fanout"}'),
        ("subscribe_fanout", b""),
        ("unsubscribe_fanout", b'{"topic": "t"}'),
        ("unsubscribe_fanout", b"null"),
    ]
    requests = []
    for number in range(1000):
        requests += bad
        requests.append(("fanout", fanout_body(topic, f"{number}")))
    answers = run_all(cluster.address, requests)
    good = [answer for n, answer in enumerate(answers) if n % 11 == 10]
    assert good == [("complete", b"1")] * 1000
    others = [answer for n, answer in enumerate(answers) if n % 11 != 10]
    assert all(kind == "fail" and b": " in text for kind, text in others)
    assert alice.wait(1000) == [b"%d" % number for number in range(1000)]


def test_a_thousand_foreground_fanouts_wait_side_by_side(
    make_cluster: MakeCluster, topic: str
) -> None:
    cluster = make_cluster()
    cluster.subscribe(topic, "slow")
    body = fanout_body(topic, "x", background=False, timeout=60)
    pipeline = Pipeline(cluster.address, window=2000)
    for _ in range(1000):
        pipeline.submit("fanout", body)
    quick = cluster.run("fanout", topic="nobody", payload="x")
    assert quick.data == b"0", "the waiting ones stop the worker from taking other work"
    cluster.receiver(f"{topic}_slow")
    assert pipeline.finish() == [("complete", b"1")] * 1000
    pipeline.close()


def test_over_max_foreground_is_busy(make_cluster: MakeCluster, topic: str) -> None:
    cluster = make_cluster(options=("--max-foreground", "5"))
    cluster.subscribe(topic, "slow")
    body = fanout_body(topic, "x", background=False, timeout=1)
    answers = run_all(cluster.address, [("fanout", body)] * 8)
    assert sorted(text[:5] for _, text in answers) == [b'[["sl'] * 5 + [b"busy:"] * 3
    assert cluster.publish(topic, "still served").data == b"1"


def test_a_hanging_receiver_delays_only_its_own_fanout(
    make_cluster: MakeCluster, topic: str
) -> None:
    cluster = make_cluster()
    cluster.subscribe(topic, "alice", "bob", "hung")
    cluster.receiver(f"{topic}_alice", f"{topic}_bob")
    released = threading.Event()
    cluster.receiver(f"{topic}_hung", behave=lambda wire, job: released.wait(20))
    slow = Pipeline(cluster.address)
    began = time.monotonic()
    slow.submit("fanout", fanout_body(topic, "x", background=False, timeout=2))
    others = "others-" + topic
    cluster.subscribe(others, "quick")
    cluster.receiver(f"{others}_quick")
    for _ in range(50):
        assert cluster.publish(others, "y", background=False).data == b"1"
    assert not slow.answers, "fifty quick ones should be done first"
    [(kind, text)] = slow.finish()
    assert kind == "fail"
    assert json.loads(text) == [["hung", "no answer in 2 s"]]
    assert 1.9 < time.monotonic() - began < 4
    released.set()
    slow.close()


def test_order_per_queue_is_the_order_of_taking_also_where_lists_had_to_be_read(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    topics = [f"fresh-{number}" for number in range(40)]
    clients = [f"c{number}" for number in range(20)]
    for name in topics:
        subscribe_all(cluster.address, name, clients)
    receiver = cluster.receiver(*(f"{name}_{c}" for name in topics for c in clients))
    requests = [("fanout", fanout_body(name, f"{n}")) for n in range(25) for name in topics]
    answers = run_all(cluster.address, requests, window=500)
    assert answers == [("complete", b"20")] * len(requests)
    receiver.wait(len(requests) * 20, timeout=60)
    seen: dict[bytes, list[int]] = {}
    for job in receiver.jobs:
        seen.setdefault(job.function, []).append(int(job.payload))
    assert len(seen) == 800
    assert all(numbers == list(range(25)) for numbers in seen.values())


def test_large_payloads_and_large_lists_go_out_whole(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    subscribe_all(cluster.address, "wide", [f"c{number}" for number in range(3000)])
    receiver = cluster.receiver(*(f"wide_c{number}" for number in range(3000)))
    assert cluster.publish("wide", "x" * 1000).data == b"3000"
    assert cluster.publish("wide", "y" * 1000).data == b"3000"
    receiver.wait(6000, timeout=60)
    assert {job.function for job in receiver.jobs} == {b"wide_c%d" % n for n in range(3000)}
    cluster.subscribe("big", "a", "b", "c")
    big = cluster.receiver("big_a", "big_b", "big_c")
    payload = "z" * (8 * 1024 * 1024)
    assert cluster.publish("big", payload).data == b"3"
    assert all(one == payload.encode() for one in big.wait(3, timeout=30))
