"""Lanes whose member dies, leaves or comes: who delivers next, when, and what."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

from support.cluster import Cluster, Worker, eventually
from support.lanes import (
    Came,
    Users,
    busiest,
    came,
    describe,
    id_of,
    lane,
    owners,
    publish,
    subscribe,
    worker_of,
)

pytest_plugins = ["support.lanes"]

MakeCluster = Callable[..., Cluster]
LEASE_S = 1.0
QUICK = ("--lease", f"{LEASE_S}", "--gossip-interval", "0.2")
CLIENTS = [f"c{number}" for number in range(20)]
QUEUES = [f"t_{client}" for client in CLIENTS]


def two_with_lanes(
    make_cluster: MakeCluster, lease_s: float = LEASE_S
) -> tuple[Cluster, Worker, dict[str, str | None]]:
    """Two members, one of them, and who delivers to which of 20 lanes."""
    cluster = make_cluster(workers=2, options=(*QUICK, "--lease", f"{lease_s}"))
    subscribe(cluster, "t", *CLIENTS)
    both = {id_of(worker) for worker in cluster.workers}
    eventually(lambda: set(owners(cluster, "t").values()) == both)
    return cluster, cluster.workers[0], owners(cluster, "t")


def test_the_lanes_of_a_killed_member_run_elsewhere_within_two_leases(
    make_cluster: MakeCluster, users: Users
) -> None:
    cluster, victim, _ = two_with_lanes(make_cluster, lease_s=2)
    host = users.host(cluster, *QUEUES)
    publish(cluster, "t", "before")
    host.wait_all(["before"])
    victim.kill()
    killed_s = time.monotonic()
    publish(cluster, "t", "after")
    host.wait_all(["after"])
    assert time.monotonic() - killed_s < 2 * 2
    assert {tuple(host.texts(queue)) for queue in QUEUES} == {("before", "after")}
    assert set(owners(cluster, "t").values()) == {id_of(cluster.workers[1])}


def test_a_member_that_stops_hands_over_within_a_second_every_lane_but_a_busy_one(
    make_cluster: MakeCluster, users: Users
) -> None:
    cluster, stopping, holders = two_with_lanes(make_cluster)
    busy = next(client for client, member in holders.items() if member == id_of(stopping))
    ends = threading.Event()
    slow = users.host(cluster, f"t_{busy}", behave=lambda one: ends.wait(20))
    others = users.host(cluster, *(queue for queue in QUEUES if queue != f"t_{busy}"))
    publish(cluster, "t", "before")
    slow.wait(1)
    others.wait_all(["before"])
    stopping.process.terminate()
    began_s = time.monotonic()
    publish(cluster, "t", "after")
    others.wait_all(["after"])
    assert time.monotonic() - began_s < 1
    time.sleep(0.5)
    assert [one.text for one in slow.came] == ["before"]
    assert stopping.process.poll() is None, "it leaves while a receiver works for it"
    ends.set()
    assert [one.text for one in slow.wait(2)] == ["before", "after"]
    assert stopping.process.wait(5) == 0
    eventually(lambda: lane(cluster, "t", busy)["position"] == 2)
    assert Counter(one.queue for one in (*others.came, *slow.came)) == dict.fromkeys(QUEUES, 2)


def test_attempts_survive_the_member_that_made_them(
    make_cluster: MakeCluster, users: Users
) -> None:
    cluster = make_cluster(workers=2, options=QUICK)
    subscribe(cluster, "t", "alice", max_attempts=5, max_backoff=0.3, envelope=True)
    may_fail = threading.Semaphore(2)

    def behave(one: Came) -> bool:
        may_fail.acquire(timeout=20)
        return bool(one.envelope["payload"] != "bad")

    alice = users.host(cluster, "t_alice", behave=behave)
    publish(cluster, "t", "bad", "good")
    eventually(lambda: lane(cluster, "t", "alice")["attempts"] == 2)
    first = worker_of(cluster, "t", "alice")
    alice.wait(3)  # the receiver has the third attempt, which nobody counts
    first.kill()
    may_fail.release(9)
    eventually(lambda: lane(cluster, "t", "alice")["position"] == 2, 4 * LEASE_S)
    told = [(one.envelope["payload"], one.envelope["attempt"], one.term) for one in alice.came]
    terms = [term for _, _, term in told]
    assert terms[:3] == [terms[0]] * 3
    assert all(term > terms[0] for term in terms[3:])
    assert [one[:2] for one in told] == [
        *(("bad", attempt) for attempt in (1, 2, 3, 3, 4, 5)),
        ("good", 1),
    ]
    listed = cluster.run("parked_fanout", topic="t", client_id="alice", action="list")
    assert b'"sequence":1,' in listed.data
    assert b'"attempts":5,' in listed.data


def test_the_next_member_waits_for_a_receiver_that_works_for_a_dead_one_at_most_its_time(
    make_cluster: MakeCluster, users: Users
) -> None:
    cluster = make_cluster(workers=2, options=QUICK)
    subscribe(cluster, "t", *CLIENTS[:6])
    eventually(lambda: None not in owners(cluster, "t").values())
    owner, [ends, never, *_] = busiest(cluster, "t")
    subscribe(cluster, "t", never, timeout=2)
    publish(cluster, "t", "first", "second")
    wires = {client: cluster.wire() for client in (ends, never)}
    begun: dict[str, Came] = {}
    handles: dict[str, bytes] = {}
    for client, wire in wires.items():
        wire.can_do(f"t_{client}".encode())
        job = wire.grab()
        assert job is not None
        begun[client] = came(job.function, job.unique, job.payload)
        handles[client] = job.handle
    hosts = {client: users.host(cluster, f"t_{client}") for client in (ends, never)}
    owner.kill()
    killed_s = time.monotonic()
    time.sleep(2.5 * LEASE_S)
    assert hosts[ends].came == [], "nobody else gets it meanwhile"
    wires[ends].complete(handles[ends])
    ended_s = time.monotonic()
    for client, host in hosts.items():
        first, second = host.wait(2)
        assert (first.text, second.text) == ("first", "second"), "nobody had acknowledged the first"
        assert (first.epoch, first.sequence) == (begun[client].epoch, 1)
        assert first.term > begun[client].term
    assert hosts[ends].came[0].at_s < ended_s + 2
    assert killed_s + 2 < hosts[never].came[0].at_s < killed_s + 2 + 2.5 * LEASE_S


def assert_shared(cluster: Cluster) -> None:
    """Every member has lanes of topic t, and they say so; together they have all."""
    ids = {id_of(worker) for worker in cluster.workers}
    eventually(lambda: set(owners(cluster, "t").values()) == ids)
    told: dict[str, int] = {}

    def is_told() -> bool:
        told.update({one["member"]: one["lanes"] for one in describe(cluster)["members"]})
        return told.keys() == ids and sum(told.values()) == len(CLIENTS)

    eventually(is_told, what=f"{told} {describe(cluster, 't')}")


def test_a_new_member_takes_its_share_and_no_lane_skips_repeats_or_reorders(
    make_cluster: MakeCluster, users: Users
) -> None:
    cluster = make_cluster(options=QUICK)
    subscribe(cluster, "t", *CLIENTS)
    hosts = [users.host(cluster, *QUEUES[at::2]) for at in range(2)]
    publisher = users.publisher(cluster, "t")
    publisher.wait(20)
    for _ in range(2):
        cluster.add_worker().ready()
        assert_shared(cluster)
        publisher.wait(20)
    replies = publisher.stop()
    assert [one.sequence for one in replies] == list(range(1, len(replies) + 1))
    expected = [(one.epoch, one.sequence, one.text) for one in replies]
    for queue in QUEUES:
        [host] = [host for host in hosts if host.of(queue)]
        eventually(lambda host=host, queue=queue: len(host.of(queue)) >= len(replies))
        assert [(one.epoch, one.sequence, one.text) for one in host.of(queue)] == expected
