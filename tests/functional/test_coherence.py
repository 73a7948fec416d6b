"""Once a change is answered, every fan-out reaches exactly the subscribers of that moment: shown by
histories of real processes, and by what goes wrong when a rule of PROTOCOL §7 is switched off."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from unittest.mock import patch

import pytest
from support import without
from support.cluster import Cluster, Worker, eventually
from support.history import Change, History, Traffic
from support.wire import Outcome, Wire, admin

from gearhorn.gearman.connection import Server
from gearhorn.gearman.drain import _Drain, drain

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
    history.crashes = [13]
    assert not judge(history, 10, 12)
    assert judge(history, 14, 15)
    history = history_of(("+", 1, 2, True))
    history.crashes = [20]
    assert judge(history, 10, 12), "there was time to read it"
    history = history_of(("+", 1, 2, True), ("-", 3, 4, True))
    history.crashes = [13]
    assert judge(history, 10, 12, "alice")


def test_the_checker_knows_strangers() -> None:
    assert judge(history_of(("+", 1, 2, True)), 10, 12, "alice", "mallory")


# Histories of real processes


def test_two_thousand_changes_are_seen_by_every_fanout_after_them(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(workers=3, options=("--lease", f"{LEASE_S}"))
    traffic = Traffic(cluster.address, SEED)
    traffic.run(CHANGES, 200, 200, 60)
    print(traffic)
    assert traffic.history.violations() == []


def test_the_traffic_finds_out_when_a_member_answers_and_keeps_its_list(
    make_cluster: MakeCluster,
) -> None:
    with Trial(make_cluster(workers=2), "answers", 10) as trial:
        trial.add()
        traffic = Traffic(trial.cluster.address, SEED)
        traffic.run(200, 200, 200, 60)
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
        self._history.crash()
        self._cluster.job_servers[0].kill()
        self._cluster.job_servers[0].restart()
        time.sleep(2 * LEASE_S)

    def restart_job_server_under_a_frozen_worker(self) -> None:
        """It wakes up with dead connections."""
        with self._frozen(1.2 * LEASE_S, 2.0 * LEASE_S):
            self._history.crash()
            self._cluster.job_servers[0].kill()
            self._cluster.job_servers[0].restart()
        time.sleep(LEASE_S)


def test_two_thousand_changes_are_seen_while_everything_dies_freezes_and_comes_back(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(workers=3, options=("--lease", f"{LEASE_S}"), redis=DURABLE)
    traffic = Traffic(cluster.address, SEED)
    faults = Faults(cluster, traffic.history, SEED)
    faults.start()
    try:
        traffic.run(CHANGES, 50, 150, 150, faults.is_over)
    finally:
        faults.close()
        print(traffic)
        print("faults:", *faults.done)
    assert traffic.history.violations() == []


# Rules switched off

TOPIC = "t"


class Proxy:
    """Carries connections to a server, and can hold back what the server says."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._target = host, int(port)
        self._open = threading.Event()
        self._open.set()
        self.said = b""  # by the server since `hold`
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self) -> None:
        """Let nothing through that the server says from now on."""
        self.said = b""
        self._open.clear()

    def release(self) -> None:
        """Let everything through, late."""
        self._open.set()

    def close(self) -> None:
        """Close every connection."""
        self._open.set()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._sockets += near, far
                threading.Thread(target=self._carry, args=(near, far), daemon=True).start()
                threading.Thread(target=self._bring, args=(far, near), daemon=True).start()

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(1 << 16):
                far.sendall(data)
            far.shutdown(socket.SHUT_RDWR)

    def _bring(self, far: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(1 << 16):
                self.said += data
                self._open.wait()
                near.sendall(data)
            near.shutdown(socket.SHUT_RDWR)


class Breaker(Worker):
    """A worker without one of the rules, or with all of them."""

    def __init__(self, rule: str | None, servers: list[str], redis: str, *options: str) -> None:
        script = [without.__file__, rule] if rule else ["-m", "gearhorn.cli.worker"]
        self.command = [sys.executable, *script, *servers, "--redis", redis, *options]
        self._directory = tempfile.TemporaryDirectory(prefix="gearhorn-worker-")
        self._log = Path(self._directory.name) / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(self.command, stderr=log, stdout=log)


class Trial:
    """A cluster whose members can be spoken to one by one, each with functions of its own, and
    the history of one topic. `rule` is switched off; None: all hold."""

    def __init__(self, cluster: Cluster, rule: str | None, lease_s: float) -> None:
        self.cluster = cluster
        self.history = History()
        self.rule = rule
        self._lease_s = lease_s
        self._proxies: list[Proxy] = []

    def __enter__(self) -> Trial:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self.cluster.workers:
            worker.kill()
        for proxy in self._proxies:
            proxy.close()

    def add(self, *options: str, port: int | None = None) -> Worker:
        """Start a worker; `port` is where it finds the store."""
        url = f"redis://127.0.0.1:{port or self.cluster.store.port}/0"
        options = "--lease", f"{self._lease_s}", *options
        worker = Breaker(self.rule, [self.cluster.address], url, *options)
        self.cluster.workers.append(worker)
        return worker.ready()

    def member(self, proxy: Proxy | None = None) -> Member:
        """Start a member."""
        return Member(self, len(self.cluster.workers), proxy)

    def proxy(self) -> Proxy:
        """Stand before the store."""
        self._proxies.append(Proxy(self.cluster.store.address))
        return self._proxies[-1]

    def waiting(self, queue: str) -> int:
        """Jobs that wait or run on a queue."""
        for line in admin(self.cluster.address, "status"):
            name, total, _, _ = line.rsplit("\t", 3)
            if name == queue:
                return int(total)
        return 0

    def finish(self, request: Request) -> None:
        """Wait for a change that is answered too early where the rule is off, and waits for a
        peer's lease otherwise: longer than any test."""
        if self.rule:
            request.finish()
            return
        with pytest.raises(TimeoutError):
            request.finish(0.5)

    def violations(self) -> list[str]:
        """Read every copy and judge."""
        clients = self.history.changes[TOPIC]
        receiver = self.cluster.receiver(*(f"{TOPIC}_{client}" for client in clients))
        owed = sum(message.copies or 0 for message in self.history.messages)
        with contextlib.suppress(AssertionError):  # the checker will say so
            eventually(lambda: len(receiver.jobs) >= owed, 1)
        eventually(lambda: not any(self.waiting(f"{TOPIC}_{client}") for client in clients))
        for job in list(receiver.jobs):
            self.history.arrive(job.function, job.payload)
        return self.history.violations()


class Request:
    """A job under way. `told` notes in the history how it ended."""

    def __init__(self, wire: Wire, handle: bytes, told: Callable[[Outcome], None]) -> None:
        self._wire = wire
        self._handle = handle
        self._told = told

    def finish(self, timeout_s: float = 15.0) -> Outcome:
        """Wait for the end; TimeoutError leaves it under way."""
        outcome = self._wire.outcome(self._handle, timeout_s)
        self._told(outcome)
        return outcome


class Member:
    """A worker that alone serves `fanout_N`, `subscribe_N` and `unsubscribe_N`."""

    def __init__(self, trial: Trial, number: int, proxy: Proxy | None) -> None:
        self._trial = trial
        self._number = number
        options = []
        for function in ("fanout", "subscribe", "unsubscribe", "register"):
            options += [f"--{function}-function", f"{function}_{number}"]
        self.worker = trial.add(*options, port=proxy.port if proxy else None)
        log = self.worker.log()
        self.queue = "__matchmaking_" + log.partition("event=starting member=")[2].split()[0]

    def _begin(self, function: str, told: Callable[[Outcome], None], **request: object) -> Request:
        wire = self._trial.cluster.wire()
        body = json.dumps({"topic": TOPIC} | request).encode()
        return Request(wire, wire.submit(f"{function}_{self._number}".encode(), body), told)

    def change(self, client: str, subscribes: bool = True, **options: object) -> Request:
        """Begin to subscribe or unsubscribe."""
        history = self._trial.history
        change = history.invoke((TOPIC, client), subscribes)

        def told(outcome: Outcome) -> None:
            assert outcome.kind == "complete", outcome
            history.end(change, True)

        function = "subscribe" if subscribes else "unsubscribe"
        return self._begin(function, told, client_id=client, **options)

    def publish(self, background: bool = True) -> Request:
        """Begin a fan-out."""
        history = self._trial.history
        number = history.submit(TOPIC)

        def told(outcome: Outcome) -> None:
            if outcome.kind == "complete":
                history.reply(number, int(outcome.data))

        return self._begin("fanout", told, payload=str(number), background=background)

    def intercept(self, ask: Callable[[], Request]) -> tuple[Request, Wire, bytes]:
        """Take the message away that a peer sends to this member on account of `ask`; the member
        stays frozen. Returns what was asked, and who has the message under which handle."""
        self.worker.freeze()
        thief = self._trial.cluster.wire()
        thief.can_do(self.queue.encode())
        request = ask()
        message = thief.grab()
        assert message is not None
        return request, thief, message.handle


def answers(trial: Trial) -> None:
    """A peer says that it has dropped its list."""
    changer, peer = trial.member(), trial.member()
    changer.change("alice").finish()
    peer.publish().finish()
    changer.change("bob").finish()
    peer.publish().finish()
    changer.change("alice", False).finish()
    peer.publish().finish()


def catch_up(trial: Trial) -> None:
    """A peer is never told, and renews its lease."""
    changer, peer = trial.member(), trial.member()
    changer.change("alice").finish()
    peer.publish().finish()
    change, _, _ = peer.intercept(lambda: changer.change("bob"))
    peer.worker.thaw()
    change.finish()
    peer.publish().finish()


def lapse(trial: Trial) -> None:
    """A peer is never told, and loses the store."""
    proxy = trial.proxy()
    changer, peer = trial.member(), trial.member(proxy)
    changer.change("alice").finish()
    peer.publish().finish()
    proxy.hold()
    change, _, _ = peer.intercept(lambda: changer.change("bob"))
    peer.worker.thaw()
    change.finish()
    message = peer.publish()
    try:
        message.finish(0.5)
    except TimeoutError:
        proxy.release()
        message.finish()


def emptied(trial: Trial) -> None:
    """A peer is frozen for longer than its lease, removed, and comes back."""
    changer, peer = trial.member(), trial.member()
    changer.change("alice").finish()
    peer.publish().finish()
    peer.worker.freeze()
    changer.change("bob").finish()
    eventually(lambda: "member removed" in changer.worker.log())
    eventually(lambda: not trial.waiting(peer.queue), what="its messages are not drained")
    peer.worker.thaw()
    eventually(lambda: peer.worker.log().count("event=joined") >= 2)
    peer.publish().finish()


def read(trial: Trial) -> None:
    """A topic changes while a peer reads its list."""
    proxy = trial.proxy()
    changer, peer = trial.member(), trial.member(proxy)
    changer.change("alice").finish()
    proxy.hold()
    early = peer.publish()
    eventually(lambda: b"alice" in proxy.said)
    changer.change("bob").finish()
    late = peer.publish()
    proxy.release()
    early.finish()
    late.finish()
    peer.publish().finish()


def repeat(trial: Trial) -> None:
    """A subscribe is made again at another member while the first one has not told a peer."""
    changer, peer, other = trial.member(), trial.member(), trial.member()
    changer.change("alice").finish()
    peer.publish().finish()
    _, thief, message = peer.intercept(lambda: changer.change("bob"))
    thief.fail(message)
    thief.close()
    peer.worker.thaw()
    other.change("bob").finish()
    peer.publish().finish()


def replaced(trial: Trial) -> None:
    """The store comes back empty, and nobody there knows a peer that has a list and a lease."""
    changer, peer = trial.member(), trial.member()
    peer.publish().finish()
    trial.cluster.store.kill()
    trial.cluster.store.restart()
    trial.finish(changer.change("bob"))
    peer.publish().finish()


def drained_copy(trial: Trial) -> None:
    """A copy that a foreground caller waits for is drained."""
    member = trial.member()
    member.change("alice").finish()
    message = member.publish(background=False)
    eventually(lambda: trial.waiting(f"{TOPIC}_alice"))
    member.change("alice", False, drain=True).finish()
    message.finish()


def drained_message(trial: Trial) -> None:
    """A message to a living peer is drained."""
    changer, peer = trial.member(), trial.member()
    changer.change("alice").finish()
    peer.publish().finish()
    peer.worker.freeze()
    change = changer.change("bob")
    eventually(lambda: trial.waiting(peer.queue))
    host, _, port = trial.cluster.address.rpartition(":")
    discard = without.complete if trial.rule else _Drain._discard
    with patch.object(_Drain, "_discard", discard):
        asyncio.run(drain([Server(host, int(port))], None, peer.queue.encode()))
    trial.finish(change)
    peer.worker.thaw()
    peer.publish().finish()


SCENARIOS = [
    # (what happens, rule, lease in s: 60 where no renewal may come between)
    (answers, "answers", 60),
    (catch_up, "catch_up", 3),
    (lapse, "lapse", 1),
    (emptied, "emptied", 1),
    (read, "read", 60),
    (repeat, "repeat", 60),
    (replaced, "settled", 60),
    (drained_copy, "drain", 60),
    (drained_message, "drain", 60),
]


@pytest.mark.parametrize(
    ("scenario", "rule", "lease_s", "is_off"),
    [(*one, is_off) for one, is_off in itertools.product(SCENARIOS, (False, True))],
    ids=[f"{one[0].__name__}-{how}" for one, how in itertools.product(SCENARIOS, ("holds", "off"))],
)
def test_a_history_is_right_while_the_rule_holds_and_wrong_without_it(
    make_cluster: MakeCluster,
    scenario: Callable[[Trial], None],
    rule: str,
    lease_s: float,
    is_off: bool,
) -> None:
    with Trial(make_cluster(workers=0), rule if is_off else None, lease_s) as trial:
        scenario(trial)
        assert bool(trial.violations()) == is_off
