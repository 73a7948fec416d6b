"""Durable topics under fire: everything is killed, frozen and restarted, the store is switched to
its replica, refuses writes and is forgotten on the way, subscriptions are drained, redriven and
given other options; and every message that was replied to is acknowledged by every subscriber, in
order.

The normal run goes through a fixed list of faults; `scripts/stress` makes a long one of random
faults. Both print what they counted.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from support.cluster import Cluster, eventually
from support.durable_changes import Changing, Drained, Latest, LatestOfEach, Optioned, Redriven
from support.durable_faults import KINDS, Faults
from support.durable_history import DurableHistory
from support.durable_traffic import Publisher, Receivers
from support.switched import SwitchedStore

from gearhorn.store.census import Census, Difference
from gearhorn.store.connection import Connection

MakeCluster = Callable[..., Cluster]
SECONDS = float(os.environ.get("STRESS_SECONDS", "0"))  # of random faults
SEED = int(os.environ.get("STRESS_SEED", "1"))
STORE = ("--appendonly", "yes", "--appendfsync", "always")
LEASE_S = 2.0
TIMEOUT_S = 5
OPTIONS = {"timeout": TIMEOUT_S, "max_attempts": 0, "max_backoff": 2}
NEAR_S = LEASE_S + TIMEOUT_S + 5
TOPICS = "news", "jobs"
CLIENTS = [f"c{number}" for number in range(10)]
PUBLISHERS = 4
PAUSE_S = 0.2
BEFORE_S = 3.0  # without faults: what is repeated here is repeated for no reason
SETTLES_S = 60.0
EVERY_KIND_S = 100.0  # a run of so long has had each kind of fault
PLAN = (
    "worker killed",
    "gearmand killed",
    "redis killed",
    "worker frozen",
    "gearmand frozen",
    "worker restarted",
    "redis frozen",
    "redis switched",
    "redis refuses writes",
    "redis connections forgotten",
)


class Run:
    """A cluster with its publishers and receivers."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        addresses = [server.address for server in cluster.job_servers]
        queues = {f"{topic}_{client}": topic for topic in TOPICS for client in CLIENTS}
        self.cluster = cluster
        self.history = DurableHistory(queues, NEAR_S)
        self.receivers = Receivers(self.history, list(queues), addresses, seed)
        self.publishers = [
            Publisher(f"p{number}", self.history, addresses, TOPICS, seed + number, PAUSE_S)
            for number in range(PUBLISHERS)
        ]
        self.drained = Drained(self.history, addresses, TOPICS[0], seed)
        self.redriven = Redriven(self.history, addresses, TOPICS[1], seed)
        self.optioned = Optioned(self.history, addresses, TOPICS[0], seed)
        self.latest = [
            Latest(self.history, addresses, TOPICS[0], seed),
            LatestOfEach(self.history, addresses, TOPICS[1], seed),
        ]
        self.changing: list[Changing] = [
            *(self.drained, self.redriven, self.optioned),
            *self.latest,
        ]
        self.store_url = cluster.store.url
        self.faults = Faults(cluster, self.history, seed, LEASE_S, TIMEOUT_S)
        self._began_s = time.monotonic()

    def start(self) -> None:
        """Subscribe, publish and receive."""
        for topic in TOPICS:
            self.cluster.subscribe(topic, *CLIENTS, durable=OPTIONS)
        for changing in self.changing:
            changing.begin()
        self.receivers.start()
        for publisher in self.publishers:
            publisher.start()

    def check(self) -> None:
        """Fail if the harness itself did."""
        parts: list[Publisher | Changing | Receivers] = [*self.publishers, *self.changing]
        for part in [*parts, self.receivers]:
            if part.error is not None:
                raise part.error

    def stop_publishing(self) -> None:
        """Have the last messages replied to."""
        for publisher in self.publishers:
            publisher.stop()
        for publisher in self.publishers:
            publisher.join(SETTLES_S)
            assert not publisher.is_alive(), f"{publisher.name} gets no reply"
        for changing in (self.drained, self.optioned, *self.latest):
            changing.stop()
            changing.join(SETTLES_S)
            assert not changing.is_alive(), f"{changing.name} gets no reply"
        self.optioned.finish()

    def settle(self) -> None:
        """Wait until all is acknowledged, and a little longer for what should not come."""
        eventually(
            lambda: not any(self.owed()) or self.receivers.error,
            SETTLES_S,
            f"not everything is acknowledged after {SETTLES_S} s",
        )
        eventually(lambda: not self.behind(), 10, "positions are behind the logs")
        for latest in self.latest:
            eventually(latest.is_counted, 20, f"{latest.name} is behind its log")
        time.sleep(1)

    def owed(self) -> Iterator[object]:
        """Yield what was replied to and is not done with."""
        yield from self.history.owed()
        for changing in self.changing:
            yield from changing.owed()

    def violations(self) -> list[str]:
        """Return what must not have happened."""
        found = self.history.violations()
        for changing in self.changing:
            found += changing.violations()
        return found

    def behind(self) -> list[object]:
        """Return the subscriptions of which the cluster says that not all is done."""
        outcome = self.cluster.run("describe_fanout", limit=1000)
        assert outcome.kind == "complete", outcome
        found = [
            one
            for topic in json.loads(outcome.data)["topics"].values()
            for client, one in topic["subscriptions"].items()
            if client in CLIENTS
        ]
        assert len(found) == len(TOPICS) * len(CLIENTS)
        return [one for one in found if one["durable"]["lag"] or one["durable"]["parked"]]

    def wrong_counters(self) -> list[Difference]:
        """Where counters of topics are not what a full count gives."""

        async def count() -> list[Difference]:
            connection = Connection(self.store_url, "gearhorn")
            try:
                return [found async for found in Census(connection).differences()]
            finally:
                await connection.close()

        return asyncio.run(count())

    def keep(self, directory: Path) -> None:
        """Write down what happened, for whoever wants to know why."""
        deliveries = sorted(self.history.deliveries, key=lambda one: one.start_s)
        found: dict[str, Iterable[object]] = {
            "violations": self.violations(),
            "deliveries": deliveries,
            "faults": self.history.faults,
        }
        for changing in self.changing:
            found[changing.client] = [*changing.taken, *changing.noted]
        for name, lines in found.items():
            (directory / name).write_text("".join(f"{line}\n" for line in lines))
        self.faults.keep_logs(directory)
        print(f"what happened: {directory}")

    def close(self) -> None:
        """Stop publishers and receivers."""
        for publisher in self.publishers:
            publisher.stop()
        for publisher in self.publishers:
            if publisher.is_alive():
                publisher.join(10)
        for changing in self.changing:
            changing.close()
        self.receivers.close()

    def __str__(self) -> str:
        kinds = Counter(fault.kind for fault in self.history.faults)
        refusals = sum((publisher.refusals for publisher in self.publishers), Counter[str]())
        lines = {
            **self.history.counts(),
            "faults by kind": ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS if kinds[kind]),
            "published again": sum(publisher.again for publisher in self.publishers),
            "unanswered tries": sum(publisher.unanswered for publisher in self.publishers),
            "refusals": dict(refusals),
            "errors of job servers": dict(self.receivers.errors),
            "exit codes": dict(Counter(self.faults.exits)),
            "starts refused": self.faults.refused_starts,
            "drains": f"{self.drained.changes}, {len(self.drained.aways)} of them certain, "
            f"{self.drained.came} messages between them",
            "redriven": f"{self.redriven.changes} of {self.redriven.parked} that failed",
            "options changed": f"{self.optioned.changes}, {self.optioned.batches} batches, "
            f"{self.optioned.pulled} messages pulled, {self.optioned.certain} spans judged",
            "the latest only": ", ".join(
                f"{latest.skipped} passed by, {len(latest.done)} came" for latest in self.latest
            ),
            "connections forgotten": self.faults.forgotten,
            "violations": len(self.violations()),
            "seconds": round(time.monotonic() - self._began_s, 1),
        }
        return "\n".join(f"{name:>22}: {value}" for name, value in lines.items())


