"""Drains that meet subscriptions, members and job servers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

from support.cluster import Cluster, eventually
from support.wire import Wire, admin

MakeCluster = Callable[..., Cluster]
PEER = ("--subscribe-function", "peer_subscribe", "--register-function", "peer_register")
PAIR = {"topic": "t", "client_id": "alice"}


def waiting(address: str, queue: str) -> int:
    """How many jobs a queue holds."""
    rows = (line.rsplit("\t", 3) for line in admin(address, "status"))
    return sum(int(row[1]) for row in rows if row[0] == queue)


def test_a_subscription_through_another_member_waits_for_the_drain(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    cluster.add_worker(*PEER, "--unsubscribe-function", "peer_unsubscribe").ready()
    for turn in range(15):
        cluster.subscribe("t", "alice")
        with Wire(cluster.address) as wire:
            for _ in range(2000):
                wire.submit(b"t_alice", b"old", background=True)
        eventually(lambda: waiting(cluster.address, "t_alice") == 2000)
        ended = threading.Thread(target=cluster.run, args=("unsubscribe_fanout",), kwargs=DRAIN)
        ended.start()
        # either first or second; what matters is that no copy of afterwards is drained
        assert cluster.run("peer_subscribe", **PAIR).kind == "complete"
        if turn % 2:
            ended.join()
            assert cluster.run("peer_subscribe", **PAIR).kind == "complete"
        assert cluster.publish("t", f"new{turn}").data in (b"1", b"0")
        ended.join()
        assert cluster.run("peer_subscribe", **PAIR).kind == "complete"
        assert cluster.publish("t", "last").data == b"1"
        drained = cluster.run("unsubscribe_fanout", **DRAIN)
        assert json.loads(drained.data)["drained"] >= 1
        assert waiting(cluster.address, "t_alice") == 0


DRAIN = {**PAIR, "drain": True}


def test_all_job_servers_are_drained_and_the_count_is_logged(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(job_servers=2)
    cluster.subscribe("t", "alice")
    for server in cluster.job_servers:
        with Wire(server.address) as wire:
            for _ in range(30):
                wire.submit(b"t_alice", b"x", background=True)
    eventually(lambda: sum(waiting(s.address, "t_alice") for s in cluster.job_servers) == 60)
    assert json.loads(cluster.run("unsubscribe_fanout", **DRAIN).data)["drained"] == 60
    cluster.workers[0].logs("event=drained queue=t_alice copies=60")
    assert not any(waiting(server.address, "t_alice") for server in cluster.job_servers)


def test_nothing_is_left_for_who_listened_to_gossip(make_cluster: MakeCluster) -> None:
    interval_s = 0.5
    cluster = make_cluster(workers=2, options=("--gossip-interval", str(interval_s)))
    listener = {"topic": "__gossip", "client_id": "watcher"}
    for _ in range(3):
        cluster.subscribe("__gossip", "watcher")
        eventually(lambda: waiting(cluster.address, "__gossip_watcher") == 2)
        cluster.run("unsubscribe_fanout", **listener, drain=True)
        time.sleep(3 * interval_s)
        assert not waiting(cluster.address, "__gossip_watcher")
