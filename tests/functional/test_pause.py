"""Pauses that outlive members: whoever delivers afterwards does so at the end, and not before."""

from __future__ import annotations

import time
from collections.abc import Callable

from support.cluster import Cluster
from support.lanes import Users, owners, publish, subscribe

pytest_plugins = ["support.lanes"]

MakeCluster = Callable[..., Cluster]
QUICK = ("--lease", "1", "--gossip-interval", "0.2")
CLIENTS = [f"c{number}" for number in range(8)]
QUEUES = [f"t_{client}" for client in CLIENTS]
PAUSE_S = 8.0


def test_a_pause_outlives_its_owner_and_ends_by_itself(
    make_cluster: MakeCluster, users: Users
) -> None:
    cluster = make_cluster(workers=2, options=QUICK)
    began_s = time.monotonic()
    subscribe(cluster, "t", *CLIENTS, paused=PAUSE_S)
    publish(cluster, "t", "1", "2")
    host = users.host(cluster, *QUEUES)
    cluster.workers[0].kill()
    cluster.add_worker(*QUICK)
    time.sleep(3)  # the lease of the one that was killed is over
    assert not host.came
    assert set(owners(cluster, "t").values()) == {None}
    publish(cluster, "t", "3")
    host.wait_all(["1", "2", "3"], timeout=30)
    assert min(came.at_s for came in host.came) - began_s >= 0.95 * PAUSE_S
    for queue in QUEUES:
        assert host.texts(queue) == ["1", "2", "3"]


def test_a_pause_outlives_every_member(make_cluster: MakeCluster, users: Users) -> None:
    cluster = make_cluster(workers=1, options=QUICK)
    subscribe(cluster, "t", *CLIENTS, paused=True)
    publish(cluster, "t", "1", "2")
    cluster.workers[0].kill()
    cluster.add_worker(*QUICK).ready()
    host = users.host(cluster, *QUEUES)
    publish(cluster, "t", "3")
    time.sleep(1)
    assert not host.came
    subscribe(cluster, "t", *CLIENTS, paused=False)
    host.wait_all(["1", "2", "3"])
    for queue in QUEUES:
        assert host.texts(queue) == ["1", "2", "3"]
