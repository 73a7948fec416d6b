"""Every part of a worker may crash: it is started again, or the member stands down; nobody waits
for an answer that never comes."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from support import saboteur
from support.cluster import Cluster, Worker, eventually
from support.lifelines import tied
from support.wire import Wire

MakeCluster = Callable[..., Cluster]
OPTIONS = ("--lease", "2", "--gossip-interval", "0.5")
ANSWERED_S = 30.0  # a request that takes longer is one that is never answered
# Tasks that end with a connection to the store, which then is opened anew.
OF_ONE_CONNECTION = ("store line", "store line ping")


class SabotagedWorker(Worker):
    """A worker whose parts can be made to crash."""

    program = (saboteur.__file__,)

    def _start(self, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as log:
            return subprocess.Popen(
                tied(self.command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
            )

    def order(self, *command: str) -> Any:
        """Have the saboteur do something, and return what it says."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        super().close()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Service:
    """Uses everything that a worker offers, and insists on an answer to each request."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._numbers = itertools.count(1)
        self._receiver = cluster.receiver("direct_alice", "kept_bob")

    def run(self, function: str, **request: Any) -> bool:
        """Run one request; return whether it succeeded. It must be answered."""
        with Wire(self._cluster.address, ANSWERED_S) as wire:
            body = json.dumps(request).encode()
            try:
                return wire.run(function.encode(), body, ANSWERED_S).kind == "complete"
            except TimeoutError:
                raise AssertionError(f"{function} {request} is not answered") from None

    def publish(self, topic: str) -> bool:
        """Publish, and see the message arrive if the fan-out succeeded."""
        words = f"{topic} {next(self._numbers)}".encode()
        if not self.run("fanout", topic=topic, payload=words.decode(), background=True):
            return False
        eventually(lambda: words in self._receiver.payloads, ANSWERED_S, f"{words!r} is lost")
        return True

    def begin(self) -> None:
        """Make the subscriptions."""
        assert self.run("subscribe_fanout", topic="direct", client_id="alice")
        assert self.run("subscribe_fanout", topic="kept", client_id="bob", durable=True)

    def all(self) -> bool:
        """Whether all of it works now."""
        client = f"guest{next(self._numbers)}"
        return (
            self.run("subscribe_fanout", topic="other", client_id=client)
            and self.run("unsubscribe_fanout", topic="other", client_id=client)
            and self.publish("direct")
            and self.publish("kept")
            and self.run("fetch_fanout", topic="kept", after=0, limit=1)
            and self.run("describe_fanout", topic="kept")
        )

    def works(self) -> None:
        """Wait until all of it works."""
        eventually(self.all, 2 * ANSWERED_S, "the worker does not serve")


class Traffic:
    """Requests without a pause, so that a fault may fall anywhere; `errors` are unanswered ones."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._is_over = threading.Event()
        self.errors: list[BaseException] = []
        self.rounds = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._is_over.is_set():
                self._service.all()
                self.rounds += 1
        except BaseException as error:
            self.errors.append(error)

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join(6 * ANSWERED_S)


@pytest.fixture
def sabotaged(make_cluster: MakeCluster) -> tuple[Cluster, SabotagedWorker]:
    """A cluster of one worker, that can be sabotaged."""
    cluster = make_cluster(workers=0)
    worker = SabotagedWorker([cluster.address], cluster.store.url, *OPTIONS)
    cluster.workers.append(worker)
    worker.ready()
    return cluster, worker


def joins(worker: Worker) -> int:
    return worker.log().count("event=joined")


def restarts(worker: SabotagedWorker, name: str) -> int:
    return int(worker.order("restarts").get(name, 0))


def long_lived(worker: SabotagedWorker) -> list[tuple[str, str, bool]]:
    """The tasks that are there whenever one looks: key, name, and whether a loop is kept by it."""
    seen = []
    for _ in range(6):
        seen.append(worker.order("tasks"))
        time.sleep(0.25)  # what ends has ended then
    return [(key, *rest) for key, rest in seen[0].items() if all(key in tasks for tasks in seen)]


def test_every_loop_of_the_worker_is_kept(
    sabotaged: tuple[Cluster, SabotagedWorker],
) -> None:
    cluster, worker = sabotaged
    Service(cluster).begin()
    others = {name for _, name, is_kept in long_lived(worker) if not is_kept}
    assert others <= set(OF_ONE_CONNECTION)


