"""What arrives when a worker, a peer, a job server or the store dies or freezes."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable

from support.bulk import Pipeline, fanout_body, subscribe_all
from support.cluster import Cluster, eventually
from support.wire import admin

MakeCluster = Callable[..., Cluster]


def waiting(address: str, topic: str) -> dict[str, int]:
    """Jobs that wait or run, per queue of a topic."""
    found = {}
    for line in admin(address, "status"):
        name, total, _, _ = line.rsplit("\t", 3)
        if name.startswith(topic + "_") and int(total):
            found[name] = int(total)
    return found


def test_a_worker_killed_in_the_middle_of_a_large_fanout_is_finished_by_another(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    clients = [f"c{number}" for number in range(10_000)]
    subscribe_all(cluster.address, "wide", clients)
    body = fanout_body("wide", "x" * 10_000)
    for attempt in itertools.count(1):
        wire = cluster.wire()
        handle = wire.submit(b"fanout", body)
        worker = cluster.workers[-1]
        eventually(lambda: waiting(cluster.address, "wide"))
        worker.kill()
        before = waiting(cluster.address, "wide")
        survivor = cluster.add_worker().ready()
        outcome = wire.outcome(handle, 60)
        assert outcome.data == b"10000"
        after = waiting(cluster.address, "wide")
        assert len(after) == 10_000, "a subscriber has no copy"
        if 0 < sum(before.values()) < 10_000 * attempt:
            break
        assert attempt < 5, "the kill never came in the middle"
        assert survivor.process.poll() is None
    assert max(after.values()) <= 2 * attempt, "a redone fan-out makes one copy too many at most"


def test_a_foreground_caller_is_answered_although_its_worker_died(
    make_cluster: MakeCluster, topic: str
) -> None:
    cluster = make_cluster(workers=2)
    cluster.subscribe(topic, "late")
    wire = cluster.wire()
    body = fanout_body(topic, "x", background=False, timeout=20)
    handle = wire.submit(b"fanout", body)
    eventually(lambda: waiting(cluster.address, topic))
    pids = {worker.process.pid: worker for worker in cluster.workers}
    listing = admin(cluster.address, "show jobs")
    assert listing
    # whoever has it: kill both, one after the other, and start a third
    for worker in pids.values():
        worker.kill()
    cluster.add_worker().ready()
    cluster.receiver(f"{topic}_late")
    assert wire.outcome(handle, 20).data == b"1"


def test_a_gearmand_that_restarts_is_served_again_and_subscriptions_hold(
    make_cluster: MakeCluster, topic: str
) -> None:
    cluster = make_cluster(workers=2)
    cluster.subscribe(topic, "alice")
    for _ in range(3):
        cluster.job_servers[0].kill()
        cluster.job_servers[0].restart()
        assert cluster.publish(topic, "hello").data == b"1"
        alice = cluster.receiver(f"{topic}_alice")
        assert alice.wait(1) == [b"hello"]
        alice.close()


def test_redis_restarting_loses_no_message_and_refuses_changes_in_time(
    make_cluster: MakeCluster, topic: str
) -> None:
    cluster = make_cluster(redis=("--appendonly", "yes", "--appendfsync", "always"))
    cluster.subscribe(topic, "alice")
    alice = cluster.receiver(f"{topic}_alice")
    assert cluster.publish(topic, "0").data == b"1"
    cluster.store.kill()
    began = time.monotonic()
    refused = cluster.run("subscribe_fanout", topic=topic, client_id="bob")
    assert time.monotonic() - began < 2
    assert refused.kind == "fail"
    assert refused.warnings[0].startswith(b"unavailable: ")
    assert cluster.publish(topic, "1").data == b"1", "a cached list is used"
    pipeline = Pipeline(cluster.address)
    other = "unread-" + topic
    pipeline.submit("fanout", fanout_body(other, "waits for the store"))
    assert cluster.publish(topic, "2").data == b"1", "those that wait hold nobody up"
    cluster.store.restart()
    assert pipeline.finish(10) == [("complete", b"0")]
    pipeline.close()
    cluster.subscribe(topic, "bob")
    assert cluster.publish(topic, "3").data == b"2"
    assert alice.wait(4) == [b"0", b"1", b"2", b"3"]


def test_a_frozen_store_is_no_reason_to_hang(make_cluster: MakeCluster, topic: str) -> None:
    cluster = make_cluster()
    cluster.store.freeze()
    try:
        began = time.monotonic()
        refused = cluster.run("subscribe_fanout", topic=topic, client_id="bob")
        assert time.monotonic() - began < 2
        assert refused.warnings[0].startswith(b"unavailable: ")
    finally:
        cluster.store.thaw()
    cluster.subscribe(topic, "bob")


def test_a_job_server_killed_in_the_middle_of_a_run_loses_no_unanswered_fanout(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(job_servers=2)
    alive, doomed = cluster.job_servers
    clients = [f"c{number}" for number in range(8)]
    subscribe_all(cluster.address, "t", clients)
    queues = [f"t_{client}" for client in clients]
    here = cluster.receiver(*queues)
    there = cluster.receiver(*queues, address=doomed.address)
    pipeline = Pipeline(alive.address, window=50)
    is_killed = False
    for number in range(600):
        pipeline.submit("fanout", fanout_body("t", f"{number}"))
        if number < 300 or is_killed:
            continue
        if number == 300:
            eventually(lambda: there.jobs and here.jobs)
        for worker in cluster.workers:
            worker.freeze()
        pipeline.settle()
        # what it accepted is received first, even where no worker has read that it did: a
        # dead server keeps its own
        eventually(lambda: not waiting(doomed.address, "t"))
        if len(pipeline.answers) <= number:  # some are in hand
            is_killed = True
            doomed.kill()
        for worker in cluster.workers:
            worker.thaw()
    answers = pipeline.finish()
    pipeline.close()
    assert is_killed, "none was in hand whenever the workers were frozen"
    assert answers == [("complete", b"8")] * 600

    def missing() -> set[tuple[bytes, int]]:
        came = {(job.function, int(job.payload)) for job in [*here.jobs, *there.jobs]}
        return {(q.encode(), n) for q in queues for n in range(600)} - came

    eventually(lambda: not missing(), 20, "copies are missing")
    for queue in queues:
        after = [int(job.payload) for job in here.jobs if job.function == queue.encode()]
        since = [n for n in after if n > 400]
        assert since == sorted(since), "the servers did not change any more, so the order holds"


def test_a_job_server_that_freezes_counts_as_down_and_its_queues_move(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(job_servers=2)
    alive, frozen = cluster.job_servers
    clients = [f"c{number}" for number in range(10)]
    subscribe_all(cluster.address, "t", clients)
    queues = [f"t_{client}" for client in clients]
    receiver = cluster.receiver(*queues)
    cluster.receiver(*queues, address=frozen.address)
    assert cluster.publish("t", "before").data == b"10"
    eventually(lambda: waiting(frozen.address, "t") or receiver.jobs)
    frozen.freeze()
    try:
        began = time.monotonic()
        assert cluster.publish("t", "during").data == b"10"
        assert time.monotonic() - began < 9
        eventually(lambda: receiver.payloads.count(b"during") == 10)
        began = time.monotonic()
        assert cluster.publish("t", "after").data == b"10"
        assert time.monotonic() - began < 1
    finally:
        frozen.thaw()
    eventually(lambda: "during" not in waiting(alive.address, "t"))


def test_foreground_copies_on_a_server_that_dies_are_sent_through_the_others(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(job_servers=2)
    alive, doomed = cluster.job_servers
    clients = [f"c{number}" for number in range(20)]
    subscribe_all(cluster.address, "t", clients)
    queues = [f"t_{client}" for client in clients]
    pipeline = Pipeline(alive.address)
    options = {"background": False, "unique": "job-1", "receipt": True}
    pipeline.submit("fanout", fanout_body("t", "x", **options))
    eventually(lambda: waiting(doomed.address, "t"))
    doomed.kill()
    receiver = cluster.receiver(*queues)
    [(kind, receipt)] = pipeline.finish(20)
    pipeline.close()
    assert kind == "complete"
    assert sorted(json.loads(receipt)["delivered"]) == sorted(clients)
    assert sorted(job.function for job in receiver.jobs) == sorted(q.encode() for q in queues)
