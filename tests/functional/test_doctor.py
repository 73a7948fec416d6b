"""What ``gearhorn doctor`` finds: real servers are brought into each state that it names."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from support.cluster import Cluster, Worker, eventually
from support.servers import Gearmand, Redis, free_port
from support.wire import Wire

from gearhorn.cli.commands.main import outcome
from gearhorn.cli.commands.servers import carrier_of

COMMAND = [sys.executable, "-m", "gearhorn.cli.commands.main", "doctor"]
Found = dict[tuple[str, str], list[dict[str, str]]]


class Doctor:
    """Asks for findings of a cluster, in this process."""

    def __init__(self, cluster: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
        self._servers = [f"--server={server.address}" for server in cluster.job_servers]
        self._capfd = capfd
        self.code = 0

    def __call__(self, *arguments: str, servers: list[str] | None = None) -> Found:
        """Return what was found, by check and level."""
        self.code = outcome(["doctor", "--json", *(servers or self._servers), *arguments])
        # in tests the client's log may stand on standard output before it
        document = json.loads(self._capfd.readouterr().out.splitlines()[-1])
        found: Found = {}
        for one in document["findings"]:
            found.setdefault((one["check"], one["level"]), []).append(one)
        worst = [level for level in ("FAIL", "warn", "ok") for key in found if key[1] == level]
        assert document["level"] == worst[0]
        return found

    def until(self, check: str, level: str, text: str, count: int = 1) -> list[dict[str, str]]:
        """Wait for findings, and return them; each says what to do unless all is well."""

        def found() -> list[dict[str, str]]:
            several = self().get((check, level), [])
            return [one for one in several if text in f"{one['subject']} {one['text']}"]

        several: list[dict[str, str]] = eventually(
            lambda: len(found()) >= count and found(), 30, f"{check} {level}: {text}"
        )
        assert all((level == "ok") != bool(one["todo"]) for one in several)
        return several


@pytest.fixture(scope="module")
def trio() -> Iterator[Cluster]:
    """A worker between two gearmands and a Redis that keeps everything."""
    shared = Cluster([Gearmand(), Gearmand()], Redis(appendonly=True))
    yield shared
    shared.close()


@pytest.fixture
def doctor(trio: Cluster, capfd: pytest.CaptureFixture[str]) -> Doctor:
    return Doctor(trio, capfd)


def environment(cluster: Cluster) -> dict[str, str]:
    servers = ",".join(server.address for server in cluster.job_servers)
    return {**os.environ, "GEARHORN_SERVERS": servers, "XDG_CONFIG_HOME": "/nonexistent"}


def of_store(cluster: Cluster, *command: str) -> None:
    with socket.create_connection(("127.0.0.1", cluster.store.port)) as connection:
        connection.sendall(" ".join(command).encode() + b"\r\n")
        assert connection.recv(100).startswith(b"+OK")


def test_a_store_is_judged_by_what_it_would_lose(trio: Cluster, doctor: Doctor) -> None:
    doctor.until("store", "warn", "replicas none")
    assert doctor.code == 3, "there is nothing worse than a warning"
    with Redis("--replicaof", "127.0.0.1", str(trio.store.port)):
        of_store(trio, "CONFIG SET min-replicas-to-write 1")
        doctor.until("store", "ok", "replicas 1")
        assert doctor.code == 0, "all is well"
        of_store(trio, "CONFIG SET min-replicas-to-write 0")
        of_store(trio, "CONFIG SET appendonly no maxmemory 1gb maxmemory-policy allkeys-lru")
        doctor.until("store", "FAIL", "eviction forgets keys")
        assert doctor.code == 1
        found = doctor()
        persistence, replicas = found["store", "warn"]
        assert "last snapshot" in persistence["text"]
        assert "min-replicas-to-write 1" in replicas["todo"]
        of_store(trio, "CONFIG SET appendonly yes maxmemory 0 maxmemory-policy noeviction")


def test_job_servers_and_their_known_faults(trio: Cluster, doctor: Doctor) -> None:
    well = doctor()["job server", "ok"]
    assert [one["subject"] for one in well] == sorted(one.address for one in trio.job_servers)
    assert re.match(r"\d+\.\d+\.\d+\S*, answers in \d+\.\d ms", well[0]["text"])
    trio.job_servers[1].kill()
    gone = trio.job_servers[1].address
    [here, members] = doctor.until("job server", "FAIL", gone, 2)
    assert (here["subject"], members["subject"]) == (gone, gone)
    assert "does not answer here" in here["text"]
    assert "1 of 1 members have no connection" in members["text"]
    trio.job_servers[1].restart()
    eventually(lambda: ("job server", "FAIL") not in doctor(), 20)


def test_queues_without_receivers_and_dead_ones(trio: Cluster, doctor: Doctor, topic: str) -> None:
    trio.subscribe(topic, "waits", "idle", "served", "paused")
    trio.subscribe(topic, "paused", durable={"paused": True})
    trio.subscribe(topic, "late", durable=True)
    trio.run("subscribe_fanout", topic="some.*", client_id="matching", pattern=True)
    names = ["waits", "served", "idle"]
    addresses = [server.address for server in trio.job_servers]
    at = {name: carrier_of(f"{topic}_{name}", addresses) for name in names}
    [elsewhere] = set(addresses) - {at["served"]}
    trio.receiver(f"{topic}_served", address=at["served"])
    trio.publish(topic, "x", exclude=["idle"])
    with Wire(elsewhere) as wire:  # as if the carrier had been down for a while
        wire.submit(f"{topic}_served".encode(), b"left", background=True)
        wire.submit(b"gone_client", b"left", background=True)
        wire.submit(b"another-application", b"not ours", background=True)
    lost = doctor.until("receivers", "FAIL", topic, 3)
    assert {one["subject"].partition("/")[2] for one in lost} == {"waits", "late", "served"}
    assert "1 jobs wait at" in {one["subject"]: one for one in lost}[f"{topic}/served"]["text"]
    found = doctor()
    idle = {one["subject"] for one in found["receivers", "warn"]}
    assert {f"{topic}/idle", "some.*/matching"} <= idle
    [dead] = [one for one in found["dead queues", "warn"] if one["subject"] == "gone_client"]
    assert dead["todo"].endswith("gearhorn drain gone client")
    assert "another-application" not in str(found)
    assert f"{topic}/paused" not in str(found)
    for name in ("waits", "idle", "served", "late", "paused"):
        trio.run("unsubscribe_fanout", topic=topic, client_id=name, drain=True)
    trio.run("unsubscribe_fanout", topic="some.*", client_id="matching", pattern=True)
    trio.run("unsubscribe_fanout", topic="gone", client_id="client", drain=True)
    eventually(lambda: ("dead queues", "ok") in doctor())


def test_a_client_that_two_hosts_serve(trio: Cluster, doctor: Doctor, topic: str) -> None:
    trio.subscribe(topic, "a")
    queue = f"{topic}_a".encode()
    host, _, port = trio.address.rpartition(":")
    trio.receiver(queue.decode())
    assert ("hosts", "warn") not in doctor(), "one host, with any number of receivers"
    with socket.create_connection((host, int(port)), source_address=("127.0.0.2", 0)) as other:
        other.sendall(b"\0REQ\0\0\0\1" + len(queue).to_bytes(4, "big") + queue)
        [found] = doctor.until("hosts", "warn", f"{topic}/a")
        assert "127.0.0.1 and 127.0.0.2" in found["text"] or "127.0.0.2 and" in found["text"]
    trio.run("unsubscribe_fanout", topic=topic, client_id="a", drain=True)


def test_as_a_process_it_tells_everybody_what_to_do(trio: Cluster, topic: str) -> None:
    trio.subscribe(topic, "a")
    trio.publish(topic, "x")
    done = subprocess.run(COMMAND, check=False, capture_output=True, env=environment(trio))
    assert (done.returncode, done.stderr) == (1, b"")
    header, *lines = done.stdout.decode().splitlines()
    assert header.split("\t") == ["level", "check", "subject", "text", "todo"]
    assert any(line.startswith(f"FAIL\treceivers\t{topic}/a\t1 jobs wait") for line in lines)
    child, number = pty.fork()
    if not child:
        os.environ.update(environment(trio) | {"COLUMNS": "60", "TERM": "xterm"})
        os.execv(COMMAND[0], COMMAND)
    written = b""
    with contextlib.suppress(OSError):
        while data := os.read(number, 65536):
            written += data
    _, status = os.waitpid(child, 0)
    os.close(number)
    assert os.waitstatus_to_exitcode(status) == 1
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", written.decode())
    assert all(len(line) <= 60 for line in plain.splitlines())
    text = " ".join(plain.split())
    assert f"-> start one, or: gearhorn unsubscribe {topic} a" in text
    trio.run("unsubscribe_fanout", topic=topic, client_id="a", drain=True)


class TextOnly(threading.Thread):
    """A way to a real job server through which text commands go, and packets do not."""

    def __init__(self, target: str) -> None:
        super().__init__(daemon=True)
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", free_port()))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, contextlib.suppress(OSError):
                    data = connection.recv(1000)
                    if data and not data.startswith(b"\0"):
                        self._pass(data, connection)

    def _pass(self, data: bytes, connection: socket.socket) -> None:
        host, _, port = self._target.rpartition(":")
        with socket.create_connection((host, int(port))) as onward:
            onward.sendall(data)
            answer = b""
            while answer.count(b"\n.\n") < 2:
                answer += onward.recv(65536)
            connection.sendall(answer)

    def close(self) -> None:
        """Take no more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class Ahead(Worker):
    """A worker on a host whose clock is wrong."""

    program = (
        "-c",
        "import time; real = time.time; time.time = lambda: real() + 90\n"
        "from gearhorn.cli.worker import run; run()",
    )


