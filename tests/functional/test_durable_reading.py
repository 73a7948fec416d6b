"""How much of the store and of the event loop delivering takes: what lanes read, and how often
(docs/design.rst, "What is bounded, and by what")."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import redis
from support.bulk import Pipeline, fanout_body
from support.cluster import Cluster, eventually
from support.lanes import Users, lane, subscribe
from support.wire import admin

pytest_plugins = ["support.lanes"]

MakeCluster = Callable[..., Cluster]


def calls_of(store: Any, command: str) -> int:
    """How often the store has carried out a command, in scripts too."""
    return int(store.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0))


def longest_ms(store: Any) -> float:
    """How long the slowest command took since the last reset."""
    return float(max((one["duration"] for one in store.slowlog_get(128)), default=0)) / 1000


def fill(cluster: Cluster, topic: str, count: int, **options: Any) -> None:
    """Publish empty messages."""
    pipeline = Pipeline(cluster.address)
    body = fanout_body(topic, "", **options)
    for _ in range(count):
        pipeline.submit("fanout", body)
    assert {kind for kind, _ in pipeline.finish()} == {"complete"}
    pipeline.close()


def test_a_run_of_messages_that_exclude_the_receiver_is_passed_by_what_is_read_once(
    make_cluster: MakeCluster, users: Users
) -> None:
    cluster = make_cluster()
    assert cluster.run("retain_fanout", topic="t", max_age=1000).kind == "complete"
    fill(cluster, "t", 3000, exclude=["alice"])
    fill(cluster, "t", 1)
    host = users.host(cluster, "t_alice")
    with redis.Redis.from_url(cluster.store.url) as store:
        before = calls_of(store, "xrange")
        subscribe(cluster, "t", "alice", start="all")
        [one] = host.wait(1)
        assert one.sequence == 3001
        assert calls_of(store, "xrange") - before < 500


def test_a_lane_with_room_for_a_million_messages_holds_the_store_for_moments_only(
    make_cluster: MakeCluster, users: Users
) -> None:
    """Empty messages: nothing bounds them but their number."""
    cluster = make_cluster()
    assert cluster.run("retain_fanout", topic="t", max_age=1000).kind == "complete"
    count = 20_000
    fill(cluster, "t", count)
    host = users.host(cluster, "t_alice")
    with redis.Redis.from_url(cluster.store.url) as store:
        store.config_set("slowlog-log-slower-than", 10_000)
        store.slowlog_reset()
        subscribe(cluster, "t", "alice", start="all", batch=10_000, in_flight=100)
        eventually(lambda: lane(cluster, "t", "alice")["position"] == count, 30.0)
        assert longest_ms(store) < 100  # it is 5 on a machine that has nothing else to do
    sequences = [message["sequence"] for one in host.came for message in json.loads(one.payload)]
    assert sorted(sequences) == list(range(1, count + 1))
    assert max(len(json.loads(one.payload)) for one in host.came) <= 1000


def test_thousands_of_fetches_wait_for_one_message_in_little_memory(
    make_cluster: MakeCluster,
) -> None:
    count, padding = 3000, 30_000
    cluster = make_cluster(workers=1)
    [worker] = cluster.workers
    assert cluster.run("retain_fanout", topic="t", max_age=1000).kind == "complete"
    pipeline = Pipeline(cluster.address, window=count)
    body = json.dumps({"topic": "t", "after": 0, "wait": 120}).encode() + b" " * padding
    pipeline.submit("fetch_fanout", body)
    pipeline.settle()
    before = worker.peak_bytes()
    for number in range(1, count):
        pipeline.submit("fetch_fanout", body)
        if not number % 100:
            pipeline.settle(0.05)
    running = f"fetch_fanout\t{count}\t{count}\t"
    eventually(lambda: any(one.startswith(running) for one in admin(cluster.address, "status")), 60)
    assert worker.peak_bytes() - before < count * padding / 2
    cluster.publish("t", "x")
    answers = pipeline.finish(60)
    assert {kind for kind, _ in answers} == {"complete"}
    assert all(len(json.loads(body)["messages"]) == 1 for _, body in answers)
    pipeline.close()
