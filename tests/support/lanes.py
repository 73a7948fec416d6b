"""A pytest plugin: durable topics on a whole cluster. Receivers that come back,
publishers that insist, and questions about who delivers.

A receiver that needs exact order completes unprocessed what carries a lower TERM than it has seen,
or a sequence it has finished; `processed` is what is left then.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest

from support.cluster import Cluster, Worker, eventually
from support.wire import Wire, admin

STORE = ("--appendonly", "yes", "--appendfsync", "always")  # keeps what it acknowledged
ANSWER_S = 5.0  # a publisher asks again after that
_ID = re.compile(rb"([0-9a-f]{8}):([1-9]\d*):(\d+)\.(\d+)")


class Came(NamedTuple):
    """A delivery that a receiver took."""

    queue: str
    epoch: str  # its first eight digits
    sequence: int
    term: int
    n: int
    payload: bytes
    address: str  # of the job server
    at_s: float

    @property
    def text(self) -> str:
        """The payload."""
        return self.payload.decode()

    @property
    def envelope(self) -> dict[str, Any]:
        """The payload of a subscription that takes envelopes."""
        return dict(json.loads(self.payload))


def came(function: bytes, unique: bytes, payload: bytes, address: str = "") -> Came:
    """Read what a job says; its unique id must be `EPOCH8:SEQUENCE:TERM.N`."""
    match = _ID.fullmatch(unique)
    assert match, f"{function!r}: no delivery has the unique id {unique!r}"
    epoch, *numbers = match.groups()
    sequence, term, n = map(int, numbers)
    queue = function.decode()
    return Came(queue, epoch.decode(), sequence, term, n, payload, address, time.monotonic())


def processed(deliveries: Iterable[Came]) -> list[Came]:
    """What a receiver of one queue that needs exact order processes, of what it completed."""
    term = 0
    finished: set[tuple[str, int]] = set()
    kept = []
    for one in deliveries:
        key = one.epoch, one.sequence
        if one.term >= term and key not in finished:
            kept.append(one)
            finished.add(key)
        term = max(term, one.term)
    return kept


Behaviour = Callable[[Came], bool]  # whether the job is a success


class Host:
    """Serves queues at job servers (a thread for each) and comes back when a server does.

    `behave` may take its time: the thread does nothing else meanwhile.
    """

    def __init__(
        self, addresses: Collection[str], queues: Sequence[str], behave: Behaviour | None = None
    ) -> None:
        self.came: list[Came] = []
        self.errors: list[AssertionError] = []
        self._queues = [queue.encode() for queue in queues]
        self._behave = behave or (lambda one: True)
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._run, args=(address,), daemon=True)
            for address in addresses
        ]
        for thread in self._threads:
            thread.start()

    def of(self, queue: str) -> list[Came]:
        """What came on one queue, in order."""
        return [one for one in list(self.came) if one.queue == queue]

    def texts(self, queue: str) -> list[str]:
        """The payloads that a receiver in exact order processes."""
        return [one.text for one in processed(self.of(queue))]

    def wait(self, count: int, timeout: float = 10.0) -> list[Came]:
        """Wait for this many deliveries; return all."""
        eventually(lambda: len(self.came) >= count, timeout, f"not {count} in {timeout} s")
        return list(self.came)

    def wait_all(self, texts: Collection[str], timeout: float = 20.0) -> None:
        """Wait until each queue has had each of these payloads."""
        names = [queue.decode() for queue in self._queues]
        owed = {(name, text) for name in names for text in texts}

        def missing() -> int:
            owed.difference_update((one.queue, one.text) for one in list(self.came))
            return len(owed)

        eventually(lambda: not missing() or self.errors, timeout, "messages do not arrive")
        assert self.errors == []

    def close(self) -> None:
        """Finish what is in hand and leave."""
        self._stopping = True
        for thread in self._threads:
            thread.join(5)

    def _run(self, address: str) -> None:
        while not self._stopping:
            with contextlib.suppress(OSError, EOFError), Wire(address, 5.0) as wire:
                wire.can_do(*self._queues)
                while not self._stopping:
                    job = wire.grab(0.1)
                    if job is None:
                        continue
                    try:
                        one = came(job.function, job.unique, job.payload, address)
                    except AssertionError as error:
                        self.errors.append(error)
                        return
                    self.came.append(one)
                    if self._behave(one):
                        wire.complete(job.handle)
                    else:
                        wire.fail(job.handle)
            time.sleep(0.02)


class Reply(NamedTuple):
    """Where a message stands in its log; both are "" and 0 where it has none."""

    topic: str
    text: str
    epoch: str
    sequence: int
    submitted_s: float


class Publisher(threading.Thread):
    """Publishes one message after the other to topics in turn; each is tried under its own
    `unique` until there is a reply."""

    def __init__(
        self,
        address: str,
        topics: Sequence[str],
        name: str = "m",
        pause_s: float = 0.02,
        function: str = "fanout",
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.replies: list[Reply] = []
        self.refusals: list[str] = []
        self.error: BaseException | None = None
        self._address = address
        self._topics = topics
        self._pause_s = pause_s
        self._function = function.encode()
        self._stopping = threading.Event()
        self._is_over = False
        self.start()

    def run(self) -> None:
        """The thread."""
        number = 0
        wire: Wire | None = None
        try:
            while not self._stopping.wait(self._pause_s):
                topic, text = self._topics[number % len(self._topics)], f"{self.name}-{number}"
                number += 1
                request = {"topic": topic, "payload": text, "unique": text, "background": True}
                body = json.dumps(request | {"receipt": True}).encode()
                while not self._is_over:
                    at_s = time.monotonic()
                    try:
                        wire = wire or Wire(self._address, ANSWER_S)
                        outcome = wire.run(self._function, body, ANSWER_S)
                    except (OSError, EOFError):
                        if wire is not None:
                            wire.close()
                        wire = None
                        time.sleep(0.05)
                        continue
                    if outcome.kind == "complete":
                        told = json.loads(outcome.data)
                        epoch, sequence = told.get("epoch", "")[:8], told.get("sequence", 0)
                        self.replies.append(Reply(topic, text, epoch, sequence, at_s))
                        break
                    self.refusals += [one.decode() for one in outcome.warnings]
                    time.sleep(0.05)
        except BaseException as error:  # for whoever calls `stop`
            self.error = error
        finally:
            if wire is not None:
                wire.close()

    def wait(self, more: int, timeout: float = 15.0) -> None:
        """Wait until so many more messages are replied to."""
        enough = len(self.replies) + more
        eventually(lambda: len(self.replies) >= enough or self.error, timeout, "no replies")

    def leave(self) -> None:
        """Publish nothing more."""
        self._stopping.set()
        self._is_over = True
        self.join(ANSWER_S + 1)

    def stop(self, timeout: float = 15.0) -> list[Reply]:
        """Have the message in hand replied to; return what was."""
        self._stopping.set()
        self.join(timeout)
        assert not self.is_alive(), "the last message is not replied to"
        if self.error is not None:
            raise self.error
        return self.replies


class Users:
    """The hosts and publishers of one test."""

    def __init__(self) -> None:
        self._hosts: list[Host] = []
        self._publishers: list[Publisher] = []

    def host(self, cluster: Cluster, *queues: str, behave: Behaviour | None = None) -> Host:
        """Serve queues at every job server of a cluster."""
        addresses = [server.address for server in cluster.job_servers]
        self._hosts.append(Host(addresses, queues, behave))
        return self._hosts[-1]

    def publisher(self, cluster: Cluster, *topics: str, **options: Any) -> Publisher:
        """Begin to publish."""
        address = options.pop("address", cluster.address)
        self._publishers.append(Publisher(address, topics, **options))
        return self._publishers[-1]

    def close(self) -> None:
        """Have them leave, whatever they do."""
        for publisher in self._publishers:
            publisher.leave()
        for host in self._hosts:
            host.close()


@pytest.fixture
def users() -> Iterator[Users]:
    """Hosts and publishers that leave when the test ends."""
    some = Users()
    yield some
    some.close()


def subscribe(cluster: Cluster, topic: str, *clients: str, **options: Any) -> None:
    """Make durable subscriptions; `envelope` aside, the options are those of `durable`."""
    others = {"envelope": options.pop("envelope")} if "envelope" in options else {}
    cluster.subscribe(topic, *clients, durable=options or True, **others)


def publish(cluster: Cluster, topic: str, *payloads: Any, **options: Any) -> list[Reply]:
    """Publish in the background; each must be logged."""
    replies = []
    for payload in payloads:
        at_s = time.monotonic()
        outcome = cluster.publish(topic, payload, **{"receipt": True} | options)
        assert outcome.kind == "complete", outcome
        told = json.loads(outcome.data)
        replies.append(Reply(topic, str(payload), told["epoch"][:8], told["sequence"], at_s))
    return replies


def describe(cluster: Cluster, topic: str | None = None) -> dict[str, Any]:
    """Ask any member; again where a frozen one has the question."""
    request = {} if topic is None else {"topic": topic}
    for _ in range(5):
        with contextlib.suppress(TimeoutError):
            outcome = cluster.run("describe_fanout", 3.0, **request)
            if outcome.kind == "complete":
                return dict(json.loads(outcome.data))
        time.sleep(0.1)
    raise AssertionError("nobody describes")


def lane(cluster: Cluster, topic: str, client: str) -> dict[str, Any]:
    """How one durable subscription is."""
    return dict(describe(cluster, topic)["topics"][topic]["subscriptions"][client]["durable"])


def owners(cluster: Cluster, topic: str) -> dict[str, str | None]:
    """Which member delivers for which durable subscription."""
    found = describe(cluster, topic)["topics"][topic]["subscriptions"]
    return {client: one["durable"]["member"] for client, one in found.items() if one["durable"]}


def log_of(cluster: Cluster, topic: str) -> dict[str, Any]:
    """How a topic's log is."""
    return dict(describe(cluster, topic)["topics"][topic]["log"])


def id_of(worker: Worker) -> str:
    """The id under which a worker joined last."""
    [*_, last] = [line for line in worker.log().splitlines() if "event=joined" in line]
    return last.partition("member=")[2].split()[0]


def worker_of(cluster: Cluster, topic: str, client: str) -> Worker:
    """The worker that delivers for a durable subscription."""
    ids = {id_of(worker): worker for worker in cluster.workers if worker.process.poll() is None}
    member: str = eventually(lambda: lane(cluster, topic, client)["member"])
    return ids[member]


def busiest(cluster: Cluster, topic: str) -> tuple[Worker, list[str]]:
    """The worker that delivers for most durable subscriptions of a topic, and these."""
    found: dict[str, list[str]] = {}
    for client, member in owners(cluster, topic).items():
        found.setdefault(member or "", []).append(client)
    most = max(found, key=lambda member: len(found[member]))
    [worker] = [worker for worker in cluster.workers if id_of(worker) == most]
    return worker, found[most]


def running(address: str) -> Iterator[str]:
    """Queues whose jobs receivers of a job server have."""
    for line in admin(address, "status"):
        name, _, count, _ = line.rsplit("\t", 3)
        if int(count):
            yield name
