"""The test bed of one group of measurements: gearmand, Redis and one gearhorn-worker.

Rules: every group has a bed of its own, so that queues and memory of one do not weigh on another.
Subscriptions are written straight into the store, before the worker first reads their topic.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import redis
from support.cluster import Cluster
from support.servers import Gearmand, Redis

from benchmarks.processes import Busy
from benchmarks.raw import DRAIN_GRABS, Copies, drain, pipeline

# gearmand's default of 991 buckets makes a deep backlog slow, whoever sends it
GEARMAND_OPTIONS = ("--hashtable-buckets=1000003",)
WORKER_OPTIONS = ("--max-backlog", "100000000")  # queues fill up here and are drained
PAYLOAD = b"x" * 100
_MEMBERS = 10_000  # in one ZADD


class Bed(Cluster):
    """Use as a context; everything it started is stopped at the end."""

    def __init__(self, *options: str, is_watched: bool = False) -> None:
        gearmand, store = Gearmand(*GEARMAND_OPTIONS), Redis()
        super().__init__(
            [gearmand], store, options=(*WORKER_OPTIONS, *options), is_watched=is_watched
        )
        self.worker = self.workers[0]
        self.pids = {"worker": self.worker.process.pid, "gearmand": gearmand.pid}

    def __enter__(self) -> Bed:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def write(self, lists: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Write the subscriptions (topic, client_ids) of topics that nobody has read yet."""
        with redis.Redis.from_url(self.store.url) as store:
            pipe = store.pipeline(transaction=False)
            for number, (topic, clients) in enumerate(lists, 1):
                for at in range(0, len(clients), _MEMBERS):
                    key = f"{{gearhorn}}:clients:{topic}"
                    scored = [part for one in clients[at : at + _MEMBERS] for part in (0, one)]
                    pipe.execute_command("ZADD", key, *scored)
                if not number % _MEMBERS:
                    pipe.execute()
            pipe.execute()

    def subscribed(self, topic: str, count: int) -> list[bytes]:
        """Subscribe clients to a topic that nobody has read yet; return their queues."""
        clients = [f"c{number:06d}" for number in range(count)]
        self.write([(topic, clients)])
        return [f"{topic}_{client}".encode() for client in clients]

    def drain(self, queues: Sequence[bytes], expected: int, grabs: int = DRAIN_GRABS) -> None:
        """Empty queues; RuntimeError unless exactly what was expected was there."""
        count = drain(self.address, queues, grabs)
        if count != expected:
            raise RuntimeError(f"expected {expected} copies on {len(queues)} queues, got {count}")


class Ceiling:
    """The first line: a raw socket that pipelines copies to the same queues."""

    def __init__(self, bed: Bed, queues: Sequence[bytes], payload: bytes = PAYLOAD) -> None:
        self._bed = bed
        self._queues = queues
        self._copies = Copies(queues, payload)
        self._pids = {"client": os.getpid(), "gearmand": bed.pids["gearmand"]}

    def measure(self, total: int) -> tuple[float, dict[str, float]]:
        """Send copies, then drain them; return copies/s and who was busy."""
        busy = Busy(self._pids).start()
        seconds = pipeline(self._bed.address, self._copies, total)
        shares = busy.stop()
        self._bed.drain(self._queues, total)
        return total / seconds, shares
