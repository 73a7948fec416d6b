"""A member that froze for longer than its lease wakes up: nothing of what it still believes counts
(position writes are fenced by TERM)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from support.cluster import Cluster, eventually
from support.lanes import (
    Came,
    Users,
    busiest,
    describe,
    id_of,
    lane,
    owners,
    processed,
    publish,
    subscribe,
)
from support.wire import Assigned, Wire

pytest_plugins = ["support.lanes"]

MakeCluster = Callable[..., Cluster]
LEASE_S = 1.0
QUICK = ("--lease", f"{LEASE_S}", "--gossip-interval", "0.2")
CLIENTS = [f"c{number}" for number in range(8)]
QUEUES = [f"t_{client}" for client in CLIENTS]


def fresh(deliveries: Iterable[Came]) -> list[int]:
    """The sequences of the deliveries that no receiver may take for stale ones."""
    term = 0
    found = []
    for one in deliveries:
        if one.term >= term:
            found.append(one.sequence)
        term = max(term, one.term)
    return found


def grab(wire: Wire) -> Assigned:
    """The next job."""
    job = wire.grab()
    assert job is not None
    return job


def test_what_a_frozen_member_hears_too_late_changes_nothing(
    make_cluster: MakeCluster, users: Users
) -> None:
    cluster = make_cluster(workers=2, options=QUICK)
    subscribe(cluster, "t", *CLIENTS, max_backoff=0.5, max_attempts=5, envelope=True)
    eventually(lambda: None not in owners(cluster, "t").values())
    frozen, lanes = busiest(cluster, "t")
    acknowledged, failed, failing = lanes[:3]
    # each receiver has a job of the member when it freezes; that of `failing` is a second attempt
    wires = {client: cluster.wire() for client in (acknowledged, failed, failing)}
    for client, wire in wires.items():
        wire.can_do(f"t_{client}".encode())
    publish(cluster, "t", "m1")
    jobs = {client: grab(wire) for client, wire in wires.items()}
    wires[failing].fail(jobs[failing].handle)
    jobs[failing] = grab(wires[failing])
    eventually(lambda: lane(cluster, "t", failing)["attempts"] == 1)
    frozen.freeze()
    former = id_of(frozen)
    wires[failed].fail(jobs[failed].handle)
    wires[acknowledged].complete(jobs[acknowledged].handle)
    wires[failing].complete(jobs[failing].handle)
    for wire in wires.values():
        wire.echo()
        wire.close()

    # the other member delivers and is told of a second failure, then the frozen one wakes up
    may_end = threading.Event()

    def behave(one: Came) -> bool:
        return one.envelope["attempt"] != 2 and may_end.wait(20)

    hosts = {
        acknowledged: users.host(cluster, f"t_{acknowledged}"),
        failed: users.host(cluster, f"t_{failed}"),
        failing: users.host(cluster, f"t_{failing}", behave=behave),
    }
    publish(cluster, "t", "m2", "m3")

    def state() -> dict[str, tuple[int, int, int]]:
        found = describe(cluster, "t")["topics"]["t"]["subscriptions"]
        durable = {client: found[client]["durable"] for client in hosts}
        return {
            client: (one["position"], one["attempts"], one["parked"])
            for client, one in durable.items()
        }

    expected = {acknowledged: (3, 0, 0), failed: (3, 0, 0), failing: (0, 2, 0)}
    eventually(lambda: state() == expected, 6 * LEASE_S, f"{expected}, not {state()}")
    frozen.thaw()
    until_s = time.monotonic() + 2 * LEASE_S
    while time.monotonic() < until_s:
        assert state() == expected, "what came too late was written"
    assert id_of(frozen) != former, "it did not notice that its lease had lapsed"
    may_end.set()
    publish(cluster, "t", "m4")
    expected = dict.fromkeys(hosts, (4, 0, 0))
    eventually(lambda: state() == expected, what=f"{expected}, not {state()}")
    told = [(one.sequence, one.envelope["attempt"]) for one in hosts[failing].came]
    assert told == [(1, 2), (1, 3), (2, 1), (3, 1), (4, 1)]
    for client in (acknowledged, failed):
        assert fresh(hosts[client].came) == [1, 2, 3, 4]
        assert {one.envelope["attempt"] for one in hosts[client].came} == {1}


def test_members_that_freeze_under_load_skip_nothing_and_repeat_nothing_acknowledged(
    make_cluster: MakeCluster, users: Users
) -> None:
    cluster = make_cluster(workers=2, options=QUICK)
    subscribe(cluster, "t", *CLIENTS)
    eventually(lambda: len(set(owners(cluster, "t").values())) == 2)
    host = users.host(cluster, *QUEUES)
    publisher = users.publisher(cluster, "t")
    positions = dict.fromkeys(CLIENTS, 0)

    def watch(seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            found = describe(cluster, "t")["topics"]["t"]["subscriptions"]
            for client, one in found.items():
                position = one["durable"]["position"]
                assert position >= positions[client], f"{client} went back"
                positions[client] = position

    watch(0.5)
    for worker in cluster.workers:
        worker.freeze()
        watch(1.7 * LEASE_S)
        worker.thaw()
        watch(LEASE_S)
    replies = publisher.stop()
    assert len({one.sequence for one in replies}) == len(replies) > 50
    host.wait_all([one.text for one in replies])
    last = max(one.sequence for one in replies)
    expected = [one.text for one in sorted(replies, key=lambda one: one.sequence)]
    for queue in QUEUES:
        deliveries = host.of(queue)
        assert [one.text for one in processed(deliveries)] == expected
        again = len(fresh(deliveries)) - last
        assert again <= len(cluster.workers), "only what was under way may come again"
        assert fresh(deliveries) == sorted(fresh(deliveries))
    eventually(lambda: all(lane(cluster, "t", one)["position"] == last for one in CLIENTS))
