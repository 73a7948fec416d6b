"""A lane goes on with what is left: of a batch, of a log that was capped, of a damaged store."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import redis
from functional.test_durable_once import QUEUE, full, taker
from support.cluster import Cluster, eventually
from support.durable import for_a_while
from support.lanes import lane, publish, subscribe
from support.wire import WORK_COMPLETE, Assigned, Wire

MakeCluster = Callable[..., Cluster]
LARGE = "x" * 7 * 1024 * 1024


def grab(wire: Wire, timeout: float = 20.0) -> Assigned:
    """Take a job, which must come."""
    job = wire.grab(timeout)
    assert job is not None
    return job


def texts(payload: bytes) -> list[str]:
    """The payloads in a batch."""
    return [one["payload"] for one in json.loads(payload)]


def forget_read(cluster: Cluster) -> None:
    """Have the worker deliver more than it keeps of logs in memory."""
    subscribe(cluster, "other", "bob")
    receiver = cluster.receiver("other_bob")
    publish(cluster, "other", *[LARGE] * 6)
    receiver.wait(6, 60)


def refuse_batch(cluster: Cluster, *payloads: str) -> None:
    """Have the queue, which is full, refuse one batch of these payloads to alice."""
    subscribe(cluster, "t", "reader", in_flight=len(payloads))
    reader = cluster.receiver("t_reader")
    publish(cluster, "t", *payloads)
    reader.wait(len(payloads))  # they are in memory, in one piece
    for pull in (True, False):
        subscribe(cluster, "t", "alice", pull=pull)
    refusals = cluster.workers[0].log().count("delivery refused")
    cluster.workers[0].logs("delivery refused", refusals + 2)


def test_a_long_batch_is_read_again_as_far_as_its_log_has_it(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    subscribe(cluster, "t", "alice", batch=10)
    with full(cluster.address):
        refuse_batch(cluster, *(f"{number:060000}" for number in range(1, 11)))
        cluster.run("retain_fanout", topic="t", max_messages=9)
        publish(cluster, "t", "11")  # 3 to 11 stay
        forget_read(cluster)
    receiver = cluster.receiver(QUEUE)
    eventually(lambda: lane(cluster, "t", "alice")["position"] == 11, 20)
    came = [int(text[-5:]) for one in receiver.payloads if one != b"dummy" for text in texts(one)]
    assert came == list(range(3, 12))


def test_a_late_batch_is_acknowledged_though_a_part_of_it_was_before(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    subscribe(cluster, "t", "alice", batch=2, in_flight=2, timeout=1, max_backoff=30)
    first, second = taker(cluster), taker(cluster)
    with full(cluster.address):
        refuse_batch(cluster, "m1", "m2")
    first.complete(grab(first).handle)  # what made the queue full
    batch = grab(first)
    assert texts(batch.payload) == ["m1", "m2"]
    for _ in range(2):
        job = grab(second)
        (second.complete if texts(job.payload) == ["m2"] else second.fail)(job.handle)
    eventually(lambda: lane(cluster, "t", "alice")["attempts"] == 2)
    first.complete(batch.handle)
    eventually(lambda: lane(cluster, "t", "alice")["position"] == 2, 1.5)


def test_an_acknowledgement_withdraws_an_attempt_that_is_not_accepted_yet(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    subscribe(cluster, "t", "alice", timeout=1, max_backoff=3)
    first, second = taker(cluster), taker(cluster)
    publish(cluster, "t", "m1")
    job = grab(first)
    eventually(lambda: lane(cluster, "t", "alice")["attempts"] == 1)
    cluster.job_servers[0].freeze()  # the next attempt comes after a rest of 2 s
    first.complete(job.handle)
    time.sleep(3)
    cluster.job_servers[0].thaw()
    eventually(lambda: lane(cluster, "t", "alice")["position"] == 1)
    time.sleep(0.5)
    assert second.grab(0.5) is None


def test_more_in_flight_takes_effect_at_once(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    subscribe(cluster, "t", "alice")
    first, second = taker(cluster), taker(cluster)
    publish(cluster, "t", "m1", "m2")
    assert grab(first).payload == b"m1"
    subscribe(cluster, "t", "alice", in_flight=2)
    assert grab(second, 10).payload == b"m2"


def test_a_receiver_whose_message_the_log_dropped_has_not_succeeded(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    subscribe(cluster, "t", "alice", max_backoff=0.5)
    cluster.run("retain_fanout", topic="t", max_messages=1)
    receiver = taker(cluster)
    with Wire(cluster.address) as caller:
        request = {"topic": "t", "payload": LARGE, "receipt": True}
        caller.submit(b"fanout", json.dumps(request).encode())
        job = grab(receiver)
        publish(cluster, "t", "m2")
        forget_read(cluster)
        receiver.fail(job.handle)
        told: dict[str, Any] = {}
        while not told:
            kind, body = caller.recv(20)
            if kind == WORK_COMPLETE:
                told = json.loads(body.partition(b"\0")[2])
    assert (told["delivered"], told["failed"]) == ([], {"alice": "dropped by the log"})


def test_parked_messages_that_the_store_has_lost_are_left_out_of_a_list(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    subscribe(cluster, "t", "alice", max_attempts=1)
    receiver = taker(cluster)
    publish(cluster, "t", "m1", "m2")
    for _ in range(2):
        receiver.fail(grab(receiver).handle)
    eventually(lambda: lane(cluster, "t", "alice")["parked"] == 2)
    with redis.Redis.from_url(cluster.store.url) as store:
        assert store.hdel("{gearhorn}:parked:t\0alice", "1") == 1
    request = {"topic": "t", "client_id": "alice", "action": "list", "limit": 1}
    listed = json.loads(cluster.run("parked_fanout", **request).data)
    assert [one["payload"] for one in listed["parked"]] == ["m2"]


def test_a_log_that_the_store_refuses_is_asked_for_now_and_then(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    subscribe(cluster, "t", "alice", max_backoff=0.5)
    receiver = taker(cluster)
    publish(cluster, "t", "m1")
    job = grab(receiver)
    forget_read(cluster)
    messages = "{gearhorn}:messages:t"
    with redis.Redis.from_url(cluster.store.url) as store:

        def reads() -> int:
            return int(store.info("commandstats")["cmdstat_evalsha"]["failed_calls"])

        store.rename(messages, "elsewhere")
        store.set(messages, "another type")
        receiver.fail(job.handle)
        eventually(reads)
        before = reads()
        for_a_while(lambda: reads() - before < 50, 2.0)
        store.rename("elsewhere", messages)
    assert grab(receiver).payload == b"m1"


def test_a_receiver_at_work_is_waited_for_though_the_subscription_was_read_from_meanwhile(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    subscribe(cluster, "t", "alice")
    first, second = taker(cluster), taker(cluster)
    publish(cluster, "t", "m1")
    job = grab(first)
    for pull in (True, False):
        subscribe(cluster, "t", "alice", pull=pull)
    assert second.grab(1.5) is None
    first.complete(job.handle)
    assert grab(second).payload == b"m1"


def test_a_log_that_was_made_anew_brings_nothing_of_the_former_one(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    subscribe(cluster, "t", "alice", "bob")
    receiver = cluster.receiver(QUEUE, "t_bob")
    publish(cluster, "t", "old")
    for client in ("alice", "bob"):
        eventually(lambda: lane(cluster, "t", client)["position"] == 1)  # noqa: B023
    one = {"topic": "t", "client_id": "alice"}
    assert cluster.run("unsubscribe_fanout", **one).kind == "complete"
    cluster.workers[0].freeze()  # so that both are written, and looked at, together
    callers = cluster.wire(), cluster.wire()
    other = {"topic": "t", "client_id": "bob"}
    handles = [
        callers[0].submit(b"unsubscribe_fanout", json.dumps(other).encode()),
        callers[1].submit(b"subscribe_fanout", json.dumps(one | {"durable": True}).encode()),
    ]
    cluster.workers[0].thaw()
    for caller, handle in zip(callers, handles, strict=True):
        assert caller.outcome(handle).kind == "complete"
    publish(cluster, "t", "new")
    eventually(lambda: b"new" in receiver.payloads)
    assert receiver.payloads == [b"old", b"old", b"new"]
