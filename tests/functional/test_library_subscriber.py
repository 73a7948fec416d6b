"""Receiving in Python, against real servers that come and go, and processes that are killed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cluster import Cluster, eventually
from support.lifelines import tied

import gearhorn
from gearhorn import aio

MakeCluster = Callable[..., Cluster]
HOST = """
import sys, time
import gearhorn

_, servers, options, took, note = sys.argv
subscriber = gearhorn.Subscriber("web1", *servers.split(","), grace=5.0)

@subscriber.on("t", **eval(options))
def handle(message):
    with open(note, "a") as file:
        file.write(f"begin {message.text}\\n")
    time.sleep(float(took))
    with open(note, "a") as file:
        file.write(f"end {message.text}\\n")

subscriber.run()
with open(note, "a") as file:
    file.write(f"left {subscriber.state.in_hand}\\n")
"""


class Host:
    """A process that receives topic t as web1, and notes what it does."""

    def __init__(
        self, cluster: Cluster, path: Path, options: dict[str, Any], took_s: float = 0.0
    ) -> None:
        self._path = path
        servers = ",".join(addresses_of(cluster))
        command = [sys.executable, "-c", HOST, servers, repr(options), str(took_s), str(path)]
        self.process = subprocess.Popen(tied(command), stderr=subprocess.PIPE)

    @property
    def notes(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return self._path.read_text().splitlines()
        return []

    def until(self, note: str, count: int = 1) -> None:
        eventually(lambda: self.notes.count(note) >= count, 20, f"{note}: {self.notes}")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def addresses_of(cluster: Cluster) -> list[str]:
    return [server.address for server in cluster.job_servers]


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    """Hosts to be ended after the test."""
    made: list[Host] = []
    yield made
    for host in made:
        host.close()


def is_subscribed(cluster: Cluster, topic: str) -> bool:
    with gearhorn.Admin(cluster.address) as admin, contextlib.suppress(gearhorn.Unknown):
        return bool(admin.describe(topic)["subscriptions"])
    return False


def test_handlers_get_messages_and_their_answers_go_back(cluster: Cluster, topic: str) -> None:
    with gearhorn.Publisher(cluster.address) as publisher:
        subscriber = gearhorn.Subscriber("web1", cluster.address)
        seen: list[gearhorn.Message] = []

        @subscriber.on(topic)
        def plain(message: gearhorn.Message) -> str:
            seen.append(message)
            return message.text.upper()

        @subscriber.on(f"{topic}-durable", durable=True)
        async def durable(message: gearhorn.Message) -> dict[str, str]:
            seen.append(message)
            return {"said": message.text}

        @subscriber.on(f"{topic}-typed", type=dict[str, int])
        def typed(body: dict[str, int], message: gearhorn.Message) -> int:
            return body["a"] + 1

        with subscriber:
            assert subscriber.healthy()
            assert publisher.ask(topic, "hello", headers={"a": "b"})["web1"].data == b"HELLO"
            assert publisher.ask(f"{topic}-durable", "x", headers={"a": "b"}).failed == {}
            assert publisher.ask(f"{topic}-typed", {"a": 1})["web1"].json() == 2
            assert publisher.ask(f"{topic}-typed", "no").failed["web1"].startswith("DecodeError")
            state = subscriber.state
        assert not subscriber.healthy()
        assert [message.client_id for message in seen] == ["web1", "web1"]
        assert seen[1].headers == {"a": "b"}
        assert seen[1].position is not None
        assert (state.done, state.failed, state.subscribed) == (3, 1, 3)


def test_what_a_handler_raises_is_an_attempt(cluster: Cluster, topic: str) -> None:
    subscriber = gearhorn.Subscriber("web1", cluster.address)
    attempts: list[int] = []

    @subscriber.on(topic, durable=gearhorn.Durable(max_backoff=0.1))
    def fail(message: gearhorn.Message) -> None:
        attempts.append(message.attempt)
        if message.attempt < 3:
            raise ValueError("not yet")

    with subscriber, gearhorn.Publisher(cluster.address) as publisher:
        publisher.deliver(topic, "x", timeout=20)
        assert attempts == [1, 2, 3]
        assert (subscriber.state.failed, subscriber.state.done) == (2, 1)


def test_a_handler_that_outlasts_its_time_runs_once(cluster: Cluster, topic: str) -> None:
    subscriber = gearhorn.Subscriber("web1", cluster.address)
    runs: list[float] = []

    @subscriber.on(topic, durable=gearhorn.Durable(timeout=0.5, max_backoff=0.2))
    def slow(message: gearhorn.Message) -> None:
        runs.append(time.monotonic())
        time.sleep(3.0)

    with subscriber, gearhorn.Publisher(cluster.address) as publisher:
        publisher.deliver(topic, "x", timeout=20)
        assert len(runs) == 1
    with gearhorn.Admin(cluster.address) as admin:
        eventually(lambda: admin.describe(topic)["subscriptions"]["web1"]["durable"]["lag"] == 0)


def test_handlers_run_side_by_side_and_hold_no_connection_up(cluster: Cluster, topic: str) -> None:
    subscriber = gearhorn.Subscriber("web1", cluster.address, concurrency=4)
    gate = threading.Barrier(4)

    @subscriber.on(topic)
    def meet(message: gearhorn.Message) -> None:
        gate.wait(10)

    with subscriber, gearhorn.Publisher(cluster.address) as publisher:
        publisher.publish_many([(topic, str(number)) for number in range(8)]).raise_any()
        eventually(lambda: subscriber.state.done == 8)


def test_messages_are_taken_by_hand(cluster: Cluster, topic: str) -> None:
    subscriber = gearhorn.Subscriber("web1", cluster.address)
    with subscriber, gearhorn.Publisher(cluster.address) as publisher:
        pass
    subscriber.on(topic, durable=gearhorn.Durable(max_backoff=0.1, in_flight=5))
    with gearhorn.Publisher(cluster.address) as publisher:
        messages = subscriber.messages(timeout=1.0)
        with contextlib.suppress(StopIteration):
            next(messages)
        publisher.publish_many([(topic, str(number)) for number in range(3)]).raise_any()
        found = []
        for message in subscriber.messages(timeout=2.0):
            found.append((message.text, message.attempt))
            if message.text == "1" and message.attempt == 1:
                message.fail("not yet")
            else:
                message.ack()
        subscriber.stop()
        assert sorted(found) == [("0", 1), ("1", 1), ("1", 2), ("2", 1)]


def test_a_refused_subscription_is_an_error_of_the_start(cluster: Cluster, topic: str) -> None:
    cluster.subscribe(topic, "a_b")
    subscriber = gearhorn.Subscriber("b", cluster.address)
    subscriber.on(f"{topic}_a")(print)
    with pytest.raises(gearhorn.QueueTaken, match=topic):
        subscriber.start()
    assert not subscriber.healthy()


def test_sigterm_finishes_what_is_in_hand(
    make_cluster: MakeCluster, tmp_path: Path, hosts: list[Host]
) -> None:
    cluster = make_cluster()
    hosts.append(host := Host(cluster, tmp_path / "one", {"durable": True}, 1.0))
    eventually(lambda: is_subscribed(cluster, "t"), 20)
    with gearhorn.Publisher(cluster.address) as publisher:
        publisher.publish("t", "a")
        host.until("begin a")
        host.process.send_signal(signal.SIGTERM)
        assert host.process.wait(20) == 0
        assert host.notes == ["begin a", "end a", "left 0"]
        publisher.publish("t", "b")
        hosts.append(host := Host(cluster, tmp_path / "two", {"durable": True}))
        host.until("end b")
        time.sleep(0.5)
        assert host.notes == ["begin b", "end b"], "a was acknowledged"


def test_a_second_signal_ends_it_at_once(
    make_cluster: MakeCluster, tmp_path: Path, hosts: list[Host]
) -> None:
    cluster = make_cluster()
    hosts.append(host := Host(cluster, tmp_path / "one", {"durable": True}, 60.0))
    eventually(lambda: is_subscribed(cluster, "t"), 20)
    with gearhorn.Publisher(cluster.address) as publisher:
        publisher.publish("t", "a")
        host.until("begin a")
        host.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert host.process.poll() is None
        host.process.send_signal(signal.SIGTERM)
        host.process.wait(3)


def test_what_a_killed_host_had_in_hand_goes_to_the_next(
    make_cluster: MakeCluster, tmp_path: Path, hosts: list[Host]
) -> None:
    cluster = make_cluster()
    options = {"durable": True}
    hosts.append(host := Host(cluster, tmp_path / "one", options, 60.0))
    eventually(lambda: is_subscribed(cluster, "t"), 20)
    with gearhorn.Publisher(cluster.address) as publisher:
        for text in ("a", "b"):
            publisher.publish("t", text)
        host.until("begin a")
        host.process.kill()
        hosts.append(host := Host(cluster, tmp_path / "two", options))
        host.until("end b")
        assert host.notes == ["begin a", "end a", "begin b", "end b"]


def test_it_goes_on_when_its_job_server_comes_back(
    make_cluster: MakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gearhorn")
    cluster = make_cluster()
    subscriber = gearhorn.Subscriber("web1", cluster.address)
    seen: list[str] = []
    subscriber.on("t", durable=True)(lambda message: seen.append(message.text))
    with subscriber, gearhorn.Publisher(cluster.address) as publisher:
        publisher.publish("t", "before")
        eventually(lambda: seen == ["before"])
        cluster.job_servers[0].kill()
        eventually(lambda: not subscriber.healthy())
        eventually(lambda: "no job server answers" in caplog.text, 15)
        cluster.job_servers[0].restart()
        publisher.publish("t", "after", timeout=30)
        eventually(lambda: seen[-1] == "after", 20)
        assert seen.count("after") == 1
        eventually(subscriber.healthy, 20)
    warnings = [record for record in caplog.records if "no job server" in record.getMessage()]
    assert [record.levelname for record in warnings] == ["WARNING"]
    assert "a job server answers again, after" in caplog.text


def test_it_subscribes_again_when_the_store_was_emptied(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    subscriber = gearhorn.Subscriber("web1", cluster.address)
    subscriber.on("t", ttl=6)(lambda message: None)
    with subscriber:
        cluster.run("unsubscribe_fanout", topic="t", client_id="web1")
        assert not is_subscribed(cluster, "t")
        eventually(lambda: is_subscribed(cluster, "t"), 10, "a ttl is renewed in a third of it")


def test_what_it_has_finished_is_not_run_again(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(job_servers=2)
    subscriber = gearhorn.Subscriber("web1", *addresses_of(cluster))
    seen: list[str] = []
    subscriber.on("t", durable=gearhorn.Durable(in_flight=64))(
        lambda message: seen.append(message.text)
    )
    with subscriber, gearhorn.Publisher(*addresses_of(cluster)) as publisher:
        texts = [str(number) for number in range(400)]
        publisher.publish_many([("t", text) for text in texts[:200]]).raise_any()
        cluster.job_servers[1].kill()
        cluster.job_servers[1].restart()
        results = publisher.publish_many(
            [gearhorn.Outgoing("t", text, unique=text) for text in texts[200:]], timeout=60
        )
        results.raise_any()
        eventually(lambda: set(seen) == set(texts), 40)
        time.sleep(1)
        assert sorted(seen, key=int) == texts, subscriber.state


def test_the_worker_may_die_at_any_time(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(workers=2, options=("--lease", "2"))
    subscriber = gearhorn.Subscriber("web1", cluster.address)
    seen: list[str] = []
    subscriber.on("t", durable=True)(lambda message: seen.append(message.text))
    with subscriber, gearhorn.Publisher(cluster.address) as publisher:
        for number in range(30):
            if number == 10:
                cluster.workers[0].kill()
            publisher.publish("t", str(number), unique=str(number), timeout=30)
        eventually(lambda: len(set(seen)) == 30, 30)
        assert seen == [str(number) for number in range(30)]


def test_a_subscriber_that_was_made_before_a_fork_runs_in_the_child(
    cluster: Cluster, topic: str, tmp_path: Path
) -> None:
    subscriber = gearhorn.Subscriber("web1", cluster.address)
    note = tmp_path / "note"

    @subscriber.on(topic)
    def handle(message: gearhorn.Message) -> str:
        note.write_text(f"{os.getpid()}")
        return "done"

    with gearhorn.Publisher(cluster.address) as publisher:
        publisher.publish(topic, "the parent has a connection")
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                subscriber.run()
            os._exit(0)
        try:
            eventually(lambda: is_subscribed(cluster, topic), 20)
            assert publisher.ask(topic, "x", timeout=20)["web1"].data == b"done"
            assert note.read_text() == str(child)
        finally:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)


def test_coroutines_have_the_same(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()

    async def main() -> None:
        seen: list[str] = []
        subscriber = aio.Subscriber("web1", cluster.address, concurrency=3)

        @subscriber.on("t", durable=aio.Durable(in_flight=10))
        async def handle(message: aio.Message) -> str:
            await asyncio.sleep(0.01)
            seen.append(message.text)
            return "ok"

        async with subscriber, aio.Publisher(cluster.address) as publisher:
            answers = await publisher.ask("t", "x")
            assert answers["web1"].data == b"ok" or answers["web1"].data == b""
            messages = (("t", str(number)) for number in range(50))
            (await publisher.publish_many(messages)).raise_any()
            while len(seen) < 51:
                await asyncio.sleep(0.01)
        running = asyncio.ensure_future(subscriber.run(signals=False))
        await asyncio.sleep(0.5)
        assert subscriber.healthy()
        await subscriber.stop(unsubscribe=True)
        await asyncio.wait_for(running, 10)

    asyncio.run(main())
    assert not is_subscribed(cluster, "t")


def test_a_follower_reads_what_comes(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    with gearhorn.Publisher(cluster.address) as publisher, gearhorn.Admin(cluster.address) as admin:
        admin.retain("t", max_messages=5)
        publisher.publish_many([("t", str(number)) for number in range(20)]).raise_any()
        with gearhorn.Log("t", cluster.address) as log:
            followed = log.follow(start=3)
            first = next(followed)
            assert (first.text, first.gap) == ("15", (12, False))
            assert [next(followed).text for _ in range(4)] == ["16", "17", "18", "19"]
            timer = threading.Timer(0.5, publisher.publish, ("t", "new"))
            timer.start()
            assert next(followed).text == "new"
            timer.join()
