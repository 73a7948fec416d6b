"""Changes and drains whose store, job server or drainer fails in the middle."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
from support.bulk import Pipeline
from support.cluster import Cluster, Worker, eventually
from support.lossy import Lossy
from support.wire import Wire, admin

MakeCluster = Callable[..., Cluster]
PAIR = {"topic": "t", "client_id": "alice"}
DRAIN = {**PAIR, "drain": True}
MARKS = "{gearhorn}:draining"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes what a test puts on it."""
    with ExitStack() as things:
        yield things


class Bed:
    """A cluster whose only worker reaches its store, or its job server, over a lossy line."""

    def __init__(self, cluster: Cluster, stack: ExitStack, lossy_jobs: bool, *options: str) -> None:
        self.cluster = cluster
        target = cluster.address if lossy_jobs else cluster.store.address
        self.line = Lossy(target)
        stack.callback(self.line.close)
        servers = [self.line.address if lossy_jobs else cluster.address]
        url = cluster.store.url if lossy_jobs else f"redis://{self.line.address}/0"
        self.worker = Worker(servers, url, *options)
        cluster.workers.append(self.worker)
        self.worker.ready()
        self.store = redis.Redis.from_url(cluster.store.url, decode_responses=True)
        stack.callback(self.store.close)

    def run(self, function: str, **request: Any) -> dict[str, Any]:
        """The reply to a request that is a success."""
        outcome = self.cluster.run(function, **request)
        assert outcome.kind == "complete", outcome
        return dict(json.loads(outcome.data))

    @property
    def waiting(self) -> int:
        """The jobs on the pair's queue."""
        return jobs(self.cluster.address).get("t_alice", 0)


def jobs(address: str) -> dict[str, int]:
    """Functions, and how many jobs each has."""
    rows = [line.rsplit("\t", 3) for line in admin(address, "status")]
    return {row[0]: int(row[1]) for row in rows}


def members_own(address: str) -> dict[str, int]:
    """The functions that bear a member's id."""
    return {name: count for name, count in jobs(address).items() if name.startswith("__")}


# The store's answer


def test_a_drain_whose_answer_is_lost_is_done_and_told(
    make_cluster: MakeCluster, stack: ExitStack
) -> None:
    bed = Bed(make_cluster(workers=0), stack, False)
    bed.run("subscribe_fanout", **PAIR)
    assert bed.cluster.publish("t", "old").data == b"1"
    bed.line.lose(b"unsubscribe")
    reply = bed.run("unsubscribe_fanout", **DRAIN)
    assert bed.line.lost.is_set()
    assert reply == {"version": 2, "drained": 1}
    assert not bed.waiting
    eventually(lambda: not bed.store.hgetall(MARKS))
    assert bed.run("subscribe_fanout", **PAIR)["version"] == 3


@pytest.mark.parametrize(
    ("function", "request_", "word"),
    [
        ("subscribe_fanout", {**PAIR, "max_backlog": 5}, b"subscribe"),
        ("subscribe_fanout", {**PAIR, "durable": True}, b"subscribe"),
        ("unsubscribe_fanout", PAIR, b"unsubscribe"),
        ("retain_fanout", {"topic": "t", "max_age": 9}, b"max_age"),
    ],
)
def test_a_change_whose_answer_is_lost_is_written_once(
    make_cluster: MakeCluster,
    stack: ExitStack,
    function: str,
    request_: dict[str, Any],
    word: bytes,
) -> None:
    bed = Bed(make_cluster(workers=0), stack, False)
    for version in (1, 2):
        bed.line.lose(word)
        assert bed.run(function, **request_)["version"] == version
        assert bed.line.lost.is_set()
    assert bed.store.get("{gearhorn}:version") == "2"


