"""The test bed of durable topics: a store that keeps what it is told, and the requests to gearhorn.

Rules: as ``Bed``, but Redis writes an append-only file, synced every second, and every subscription
is made through the worker. What a request is refused for is an exception.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

from support.cluster import Cluster
from support.servers import Gearmand, Redis
from support.wire import admin

from benchmarks.bed import GEARMAND_OPTIONS, PAYLOAD, WORKER_OPTIONS
from benchmarks.load import request
from benchmarks.raw import Caller, foreground

AT_ONCE = 512  # fanout jobs that one caller has unanswered
SUBSCRIBE_AT_ONCE = 64  # as in ``members``
WAITING_S = 30.0
FAILING = "failing"
FAILING_BACKOFF_S = 0.05  # it fails some twenty times a second, not every two seconds


class DurableBed(Cluster):
    """Use as a context; everything it started is stopped at the end."""

    def __init__(self, *options: str) -> None:
        gearmand = Gearmand(*GEARMAND_OPTIONS)
        store = Redis(appendonly=True, appendfsync="everysec")
        options = (*WORKER_OPTIONS, *options)
        super().__init__([gearmand], store, options=options, is_watched=False)
        self.worker_pid = self.workers[0].process.pid
        self.pids = {
            "worker": self.worker_pid,
            "gearmand": gearmand.pid,
            "redis": store.pid,
        }

    def __enter__(self) -> DurableBed:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def make_durable(self, topic: str, count: int, **options: Any) -> list[str]:
        """Make durable subscriptions with these options; return their queues."""
        clients = client_ids(count)
        self._change(b"subscribe_fanout", [topic], clients, durable=options)
        return [f"{topic}_{client}" for client in clients]

    def make_failing(self, topic: str) -> None:
        """Add a durable subscription whose receiver fails whatever it gets, again and again."""
        durable = {"max_attempts": 0, "max_backoff": FAILING_BACKOFF_S}
        self._change(b"subscribe_fanout", [topic], [FAILING], durable=durable)
        self.receiver(f"{topic}_{FAILING}", behave=lambda wire, job: wire.fail(job.handle))

    def end_failing(self, topic: str) -> None:
        """Take it away."""
        self._receivers.pop().close()
        self._change(b"unsubscribe_fanout", [topic], [FAILING])

    def end_durable(self, topics: Sequence[str], count: int) -> None:
        """End the subscriptions of ``count`` clients; the topics' logs go with them."""
        self._change(b"unsubscribe_fanout", topics, client_ids(count))

    def log(self, topics: Sequence[str], each: int) -> float:
        """Have ``each`` messages logged in every topic, in turn; return the seconds it took."""
        jobs = [foreground(b"fanout", request(topic, PAYLOAD, background=True)) for topic in topics]
        caller = Caller(self.address)
        seconds = caller.run(jobs * each, AT_ONCE)
        caller.close()
        for topic in topics:
            log = self._asked("fetch_fanout", topic=topic, after=0, limit=1)
            if (log["first"], log["last"]) != (1, each):
                raise RuntimeError(f"expected 1 to {each} in the log of {topic}, got {log}")
        return seconds

    def until_acknowledged(self, topic: str, sequence: int) -> None:
        """Wait until every subscription's position is there: what was received is written."""
        deadline = time.monotonic() + WAITING_S
        while True:
            topics = self._asked("describe_fanout", topic=topic, limit=10_000)["topics"]
            positions = [
                one["durable"]["position"]
                for client, one in topics[topic]["subscriptions"].items()
                if client != FAILING
            ]
            if all(position == sequence for position in positions):
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"positions of {topic} are {positions}, not all {sequence}")
            time.sleep(0.1)

    def until_waiting(self, queues: Iterable[str], expected: int) -> None:
        """Wait until so many jobs wait on the queues, all together."""
        wanted = frozenset(queues)
        deadline = time.monotonic() + WAITING_S
        while True:
            rows = [row.rsplit("\t", 3) for row in admin(self.address, "status")]
            count = sum(int(total) for queue, total, *_ in rows if queue in wanted)
            if count == expected:
                return
            if time.monotonic() > deadline:
                words = f"expected {expected} deliveries on {len(wanted)} queues, got {count}"
                raise RuntimeError(f"{words}; the worker's log:\n{self.workers[0].log()[-2000:]}")
            time.sleep(0.1)

    def _change(
        self, function: bytes, topics: Sequence[str], clients: Sequence[str], **more: Any
    ) -> None:
        caller = Caller(self.address)
        bodies = [
            json.dumps({"topic": topic, "client_id": client, **more}).encode()
            for topic in topics
            for client in clients
        ]
        caller.run([foreground(function, body) for body in bodies], SUBSCRIBE_AT_ONCE)
        caller.close()

    def _asked(self, function: str, **body: Any) -> Any:
        outcome = self.run(function, **body)
        if outcome.kind != "complete":
            raise RuntimeError(f"{function} failed: {outcome.warnings}")
        return json.loads(outcome.data)


def client_ids(count: int) -> list[str]:
    """The clients' names; they are of one length."""
    return [f"c{number:06d}" for number in range(count)]
