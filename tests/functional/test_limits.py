"""Backlog limits across restarts and faults of workers and job servers."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable

import redis
from support.cluster import Cluster, Worker, eventually
from support.lossy import Lossy
from support.wire import admin


def accepted(cluster: Cluster, topic: str, count: int) -> int:
    """Publish so many messages; how many found room at their one subscription."""
    return sum(int(cluster.publish(topic, str(number)).data) for number in range(count))


def served(cluster: Cluster) -> bool:
    """Whether every function has a worker."""
    lines = [line.split("\t") for line in admin(cluster.address, "status")]
    workers = {name: int(workers) for name, *_, workers in lines}
    return bool(workers.get("fanout") and workers.get("subscribe_fanout"))


def restart(cluster: Cluster) -> None:
    """Restart the job server, and wait until the worker serves again."""
    cluster.job_servers[0].kill()
    cluster.job_servers[0].restart()
    eventually(lambda: served(cluster), 20)


def test_a_raised_default_replaces_what_former_workers_set(
    make_cluster: Callable[..., Cluster], topic: str
) -> None:
    cluster = make_cluster()
    first = cluster.workers[0]
    first.stop()
    cluster.add_worker("--max-backlog", "5").ready()
    cluster.subscribe(topic, "alice")
    assert accepted(cluster, topic, 10) == 5
    cluster.workers[1].stop()
    cluster.add_worker().ready()
    assert accepted(cluster, topic, 50) == 50
    told = cluster.run("describe_fanout", topic=topic).data
    assert b'"max_backlog":100000' in told


def test_a_lowered_default_replaces_what_former_workers_set(
    make_cluster: Callable[..., Cluster], topic: str
) -> None:
    cluster = make_cluster(options=("--max-backlog", "50"))
    cluster.subscribe(topic, "alice")
    assert accepted(cluster, topic, 2) == 2
    cluster.workers[0].stop()
    cluster.add_worker("--max-backlog", "5").ready()
    assert accepted(cluster, topic, 20) == 3


def test_a_limit_that_somebody_else_lowered_is_made_right(
    make_cluster: Callable[..., Cluster], topic: str
) -> None:
    cluster = make_cluster()
    cluster.subscribe(topic, "alice")
    assert accepted(cluster, topic, 3) == 3
    admin(cluster.address, f"maxqueue {topic}_alice 3")
    assert accepted(cluster, topic, 20) == 20


def test_after_a_restart_of_the_job_server_limits_hold_and_late_copies_are_withdrawn(
    make_cluster: Callable[..., Cluster], topic: str
) -> None:
    cluster = make_cluster()
    cluster.subscribe(topic, "alice", max_backlog=2)
    cluster.subscribe("slow", "bob")
    assert accepted(cluster, topic, 3) == 2
    assert cluster.publish("slow", "one", background=False, timeout=0.2).kind == "fail"
    restart(cluster)
    assert accepted(cluster, topic, 5) == 2
    restart(cluster)
    assert cluster.publish("slow", "two", background=False, timeout=0.2).kind == "fail"
    bob = cluster.receiver("slow_bob")
    assert cluster.publish("slow", "three", background=False).kind == "complete"
    assert bob.payloads == [b"three"]


def test_a_frozen_job_server_holds_fanouts_up_once_and_not_for_each_limit(
    make_cluster: Callable[..., Cluster], topic: str
) -> None:
    count = 5_000
    cluster = make_cluster(job_servers=2, options=("--max-backlog", "1000"))
    with redis.Redis.from_url(cluster.store.url) as store:
        clients = {f"c{at}": 0 for at in range(count)}
        store.zadd(f"{{gearhorn}}:clients:{topic}", clients)
        store.zadd("{gearhorn}:topics", {topic: 0})
    cluster.job_servers[1].freeze()
    began = time.monotonic()
    assert cluster.publish(topic, "x", timeout=60).data == b"%d" % count
    assert time.monotonic() - began < 30, "2 s, and until the link counts as down"


def test_members_agree_on_a_limit_that_goes_to_and_fro(
    make_cluster: Callable[..., Cluster], topic: str
) -> None:
    cluster = make_cluster(workers=3)
    taker = cluster.wire()
    taker.can_do(f"{topic}_alice".encode())
    for limit in (3, 6, 3, 12_000, 3, 6, 3):
        cluster.subscribe(topic, "alice", max_backlog=limit)
        assert accepted(cluster, topic, 9) == min(limit, 9)
        while (job := taker.grab(0.1)) is not None:
            taker.complete(job.handle, b"")
        taker.echo()


def test_an_ended_subscription_leaves_no_drops(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(workers=2)
    with redis.Redis.from_url(cluster.store.url) as store:
        for number in range(10):
            topic = f"t{number}"
            how = "unsubscribe" if number % 2 else "drop_new"
            cluster.subscribe(topic, "alice", max_backlog=1, overflow=how)
            assert accepted(cluster, topic, 2) == 1
            cluster.run("unsubscribe_fanout", topic=topic, client_id="alice")
            cluster.subscribe(topic, "alice")
        time.sleep(1.5)  # every member has written its counters
        assert not store.keys("*:drops:*")


def test_a_member_that_was_frozen_sets_no_limit_that_another_has_replaced(
    make_cluster: Callable[..., Cluster], topic: str
) -> None:
    """It was about to try again what its job server had not answered."""
    cluster = make_cluster(options=("--lease", "1"))
    cluster.subscribe(topic, "alice", max_backlog=3)
    far = ("--lease", "1", "--fanout-function", "far_fanout", "--subscribe-function", "s")
    with contextlib.closing(Lossy(cluster.address)) as line:
        frozen = Worker([line.address], cluster.store.url, *far, "--register-function", "r")
        cluster.workers.append(frozen)
        frozen.ready()
        request = {"topic": topic, "payload": "x", "background": True}
        assert cluster.run("far_fanout", **request).data == b"1"  # 3 is set
        cluster.subscribe(topic, "alice", max_backlog=4)
        line.lose(b"maxqueue")
        line.hold(b"maxqueue")
        with cluster.wire() as caller:
            caller.submit(b"far_fanout", json.dumps(request).encode())
            assert line.held.wait(5)
            frozen.freeze()
            line.release()
            assert line.lost.wait(5)
            cluster.subscribe(topic, "alice", max_backlog=8)
            eventually(lambda: "member removed" in cluster.workers[0].log())
            assert accepted(cluster, topic, 9) == 7
            frozen.thaw()
            eventually(lambda: frozen.log().count("event=joined") >= 2)
            taker = cluster.wire()
            taker.can_do(f"{topic}_alice".encode())
            while (job := taker.grab(0.2)) is not None:
                taker.complete(job.handle, b"")
            taker.echo()
            assert accepted(cluster, topic, 9) == 8
