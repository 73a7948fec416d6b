"""Job servers that die, restart or freeze under durable subscriptions: deliveries go on through the
others, in order, and nobody is charged an attempt for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from support.cluster import Cluster, eventually
from support.lanes import (
    Came,
    Host,
    Publisher,
    Users,
    describe,
    lane,
    processed,
    publish,
    running,
    subscribe,
)
from support.servers import EmbeddedGearman, Gearmand

pytest_plugins = ["support.lanes"]

MakeCluster = Callable[..., Cluster]
QUICK = ("--lease", "2")
CLIENTS = [f"c{number}" for number in range(10)]
QUEUES = [f"t_{client}" for client in CLIENTS]
NOTICED_S = 9.0  # one that does not answer an ECHO within 5 s counts as down
Server = Gearmand | EmbeddedGearman


def carrier_of(cluster: Cluster, queue: str) -> Server:
    """The job server on which a receiver has a job of a queue; the cluster's first one, which
    answers requests, is the other from now on."""
    servers = cluster.job_servers

    def carriers() -> list[Server]:
        return [server for server in servers if queue in running(server.address)]

    found: list[Server] = eventually(carriers)
    [carrier] = found
    servers.sort(key=lambda server: server is carrier)
    return carrier


def told(deliveries: list[Came]) -> list[tuple[str, int]]:
    """Payload and attempt of what an exact receiver processes."""
    envelopes = [one.envelope for one in processed(deliveries)]
    return [(one["payload"], one["attempt"]) for one in envelopes]


def test_a_lane_goes_on_through_the_other_server_when_its_own_dies(
    make_cluster: MakeCluster, users: Users
) -> None:
    cluster = make_cluster(workers=2, job_servers=2, options=QUICK)
    subscribe(cluster, "t", "alice", envelope=True)
    may_end = threading.Event()
    alice = users.host(cluster, "t_alice", behave=lambda one: may_end.wait(20))
    publish(cluster, "t", "m1", "m2", "m3")
    [first] = alice.wait(1)
    carrier = carrier_of(cluster, "t_alice")
    assert first.address == carrier.address != cluster.address
    carrier.kill()
    again = alice.wait(2)[1]
    assert again.address == cluster.address
    assert (again.epoch, again.sequence) == (first.epoch, first.sequence)
    assert again.term > first.term, "gearmand may go on swallowing the former id"
    may_end.set()
    publish(cluster, "t", "m4")
    eventually(lambda: lane(cluster, "t", "alice")["position"] == 4)
    assert [one.sequence for one in alice.came] == [1, 1, 2, 3, 4]
    carrier.restart()
    publish(cluster, "t", "m5")
    eventually(lambda: lane(cluster, "t", "alice")["position"] == 5)
    assert told(alice.came) == [(f"m{number}", 1) for number in range(1, 6)]
    assert len(alice.came) == 6
    assert lane(cluster, "t", "alice")["attempts"] == 0


def test_deliveries_go_on_after_the_only_server_restarts(
    make_cluster: MakeCluster, users: Users
) -> None:
    """Killed with jobs that wait, and told to stop while messages pass."""
    cluster = make_cluster(workers=2, options=QUICK)
    subscribe(cluster, "t", *CLIENTS, envelope=True)
    publish(cluster, "t", *(f"early{number}" for number in range(20)))
    cluster.job_servers[0].kill()
    cluster.job_servers[0].restart()
    host = users.host(cluster, *QUEUES)
    publisher = users.publisher(cluster, "t")
    publisher.wait(20)
    cluster.job_servers[0].restart()
    publisher.wait(20)
    assert_all_came_in_order(cluster, host, publisher, early=20)


def assert_all_came_in_order(
    cluster: Cluster, host: Host, publisher: Publisher, early: int = 0
) -> None:
    """Each message is in the log once, and each queue got all in order, at the first attempt."""
    replies = publisher.stop()
    last = early + len(replies)
    assert [one.sequence for one in replies] == list(range(early + 1, last + 1))
    expected = [(f"early{number}", 1) for number in range(early)]
    expected += [(one.text, 1) for one in replies]

    def lag() -> int:
        found = describe(cluster, "t")["topics"]["t"]["subscriptions"]
        return int(max(one["durable"]["lag"] for one in found.values()))

    eventually(lambda: not lag() or host.errors, 20, "messages are not acknowledged")
    for queue in QUEUES:
        assert told(host.of(queue)) == expected


def test_a_server_that_freezes_delays_its_lanes_and_loses_nothing(
    make_cluster: MakeCluster, users: Users
) -> None:
    cluster = make_cluster(workers=2, job_servers=2, options=QUICK)
    subscribe(cluster, "t", *CLIENTS, envelope=True)
    host = users.host(cluster, *QUEUES)
    frozen = cluster.job_servers[1]
    publisher = users.publisher(cluster, "t")
    publisher.wait(20)
    frozen.freeze()
    try:
        publisher.wait(20)
        count = len(publisher.replies)

        def behind() -> list[str]:
            return [queue for queue in QUEUES if len(processed(host.of(queue))) < count]

        time.sleep(0.5)
        assert behind(), "no lane was carried by the frozen server"
        eventually(lambda: not behind(), NOTICED_S, "lanes do not move to the other server")
    finally:
        frozen.thaw()
    publisher.wait(20)
    assert_all_came_in_order(cluster, host, publisher)