def test_whatever_crashes_once_the_member_serves_again(
    sabotaged: tuple[Cluster, SabotagedWorker],
) -> None:
    cluster, worker = sabotaged
    service = Service(cluster)
    service.begin()
    service.works()
    victims = long_lived(worker)
    assert len(victims) > 15
    victims.sort(key=lambda victim: victim[1] == "membership")  # last: it takes links with it
    traffic = Traffic(service)
    try:
        for key, name, is_kept in victims:
            before = restarts(worker, name)
            worker.order("break", key)
            if is_kept:
                eventually(lambda n=name, b=before: restarts(worker, n) > b, what=name)
            service.works()
            assert not traffic.errors, (name, traffic.errors)
    finally:
        traffic.stop()
    assert not traffic.errors
    assert traffic.rounds
    crashed = {name for _, name, is_kept in victims if is_kept}
    assert set(worker.order("restarts")) == crashed
    for name in crashed:
        worker.logs(f"part={name}" if " " not in name else f'part="{name}"')
    assert worker.stop() == 0


@pytest.mark.parametrize("part", ["changes", "membership", "delivery"])
def test_a_member_whose_vital_part_goes_on_crashing_stands_down_until_it_runs(
    sabotaged: tuple[Cluster, SabotagedWorker], part: str
) -> None:
    cluster, worker = sabotaged
    service = Service(cluster)
    service.begin()
    worker.order("doom", part)
    eventually(lambda: "standing down" in worker.log())
    other = cluster.add_worker(*OPTIONS).ready()
    service.works()
    before = joins(worker)
    worker.order("spare")
    eventually(lambda: joins(worker) > before, ANSWERED_S)
    assert other.stop() == 0
    service.works()


class Asking:
    """A request that is under way, on a connection of its own."""

    def __init__(self, cluster: Cluster, function: str, **request: Any) -> None:
        self._wire = Wire(cluster.address, ANSWERED_S)
        self.handle = self._wire.submit(function.encode(), json.dumps(request).encode())
        with Wire(cluster.address, ANSWERED_S) as other:
            eventually(lambda: other.status(self.handle) != (True, False), ANSWERED_S)

    def answer(self) -> tuple[str, bytes]:
        """How it ended, and the first warning."""
        with self._wire:
            outcome = self._wire.outcome(self.handle, ANSWERED_S)
        return outcome.kind, b"".join(outcome.warnings[:1])


def crash(worker: SabotagedWorker, part: str) -> None:
    """Have a kept loop crash once, where it waits now: while it connects to the store, a fault is
    one of the connection and no crash, so it is made again."""
    before = restarts(worker, part)
    tasks = worker.order("tasks").items()
    [key] = [key for key, (name, is_kept) in tasks if name == part and is_kept]

    def is_done() -> bool:
        if restarts(worker, part) > before:
            return True
        worker.order("break", key)
        return False

    eventually(is_done, ANSWERED_S, part)


def subscribed(cluster: Cluster) -> set[str]:
    """Who is subscribed to the topic, as the store says."""
    found = json.loads(cluster.run("describe_fanout", ANSWERED_S, topic="t").data)
    return set(found["topics"].get("t", {}).get("subscriptions", {}))


@pytest.mark.parametrize("moment", ["writing", "asking what was written"])
def test_changes_in_flight_are_answered_when_their_loop_crashes(
    sabotaged: tuple[Cluster, SabotagedWorker], moment: str
) -> None:
    cluster, worker = sabotaged
    cluster.subscribe("t", "early")
    cluster.store.freeze()
    try:
        asked = [Asking(cluster, "subscribe_fanout", topic="t", client_id="alice")]
        if moment == "asking what was written":
            assert asked.pop().answer()[0] == "fail"
        asked += [
            Asking(cluster, "subscribe_fanout", topic="t", client_id="bob"),
            Asking(cluster, "unsubscribe_fanout", topic="t", client_id="early", drain=True),
        ]
        crash(worker, "changes")
        answers = [one.answer() for one in asked]
    finally:
        cluster.store.thaw()
    assert {kind for kind, _ in answers} == {"fail"}
    for _, words in answers:
        assert words.startswith((b"internal error", b"unavailable: ")), words
    Service(cluster).begin()
    again = [f"again{number}" for number in range(3)]
    cluster.subscribe("t", *again)
    copies = len(subscribed(cluster))
    assert copies >= len(again)
    assert cluster.publish("t", "m").data == str(copies).encode()
    assert cluster.run("unsubscribe_fanout", topic="t", client_id="early").kind == "complete"
    assert "early" not in subscribed(cluster)
