"""Replies of fan-outs when servers, workers and time interfere: they say what is so."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256

import pytest
from support.cluster import Cluster, Worker, eventually
from support.foreign import Raw, receipt
from support.lossy import Lossy
from support.wire import CAN_DO, packet

pytest_plugins = ["support.foreign"]
MakeCluster = Callable[..., Cluster]


def name_on(addresses: Sequence[str], topic: str, place: int) -> Iterator[str]:
    """Client_ids whose queues one of the job servers carries."""
    for number in range(1000):
        queue = f"{topic}_c{number}".encode()
        digests = [sha256(server.encode() + b"\0" + queue).digest() for server in addresses]
        if digests.index(max(digests)) == place:
            yield f"c{number}"


def two_servers(make_cluster: MakeCluster, topic: str) -> tuple[Cluster, str, str]:
    """Two job servers, and a subscriber on each; the second one is frozen."""
    cluster = make_cluster(job_servers=2)
    addresses = [server.address for server in cluster.job_servers]
    here, there = (next(name_on(addresses, topic, place)) for place in range(2))
    cluster.subscribe(topic, here, there)
    assert cluster.publish(topic, "both are ready").data == b"2"
    cluster.job_servers[1].freeze()
    return cluster, here, there


@pytest.mark.parametrize("how", ["thaw", "kill"])
def test_a_quorum_is_answered_once_every_copy_is_accepted(
    make_cluster: MakeCluster, topic: str, how: str
) -> None:
    cluster, here, there = two_servers(make_cluster, topic)
    with Raw(cluster.address) as raw:
        taker = raw.taker(f"{topic}_{here}")
        pending = raw.fanout(topic, "x", quorum=1, timeout=60)
        assert taker.finish(2) == [b"both are ready", b"x"]
        assert cluster.publish(f"{topic}-other", "y").data == b"0"  # the worker has heard of it
        pending.progress()  # no reply, though one has succeeded
        getattr(cluster.job_servers[1], how)()
        assert pending.outcome(30).data == b"1"
        if how == "thaw":
            last = cluster.receiver(f"{topic}_{there}", address=cluster.job_servers[1].address)
            assert last.wait(2) == [b"both are ready", b"x"]
        else:
            assert raw.taker(f"{topic}_{there}").finish() == [b"x"]


@pytest.mark.parametrize("with_receipt", [True, False])
def test_at_the_timeout_what_no_server_accepted_is_not_said_to_be_accepted(
    make_cluster: MakeCluster, topic: str, with_receipt: bool
) -> None:
    cluster, here, there = two_servers(make_cluster, topic)
    with Raw(cluster.address) as raw:
        taker = raw.taker(f"{topic}_{here}")
        pending = raw.fanout(topic, "x", quorum=1, timeout=3, receipt=with_receipt)
        assert taker.finish(2) == [b"both are ready", b"x"]
        outcome = pending.outcome(30)
        if with_receipt:
            got = receipt(outcome)
            assert (got["copies"], got["delivered"], got["pending"]) == (1, [here], [there])
        else:  # a quorum has succeeded, but the message is not with everybody
            assert outcome.kind == "fail"
            assert json.loads(outcome.warnings[0]) == [[there, "no answer in 3 s"]]
    cluster.job_servers[1].thaw()


def test_a_clean_stop_waits_for_copies_that_a_quorum_has_answered(
    make_cluster: MakeCluster, topic: str
) -> None:
    cluster = make_cluster()
    cluster.subscribe(topic, "a", "b", "c")
    (worker,) = cluster.workers
    with Raw(cluster.address) as raw:
        pending = raw.fanout(topic, "x", quorum=1, timeout=600)
        raw.taker(f"{topic}_a").finish()
        assert pending.outcome().data == b"1"
        worker.process.terminate()
        eventually(lambda: "event=stopping" in worker.log())
        with pytest.raises(subprocess.TimeoutExpired):
            worker.process.wait(2)
        assert raw.taker(f"{topic}_b").finish() == [b"x"]
        assert raw.taker(f"{topic}_c").finish() == [b"x"]
    assert worker.process.wait(10) == 0, worker.log()
    assert "warning" not in worker.log()


def test_a_clean_stop_says_what_it_leaves_of_them(make_cluster: MakeCluster, topic: str) -> None:
    cluster = make_cluster()
    cluster.subscribe(topic, "a", "b", "c")
    (worker,) = cluster.workers
    with Raw(cluster.address) as raw:
        pending = raw.fanout(topic, "x", quorum=1, timeout=600)
        raw.taker(f"{topic}_a").finish()
        assert pending.outcome().data == b"1"
        assert worker.stop(60) == 0
    (line,) = (line for line in worker.log().splitlines() if "those that wait are" in line)
    assert "fanouts=1" in line
    assert "copies=2" in line
    assert "other members will be given it" not in worker.log()


def test_a_quorum_whose_receivers_never_come_keeps_a_stop_no_longer_than_its_timeout(
    make_cluster: MakeCluster, topic: str
) -> None:
    cluster = make_cluster()
    cluster.subscribe(topic, "a", "b")
    (worker,) = cluster.workers
    with Raw(cluster.address) as raw:
        pending = raw.fanout(topic, "x", quorum=1, timeout=2)
        raw.taker(f"{topic}_a").finish()
        assert pending.outcome().data == b"1"
        assert worker.stop(60) == 0
    assert "warning" not in worker.log()


def test_what_a_lost_server_had_accepted_while_another_copy_waited_for_room_is_sent_again(
    make_cluster: MakeCluster, topic: str
) -> None:
    cluster = make_cluster(workers=0, job_servers=2)
    first, second = cluster.job_servers
    with contextlib.closing(Lossy(second.address)) as line:
        worker = Worker([first.address, line.address], cluster.store.url)
        cluster.workers.append(worker)
        worker.ready()
        names = name_on([first.address, line.address], topic, 1)
        plain, old = next(names), next(names)
        cluster.subscribe(topic, plain)
        cluster.subscribe(topic, old, max_backlog=1, overflow="drop_old")
        assert cluster.publish(topic, "one").data == b"2"
        # what is on the queue is not discarded: once that is asked for, both copies are answered
        line.hold(packet(CAN_DO, f"{topic}_{old}".encode()))
        outcomes = []
        asked = threading.Thread(target=lambda: outcomes.append(cluster.publish(topic, "two")))
        asked.start()
        assert line.held.wait(10)
        second.kill()
        asked.join(30)
        assert [outcome.data for outcome in outcomes] == [b"2"]
        with Raw(first.address) as raw:
            assert raw.taker(f"{topic}_{plain}").finish() == [b"two"]
        assert b"two" in raw.taker(f"{topic}_{old}").finish()


@pytest.mark.parametrize("how", ["anew", "capped"])
def test_a_durable_receiver_has_not_done_what_its_position_has_merely_passed(
    make_cluster: MakeCluster, topic: str, how: str
) -> None:
    cluster = make_cluster()
    cluster.subscribe(topic, "alice", durable=True)
    with Raw(cluster.address) as raw:
        assert cluster.publish(topic, "first").data == b"1"
        taker = raw.taker(f"{topic}_alice")
        first = taker.take()
        pending = raw.fanout(topic, "second", receipt=True, timeout=4)
        eventually(lambda: last_of(cluster, topic) == 2)
        if how == "anew":
            ended = cluster.run("unsubscribe_fanout", topic=topic, client_id="alice")
            assert ended.kind == "complete"
            cluster.subscribe(topic, "alice", durable=True)
        else:
            cluster.run("retain_fanout", topic=topic, max_messages=1)
            assert cluster.publish(topic, "third").data == b"1"
        taker.complete(first.handle)
        said = receipt(pending.outcome(30))
    assert (said["delivered"], said["pending"]) == ([], ["alice"])


def last_of(cluster: Cluster, topic: str) -> int:
    described = json.loads(cluster.run("describe_fanout", topic=topic).data)
    last: int = described["topics"][topic]["log"]["last"]
    return last
