"""A worker comes when its servers do, stays whatever they do, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from support.bulk import fanout_body
from support.cluster import Cluster, Receiver, Worker, eventually
from support.servers import HOST, Gearmand, Redis, Server, free_port
from support.wire import Assigned, Wire, admin

NO_SERVER = "job server unreachable"
NO_STORE = "store unreachable"
MakeCluster = Callable[..., Cluster]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes what a test puts on it, the last first."""
    with ExitStack() as things:
        yield things


def counts(address: str, function: str) -> list[int]:
    """What gearmand's `status` says of a function: jobs, running ones, workers."""
    rows = [line.rsplit("\t", 3) for line in admin(address, "status")]
    return next(([int(one) for one in row[1:]] for row in rows if row[0] == function), [0, 0, 0])


def serves(address: str) -> bool:
    """Whether a worker is connected to the gearmand and takes fan-outs and changes."""
    return all(counts(address, name)[2] for name in ("fanout", "unsubscribe_fanout"))


def jobs_left(address: str) -> list[str]:
    """The functions with a job that waits or runs."""
    rows = [line.rsplit("\t", 3) for line in admin(address, "status")]
    return [row[0] for row in rows if int(row[1])]


def members(store: Redis) -> set[bytes]:
    with redis.Redis.from_url(store.url) as connection:
        return set(connection.hkeys("{gearhorn}:members"))


def lines(worker: Worker, words: str) -> list[str]:
    """The lines of the worker's log that have these words."""
    return [line for line in worker.log().splitlines() if words in line]


def publish(address: str, topic: str, payload: str = "hello", **options: object) -> bytes:
    """Fan out to one job server and return the reply."""
    with Wire(address) as wire:
        outcome = wire.run(b"fanout", fanout_body(topic, payload, **options), 20)
    assert outcome.kind == "complete", outcome
    return outcome.data


def subscribe(address: str, topic: str, *clients: str) -> None:
    with Wire(address) as wire:
        for client in clients:
            body = json.dumps({"topic": topic, "client_id": client}).encode()
            outcome = wire.run(b"subscribe_fanout", body)
            assert outcome.kind == "complete", outcome


def unstarted(server: Server) -> Server:
    """Choose the port of a server that `restart` will start."""
    server.port = free_port()
    return server


def mute(stack: ExitStack) -> str:
    """Return the address of something that accepts connections and never says a word."""
    listener = stack.enter_context(socket.create_server((HOST, free_port()), backlog=128))
    return f"{HOST}:{listener.getsockname()[1]}"


# Start


@pytest.mark.parametrize("missing", ["the job server", "the store", "both"])
def test_a_worker_says_once_what_is_missing_and_joins_when_it_comes(
    stack: ExitStack, missing: str
) -> None:
    gearmand, store = unstarted(Gearmand()), unstarted(Redis())
    for server in (gearmand, store):
        stack.callback(server.stop)
    late = {"the job server": [gearmand], "the store": [store], "both": [gearmand, store]}[missing]
    for server in {gearmand, store} - {*late}:
        server.restart()
    worker = Worker([gearmand.address], f"redis://{store.address}/0")
    stack.callback(worker.close)
    expected = [NO_SERVER if server is gearmand else NO_STORE for server in late]
    for words in expected:
        eventually(lambda words=words: lines(worker, words))
    time.sleep(1.0)  # some tries more, which must not be told
    for server in late:
        server.restart()
    eventually(lambda: serves(gearmand.address), 5)
    subscribe(gearmand.address, "news", "alice")
    alice = Receiver(gearmand.address, "news_alice")
    stack.callback(alice.close)
    assert publish(gearmand.address, "news", background=False) == b"1"
    assert alice.wait(1) == [b"hello"]
    warnings = lines(worker, "level=warning")
    assert len(warnings) == len(expected), warnings
    for words in expected:
        [line] = lines(worker, words)
        assert str(gearmand.port if words == NO_SERVER else store.port) in line
    assert worker.stop() == 0


@pytest.mark.parametrize(
    ("how", "signal_number"), [("refuse", signal.SIGINT), ("say nothing", signal.SIGTERM)]
)
def test_a_worker_that_still_waits_for_its_servers_stops_at_once(
    stack: ExitStack, how: str, signal_number: signal.Signals
) -> None:
    dead = f"{HOST}:{free_port()}" if how == "refuse" else mute(stack)
    worker = Worker([dead], f"redis://{dead}/0")
    stack.callback(worker.close)
    eventually(lambda: lines(worker, NO_STORE))
    assert stops_within(worker, 2, signal_number) == 0
    assert "Traceback" not in worker.log()


