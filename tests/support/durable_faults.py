"""Kills, freezes and restarts the workers, job servers and the store of a cluster, switches the
store to its replica, has it refuse writes or be forgotten on the way, and notes it.

A fault is a generator: it breaks something, yields the seconds until it wants to go on, and is
over when what it broke (or what stands in for it) serves again. Several run side by side in the
caller's thread.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from support.cluster import Cluster, Worker
from support.durable_history import DurableHistory, Fault
from support.servers import EmbeddedGearman, Gearmand, Redis, Valkey
from support.switched import SwitchedStore

BOTH_FROZEN = "gearmand and worker frozen"
KINDS = (
    *(
        f"{what} {how}"
        for what in ("worker", "gearmand", "redis")
        for how in ("killed", "frozen", "restarted")
    ),
    BOTH_FROZEN,
    "redis switched",
    "redis refuses writes",
    "redis connections forgotten",
)
AT_ONCE = 2
GAP_S = 1.0, 3.0  # between the beginnings of two
AWAY_S = 0.0, 2.0  # between a server's death and its return
FROZEN_S = 2.0, 7.0  # a job server; one that is silent for 5 s counts as down
STARTS_S = 30.0  # a worker, also while it waits for a store or job servers
STOPS_S = 30.0  # a worker may take 15 to finish what is in hand

REFUSES_S = 1.0, 5.0
REFUSALS = (("maxmemory", 1, 0), ("min-replicas-to-write", 9, 0))  # name, value, what is usual

Server = Gearmand | EmbeddedGearman | Redis | Valkey | SwitchedStore
_Thing = TypeVar("_Thing")


class Faults:
    """Breaks a cluster whose workers have the given lease, and whose subscriptions the given
    timeout. One job server and at least one worker stay well."""

    def __init__(
        self,
        cluster: Cluster,
        history: DurableHistory,
        seed: int,
        lease_s: float,
        timeout_s: float,
    ) -> None:
        self.exits: list[int] = []  # of the workers that were told to stop
        self.refused_starts = 0  # workers that ended before they were ready
        self.forgotten = 0  # connections to the store
        self._cluster = cluster
        self._history = history
        self._random = random.Random(seed)
        self._lease_s = lease_s
        self._timeout_s = timeout_s
        self._workers = list(cluster.workers)
        self._job_servers: list[Server] = list(cluster.job_servers)
        self._stores: list[Server] = [cluster.store]
        self._going: list[tuple[float, Iterator[float], Callable[[float], None]]] = []
        self._makers: dict[str, Callable[[Fault], Iterator[float]]] = {
            "worker killed": self._worker_killed,
            "worker frozen": self._worker_frozen,
            "worker restarted": self._worker_restarted,
            "gearmand killed": lambda fault: self._killed(fault, self._job_servers),
            "gearmand frozen": lambda _: self._frozen(self._job_servers, *FROZEN_S),
            "gearmand restarted": lambda fault: self._restarted(fault, self._job_servers),
            "redis killed": lambda fault: self._killed(fault, self._stores),
            "redis frozen": lambda _: self._frozen(self._stores, 0.5, 2 * lease_s),
            "redis restarted": lambda fault: self._restarted(fault, self._stores),
            BOTH_FROZEN: self._both_frozen,
            "redis switched": lambda _: self._switched(),
            "redis refuses writes": lambda _: self._refusing(),
            "redis connections forgotten": lambda _: self._forgotten(),
        }

    def run(self, plan: Sequence[str]) -> None:
        """Do these, one after the other; each waits until it can be done."""
        for kind in plan:
            while not self._may(kind):
                self._step()
            self._begin(kind)
            self._until(time.monotonic() + self._random.uniform(*GAP_S))
        self._finish()

    def run_for(self, seconds: float) -> None:
        """Do whatever comes to mind, in rounds that have each kind once."""
        until_s = time.monotonic() + seconds
        waiting: list[str] = []
        while time.monotonic() < until_s:
            waiting = waiting or self._random.sample(KINDS, len(KINDS))
            kind = next((kind for kind in waiting if self._may(kind)), None)
            if kind is None:
                self._step()
                continue
            waiting.remove(kind)
            self._begin(kind)
            self._until(min(until_s, time.monotonic() + self._random.uniform(*GAP_S)))
        self._finish()

    def crashed(self) -> list[str]:
        """Return the logs of workers that ended although nobody told them to."""
        return [worker.log() for worker in self._workers if worker.process.poll() is not None]

    def keep_logs(self, directory: Path) -> None:
        """Write what the workers have logged to files, for whoever wants to know why."""
        for number, worker in enumerate(self._cluster.workers):
            (directory / f"worker-{number}.log").write_text(worker.log())

    def _may(self, kind: str) -> bool:
        """Whether enough is well."""
        if len(self._going) >= AT_ONCE:
            return False
        if "worker" in kind and len(self._workers) < 2:
            return False
        if "gearmand" in kind and len(self._job_servers) < 2:
            return False
        return "redis" not in kind or bool(self._stores)

    def _begin(self, kind: str) -> None:
        fault = self._history.fault(kind, time.monotonic())

        def over(at_s: float) -> None:
            fault.end_s = at_s

        self._going.append((0.0, self._makers[kind](fault), over))
        self._step()

    def _step(self) -> None:
        """Go on with those that are due."""
        going, self._going = self._going, []
        for due_s, fault, over in going:
            if due_s > time.monotonic():
                self._going.append((due_s, fault, over))
                continue
            wait_s = next(fault, None)
            if wait_s is None:
                over(time.monotonic())
            else:
                self._going.append((time.monotonic() + wait_s, fault, over))
        time.sleep(0.02)

    def _until(self, until_s: float) -> None:
        while time.monotonic() < until_s:
            self._step()

    def _finish(self) -> None:
        while self._going:
            self._step()

    def _take(self, those: list[_Thing]) -> _Thing:
        return those.pop(self._random.randrange(len(those)))

    def _killed(self, fault: Fault, those: list[Server]) -> Iterator[float]:
        server = self._take(those)
        fault.died = server.address
        server.kill()
        yield self._random.uniform(*AWAY_S)
        server.restart()
        those.append(server)

    def _frozen(self, those: list[Server], shortest_s: float, longest_s: float) -> Iterator[float]:
        server = self._take(those)
        server.freeze()
        yield self._random.uniform(shortest_s, longest_s)
        server.thaw()
        those.append(server)

    def _restarted(self, fault: Fault, those: list[Server]) -> Iterator[float]:
        server = self._take(those)
        fault.died = server.address
        server.restart()
        those.append(server)
        yield 0.0

    def _switched(self) -> Iterator[float]:
        """The replica becomes the primary, as planned."""
        store = self._take(self._stores)
        assert isinstance(store, SwitchedStore)
        yield from store.switch()
        self._stores.append(store)

    def _refusing(self) -> Iterator[float]:
        """The store is full, or lacks replicas, for a while."""
        store = self._take(self._stores)
        assert isinstance(store, SwitchedStore)
        name, value, normal = self._random.choice(REFUSALS)
        store.configure(name, value)
        yield self._random.uniform(*REFUSES_S)
        store.configure(name, normal)
        self._stores.append(store)

    def _forgotten(self) -> Iterator[float]:
        """Something on the way to the store loses track of every connection."""
        store = self._take(self._stores)
        assert isinstance(store, SwitchedStore)
        self.forgotten += store.forget_connections()
        yield self._random.uniform(0.5, 2)
        self._stores.append(store)

    def _worker_killed(self, _: Fault) -> Iterator[float]:
        self._take(self._workers).kill()
        yield self._random.uniform(0, 2 * self._lease_s)
        yield from self._another()

    def _worker_frozen(self, _: Fault) -> Iterator[float]:
        """Away for longer than its lease."""
        worker = self._take(self._workers)
        worker.freeze()
        yield self._random.uniform(1.2 * self._lease_s, 2.5 * self._lease_s)
        worker.thaw()
        self._workers.append(worker)

    def _both_frozen(self, _: Fault) -> Iterator[float]:
        """What the worker has given to the job server comes when others deliver for its lanes,
        through the other job server: stale."""
        server, worker = self._take(self._job_servers), self._take(self._workers)
        server.freeze()
        yield self._random.uniform(0.5, 1.5)
        worker.freeze()
        # until others have its lanes, and wait no more for what they cannot ask the server about
        yield self._lease_s + self._timeout_s + self._random.uniform(1, 3)
        server.thaw()
        self._job_servers.append(server)
        yield 0.5
        worker.thaw()
        self._workers.append(worker)

    def _worker_restarted(self, _: Fault) -> Iterator[float]:
        worker = self._take(self._workers)
        worker.process.send_signal(signal.SIGTERM)
        yield from self._another()
        until_s = time.monotonic() + STOPS_S
        while worker.process.poll() is None:
            assert time.monotonic() < until_s, f"a worker does not stop:\n{worker.log()}"
            yield 0.1
        self.exits.append(worker.process.returncode)

    def _another(self) -> Iterator[float]:
        """Start a worker that takes the place of one."""
        until_s = time.monotonic() + STARTS_S
        worker: Worker | None = None
        while worker is None or "event=ready" not in worker.log():
            assert time.monotonic() < until_s, f"no worker starts:\n{worker and worker.log()}"
            if worker is None:
                worker = self._cluster.add_worker()
            elif worker.process.poll() is not None:
                self.refused_starts += 1
                worker = None
            yield 0.2
        self._workers.append(worker)
