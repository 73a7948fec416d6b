"""The `gearman` command of gearman-tools publishes, subscribes and receives, and never hangs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.cluster import Cluster, eventually
from support.foreign import PROGRAM_S, find, run_program
from support.lifelines import tied
from support.wire import admin

pytest_plugins = ["support.foreign"]

Finished = subprocess.CompletedProcess[bytes]
Gearman = Callable[..., Finished]


@pytest.fixture
def cluster(gearmand_cluster: Cluster) -> Cluster:
    """gearmand and Redis."""
    return gearmand_cluster


@pytest.fixture
def command(cluster: Cluster) -> list[str]:
    """How every command begins."""
    host, port = cluster.address.split(":")
    return [find("gearman"), "-h", host, "-p", port]


@pytest.fixture
def gearman(command: list[str]) -> Gearman:
    """Runs the command: `gearman(*arguments, stdin=b"")`."""
    return lambda *arguments, stdin=b"": run_program([*command, *arguments], stdin)


@pytest.fixture
def receiver(command: list[str], cluster: Cluster) -> Iterator[Callable[..., Any]]:
    """Starts `gearman -w` and waits until it serves: `receiver(queue, *arguments)`."""
    started: list[subprocess.Popen[bytes]] = []

    def start(queue: str, *arguments: str) -> subprocess.Popen[bytes]:
        full = [*command, "-w", "-f", queue, *arguments]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(tied(full), stdout=pipe, stderr=pipe))
        eventually(
            lambda: any(
                line.startswith(f"{queue}\t") and line.endswith("\t1")
                for line in admin(cluster.address, "status")
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def fanout(gearman: Gearman, topic: str, payload: Any, **options: Any) -> Finished:
    """Publish."""
    return gearman("-f", "fanout", json.dumps({"topic": topic, "payload": payload, **options}))


def subscribe(gearman: Gearman, topic: str, *clients: str, **options: Any) -> None:
    """Subscribe clients."""
    for client in clients:
        request = {"topic": topic, "client_id": client, **options}
        done = gearman("-f", "subscribe_fanout", json.dumps(request))
        assert (done.returncode, done.stderr) == (0, b"")
        assert json.loads(done.stdout)["queue"] == f"{topic}_{client}"


def receive(gearman: Gearman, queue: str, count: int) -> bytes:
    """What so many copies print that wait already."""
    done = gearman("-w", "-c", str(count), "-f", queue)
    assert done.returncode == 0
    return done.stdout


def test_the_command_publishes_in_the_background_and_receives(gearman: Gearman, topic: str) -> None:
    subscribe(gearman, topic, "alice", "bob")
    for payload in ("hello ", "grüße "):
        done = fanout(gearman, topic, payload, background=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"2", b"")
    for client in ("alice", "bob"):
        assert receive(gearman, f"{topic}_{client}", 2) == "hello grüße ".encode()


def test_the_command_publishes_in_the_foreground(
    gearman: Gearman, receiver: Callable[..., Any], topic: str
) -> None:
    subscribe(gearman, topic, "alice", "bob")
    alice = receiver(f"{topic}_alice", "-c", "1", "--", "tr", "a-z", "A-Z")
    bob = receiver(f"{topic}_bob", "-c", "1", "--", "cat")
    done = fanout(gearman, topic, "hello", receipt=True)
    assert done.returncode == 0
    # the command prints the percentage of WORK_STATUS among the data
    receipt, _ = json.JSONDecoder().raw_decode(done.stdout[done.stdout.index(b"{") :].decode())
    assert sorted(receipt["delivered"]) == ["alice", "bob"]
    assert receipt["results"] == {"alice": "HELLO", "bob": "hello"}
    assert b"100% Complete" in done.stdout
    assert (alice.wait(PROGRAM_S), bob.wait(PROGRAM_S)) == (0, 0)


def test_the_command_publishes_what_it_reads(gearman: Gearman, topic: str) -> None:
    subscribe(gearman, topic, "alice")
    whole = {"topic": topic, "payload": "x" * 1_000_000, "background": True}
    done = gearman("-f", "fanout", stdin=json.dumps(whole).encode())
    assert (done.returncode, done.stdout) == (0, b"1")
    lines = [{"topic": topic, "payload": str(n), "background": True} for n in range(9)]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    done = gearman("-f", "fanout", "-n", stdin=text.encode())
    assert (done.returncode, done.stdout) == (0, b"1" * 9)
    assert receive(gearman, f"{topic}_alice", 10) == b"x" * 1_000_000 + b"012345678"


def test_the_command_publishes_as_a_background_job(gearman: Gearman, topic: str) -> None:
    subscribe(gearman, topic, "alice")
    request = json.dumps({"topic": topic, "payload": "later"})
    done = gearman("-b", "-f", "fanout", request)
    assert (done.returncode, done.stdout) == (0, b"")
    assert receive(gearman, f"{topic}_alice", 1) == b"later"


def test_the_command_unsubscribes(gearman: Gearman, topic: str) -> None:
    subscribe(gearman, topic, "alice", "bob")
    fanout(gearman, topic, "x", background=True)
    request = {"topic": topic, "client_id": "alice", "drain": True}
    done = gearman("-f", "unsubscribe_fanout", json.dumps(request))
    assert done.returncode == 0
    assert json.loads(done.stdout)["drained"] == 1
    assert fanout(gearman, topic, "x", background=True).stdout == b"1"


def test_a_receiver_that_sees_no_unique_ids_has_them_in_its_envelope(
    gearman: Gearman, topic: str
) -> None:
    subscribe(gearman, topic, "alice", envelope=True)
    fanout(gearman, topic, "hello", background=True, unique="mine")
    envelope = json.loads(receive(gearman, f"{topic}_alice", 1))
    assert envelope.pop("at") > 0
    assert envelope == {"topic": topic, "unique": "mine", "payload": "hello"}


def test_the_command_has_the_keys_of_a_background_fanout(gearman: Gearman, topic: str) -> None:
    subscribe(gearman, topic, "alice", "bob", max_backlog=3)
    for payload, options in (
        ("bG93", {"priority": "low", "encoding": "base64"}),
        ("coalesces", {"unique": "u"}),
        ("lost", {"unique": "u"}),
        ("high", {"priority": "high", "exclude": ["bob"]}),
    ):
        done = fanout(gearman, topic, payload, background=True, **options)
        assert done.stdout == (b"1" if "exclude" in options else b"2")
    done = fanout(gearman, topic, "!", background=1, receipt=True)
    assert json.loads(done.stdout) == {
        **{"copies": 1, "delivered": [], "failed": {}, "pending": [], "dropped": ["alice"]},
        "results": {},
    }
    assert receive(gearman, f"{topic}_alice", 3) == b"highcoalesceslow"
    assert receive(gearman, f"{topic}_bob", 3) == b"coalesces!low"


def test_the_command_has_the_keys_of_a_foreground_fanout(
    gearman: Gearman, receiver: Callable[..., Any], topic: str
) -> None:
    subscribe(gearman, topic, "alice", "bob", "carol")
    receiver(f"{topic}_alice", "--", "cat")
    done = fanout(gearman, topic, "x", quorum="33%", timeout=1, unique="u")
    assert done.returncode == 0
    assert b"1" in done.stdout.split(b"%")[0]
    done = fanout(gearman, topic, "x", exclude=["bob", "carol"], priority="high")
    assert done.returncode == 0


# Failures


@pytest.mark.parametrize(
    ("function", "request_", "code"),
    [
        ("fanout", {"topic": "some"}, "bad_request: payload"),
        ("fanout", {"topic": "__gossip", "payload": "x"}, "reserved: "),
        ("subscribe_fanout", {"topic": "a b", "client_id": "x"}, "bad_name: topic"),
        ("subscribe_fanout", {"topic": "a", "client_id": "x", "ttl": 0}, "bad_request: ttl"),
        ("unsubscribe_fanout", {"topic": "", "client_id": "x"}, "bad_name: topic"),
    ],
)
def test_a_refusal_ends_the_command_with_a_failure(
    gearman: Gearman, function: str, request_: dict[str, Any], code: str
) -> None:
    done = gearman("-f", function, json.dumps(request_))
    assert done.returncode != 0
    assert done.stdout == b""
    assert done.stderr.decode().startswith(code)


def test_what_is_not_json_ends_the_command_with_a_failure(gearman: Gearman) -> None:
    for done in (gearman("-f", "fanout", "hello"), gearman("-f", "fanout", "-s")):
        assert done.returncode != 0
        assert done.stderr.startswith(b"bad_request: ")


def test_one_bad_line_among_good_ones_is_a_failure_and_the_others_are_published(
    gearman: Gearman, topic: str
) -> None:
    subscribe(gearman, topic, "alice")
    lines = [json.dumps({"topic": topic, "payload": str(n), "background": 1}) for n in range(3)]
    done = gearman("-f", "fanout", "-n", stdin="\n".join([*lines[:2], "{", lines[2]]).encode())
    assert done.returncode != 0
    assert b"bad_request: " in done.stderr
    assert receive(gearman, f"{topic}_alice", 3) == b"012"


def test_a_timeout_ends_the_command_with_a_failure(gearman: Gearman, topic: str) -> None:
    subscribe(gearman, topic, "alice", "bob")
    done = fanout(gearman, topic, "x", timeout=0.3)
    assert done.returncode != 0
    told, _ = json.JSONDecoder().raw_decode(done.stderr.decode())
    assert sorted(client for client, _ in told) == ["alice", "bob"]


def test_a_receiver_that_fails_is_named(
    gearman: Gearman, receiver: Callable[..., Any], topic: str
) -> None:
    subscribe(gearman, topic, "alice", "bob")
    receiver(f"{topic}_alice", "--", "false")
    receiver(f"{topic}_bob", "--", "cat")
    done = fanout(gearman, topic, "x")
    assert done.returncode != 0
    told, _ = json.JSONDecoder().raw_decode(done.stderr.decode())
    assert [client for client, _ in told] == ["alice"]


def test_an_exception_of_a_receiver_ends_the_command_with_a_failure(
    gearman: Gearman, cluster: Cluster, topic: str
) -> None:
    # passed on as an exception it would make the command hang
    subscribe(gearman, topic, "alice")
    receiver = cluster.receiver(
        f"{topic}_alice", behave=lambda wire, job: wire.exception(job.handle, b"disk full")
    )
    done = fanout(gearman, topic, "x")
    receiver.close()
    assert done.returncode != 0
    told, _ = json.JSONDecoder().raw_decode(done.stderr.decode())
    assert told == [["alice", "disk full"]]