def stops_within(
    worker: Worker, seconds: float, signal_number: signal.Signals = signal.SIGTERM
) -> int:
    """Send the signal and return the exit code; fails if that takes longer."""
    worker.process.send_signal(signal_number)
    return worker.process.wait(seconds)


def test_a_name_lookup_that_hangs_does_not_hold_up_the_stop(
    stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with name servers that do not answer: glibc asks for 30 s or so."""
    code = [
        "import socket, time",
        "look_up = socket.getaddrinfo",
        "def hang(host, *rest, **options):",
        "    if host == 'slow.example':",
        "        time.sleep(20)",
        "    return look_up(host, *rest, **options)",
        "socket.getaddrinfo = hang",
    ]
    (tmp_path / "sitecustomize.py").write_text("\n".join(code))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    worker = Worker(["slow.example"], f"redis://{HOST}:1/0")
    stack.callback(worker.close)
    eventually(lambda: lines(worker, NO_STORE))
    assert stops_within(worker, 2) == 0


def test_a_stop_in_the_middle_of_joining_leaves_no_member_behind(stack: ExitStack) -> None:
    """The store has taken the member in, and its answer is still on the way."""
    gearmand = stack.enter_context(Gearmand())
    store = stack.enter_context(Redis())
    relay = SlowStore(store)
    stack.callback(relay.close)
    worker = Worker([gearmand.address], f"redis://{relay.address}/0")
    stack.callback(worker.close)
    eventually(lambda: members(store))
    assert stops_within(worker, 5) == 0
    assert members(store) == set()


class SlowStore:
    """Passes on what a worker asks of the store, and holds the answer to a join back for ever."""

    def __init__(self, store: Redis) -> None:
        self._port = store.port
        self._listener = socket.create_server((HOST, free_port()))
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"{HOST}:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection((HOST, self._port))
            self._open += [near, far]
            threading.Thread(target=self._serve, args=(near, far), daemon=True).start()

    def _serve(self, near: socket.socket, far: socket.socket) -> None:
        try:
            while request := near.recv(1 << 16):
                far.sendall(request)
                answer = far.recv(1 << 16)  # the client asks, then waits
                if b"\r\njoin\r\n" in request and b"NOSCRIPT" not in answer:
                    return
                near.sendall(answer)
        except OSError:
            pass


# Stop


class Gate:
    """A receiver's behaviour that answers each job once the gate is open."""

    def __init__(self) -> None:
        self.taken = threading.Event()
        self.opened = threading.Event()

    def __call__(self, wire: Wire, job: Assigned) -> None:
        self.taken.set()
        self.opened.wait(60)
        wire.complete(job.handle, b"done")


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopping_worker_answers_what_is_in_hand_and_leaves_nothing(
    make_cluster: MakeCluster, signal_number: signal.Signals
) -> None:
    cluster = make_cluster()
    [worker] = cluster.workers
    cluster.subscribe("news", "alice", "bob")

    def slow(wire: Wire, job: Assigned) -> None:
        time.sleep(1.0)
        wire.complete(job.handle)

    alice = cluster.receiver("news_alice", behave=slow)
    cluster.receiver("news_bob")
    wire = cluster.wire()
    handle = wire.submit(b"fanout", fanout_body("news", "x", background=False))
    alice.wait(1)
    assert len(members(cluster.store)) == 1
    worker.process.send_signal(signal_number)
    outcome = wire.outcome(handle, 5)
    assert (outcome.kind, outcome.data) == ("complete", b"2")
    assert worker.process.wait(5) == 0
    assert jobs_left(cluster.address) == []
    assert members(cluster.store) == set()
    assert not [line for line in admin(cluster.address, "workers") if " gearhorn-" in line]
    assert len(lines(worker, "event=stopped")) == 1
    assert not lines(worker, "level=warning")


def test_what_a_second_signal_leaves_in_hand_is_finished_by_another_worker(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    [worker] = cluster.workers
    cluster.subscribe("news", "alice")
    gate = Gate()
    cluster.receiver("news_alice", behave=gate)
    wire = cluster.wire()
    handle = wire.submit(b"fanout", fanout_body("news", "x", background=False))
    assert gate.taken.wait(10)
    cluster.add_worker().ready()
    worker.process.send_signal(signal.SIGTERM)
    eventually(lambda: lines(worker, "event=stopping"))
    worker.process.send_signal(signal.SIGINT)
    assert worker.process.wait(5) == 128 + signal.SIGINT
    gate.opened.set()
    assert wire.outcome(handle, 15).data == b"1"


def test_after_the_signal_no_new_work_is_taken_and_another_worker_gets_it(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    [first] = cluster.workers
    cluster.subscribe("slow", "alice")
    cluster.subscribe("quick", "bob")
    gate = Gate()
    cluster.receiver("slow_alice", behave=gate)
    bob = cluster.receiver("quick_bob")
    wire = cluster.wire()
    handle = wire.submit(b"fanout", fanout_body("slow", "x", background=False))
    assert gate.taken.wait(10)
    first.process.terminate()
    eventually(lambda: lines(first, "event=stopping"))
    other = cluster.wire()
    waiting = [other.submit(b"fanout", fanout_body("quick", str(n))) for n in range(20)]
    change = cluster.wire()
    body = b'{"topic":"quick","client_id":"carol"}'
    changing = change.submit(b"subscribe_fanout", body)
    other.expect_nothing(0.5)
    assert counts(cluster.address, "fanout")[:2] == [21, 1]
    assert counts(cluster.address, "subscribe_fanout")[:2] == [1, 0]
    assert bob.jobs == []
    cluster.add_worker().ready()
    assert change.outcome(changing).kind == "complete"
    bob.wait(20)
    for _ in waiting:
        kind, _ = other.recv(10)
        assert kind == 13
    assert first.process.poll() is None
    gate.opened.set()
    assert wire.outcome(handle, 5).data == b"1"
    assert first.process.wait(5) == 0
    assert len(members(cluster.store)) == 1


def test_a_receiver_that_hangs_holds_a_stop_up_for_15_seconds_and_no_longer(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    [worker] = cluster.workers
    cluster.subscribe("news", "alice")
    gate = Gate()
    cluster.receiver("news_alice", behave=gate)
    wire = cluster.wire()
    handle = wire.submit(b"fanout", fanout_body("news", "x", background=False, timeout=60))
    assert gate.taken.wait(10)
    began = time.monotonic()
    assert stops_within(worker, 17) == 0
    assert time.monotonic() - began >= 15
    assert members(cluster.store) == set()
    [line] = lines(worker, "level=warning")
    assert "jobs=1" in line
    known, running = wire.status(handle)
    assert (known, running) == (True, False), "its fan-out is not there for another worker"
    gate.opened.set()


def test_stops_under_load_lose_nothing(make_cluster: MakeCluster) -> None:
    """Background jobs, whose submitter hears nothing, while workers come and go."""
    cluster = make_cluster(workers=2)
    clients = [f"c{number}" for number in range(5)]
    cluster.subscribe("news", *clients)
    receiver = cluster.receiver(*(f"news_{client}" for client in clients))
    flood = Flood(cluster.address)
    for turn in range(3):
        seen = len(receiver.jobs)
        eventually(lambda seen=seen: len(receiver.jobs) > seen + 500)
        cluster.add_worker().ready()
        assert stops_within(cluster.workers[turn], 16) == 0
    sent = flood.end()
    receiver.wait(len(sent) * len(clients), 60)
    eventually(lambda: jobs_left(cluster.address) == [])
    arrived = Counter((job.function.decode(), job.payload.decode()) for job in receiver.jobs)
    assert set(arrived) == {(f"news_{client}", text) for client in clients for text in sent}
    assert set(arrived.values()) == {1}, "a clean stop gives no work away that was done"
    assert not [one for worker in cluster.workers for one in lines(worker, "level=warning")]


class Flood:
    """Publishes numbered messages to `news` as background jobs, from a thread."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._sent: list[str] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> list[str]:
        """Stop publishing and return what was accepted."""
        self._ending.set()
        self._thread.join()
        return self._sent

    def _run(self) -> None:
        with Wire(self._address) as wire:
            while not self._ending.wait(0.001):
                text = str(len(self._sent))
                wire.submit(b"fanout", fanout_body("news", text), background=True)
                self._sent.append(text)


@pytest.mark.parametrize("server", ["job server", "store"])
@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_a_server_that_is_gone_does_not_hold_up_a_stop(
    make_cluster: MakeCluster, server: str, how: str
) -> None:
    cluster = make_cluster()
    [worker] = cluster.workers
    target: Server = cluster.job_servers[0] if server == "job server" else cluster.store
    getattr(target, how)()
    assert stops_within(worker, 5) == 0
    assert "Traceback" not in worker.log()
    if server == "store":
        assert len(lines(worker, "left without telling the store")) == 1
    else:
        assert members(cluster.store) == set()


def test_a_job_server_that_goes_in_the_moment_of_the_signal_does_not_hold_up_the_stop(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    [worker] = cluster.workers
    cluster.subscribe("news", "alice")
    assert cluster.publish("news", "x").data == b"1"
    worker.freeze()
    cluster.job_servers[0].kill()
    worker.process.terminate()
    worker.thaw()  # both are news to it
    assert worker.process.wait(5) == 0
    assert not lines(worker, "work in hand")


# What servers do meanwhile


def test_a_killed_gearmand_is_served_again_soon_after_its_return_and_each_event_told_once(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    [worker] = cluster.workers
    [server] = cluster.job_servers
    cluster.subscribe("news", "alice")
    assert cluster.publish("news", "x").data == b"1"
    before = len(worker.log().splitlines())
    server.kill()
    eventually(lambda: lines(worker, NO_SERVER))
    server.restart()
    eventually(lambda: serves(cluster.address), 5)
    assert cluster.publish("news", "x").data == b"1"
    # lost, not there, there again
    eventually(lambda: len(worker.log().splitlines()) >= before + 3)
    told = worker.log().splitlines()[before:]
    events = Counter(re.findall(r'event=("[^"]*"|\S*)', line)[0] for line in told)
    assert set(events.values()) == {1}, told
    assert len(events) == 3, told
    assert all(server.address in line for line in told)


def test_a_worker_survives_20_restarts_of_gearmand(make_cluster: MakeCluster) -> None:
    """Most in quick succession, so that connections end as soon as they are made, or before."""
    cluster = make_cluster()
    [worker] = cluster.workers
    [server] = cluster.job_servers
    cluster.subscribe("news", "alice")
    assert cluster.publish("news", "x").data == b"1"
    opened = open_files(worker)
    for restart in range(1, 21):
        server.kill()
        server.restart()
        if restart % 7 == 0 or restart == 20:
            eventually(lambda: serves(cluster.address), 7)  # it tries every 5 s at the least
            assert cluster.publish("news", "x").data == b"1"
    eventually(lambda: open_files(worker) <= opened, 5, "connections are left open")
    assert worker.process.poll() is None
    assert len(lines(worker, "connection lost")) >= 3
    assert len(worker.log().splitlines()) < 80


def open_files(worker: Worker) -> int:
    return len(os.listdir(f"/proc/{worker.process.pid}/fd"))


def test_a_server_that_accepts_and_never_answers_is_not_up(
    make_cluster: MakeCluster, stack: ExitStack
) -> None:
    cluster = make_cluster(workers=0)
    silent = mute(stack)
    worker = Worker([silent, cluster.address], cluster.store.url)
    cluster.workers.append(worker)
    worker.ready()
    eventually(lambda: serves(cluster.address))
    clients = [f"c{number}" for number in range(20)]
    cluster.subscribe("news", *clients)
    receiver = cluster.receiver(*(f"news_{client}" for client in clients))
    assert cluster.publish("news", "early", background=False).data == b"20"
    eventually(lambda: lines(worker, NO_SERVER), 8)
    assert cluster.publish("news", "late", background=False).data == b"20"
    assert Counter(receiver.payloads) == {b"early": 20, b"late": 20}
    [line] = lines(worker, NO_SERVER)
    assert silent in line
    assert "ECHO" in line
    assert stops_within(worker, 5) == 0


def test_a_server_that_speaks_another_protocol_is_not_up(
    make_cluster: MakeCluster, stack: ExitStack
) -> None:
    cluster = make_cluster(workers=0)
    babbler = Babbler()
    stack.callback(babbler.close)
    worker = Worker([babbler.address, cluster.address], cluster.store.url)
    cluster.workers.append(worker)
    worker.ready()
    cluster.subscribe("news", *(f"c{number}" for number in range(20)))
    assert cluster.publish("news", "x").data == b"20"
    eventually(lambda: babbler.heard >= 6, 10, "the worker does not try again")
    assert len(lines(worker, NO_SERVER)) == 1
    assert worker.process.poll() is None


class Babbler:
    """Answers whoever connects like a web server that is asked something odd."""

    def __init__(self) -> None:
        self.heard = 0
        self._listener = socket.create_server((HOST, free_port()))
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def address(self) -> str:
        return f"{HOST}:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                self.heard += 1


SIGNALLED_IN_A_CALLBACK = """
import os, signal, sys, weakref
from gearhorn.cli import process, worker

class Thing:
    pass

def callback(_):
    os.kill(os.getpid(), signal.SIGTERM)
    str()  # here at the latest the signal is handled, and what that raises is dropped

process.heed_signals()
thing = Thing()
reference = weakref.ref(thing, callback)
del thing
print("went on", flush=True)
worker.run()
"""


def test_a_signal_whose_exception_python_drops_ends_the_worker_all_the_same() -> None:
    dead = f"{HOST}:1"  # no server listens there
    command = [sys.executable, "-c", SIGNALLED_IN_A_CALLBACK, dead, "--redis", f"redis://{dead}/0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.stdout == "went on\n", ended.stderr
    assert "Exception ignored" in ended.stderr
    assert ended.returncode == 0, ended.stderr
