"""Messages that expire while members die, the store is away, or no worker runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from support.cluster import Cluster, eventually
from support.foreign import Raw, receipt
from support.lanes import describe, lane, publish, subscribe, worker_of

pytest_plugins = ["support.foreign", "support.lanes"]

MakeCluster = Callable[..., Cluster]
QUICK = ("--lease", "1", "--gossip-interval", "0.2")
CLIENTS = [f"c{number}" for number in range(20)]


def expired(cluster: Cluster, topic: str) -> list[int]:
    """How many messages each subscription has skipped."""
    told = describe(cluster, topic)["topics"][topic]["subscriptions"]
    return [told[client]["durable"]["expired"] for client in CLIENTS]


def test_each_message_that_expires_is_counted_once_whoever_delivers(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(workers=2, options=QUICK)
    subscribe(cluster, "t", *CLIENTS, in_flight=3)
    publish(cluster, "t", "stays")  # it waits in front of the others, whose ends come before its
    count = 1
    for number in range(6):
        publish(cluster, "t", *(["short"] * 5), expires=0.3)
        publish(cluster, "t", "long", expires=600)
        count += 6
        if number == 2:
            worker_of(cluster, "t", CLIENTS[0]).kill()
        if number == 4:
            cluster.add_worker(*QUICK).ready()
        time.sleep(0.4)
    host = [cluster.receiver(f"t_{client}") for client in CLIENTS]
    eventually(
        lambda: {lane(cluster, "t", client)["position"] for client in CLIENTS[::7]} == {count}
    )
    assert expired(cluster, "t") == [30] * len(CLIENTS)
    for receiver in host:
        assert receiver.payloads.count(b"short") == 0
        assert receiver.payloads.count(b"long") >= 6


def test_a_fan_out_that_waited_for_its_list_is_not_begun(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    cluster.subscribe("t", "alice", "bob")
    cluster.store.freeze()
    try:
        with Raw(cluster.address) as raw:
            request = {"topic": "t", "payload": "p", "expires": 0.5}
            plain = raw.start("fanout", **request, background=True)
            named = raw.start("fanout", **request, background=True, receipt=True)
            whole = raw.start("fanout", **request, receipt=True)
            failed = raw.start("fanout", **request)
            good = raw.start("fanout", topic="t", payload="good", expires=600, background=True)
            time.sleep(0.7)
            cluster.store.thaw()
            assert plain.outcome().data == b"0"
            for pending in (named, whole):
                told = receipt(pending.outcome())
                assert (told["copies"], told["expired"]) == (0, ["alice", "bob"])
            outcome = failed.outcome()
            pairs = [["alice", "expired"], ["bob", "expired"]]
            assert (outcome.kind, json.loads(outcome.warnings[-1])) == ("fail", pairs)
            assert good.outcome().data == b"2"
            assert raw.taker("t_alice").finish() == [b"good"]
    finally:
        cluster.store.thaw()


def test_a_message_that_expired_before_it_was_logged_is_skipped(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    subscribe(cluster, "t", "alice")
    publish(cluster, "t", "first")
    cluster.receiver("t_alice").wait(1)
    cluster.store.freeze()
    try:
        with Raw(cluster.address) as raw:
            pending = raw.start("fanout", topic="t", payload="p", expires=0.5, receipt=True)
            time.sleep(0.7)
            cluster.store.thaw()
            told = receipt(pending.outcome())
            assert (told["copies"], told["expired"], told["sequence"]) == (1, ["alice"], 2)
    finally:
        cluster.store.thaw()
    eventually(lambda: lane(cluster, "t", "alice")["position"] == 2)
    assert lane(cluster, "t", "alice")["expired"] == 1


def test_time_stands_still_while_no_worker_runs(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(options=QUICK)
    subscribe(cluster, "t", "alice")
    publish(cluster, "t", "p", expires=5)
    cluster.workers[0].kill()
    time.sleep(6)
    cluster.add_worker(*QUICK).ready()
    assert cluster.receiver("t_alice").wait(1) == [b"p"]
