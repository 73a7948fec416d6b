"""A lane always goes on, and gives each message once unless something died."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from support.cluster import Cluster, Receiver, Worker, eventually
from support.lanes import lane, publish, running, subscribe
from support.lifelines import tied
from support.servers import EmbeddedGearman, Gearmand, free_port
from support.wire import Wire, admin

MakeCluster = Callable[..., Cluster]
QUEUE = "t_alice"
PROXY = """
import asyncio, sys
async def serve(reader, writer):
    there, onward = await asyncio.open_connection("127.0.0.1", int(sys.argv[2]))
    async def copy(source, target):
        try:
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        except OSError:
            pass
        target.close()
    await asyncio.gather(copy(reader, onward), copy(there, writer))
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    print("ready", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


def parked(cluster: Cluster, action: str) -> Any:
    """Ask about alice's parked messages."""
    outcome = cluster.run("parked_fanout", topic="t", client_id="alice", action=action)
    assert outcome.kind == "complete", outcome
    return json.loads(outcome.data)


def total(address: str, queue: str = QUEUE) -> int:
    """How many jobs a job server has of a queue, cancelled ones too."""
    for line in admin(address, "status"):
        name, jobs, *_ = line.split("\t")
        if name == queue:
            return int(jobs)
    return 0


def taker(cluster: Cluster, *queues: str) -> Wire:
    """A receiver that a test tells what to do."""
    wire = cluster.wire()
    wire.can_do(*(queue.encode() for queue in queues or (QUEUE,)))
    return wire


def restart(cluster: Cluster) -> Worker:
    """Stop the worker cleanly and start another one."""
    assert cluster.workers[-1].stop() == 0
    return cluster.add_worker().ready()


def park_one(cluster: Cluster, wire: Wire) -> None:
    """Publish a message that fails for good."""
    publish(cluster, "t", "poison")
    job = wire.grab()
    assert job is not None
    wire.fail(job.handle)
    eventually(lambda: lane(cluster, "t", "alice")["parked"] == 1)


@contextmanager
def full(address: str) -> Iterator[None]:
    """Have a job server refuse whatever comes for the queue."""
    with Wire(address) as wire:
        wire.submit(QUEUE.encode(), b"dummy", background=True)
    admin(address, f"maxqueue {QUEUE} 1")
    yield
    admin(address, f"maxqueue {QUEUE} 0")


def test_a_batch_made_before_the_batch_became_one_is_delivered_whole(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    subscribe(cluster, "t", "alice", batch=10)
    with full(cluster.address):
        publish(cluster, "t", *(f"m{number}" for number in range(1, 11)))
        for pull in (True, False):  # all ten are there when it is taken anew
            subscribe(cluster, "t", "alice", pull=pull)
        eventually(lambda: cluster.workers[0].log().count("delivery refused") >= 3)
        subscribe(cluster, "t", "alice", batch=1)
    receiver = cluster.receiver(QUEUE)
    eventually(lambda: lane(cluster, "t", "alice")["position"] == 10, 20)
    came = []
    for payload in receiver.payloads:
        if payload[:1] == b"[":
            came += [one["payload"] for one in json.loads(payload)]
        elif payload != b"dummy":
            came.append(payload.decode())
    assert came == [f"m{number}" for number in range(1, 11)]


def test_a_redrive_is_delivered_though_nobody_heard_of_it(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    subscribe(cluster, "t", "alice", max_attempts=1)
    wire = taker(cluster)
    park_one(cluster, wire)
    with redis.Redis.from_url(cluster.store.url) as store:
        store.client_kill_filter(_type="pubsub")
        assert parked(cluster, "redrive") == {"redriven": 1}
    job = wire.grab(15)
    assert job is not None
    assert job.payload == b"poison"
    wire.complete(job.handle)
    eventually(lambda: parked(cluster, "list") == {"parked": []})


def test_redrives_in_a_row_leave_no_message_behind(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    subscribe(cluster, "t", "alice", max_attempts=1)
    receiver: list[bytes] = []

    def behave(wire: Wire, job: Any) -> None:
        receiver.append(job.payload)
        (wire.fail if receiver.count(job.payload) == 1 else wire.complete)(job.handle)

    cluster.receiver(QUEUE, behave=behave)
    for number in range(10):
        texts = [f"{number}a", f"{number}b"]
        publish(cluster, "t", *texts)
        eventually(lambda: lane(cluster, "t", "alice")["parked"] == 2)
        for _ in texts:
            request = {"topic": "t", "client_id": "alice", "action": "redrive", "limit": 1}
            outcome = cluster.run("parked_fanout", 15.0, **request)
            assert outcome.data == b'{"redriven":1}'
        eventually(lambda texts=texts: all(receiver.count(one.encode()) == 2 for one in texts), 20)


def test_a_lane_that_closes_goes_on_though_its_job_is_refused(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(job_servers=2)
    first, second = cluster.job_servers
    subscribe(cluster, "t", "alice", max_attempts=1)
    wires = {server: Wire(server.address) for server in (first, second)}
    for wire in wires.values():
        wire.can_do(QUEUE.encode())
    publish(cluster, "t", "m1")
    home: Gearmand = eventually(  # the message is logged before it is delivered
        lambda: next((server for server in cluster.job_servers if total(server.address)), None)
    )
    job = wires[home].grab()
    assert job is not None
    wires[home].fail(job.handle)
    for wire in wires.values():
        wire.close()
    ask = second if home is first else first
    eventually(lambda: parked_at(ask, "list")["parked"])
    with full(home.address):
        with Wire(ask.address) as wire:
            request = {"topic": "t", "payload": "m2", "background": True}
            assert wire.run(b"fanout", json.dumps(request).encode(), 15).kind == "complete"
        eventually(lambda: "delivery refused" in cluster.workers[0].log())
        home.freeze()
        try:
            time.sleep(1.3)  # until it is sent again, and not answered
            assert parked_at(ask, "redrive") == {"redriven": 1}
        finally:
            home.thaw()
        refused = cluster.workers[0].log().count("delivery refused")
        eventually(lambda: cluster.workers[0].log().count("delivery refused") > refused)
    receiver = cluster.receiver(QUEUE, address=home.address)
    eventually(lambda: [one for one in receiver.payloads if one != b"dummy"] == [b"m1", b"m2"], 20)


def parked_at(server: Gearmand | EmbeddedGearman, action: str) -> Any:
    """Ask about parked messages through one job server."""
    request = {"topic": "t", "client_id": "alice", "action": action}
    with Wire(server.address) as wire:
        outcome = wire.run(b"parked_fanout", json.dumps(request).encode(), 15)
    assert outcome.kind == "complete", outcome
    return json.loads(outcome.data)


def done_ahead(cluster: Cluster) -> set[int]:
    """What the store knows to be done beyond the position of the lane."""
    with redis.Redis.from_url(cluster.store.url) as store:
        ranges = store.zrange("{gearhorn}:ahead:t\0alice", 0, -1)
    ends = [list(map(int, text.split(b"-"))) for text in ranges]
    return {number for first, last in ends for number in range(first, last + 1)}


@pytest.mark.parametrize("how", ["redrive", "restart", "kill"])
def test_what_was_acknowledged_beyond_a_failing_message_does_not_come_again(
    make_cluster: MakeCluster, how: str
) -> None:
    cluster = make_cluster(options=("--lease", "1"))
    subscribe(cluster, "t", "alice", in_flight=5, max_attempts=1)
    wire = taker(cluster)
    park_one(cluster, wire)
    wire.close()
    subscribe(cluster, "t", "alice", max_attempts=1000, max_backoff=0.2)
    came: list[bytes] = []

    def behave(wire: Wire, job: Any) -> None:
        came.append(job.payload)
        (wire.fail if job.payload == b"m0" else wire.complete)(job.handle)

    cluster.receiver(QUEUE, behave=behave)
    texts = [f"m{number}" for number in range(60)]
    publish(cluster, "t", *texts)
    eventually(lambda: {one.decode() for one in came} >= set(texts), 20)
    eventually(lambda: lane(cluster, "t", "alice")["attempts"] >= 1)
    eventually(lambda: set(range(3, 62)) <= done_ahead(cluster))
    term, before = lane(cluster, "t", "alice")["term"], len(came)
    if how == "redrive":
        assert parked(cluster, "redrive") == {"redriven": 1}
    elif how == "restart":
        restart(cluster)
    else:
        cluster.workers[-1].kill()
        cluster.add_worker().ready()
    eventually(lambda: lane(cluster, "t", "alice")["term"] > term, 20)
    publish(cluster, "t", "last")
    eventually(lambda: b"last" in came, 20)
    again = set(came[before:]) - {b"m0", b"poison", b"last"}
    assert again == set()
    assert lane(cluster, "t", "alice")["position"] == 1


def test_a_receiver_at_work_is_waited_for_though_the_connection_broke(
    make_cluster: MakeCluster,
) -> None:
    """The job server lives, and so does the receiver: nobody else gets the message meanwhile."""
    with Gearmand() as gearmand:
        port = int(gearmand.address.rpartition(":")[2])
        proxy, address = start_proxy(port)
        cluster = make_cluster(job_servers=1, workers=0)
        worker = Worker([address], cluster.store.url)
        try:
            worker.ready()
            wire = Wire(gearmand.address)
            for function, request in (
                ("subscribe_fanout", {"topic": "t", "client_id": "alice", "durable": True}),
                ("fanout", {"topic": "t", "payload": "m1", "background": True}),
                ("fanout", {"topic": "t", "payload": "m2", "background": True}),
            ):
                body = json.dumps(request).encode()
                assert wire.run(function.encode(), body, 15).kind == "complete"
            wire.can_do(QUEUE.encode())
            job = wire.grab()
            assert job is not None
            assert list(running(gearmand.address)) == [QUEUE]
            other = Receiver(gearmand.address, QUEUE)
            proxy.kill()
            proxy.wait()
            proxy, _ = start_proxy(port, int(address.rpartition(":")[2]))
            eventually(lambda: worker.log().count("event=connected") >= 2, 20)
            time.sleep(3)
            assert other.payloads == [], "the first receiver has it still"
            wire.complete(job.handle)
            assert other.wait(2, 20) == [b"m1", b"m2"]
            other.close()
            wire.close()
        finally:
            worker.close()
            proxy.kill()
            proxy.wait()


def start_proxy(port: int, own: int = 0) -> tuple[subprocess.Popen[str], str]:
    """Pass bytes on to a port; return the process and its address."""
    own = own or free_port()
    command = [sys.executable, "-c", PROXY, str(own), str(port)]
    process = subprocess.Popen(tied(command), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process, f"127.0.0.1:{own}"


def test_what_was_withdrawn_leaves_nothing_on_the_job_server(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    subscribe(cluster, "t", "alice", max_attempts=1)
    wire = taker(cluster)
    park_one(cluster, wire)
    wire.close()
    publish(cluster, "t", "m1")
    eventually(lambda: total(cluster.address) == 1)
    for _ in range(2):
        restart(cluster)
        eventually(lambda: lane(cluster, "t", "alice")["member"])
        eventually(lambda: total(cluster.address) == 1)
    term = lane(cluster, "t", "alice")["term"]
    assert parked(cluster, "redrive") == {"redriven": 1}
    eventually(lambda: lane(cluster, "t", "alice")["term"] > term)
    eventually(lambda: total(cluster.address) == 1)
    outcome = cluster.run("unsubscribe_fanout", topic="t", client_id="alice")
    assert outcome.kind == "complete"
    eventually(lambda: total(cluster.address) == 0)


def test_an_acknowledgement_after_the_last_attempt_takes_the_message_out_of_the_parked_ones(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    subscribe(cluster, "t", "alice", max_attempts=1, timeout=1, in_flight=2)
    wire = taker(cluster)
    publish(cluster, "t", "m1")
    job = wire.grab()
    assert job is not None
    eventually(lambda: lane(cluster, "t", "alice")["parked"] == 1, 20)
    wire.complete(job.handle)
    eventually(lambda: lane(cluster, "t", "alice")["parked"] == 0)
    publish(cluster, "t", "m2")
    second = wire.grab()
    assert second is not None
    assert second.payload == b"m2"
    wire.complete(second.handle)
    eventually(lambda: lane(cluster, "t", "alice")["position"] == 2)
    restart(cluster)
    assert wire.grab(1.0) is None


def test_a_lane_that_the_store_refuses_stops_no_other(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    subscribe(cluster, "bad", "alice", max_backoff=0.2)
    subscribe(cluster, "t", "alice")
    key = "{gearhorn}:trouble:bad\0alice"
    wire = taker(cluster, "bad_alice")
    receiver = cluster.receiver(QUEUE)
    with redis.Redis.from_url(cluster.store.url) as store:
        store.set(key, "another type")
        publish(cluster, "bad", "b1")
        job = wire.grab()
        assert job is not None
        wire.fail(job.handle)
        eventually(lambda: "the store refuses a lane" in cluster.workers[0].log())
        publish(cluster, "t", "m1", "m2", "m3")
        assert receiver.wait(3) == [b"m1", b"m2", b"m3"]
        eventually(lambda: lane(cluster, "t", "alice")["position"] == 3)
        assert wire.grab(1.0) is None, "nothing goes on where a failed attempt cannot be kept"
        store.delete(key)
    job = wire.grab(20)
    assert job is not None
    wire.complete(job.handle)
    eventually(lambda: "the store takes a lane again" in cluster.workers[0].log())