@pytest.fixture
def run(make_cluster: MakeCluster) -> Run:
    options = ("--lease", f"{LEASE_S}")
    store = SwitchedStore(*STORE)
    cluster = make_cluster(workers=3, job_servers=2, options=options, redis=store)
    return Run(cluster, SEED)


def test_every_message_replied_to_is_acknowledged_by_everyone_in_order_under_fire(
    run: Run, tmp_path: Path
) -> None:
    try:
        run.start()
        time.sleep(BEFORE_S)
        if SECONDS:
            run.faults.run_for(SECONDS)
            time.sleep(NEAR_S + 5)  # the last 5 of them away from any fault
        else:
            run.faults.run(PLAN)
            time.sleep(2)
        run.stop_publishing()
        run.settle()
        eventually(lambda: run.wrong_counters() == [], SETTLES_S)
    finally:
        run.close()
        print(f"\n{run}")
        run.keep(tmp_path)
    run.check()
    assert run.violations() == []
    assert run.faults.crashed() == []
    assert set(run.faults.exits) <= {0}
    counts = run.history.counts()
    lasted_s = BEFORE_S + (SECONDS or len(PLAN))
    assert counts["messages published"] == counts["replied"] > 4 * lasted_s
    assert counts["owed"] == counts["acknowledged"] == counts["replied"] * len(CLIENTS)
    assert counts["deliveries"] > counts["acknowledged"]
    assert counts["purposely failed"] > lasted_s / 4
    assert counts["receiver deaths"] > lasted_s / 4
    assert counts["take-overs"] >= len(CLIENTS)
    assert run.drained.changes > lasted_s / 20
    assert run.drained.came > lasted_s / 20
    assert run.redriven.changes > lasted_s / 20
    assert run.optioned.changes > lasted_s / 20
    for latest in run.latest:
        assert latest.skipped > lasted_s / 4
        assert len(latest.done) > lasted_s / 4
    done = {fault.kind for fault in run.history.faults}
    if SECONDS:
        assert counts["faults"] > SECONDS / 6
        assert done == set(KINDS) or SECONDS < EVERY_KIND_S
        assert len(run.drained.aways) > lasted_s / 60
        assert run.optioned.certain > lasted_s / 60
        assert run.optioned.batches > lasted_s / 60
        assert run.optioned.pulled > lasted_s / 60
    else:
        assert done == set(PLAN)
    assert sum(publisher.again for publisher in run.publishers) > 0
