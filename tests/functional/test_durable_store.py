"""The store dies, forgets, refuses or freezes under durable topics: what was replied
to is delivered in order, and no number is given twice."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Sequence

import redis
from support.cluster import Cluster, eventually
from support.lanes import (
    STORE,
    Host,
    Reply,
    Users,
    describe,
    lane,
    processed,
    publish,
    subscribe,
)
from support.servers import free_port

pytest_plugins = ["support.lanes"]

MakeCluster = Callable[..., Cluster]
LEASE_S = 1.5
QUICK = ("--lease", f"{LEASE_S}")
CLIENTS = [f"c{number}" for number in range(5)]
QUEUES = [f"t_{client}" for client in CLIENTS]


def assert_in_order(cluster: Cluster, host: Host, replies: Sequence[Reply]) -> None:
    """The log goes on by one from reply to reply, and each queue got just that."""
    sequences = [one.sequence for one in replies]
    assert sequences == list(range(1, len(replies) + 1))

    def lag() -> int:
        found = describe(cluster, "t")["topics"]["t"]["subscriptions"]
        return int(max(one["durable"]["lag"] for one in found.values()))

    eventually(lambda: not lag() or host.errors, 20, "messages are not acknowledged")
    expected = [(one.epoch, one.sequence, one.text) for one in replies]
    for queue in QUEUES:
        told = [(one.epoch, one.sequence, one.text) for one in processed(host.of(queue))]
        assert told == expected


def test_a_store_that_dies_and_returns_has_lost_nothing_and_gives_no_number_twice(
    make_cluster: MakeCluster, users: Users
) -> None:
    cluster = make_cluster(workers=2, options=QUICK, redis=STORE)
    subscribe(cluster, "t", *CLIENTS)
    host = users.host(cluster, *QUEUES)
    publisher = users.publisher(cluster, "t")
    for away_s in (0.0, 1.0):
        publisher.wait(20)
        cluster.store.kill()
        time.sleep(away_s)
        cluster.store.restart()
    publisher.wait(20)
    assert_in_order(cluster, host, publisher.stop())


def test_a_store_that_freezes_delays_messages_and_loses_none(
    make_cluster: MakeCluster, users: Users
) -> None:
    cluster = make_cluster(workers=2, options=QUICK, redis=STORE)
    subscribe(cluster, "t", *CLIENTS)
    host = users.host(cluster, *QUEUES)
    publisher = users.publisher(cluster, "t")
    publisher.wait(20)
    cluster.store.freeze()
    time.sleep(2 * LEASE_S)
    cluster.store.thaw()
    publisher.wait(20)
    assert_in_order(cluster, host, publisher.stop())


def test_after_a_lost_tail_another_epoch_begins_and_nothing_new_is_dropped(
    make_cluster: MakeCluster, users: Users
) -> None:
    cluster = make_cluster(workers=2, options=QUICK, redis=STORE)
    subscribe(cluster, "t", *CLIENTS)
    host = users.host(cluster, *QUEUES)
    kept = publish(cluster, "t", *(f"kept{number}" for number in range(5)))
    host.wait_all([one.text for one in kept])
    eventually(lambda: lane(cluster, "t", "c0")["lag"] == 0)
    directory = cluster.store.directory
    assert directory is not None
    data, copy = directory / "appendonlydir", directory / "copy"
    cluster.store.kill()
    shutil.copytree(data, copy)
    cluster.store.restart()
    lost = publish(cluster, "t", *(f"lost{number}" for number in range(3)))
    host.wait_all([one.text for one in lost])
    cluster.store.restart()  # lanes begin anew, under a higher TERM
    lost += publish(cluster, "t", *(f"lost{number}" for number in range(3, 5)))
    host.wait_all([one.text for one in lost])
    cluster.store.kill()
    shutil.rmtree(data)
    shutil.copytree(copy, data)
    cluster.store.restart()
    new = publish(cluster, "t", *(f"new{number}" for number in range(8)))
    assert [one.sequence for one in new] == list(range(6, 14)), "the sequence goes on"
    assert len({one.epoch for one in new}) == 1
    assert new[0].epoch not in {one.epoch for one in (*kept, *lost)}
    host.wait_all([one.text for one in new])
    eventually(lambda: {lane(cluster, "t", client)["lag"] for client in CLIENTS} == {0})
    expected = [(one.epoch, one.sequence, one.text) for one in (*kept, *lost, *new)]
    for queue in QUEUES:
        told = [(one.epoch, one.sequence, one.text) for one in processed(host.of(queue))]
        assert told == expected


def test_a_store_that_is_full_is_told_to_the_publisher_in_time(
    make_cluster: MakeCluster, users: Users
) -> None:
    cluster = make_cluster(options=QUICK, redis=STORE)
    subscribe(cluster, "t", *CLIENTS)
    may_end = threading.Event()
    host = users.host(cluster, *QUEUES, behave=lambda one: may_end.wait(20))
    replies = publish(cluster, "t", "m1", "m2")
    host.wait(1)
    with redis.Redis.from_url(cluster.store.url) as store:
        store.execute_command("CONFIG", "SET", "maxmemory", "1")
        for _ in range(2):
            for number in range(3):
                began_s = time.monotonic()
                refused = cluster.publish("t", f"refused{number}", unique=f"{number}")
                assert time.monotonic() - began_s < 2
                assert refused.kind == "fail"
                assert refused.warnings[0].startswith(b"unavailable: ")
                assert b"OOM command not allowed" in refused.warnings[0]
            may_end.set()  # receivers go on acknowledging
            time.sleep(0.2)
        store.execute_command("CONFIG", "SET", "maxmemory", "0")
    replies += publish(cluster, "t", "refused0", unique="0")  # as its sender would
    replies += publish(cluster, "t", "m3")
    assert_in_order(cluster, host, replies)
    assert len(host.came) == len(CLIENTS) * len(replies), "some came twice"


def test_publishers_wait_while_the_store_is_a_replica(
    make_cluster: MakeCluster, users: Users
) -> None:
    cluster = make_cluster(options=QUICK, redis=STORE)
    subscribe(cluster, "t", *CLIENTS)
    users.host(cluster, *QUEUES)
    replies = publish(cluster, "t", "m1", "m2")
    with redis.Redis.from_url(cluster.store.url) as store:
        store.execute_command("REPLICAOF", "127.0.0.1", free_port())
        bodies = [json.dumps({"topic": "t", "payload": f"w{n}", "receipt": True}) for n in range(3)]
        callers = [cluster.wire() for _ in bodies]
        handles = [
            wire.submit(b"fanout", body.encode())
            for wire, body in zip(callers, bodies, strict=True)
        ]
        time.sleep(1.2 * LEASE_S)
        assert (
            cluster.run("subscribe_fanout", topic="t", client_id="late")
            .warnings[0]
            .startswith(b"unavailable: the store: READONLY")
        )
        store.execute_command("REPLICAOF", "NO", "ONE")
    outcomes = [wire.outcome(handle, 20) for wire, handle in zip(callers, handles, strict=True)]
    assert sorted(json.loads(one.data)["sequence"] for one in outcomes) == [3, 4, 5]
    replies += publish(cluster, "t", "m3")
    assert [one.sequence for one in replies] == [1, 2, 6]
    eventually(lambda: {lane(cluster, "t", client)["lag"] for client in CLIENTS} == {0}, 20)
