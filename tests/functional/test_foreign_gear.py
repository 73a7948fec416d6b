"""gear's own Client and Worker, as any Python program has them, publish, subscribe and receive."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import gear
import pytest
from support.cluster import Cluster, eventually

pytest_plugins = ["support.foreign"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gear")

Behaviour = Callable[[gear.WorkerJob], None]


@pytest.fixture(scope="module", autouse=True)
def quiet() -> None:
    """gear formats every packet for its log otherwise."""
    logging.getLogger("gear").setLevel(logging.WARNING)


@pytest.fixture
def cluster(gearmand_cluster: Cluster) -> Cluster:
    """gearmand and Redis."""
    return gearmand_cluster


@pytest.fixture
def gear_client(cluster: Cluster) -> Iterator[gear.Client]:
    """A connected gear.Client."""
    client = gear.Client("a publisher")
    host, port = cluster.address.split(":")
    client.addServer(host, int(port))
    client.waitForServer()
    yield client
    client.shutdown()


class Subscriber:
    """A gear.Worker in a thread; `behave` ends each job, with its payload as the result if not
    told otherwise."""

    def __init__(self, cluster: Cluster, *queues: str, behave: Behaviour | None = None) -> None:
        self.jobs: list[gear.WorkerJob] = []
        self._behave = behave or (lambda job: job.sendWorkComplete(job.arguments))
        self._worker = gear.Worker("a subscriber")
        host, port = cluster.address.split(":")
        self._worker.addServer(host, int(port))
        self._worker.waitForServer()
        for queue in queues:
            self._worker.registerFunction(queue)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self, count: int) -> list[bytes]:
        """Wait for so many jobs; their payloads."""
        eventually(lambda: len(self.jobs) >= count)
        return [job.arguments for job in self.jobs]

    def _run(self) -> None:
        while True:
            try:
                job = self._worker.getJob()
            except gear.InterruptedError:
                return
            self.jobs.append(job)
            self._behave(job)

    def close(self) -> None:
        """Stop it."""
        self._worker.stopWaitingForJobs()
        self._thread.join(10)
        self._worker.shutdown()


@pytest.fixture
def subscriber(cluster: Cluster) -> Iterator[Callable[..., Subscriber]]:
    """Starts receivers: `subscriber(*queues, behave=None)`."""
    with ExitStack() as stack:

        def start(*queues: str, behave: Behaviour | None = None) -> Subscriber:
            started = Subscriber(cluster, *queues, behave=behave)
            stack.callback(started.close)
            return started

        yield start


def run(client: gear.Client, function: str, **request: Any) -> gear.Job:
    """Run a foreground job to its end."""
    job = gear.Job(function, json.dumps(request).encode())
    client.submitJob(job)
    eventually(lambda: job.complete, 20)
    return job


def subscribe(client: gear.Client, topic: str, *clients: str, **options: Any) -> None:
    """Subscribe clients."""
    for client_id in clients:
        job = run(client, "subscribe_fanout", topic=topic, client_id=client_id, **options)
        assert not job.failure
        assert json.loads(job.data[0])["queue"] == f"{topic}_{client_id}"


def failure(job: gear.Job) -> str:
    """What a failed job was told."""
    assert (job.complete, job.failure, job.warning, job.exception) == (True, True, True, None)
    [text] = job.data
    return str(text.decode())


@pytest.mark.parametrize("background", [True, False])
def test_gear_publishes_and_receives(
    gear_client: gear.Client,
    subscriber: Callable[..., Subscriber],
    topic: str,
    background: bool,
) -> None:
    subscribe(gear_client, topic, "alice", "bob")
    alice, bob = subscriber(f"{topic}_alice"), subscriber(f"{topic}_bob")
    job = run(gear_client, "fanout", topic=topic, payload="hello", background=background)
    assert (job.failure, job.data, job.warning) == (False, [b"2"], False)
    assert alice.wait(1) == [b"hello"]
    assert bob.wait(1) == [b"hello"]
    if not background:
        assert (job.numerator, job.denominator) == (b"2", b"2")


def test_gear_publishes_as_a_background_job(
    gear_client: gear.Client, subscriber: Callable[..., Subscriber], topic: str
) -> None:
    subscribe(gear_client, topic, "alice")
    body = json.dumps({"topic": topic, "payload": [1, {"a": None}]}).encode()
    gear_client.submitJob(gear.Job("fanout", body), background=True)
    assert subscriber(f"{topic}_alice").wait(1) == [b'[1, {"a": null}]']


def test_gear_unsubscribes(gear_client: gear.Client, topic: str) -> None:
    subscribe(gear_client, topic, "alice", "bob")
    run(gear_client, "fanout", topic=topic, payload="x", background=True)
    pair = {"topic": topic, "client_id": "alice"}
    job = run(gear_client, "unsubscribe_fanout", **pair, drain=True)
    assert not job.failure
    assert json.loads(job.data[0])["drained"] == 1
    job = run(gear_client, "fanout", topic=topic, payload="x", background=True)
    assert job.data == [b"1"]


def test_gear_uses_the_other_name_of_subscribing(gear_client: gear.Client, topic: str) -> None:
    pair = {"topic": topic, "client_id": "alice"}
    assert not run(gear_client, "register_fanout_subscriber", **pair).failure
    job = run(gear_client, "fanout", topic=topic, payload="x", background=True)
    assert job.data == [b"1"]


def test_gears_worker_sees_unique_ids(
    gear_client: gear.Client, subscriber: Callable[..., Subscriber], topic: str
) -> None:
    subscribe(gear_client, topic, "alice")
    for payload in ("first", "coalesced"):
        request = {"topic": topic, "payload": payload, "unique": "mine", "background": True}
        assert run(gear_client, "fanout", **request).data == [b"1"]
    alice = subscriber(f"{topic}_alice")
    assert alice.wait(1) == [b"first"]
    assert alice.jobs[0].unique == b"mine"
    job = run(gear_client, "fanout", topic=topic, payload="again", unique="mine")
    assert job.data == [b"1"]
    assert alice.wait(2) == [b"first", b"again"]
    assert alice.jobs[1].unique.endswith(b"mine")
    assert alice.jobs[1].unique != b"mine"


def test_gear_uses_quorum_timeout_receipt_and_exclude(
    gear_client: gear.Client, subscriber: Callable[..., Subscriber], topic: str
) -> None:
    subscribe(gear_client, topic, "alice", "bob", "carol")
    subscriber(f"{topic}_alice")
    job = run(gear_client, "fanout", topic=topic, payload="x", quorum=1, timeout=1)
    assert (job.failure, job.data) == (False, [b"1"])
    options = {"exclude": ["carol"], "timeout": 1, "receipt": True, "quorum": "100%"}
    job = run(gear_client, "fanout", topic=topic, payload="y", **options)
    assert not job.failure
    assert json.loads(b"".join(job.data)) == {
        "copies": 2,
        "delivered": ["alice"],
        "failed": {},
        "pending": ["bob"],
        "dropped": [],
        "results": {"alice": "y"},
    }


def test_gear_uses_priority_and_encoding(
    gear_client: gear.Client, subscriber: Callable[..., Subscriber], topic: str
) -> None:
    subscribe(gear_client, topic, "alice")
    for payload, priority in (("AAEC", "low"), ("AP8A", "normal"), ("AAAA", "high")):
        request = {"topic": topic, "payload": payload, "priority": priority}
        job = run(gear_client, "fanout", **request, encoding="base64", background=True)
        assert job.data == [b"1"]
    assert subscriber(f"{topic}_alice").wait(3) == [b"\0\0\0", b"\0\xff\0", b"\0\1\2"]


def test_gear_sees_a_timeout_as_a_failure(gear_client: gear.Client, topic: str) -> None:
    subscribe(gear_client, topic, "alice")
    job = run(gear_client, "fanout", topic=topic, payload="x", timeout=0.3)
    [[client, reason]] = json.loads(failure(job))
    assert client == "alice"
    assert reason


@pytest.mark.parametrize("exceptions", [False, True])
@pytest.mark.parametrize(
    ("function", "request_", "code"),
    [
        ("fanout", {"topic": "some"}, "bad_request: payload"),
        ("fanout", {"topic": "", "payload": "x"}, "bad_name: topic"),
        ("fanout", {"topic": "__matchmaking", "payload": "x"}, "reserved: "),
        ("subscribe_fanout", {"topic": "a b", "client_id": "x"}, "bad_name: topic"),
        ("unsubscribe_fanout", {"topic": "a"}, "bad_request: client_id"),
    ],
)
def test_gear_sees_a_refusal_as_a_failure(
    gear_client: gear.Client,
    function: str,
    request_: dict[str, Any],
    code: str,
    exceptions: bool,
) -> None:
    if exceptions:
        assert gear_client.setOption("exceptions")
    assert failure(run(gear_client, function, **request_)).startswith(code)


def fail_after_a_warning(job: gear.WorkerJob) -> None:
    job.sendWorkWarning(b"disk full")
    job.sendWorkFail()


@pytest.mark.parametrize(
    "behave", [lambda job: job.sendWorkException(b"disk full"), fail_after_a_warning]
)
def test_a_receiver_of_gear_fails_in_its_own_words(
    gear_client: gear.Client,
    subscriber: Callable[..., Subscriber],
    topic: str,
    behave: Behaviour,
) -> None:
    subscribe(gear_client, topic, "alice", "bob")
    subscriber(f"{topic}_alice", behave=behave)
    subscriber(f"{topic}_bob")
    job = run(gear_client, "fanout", topic=topic, payload="x")
    assert json.loads(failure(job)) == [["alice", "disk full"]]


def test_a_receiver_of_gear_answers_in_chunks(
    gear_client: gear.Client, subscriber: Callable[..., Subscriber], topic: str
) -> None:
    subscribe(gear_client, topic, "alice")

    def answer(job: gear.WorkerJob) -> None:
        job.sendWorkStatus(1, 2)
        job.sendWorkData(b"one ")
        job.sendWorkData(b"two ")
        job.sendWorkComplete(b"three")

    subscriber(f"{topic}_alice", behave=answer)
    job = run(gear_client, "fanout", topic=topic, payload="x", receipt=True)
    assert json.loads(b"".join(job.data))["results"] == {"alice": "one two three"}
