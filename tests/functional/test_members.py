"""Members that die, freeze, come and go, and what the others see of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import redis
from support.bulk import Pipeline
from support.cluster import Cluster, Worker, eventually
from support.wire import Wire, admin

MakeCluster = Callable[..., Cluster]
LEASE_S = 1.5
QUICK = ("--lease", str(LEASE_S), "--gossip-interval", "0.2")


def members(cluster: Cluster) -> set[str]:
    """Who holds a place in the store."""
    with redis.Redis.from_url(cluster.store.url) as store:
        return {name.decode() for name in store.hkeys("{gearhorn}:members")}


def id_of(worker: Worker) -> str:
    """The id under which a worker joined last."""
    [*_, last] = [line for line in worker.log().splitlines() if "event=joined" in line]
    return last.partition("member=")[2].split()[0]


def jobs(cluster: Cluster) -> dict[str, int]:
    """Functions with jobs that wait or run."""
    rows = [line.rsplit("\t", 3) for line in admin(cluster.address, "status")]
    return {row[0]: int(row[1]) for row in rows if int(row[1])}


def describe(cluster: Cluster, **request: Any) -> dict[str, Any]:
    """Ask any member."""
    outcome = cluster.run("describe_fanout", **request)
    assert outcome.kind == "complete", outcome
    return dict(json.loads(outcome.data))


def subscribe_in(cluster: Cluster, topic: str, client: str) -> float:
    """Subscribe; return the seconds it took. What a frozen worker holds is asked for again."""
    began = time.monotonic()
    body = json.dumps({"topic": topic, "client_id": client}).encode()
    while True:
        with Wire(cluster.address) as wire:
            try:
                assert wire.run(b"subscribe_fanout", body, 3 * LEASE_S).kind == "complete"
            except TimeoutError:
                began = time.monotonic()
                continue
        return time.monotonic() - began


def test_a_killed_member_delays_a_change_by_its_lease_and_is_removed(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(workers=3, options=QUICK)
    assert subscribe_in(cluster, "t", "before") < 0.5
    victim = cluster.workers[0]
    dead = id_of(victim)
    victim.kill()
    killed_at = time.monotonic()
    assert subscribe_in(cluster, "t", "during") < LEASE_S + 0.5
    eventually(lambda: dead not in members(cluster))
    assert time.monotonic() - killed_at < 2 * LEASE_S
    assert subscribe_in(cluster, "t", "after") < 0.5

    def removed() -> int:
        return sum(worker.log().count("member removed") for worker in cluster.workers)

    eventually(removed)
    assert removed() == 1
    eventually(lambda: not [queue for queue in jobs(cluster) if queue.endswith(dead)])


def test_a_frozen_member_is_removed_and_joins_again_by_itself(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(workers=2, options=QUICK)
    frozen = cluster.workers[0]
    former = id_of(frozen)
    frozen.freeze()
    assert subscribe_in(cluster, "t", "alice") < LEASE_S + 0.5
    eventually(lambda: former not in members(cluster), 3 * LEASE_S)
    frozen.thaw()
    eventually(lambda: len(members(cluster)) == 2)
    assert id_of(frozen) != former
    assert subscribe_in(cluster, "t", "bob") < 0.5
    eventually(lambda: not [queue for queue in jobs(cluster) if queue.endswith(former)])
    assert {cluster.publish("t", "x").data for _ in range(20)} == {b"2"}


def test_a_cluster_that_was_killed_whole_cleans_up_after_itself(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(workers=3, options=QUICK)
    former = members(cluster)
    assert len(former) == 3
    for worker in cluster.workers:
        worker.kill()
    fresh = cluster.add_worker().ready()
    eventually(lambda: members(cluster) == {id_of(fresh)}, 3 * LEASE_S)
    eventually(lambda: not jobs(cluster), 3 * LEASE_S)
    assert subscribe_in(cluster, "t", "alice") < 0.5


def test_members_that_start_and_stop_delay_nobody(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(workers=2, options=QUICK)
    for turn in range(3):
        cluster.add_worker()
        cluster.workers[turn].process.terminate()
        while cluster.workers[turn].process.poll() is None:
            assert subscribe_in(cluster, "t", f"c{turn}") < 0.5
        cluster.workers[turn + 2].ready()
    assert not [worker for worker in cluster.workers if "member removed" in worker.log()]


def test_a_thousand_changes_at_once_on_three_members_are_all_done(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(workers=3, options=QUICK)
    pipeline = Pipeline(cluster.address, window=1000)
    for n in range(1000):
        body = json.dumps({"topic": f"t{n % 50}", "client_id": f"c{n}"})
        pipeline.submit("subscribe_fanout", body.encode())
    assert {kind for kind, _ in pipeline.finish(30)} == {"complete"}
    pipeline.close()
    assert {cluster.publish(f"t{n}", "x").data for n in range(50)} == {b"20"}


def test_every_member_knows_every_other_and_forgets_the_dead(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(workers=4, options=QUICK)
    ids = members(cluster)

    def known() -> bool:
        told = [describe(cluster)["members"] for _ in range(8)]
        return all({one["member"] for one in each} == ids for each in told) and all(
            one["state"] == "clustered" for each in told for one in each
        )

    eventually(known)
    one = describe(cluster)["members"][0]
    assert one["servers"] == [cluster.address]
    assert one.keys() >= {"host", "pid", "release", "uptime", "at", "version", "in_flight", "lanes"}
    assert one.keys() >= {"topics", "subscriptions", "fanouts", "copies", "errors"}
    dead = id_of(cluster.workers[0])
    cluster.workers[0].kill()
    ids.discard(dead)
    eventually(known, 4 * LEASE_S)


def test_who_is_alone_says_nothing_and_anybody_may_listen(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(options=QUICK)
    time.sleep(1)
    assert not jobs(cluster), "nothing is sent when there is nobody to hear it"
    [alone] = describe(cluster)["members"]
    assert alone["state"] == "solitary"
    cluster.subscribe("__gossip", "ear")
    eventually(lambda: jobs(cluster).get("__gossip_ear"))
    time.sleep(1)
    assert jobs(cluster)["__gossip_ear"] == 1, "one message of each member waits, not many"
    ear = cluster.receiver("__gossip_ear")
    ear.wait(3)
    assert {json.loads(payload)["member"] for payload in ear.payloads} == members(cluster)
    refused = cluster.run("fanout", topic="__gossip", payload="x")
    assert refused.warnings[0].startswith(b"reserved: ")


def test_a_member_that_is_cut_off_says_so(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(workers=2, options=QUICK)
    [first, second] = cluster.workers
    for worker in (first, second):
        eventually(lambda log=worker.log: "state=clustered" in log())
    cluster.store.kill()
    for worker in (first, second):
        eventually(lambda log=worker.log: "state=isolated" in log())
    cluster.store.restart()
    eventually(lambda: second.log().rpartition("event=state ")[2].startswith("state=clustered"))
    assert len(members(cluster)) == 2


def test_fanouts_and_changes_go_on_after_the_store_was_away(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(workers=2, options=QUICK, redis=("--appendonly", "yes"))
    cluster.subscribe("t", "alice")
    cluster.publish("t", "x")
    cluster.store.kill()
    time.sleep(LEASE_S + 0.5)  # nobody holds a lease any more
    began = time.monotonic()
    refused = cluster.run("subscribe_fanout", topic="t", client_id="bob")
    assert refused.warnings[0].startswith(b"unavailable: ")
    assert time.monotonic() - began < 2
    with Wire(cluster.address) as wire:
        body = json.dumps({"topic": "t", "payload": "waits", "background": True}).encode()
        handle = wire.submit(b"fanout", body)
        cluster.store.restart()
        began = time.monotonic()
        assert wire.outcome(handle, 10).data == b"1", "nothing is sent to a list that may be old"
        assert time.monotonic() - began < 2
    assert subscribe_in(cluster, "t", "bob") < LEASE_S + 1


def test_lists_that_may_be_old_are_used_where_that_was_asked_for(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(options=(*QUICK, "--serve-stale", "60"))
    cluster.subscribe("t", "alice")
    assert cluster.publish("t", "x").data == b"1"
    cluster.store.kill()
    time.sleep(2 * LEASE_S)
    assert cluster.publish("t", "stale").data == b"1"
    cluster.store.restart()  # it comes back empty
    eventually(lambda: cluster.publish("t", "x").data == b"0")


def test_a_store_that_evicts_is_refused(make_cluster: MakeCluster) -> None:
    options = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    cluster = make_cluster(workers=0, redis=options)
    worker = cluster.add_worker()
    assert worker.process.wait(20) == 1
    assert "maxmemory-policy" in worker.log()
