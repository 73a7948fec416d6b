"""Once a change is answered, every fan-out reaches exactly the subscribers of that moment: shown by
histories of real processes."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from support.cluster import Cluster, Worker
from support.history import Change, History
from support.traffic import PATTERNS, Traffic
from support.trial import Trial

MakeCluster = Callable[..., Cluster]
CHANGES = 2000
LEASE_S = 1.0
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
SEED = int(os.environ.get("COHERENCE_SEED", "1"))


# The checker


def history_of(*changes: tuple[str, float, float, bool | None]) -> History:
    """A history of changes of one pair: ("+" or "-", invoked, ended, succeeded)."""
    history = History()
    made = [Change(kind == "+", begin, end, how) for kind, begin, end, how in changes]
    history.changes["t"] = {"alice": made}
    return history


def judge(history: History, submitted_s: float, replied_s: float, *arrived: str) -> list[str]:
    """What the checker says of one message."""
    number = history.submit("t")
    message = history.messages[number]
    message.submitted_s, message.replied_s = submitted_s, replied_s
    message.copies = None if replied_s == math.inf else len(arrived)
    for client in arrived:
        history.arrive(f"t_{client}".encode(), b"%d" % number)
    return history.violations()


@pytest.mark.parametrize(
    ("changes", "must", "must_not"),
    [
        ([], False, True),
        ([("+", 1, 2, True)], True, False),
        ([("+", 1, 2, True), ("-", 3, 4, True)], False, True),
        ([("+", 1, 2, True), ("-", 3, 4, True), ("+", 5, 6, True)], True, False),
        # under way while the message was: either
        ([("+", 1, 11, True)], False, False),
        ([("+", 1, 2, True), ("-", 9, 13, True)], False, False),
        ([("+", 1, 2, True), ("-", 10.5, 13, True)], False, False),
        # asked for again: it stays as it is
        ([("+", 1, 2, True), ("+", 9, 13, True)], True, False),
        ([("-", 1, 2, True), ("-", 9, 13, True)], False, True),
        # later than the message
        ([("+", 1, 2, True), ("-", 13, 14, True)], True, False),
        # side by side: whichever came last
        ([("+", 1, 4, True), ("-", 2, 3, True)], False, False),
        ([("+", 1, 4, True), ("-", 2, 3, True), ("-", 5, 6, True)], False, True),
        # failed: written or not, until another one succeeds
        ([("+", 1, 2, False)], False, False),
        ([("+", 1, 2, False), ("-", 3, 4, True)], False, True),
        ([("+", 1, 2, True), ("-", 3, 4, False)], False, False),
        ([("+", 1, 2, True), ("-", 3, 4, False), ("-", 5, 6, False)], False, False),
        ([("+", 1, 2, True), ("-", 3, 4, False), ("+", 5, 11, True)], False, False),
        # unknown: at any time
        ([("+", 1, math.inf, None)], False, False),
        ([("+", 1, math.inf, None), ("-", 3, 4, True)], False, False),
        ([("+", 1, math.inf, None), ("+", 3, 4, True)], True, False),
    ],
)
def test_the_checker_knows_who_must_and_who_must_not_get_a_message(
    changes: list[tuple[str, float, float, bool | None]], must: bool, must_not: bool
) -> None:
    assert bool(judge(history_of(*changes), 10, 12)) == must
    assert bool(judge(history_of(*changes), 10, 12, "alice")) == must_not


def test_the_checker_owes_no_message_that_was_not_answered_but_forbids_its_copies() -> None:
    assert not judge(history_of(("+", 1, 2, True)), 10, math.inf)
    assert judge(history_of(("+", 1, 2, True), ("-", 3, 4, True)), 10, math.inf, "alice")


def test_the_checker_misses_a_copy_that_was_answered_for() -> None:
    history = history_of(("+", 1, 11, True))
    assert not judge(history, 10, 12)
    history.messages[0].copies = 1
    assert history.violations()


def test_the_checker_forgives_copies_that_died_with_a_job_server_and_no_others() -> None:
    history = history_of(("+", 1, 2, True))
    history.crashes = [(13, 13)]
    assert not judge(history, 10, 12)
    assert judge(history, 14, 15)
    history = history_of(("+", 1, 2, True))
    history.crashes = [(20, 20)]
    assert judge(history, 10, 12), "there was time to read it"
    history = history_of(("+", 1, 2, True))
    history.crashes = [(13, 16)]
    assert not judge(history, 14, 15), "it was answered while the job server was being killed"
    history = history_of(("+", 1, 2, True), ("-", 3, 4, True))
    history.crashes = [(13, 13)]
    assert judge(history, 10, 12, "alice")


@pytest.mark.parametrize(
    ("pattern", "topic", "is_matched"),
    [("*", "t", True), (">", "t", True), ("t.*", "t.a", True), ("t.*", "t", False)],
)
def test_the_checker_knows_what_patterns_match(pattern: str, topic: str, is_matched: bool) -> None:
    history = History()
    history.changes[f" {pattern}"] = {"alice": [Change(True, 1, 2, True)]}
    number = history.submit(topic)
    message = history.messages[number]
    message.submitted_s, message.replied_s, message.copies = 10, 12, 0
    assert bool(history.violations()) == is_matched, "she is owed a copy"
    body = json.dumps({"topic": topic, "payload": str(number)}).encode()
    history.arrive(f"{pattern}_alice".encode(), body)
    assert bool(history.violations()) != is_matched, "she never subscribed to this"


def test_the_checker_tells_a_client_by_pattern_from_the_same_by_topic() -> None:
    history = history_of(("+", 1, 2, True))
    history.changes[" *"] = {"alice": [Change(True, 1, 2, True)]}
    assert judge(history, 10, 12, "alice") == ["0: alice of  * is subscribed, got none of t"]


def test_the_checker_knows_strangers() -> None:
    assert judge(history_of(("+", 1, 2, True)), 10, 12, "alice", "mallory")


# Histories of real processes


KINDS = pytest.mark.parametrize("patterns", [(), PATTERNS], ids=["literal", "mixed"])


@KINDS
def test_two_thousand_changes_are_seen_by_every_fanout_after_them(
    make_cluster: MakeCluster, patterns: Sequence[str]
) -> None:
    cluster = make_cluster(workers=3, options=("--lease", f"{LEASE_S}"))
    traffic = Traffic(cluster.address, SEED, patterns=patterns)
    traffic.run(CHANGES, 200, 200, 240)
    print(traffic)
    assert traffic.history.violations() == []


@pytest.mark.parametrize(
    ("rule", "patterns"),
    [("answers", ()), *((rule, PATTERNS) for rule in ("answers", "match", "part", "word"))],
)
def test_the_traffic_finds_out_when_a_member_does_not_keep_a_rule(
    make_cluster: MakeCluster, rule: str, patterns: Sequence[str]
) -> None:
    with Trial(make_cluster(workers=2), rule, 10) as trial:
        trial.add()
        traffic = Traffic(trial.cluster.address, SEED, patterns=patterns)
        for changes in (200, 1000, 3000):  # a busy machine may keep a rule by chance
            traffic.run(changes, 200, 200, 240)
            if traffic.history.violations():
                break
        assert traffic.history.violations()


class Faults:
    """What is done to a cluster beside its traffic, in a thread of its own."""

    def __init__(self, cluster: Cluster, history: History, seed: int) -> None:
        self.done: list[str] = []
        self.error: BaseException | None = None
        self._cluster = cluster
        self._history = history
        self._random = random.Random(seed)
        self._members = list(cluster.workers)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def is_over(self) -> bool:
        """Whether all of them have been."""
        if self.error is not None:
            raise self.error
        return not self._thread.is_alive()

    def close(self) -> None:
        """Finish the one that is under way and do no more."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        each = [
            self.kill,
            self.freeze,
            self.stop,
            self.freeze_and_kill,
            self.freeze_shortly,
            self.start_one_more,
            self.restart_store,
            self.restart_store_under_a_frozen_worker,
            self.restart_job_server,
            self.restart_job_server_under_a_frozen_worker,
        ]
        again = [self.kill, self.freeze, self.stop, self.freeze_and_kill, self.freeze_shortly]
        try:
            for faults in (each, again):
                self._random.shuffle(faults)
                for fault in faults:
                    if self._stopping.wait(self._random.uniform(0.3, 1.5)):
                        return
                    self.done.append(fault.__name__)
                    fault()
        except BaseException as error:  # told by `is_over`
            self.error = error

    def _take(self) -> Worker:
        """A worker that has been chosen out of those that are well."""
        return self._members.pop(self._random.randrange(len(self._members)))

    def _add(self) -> None:
        self._members.append(self._cluster.add_worker().ready())

    @contextlib.contextmanager
    def _frozen(self, shortest_s: float, longest_s: float) -> Iterator[None]:
        worker = self._take()
        worker.freeze()
        until_s = time.monotonic() + self._random.uniform(shortest_s, longest_s)
        try:
            yield
            time.sleep(max(0.0, until_s - time.monotonic()))
        finally:
            worker.thaw()
            self._members.append(worker)

    def kill(self) -> None:
        """A worker dies; later there is another one."""
        self._take().kill()
        time.sleep(self._random.uniform(0, 2 * LEASE_S))
        self._add()

    def freeze(self) -> None:
        """A worker is away for longer than its lease."""
        with self._frozen(1.2 * LEASE_S, 2.5 * LEASE_S):
            pass

    def freeze_shortly(self) -> None:
        """A worker is away for about its lease, many times."""
        for _ in range(5):
            with self._frozen(0.2 * LEASE_S, 1.1 * LEASE_S):
                pass

    def freeze_and_kill(self) -> None:
        """One of three is left."""
        with self._frozen(1.5 * LEASE_S, 2.5 * LEASE_S):
            self._take().kill()
        self._add()

    def stop(self) -> None:
        """A worker is stopped and another one started."""
        assert self._take().stop() == 0
        self._add()

    def start_one_more(self) -> None:
        """Four, and three again."""
        self._add()
        time.sleep(0.5)
        assert self._take().stop() == 0

    def restart_store(self) -> None:
        """Redis dies and comes back with its data."""
        self._cluster.store.kill()
        time.sleep(self._random.uniform(0, 1.5 * LEASE_S))
        self._cluster.store.restart()
        time.sleep(2 * LEASE_S)

    def restart_store_under_a_frozen_worker(self) -> None:
        """It wakes up in another run of the store."""
        with self._frozen(1.2 * LEASE_S, 2.0 * LEASE_S):
            self._cluster.store.kill()
            self._cluster.store.restart()
        time.sleep(LEASE_S)

    def restart_job_server(self) -> None:
        """gearmand dies, and everything that waits there."""
        self._history.crash(self._cluster.job_servers[0].kill)
        self._cluster.job_servers[0].restart()
        time.sleep(2 * LEASE_S)

    def restart_job_server_under_a_frozen_worker(self) -> None:
        """It wakes up with dead connections."""
        with self._frozen(1.2 * LEASE_S, 2.0 * LEASE_S):
            self._history.crash(self._cluster.job_servers[0].kill)
            self._cluster.job_servers[0].restart()
        time.sleep(LEASE_S)


def test_two_thousand_changes_are_seen_while_everything_dies_freezes_and_comes_back(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(workers=3, options=("--lease", f"{LEASE_S}"), redis=DURABLE)
    traffic = Traffic(cluster.address, SEED, patterns=PATTERNS)  # by topic as well
    faults = Faults(cluster, traffic.history, SEED)
    faults.start()
    try:
        traffic.run(CHANGES, 50, 150, 400, faults.is_over)
    finally:
        faults.close()
        print(traffic)
        print("faults:", *faults.done)
    assert traffic.history.violations() == []
