"""Answers as they come, from Python, against real servers that come and go."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from support.cluster import Behaviour, Cluster, eventually
from support.wire import Assigned, Wire

import gearhorn
from gearhorn import aio

MakeCluster = Callable[..., Cluster]


@pytest.fixture
def publisher(cluster: Cluster) -> Iterator[gearhorn.Publisher]:
    with gearhorn.Publisher(cluster.address) as publisher:
        yield publisher


def when(released: threading.Event, answer: bytes) -> Behaviour:
    """A receiver that answers when a test says so."""

    def behave(wire: Wire, job: Assigned) -> None:
        assert released.wait(30)
        wire.complete(job.handle, answer)

    return behave


def test_answers_come_one_by_one_and_those_that_are_missing_last(
    cluster: Cluster, topic: str, publisher: gearhorn.Publisher
) -> None:
    cluster.subscribe(topic, "a", "b", "c", "d")
    released = threading.Event()
    cluster.receiver(f"{topic}_a", answer=b"\xff!")
    cluster.receiver(f"{topic}_b", behave=when(released, b"at last"))
    cluster.receiver(f"{topic}_d", behave=lambda wire, job: wire.fail(job.handle))
    answers = publisher.ask_iter(topic, "how are you?", timeout=3.0)
    first = {(said := next(answers)).client_id: said for _ in range(2)}
    a, d = first["a"], first["d"]
    assert isinstance(a, gearhorn.Answer)
    assert isinstance(d, gearhorn.Failure)
    assert (a.data, d.reason) == (b"\xff!", "failed")
    assert a.seconds is not None
    assert 0 <= a.seconds < 3
    released.set()
    b = next(answers)
    assert isinstance(b, gearhorn.Answer)
    assert (b.client_id, b.text) == ("b", "at last")
    assert list(answers) == [gearhorn.Failure("c", "no answer")]


def test_they_come_in_asyncio_too(cluster: Cluster, topic: str) -> None:
    clients = [f"c{number}" for number in range(50)]
    cluster.subscribe(topic, *clients)
    cluster.receiver(*(f"{topic}_{client}" for client in clients), answer=1000 * b"r")

    async def main() -> list[aio.Answer | aio.Failure]:
        async with aio.Publisher(cluster.address) as publisher:
            return [said async for said in publisher.ask_iter(topic, "x")]

    said = asyncio.run(main())
    assert sorted(one.client_id for one in said) == sorted(clients)
    assert all(isinstance(one, aio.Answer) and len(one.data) == 1000 for one in said)


def test_a_host_is_there_once_though_a_worker_dies(make_cluster: MakeCluster, topic: str) -> None:
    cluster = make_cluster(workers=2, options=("--lease", "1"))
    clients = [f"c{number}" for number in range(20)]
    cluster.subscribe(topic, *clients, "late")
    released = threading.Event()
    cluster.receiver(*(f"{topic}_{client}" for client in clients), answer=b"here")
    cluster.receiver(f"{topic}_late", behave=when(released, b"late"))
    with gearhorn.Publisher(cluster.address) as publisher:
        answers = publisher.ask_iter(topic, "x", timeout=30.0)
        before = [next(answers) for _ in clients]
        for worker in cluster.workers:  # whichever has it
            worker.kill()
        cluster.add_worker().ready()
        released.set()
        said = [*before, *answers]
    assert sorted(one.client_id for one in said) == sorted([*clients, "late"])
    assert all(isinstance(one, gearhorn.Answer) for one in said)


def test_who_leaves_early_goes_on_with_others(
    cluster: Cluster, topic: str, publisher: gearhorn.Publisher
) -> None:
    cluster.subscribe(topic, "a", "b")
    cluster.receiver(f"{topic}_a", answer=b"here")
    for said in publisher.ask_iter(topic, "x", timeout=20.0):
        assert said.client_id == "a"
        break
    assert publisher.ask(topic, "x", timeout=10.0, quorum=1)["a"].data == b"here"


def test_a_job_server_that_dies_leaves_the_rest_unsure(
    make_cluster: MakeCluster, topic: str
) -> None:
    cluster = make_cluster()
    cluster.subscribe(topic, "a", "b")
    cluster.receiver(f"{topic}_a", answer=b"here")
    with gearhorn.Publisher(cluster.address) as publisher:
        answers = publisher.ask_iter(topic, "x", timeout=20.0)
        assert next(answers).client_id == "a"
        cluster.job_servers[0].kill()
        with pytest.raises(gearhorn.Unsure):
            list(answers)


def test_a_refusal_is_raised_where_the_first_answer_is_waited_for(
    publisher: gearhorn.Publisher,
) -> None:
    answers = publisher.ask_iter("a b")
    with pytest.raises(gearhorn.BadName, match="space"):
        next(answers)


def test_a_slow_reader_gets_all_of_them(
    cluster: Cluster, topic: str, publisher: gearhorn.Publisher
) -> None:
    clients = [f"c{number}" for number in range(30)]
    cluster.subscribe(topic, *clients)
    receiver = cluster.receiver(*(f"{topic}_{client}" for client in clients), answer=200_000 * b"r")
    answers = publisher.ask_iter(topic, "x")
    first = next(answers)
    receiver.wait(30)
    time.sleep(0.3)
    said = [first, *answers]
    assert sorted(one.client_id for one in said) == sorted(clients)
    eventually(lambda: publisher.connected)