def test_members_that_differ(trio: Cluster, doctor: Doctor) -> None:
    blocked = TextOnly(trio.address)
    addresses = [*(server.address for server in trio.job_servers), blocked.address]
    odd = Ahead(addresses, trio.store.url, is_watched=False)
    try:
        odd.ready()
        [found] = doctor.until("members", "FAIL", "have different job servers")
        assert blocked.address in found["text"]
        [found] = doctor.until("job server", "FAIL", blocked.address)
        assert "1 of 1 members have no connection" in found["text"]
        [found, *_] = doctor.until("clocks", "warn", "90.", 1)
        assert re.search(r"(89|90)\.\d s (ahead of|behind) the worker", found["text"])
        odd.freeze()
        doctor.until("members", "FAIL", "holds no lease, or hears no other member")
    finally:
        odd.thaw()
        odd.close()
        blocked.close()


def test_without_a_worker_or_a_job_server(capfd: pytest.CaptureFixture[str], trio: Cluster) -> None:
    doctor = Doctor(trio, capfd)
    with Gearmand() as alone:
        found = doctor("--timeout", "1", servers=[f"--server={alone.address}"])
        assert doctor.code == 4
        assert "gearhorn-worker" in found["members", "FAIL"][0]["todo"]
        assert ("job server", "ok") in found
    with socket.create_server(("127.0.0.1", free_port())) as silent:
        nowhere = f"127.0.0.1:{free_port()}"
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        servers = [f"--server={address}", f"--server={nowhere}"]
        found = doctor("--timeout", "1", servers=servers)
    assert doctor.code == 4
    texts = {one["subject"]: one["text"] for one in found["job server", "FAIL"]}
    assert texts[address] == "does not answer here: no answer in 1 s"
    assert "failed" in texts[nowhere]


@pytest.fixture
def _kept_store(trio: Cluster) -> Iterator[None]:
    yield
    trio.store.restart()


@pytest.mark.usefixtures("_kept_store")
def test_a_store_that_is_away(trio: Cluster, doctor: Doctor) -> None:
    trio.store.kill()
    [found] = doctor()["store", "FAIL"]
    assert (doctor.code, found["todo"]) == (1, "look at the store, and at the workers' log")
    assert "unavailable: " in found["text"]