def test_a_drain_that_a_frozen_store_answers_too_late_leaves_no_mark(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    cluster.subscribe("t", "alice")
    assert cluster.publish("t", "old").data == b"1"
    cluster.store.freeze()
    try:
        outcome = cluster.run("unsubscribe_fanout", **DRAIN)
        assert outcome.warnings[-1].startswith(b"unavailable: ")
        again = cluster.run("unsubscribe_fanout", **DRAIN)
        assert again.warnings[-1].startswith(b"unavailable: "), "at once"
    finally:
        cluster.store.thaw()
    with redis.Redis.from_url(cluster.store.url) as store:
        # it was withdrawn, or was written and is drained all the same
        eventually(lambda: cluster.run("subscribe_fanout", **PAIR).kind == "complete")
        is_written = int(store.get("{gearhorn}:version") or 0) > 2
        eventually(lambda: not store.hgetall(MARKS))
        assert bool(jobs(cluster.address)["t_alice"]) != is_written
        assert cluster.publish("t", "new").data == b"1"
        drained = json.loads(cluster.run("unsubscribe_fanout", **DRAIN).data)["drained"]
        assert drained == (1 if is_written else 2)


# Requests that wait for a drain


def test_requests_that_wait_for_a_drain_take_no_place_that_others_need(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    with redis.Redis.from_url(cluster.store.url, decode_responses=True) as store:
        [member] = store.hkeys("{gearhorn}:members")
        store.hset(MARKS, mapping={"t_alice": f"{member} 1", "t_bob": f"{member} 2"})
        crowd = Pipeline(cluster.address, window=3000)
        for number in range(2500):
            request = {"topic": "t", "client_id": "bob" if number % 2 else "alice"}
            crowd.submit("subscribe_fanout", json.dumps(request).encode())
        crowd.settle(1.0)
        asked = store.info("stats")["total_commands_processed"]
        began = time.monotonic()
        cluster.subscribe("other", "carol")
        assert cluster.run("describe_fanout", topic="other").kind == "complete"
        time.sleep(1)
        seconds = time.monotonic() - began
        asked = store.info("stats")["total_commands_processed"] - asked
        assert asked < 60 * (seconds + 1), "the store is asked once for all of them"
        store.delete(MARKS)
    outcomes = crowd.finish(20)
    crowd.close()
    done = [kind for kind, _ in outcomes].count("complete")
    assert len(outcomes) == 2500
    assert 100 < done < 1000
    refused = {data for kind, data in outcomes if kind != "complete"}
    assert cluster.publish("t", "x").data == b"2"
    assert refused


# Job servers


def test_a_drain_while_no_job_server_is_up_ends_and_the_next_one_drains(
    make_cluster: MakeCluster, stack: ExitStack
) -> None:
    bed = Bed(make_cluster(workers=0), stack, True, "--lease", "2")
    bed.run("subscribe_fanout", **PAIR)
    with Wire(bed.cluster.address) as wire:
        wire.submit(b"t_alice", b"old", background=True)
        bed.store.hset("{gearhorn}:members", "ghost", "1 0 2000")  # a change waits for its lease
        body = json.dumps(DRAIN).encode()
        handle = wire.submit(b"unsubscribe_fanout", body)
        eventually(lambda: bed.store.hgetall(MARKS))
        bed.line.cut()
        eventually(lambda: not bed.store.hgetall(MARKS), 20)
        assert bed.waiting == 1
        bed.line.mend()
        # gearmand gives the request to the worker again, whose connection was lost
        reply = json.loads(wire.outcome(handle, 20).data)
    assert reply["drained"] == 1
    assert not bed.waiting
    assert bed.run("subscribe_fanout", **PAIR)["queue"] == "t_alice"
    assert "crashed" not in bed.worker.log()


def test_a_reply_names_the_servers_that_are_not_drained(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(job_servers=2)
    cluster.subscribe("t", "alice")
    up, down = cluster.job_servers
    for server in (up, down):
        with Wire(server.address) as wire:
            wire.submit(b"t_alice", b"old", background=True)
    down.kill()
    eventually(lambda: "connection lost" in cluster.workers[0].log(), 20)
    reply = json.loads(cluster.run("unsubscribe_fanout", **DRAIN).data)
    assert (reply["drained"], reply["undrained"]) == (1, [down.address])
    cluster.workers[0].logs("queue is not drained everywhere")


def test_workers_stop_cleanly_without_any_job_server(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(workers=2, options=("--lease", "2", "--gossip-interval", "0.1"))
    time.sleep(0.5)  # for some gossip
    cluster.job_servers[0].kill()
    for worker in cluster.workers:
        eventually(lambda log=worker.log: "connection lost" in log())
    for worker in cluster.workers:
        assert worker.stop() == 0, worker.log()
        assert "Traceback" not in worker.log()
    with redis.Redis.from_url(cluster.store.url) as store:
        assert not store.hgetall("{gearhorn}:members")


def test_a_member_without_job_server_makes_changes_wait_for_no_lease(
    make_cluster: MakeCluster, stack: ExitStack
) -> None:
    lease_s = 9.0
    cluster = make_cluster(options=("--lease", str(lease_s)))
    bed = Bed(cluster, stack, True, "--lease", str(lease_s))
    bed.line.cut()
    eventually(lambda: "connection lost" in bed.worker.log())
    for number in range(3):
        began = time.monotonic()
        function = "unsubscribe_fanout" if number == 2 else "subscribe_fanout"
        assert cluster.run(function, topic="t", client_id=f"c{number % 2}").kind == "complete"
        assert time.monotonic() - began < 0.6 * lease_s
    bed.worker.kill()


def test_a_drain_waits_for_a_living_peer_that_needs_longer_than_a_lease_to_send(
    make_cluster: MakeCluster, stack: ExitStack
) -> None:
    count, lease = 12_000, ("--lease", "1")
    cluster = make_cluster(options=(*lease, "--fanout-function", "other_fanout"))
    with redis.Redis.from_url(cluster.store.url) as store:
        store.zadd("{gearhorn}:clients:t", {f"c{number}": 0 for number in range(count)})
        store.zadd("{gearhorn}:topics", {"t": 0})
    functions = ("--subscribe-function", "s", "--register-function", "r")
    slow = Bed(cluster, stack, True, *lease, *functions, "--unsubscribe-function", "u")
    slow.line.throttle(600_000)
    with Wire(cluster.address) as wire:
        body = json.dumps({"topic": "t", "payload": "p" * 100, "background": True})
        wire.submit(b"fanout", body.encode(), background=True)
        eventually(lambda: jobs(cluster.address).get("t_c0"), 20)
        reply = json.loads(
            cluster.run("unsubscribe_fanout", 60, topic="t", client_id="c11999", drain=True).data
        )
        assert jobs(cluster.address)["fanout"] == 0, "it has sent all of it"
    assert reply["drained"] == 1
    assert not jobs(cluster.address)["t_c11999"]
    assert "lease lost" not in slow.worker.log()


# Queues that are full


def test_the_end_of_a_full_subscription_spares_the_one_that_is_made_after_it(
    make_cluster: MakeCluster, stack: ExitStack
) -> None:
    cluster = make_cluster(options=("--fanout-function", "other_fanout"))
    functions = ("--subscribe-function", "s", "--register-function", "r")
    far = Bed(cluster, stack, False, *functions)
    options = {"max_backlog": 1, "overflow": "unsubscribe"}
    cluster.subscribe("t", "alice", **options)
    assert cluster.publish("t", "first").data == b"1"
    far.line.hold(b"overflow")
    for _ in range(30):
        assert cluster.publish("t", "too many").data == b"0"
    assert far.line.held.wait(5)
    alice = cluster.receiver("t_alice")
    alice.wait(1)
    cluster.subscribe("t", "alice", **options)
    version = far.store.get("{gearhorn}:version")
    far.line.release()
    time.sleep(1)
    assert far.store.get("{gearhorn}:version") == version, "nothing is ended"
    assert cluster.publish("t", "second").data == b"1"
    assert alice.wait(2)[1] == b"second"


# What members leave behind


def test_nothing_of_former_selves_is_left_after_outages_and_clean_stops(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(workers=3, options=("--lease", "1.5", "--gossip-interval", "0.2"))
    for turn in range(2):
        cluster.store.freeze()
        time.sleep(3)
        cluster.store.thaw()
        until = time.monotonic() + 2
        while time.monotonic() < until:
            cluster.run("subscribe_fanout", topic=f"t{turn}", client_id="alice")
        cluster.subscribe("t", f"c{turn}")
    eventually(lambda: sum(worker.log().count("lease lost") for worker in cluster.workers) >= 3)
    own = members_own(cluster.address)
    eventually(lambda: len(members_own(cluster.address)) == 6, 20, f"of former selves remain {own}")
    for worker in cluster.workers:
        assert worker.stop() == 0
    assert members_own(cluster.address) == {}


# Subscriptions that end by themselves


def test_many_subscriptions_whose_time_is_over_end_together(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    cluster.subscribe("t", "stays")
    crowd = Pipeline(cluster.address, window=500)
    for number in range(1500):
        request = {"topic": "t", "client_id": f"c{number}", "ttl": 1 if number else 10_000}
        crowd.submit("subscribe_fanout", json.dumps(request).encode())
    assert {kind for kind, _ in crowd.finish()} == {"complete"}
    crowd.close()
    cluster.subscribe("t", "c0", ttl=1)
    cluster.subscribe("t", "c0", ttl=None)
    with redis.Redis.from_url(cluster.store.url, decode_responses=True) as store:
        # a renewal of a lease of 10 s hands out 100: it would take 50 s
        eventually(lambda: store.zcard("{gearhorn}:clients:t") == 2, 20)
        assert store.zcard("{gearhorn}:expiries") == 0
    assert cluster.publish("t", "x").data == b"2"


# Members that were frozen


def test_a_drainer_that_lost_its_lease_discards_nothing_of_a_later_subscription(
    make_cluster: MakeCluster, stack: ExitStack
) -> None:
    cluster = make_cluster(options=("--lease", "2"))
    cluster.subscribe("t", "alice")
    silent, drainer = (
        cluster.add_worker("--subscribe-function", f"s{n}", "--unsubscribe-function", f"u{n}")
        for n in range(2)
    )
    silent.ready()
    drainer.ready()
    store = redis.Redis.from_url(cluster.store.url, decode_responses=True)
    stack.callback(store.close)
    eventually(lambda: store.hlen("{gearhorn}:members") == 3)
    silent.freeze()  # the drain begins only when its lease is over
    with Wire(cluster.address) as wire:
        handle = wire.submit(b"u1", json.dumps(DRAIN).encode())
        eventually(lambda: store.hget(MARKS, "t_alice"))
        # the store's answers come in order: with this one the drainer has read that of its mark
        cluster.run("u1", topic="t", client_id="bob")
        drainer.freeze()
        eventually(lambda: not store.hlen(MARKS), 20)  # it is removed, with its mark
        cluster.subscribe("t", "alice")
        for number in range(5):
            assert cluster.publish("t", f"{number}").data == b"1"
        assert jobs(cluster.address)["t_alice"] == 5
        drainer.thaw()
        reply = json.loads(wire.outcome(handle, 30).data)
    assert (reply["drained"], reply["undrained"]) == (0, [cluster.address])
    assert jobs(cluster.address)["t_alice"] == 5
    silent.thaw()
