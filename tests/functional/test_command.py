"""The command ``gearhorn`` as a process: outputs, exit codes, terminals, pipes, and signals."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.cluster import Cluster, eventually

import gearhorn

MakeCluster = Callable[..., Cluster]
COMMAND = [sys.executable, "-m", "gearhorn.cli.commands.main"]


class Told:
    """What a command said."""

    def __init__(self, done: subprocess.CompletedProcess[bytes]) -> None:
        self.code = done.returncode
        self.out = done.stdout.decode(errors="replace")
        self.err = done.stderr.decode(errors="replace")

    @property
    def rows(self) -> list[dict[str, str]]:
        """The lines of a table, by its header."""
        header, *lines = [line.split("\t") for line in self.out.splitlines()]
        return [dict(zip(header, line, strict=True)) for line in lines]


def environment(cluster: Cluster) -> dict[str, str]:
    servers = ",".join(server.address for server in cluster.job_servers)
    return {**os.environ, "GEARHORN_SERVERS": servers, "XDG_CONFIG_HOME": "/nonexistent"}


def run(cluster: Cluster, *arguments: str, input: bytes = b"", timeout: float = 60.0) -> Told:
    done = subprocess.run(
        [*COMMAND, *arguments],
        check=False,
        capture_output=True,
        input=input,
        timeout=timeout,
        env=environment(cluster),
    )
    return Told(done)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Commands to be ended after the test."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def start(
    started: list[subprocess.Popen[bytes]], cluster: Cluster, *arguments: str
) -> subprocess.Popen[bytes]:
    started.append(
        subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(cluster),
        )
    )
    return started[-1]


def is_subscribed(cluster: Cluster, topic: str, count: int = 1) -> bool:
    with gearhorn.Admin(cluster.address) as admin, contextlib.suppress(gearhorn.Unknown):
        return len(admin.describe(topic)["subscriptions"]) == count
    return False


def in_terminal(cluster: Cluster, *arguments: str, width: int = 60) -> str:
    """Run a command in a terminal of its own; return what it wrote there."""
    child, number = pty.fork()
    if not child:
        os.environ.update(environment(cluster) | {"COLUMNS": str(width), "TERM": "xterm"})
        os.execv(COMMAND[0], [*COMMAND, *arguments])
    written = b""
    with contextlib.suppress(OSError):
        while data := os.read(number, 65536):
            written += data
    os.waitpid(child, 0)
    os.close(number)
    return written.decode(errors="replace")


def test_a_message_is_published(cluster: Cluster, topic: str) -> None:
    assert run(cluster, "publish", topic, "x").out == "0 copies\n"
    run(cluster, "subscribe", topic, "a")
    receiver = cluster.receiver(f"{topic}_a")
    assert run(cluster, "publish", topic, "hello").out == "1 copy\n"
    assert run(cluster, "publish", topic, input=b"from a pipe").code == 0
    assert run(cluster, "publish", topic, "/wA=", "--base64").code == 0
    assert run(cluster, "publish", topic, "--file", __file__).code == 0
    told = run(cluster, "publish", topic, "x", "--json", "-q")
    assert json.loads(told.out) == {"copies": 1, "dropped": []}
    expected = [b"hello", b"from a pipe", b"\xff\0", Path(__file__).read_bytes(), b"x"]
    assert receiver.wait(5) == expected


def test_many_messages_are_published(cluster: Cluster, topic: str) -> None:
    run(cluster, "subscribe", topic, "a")
    receiver = cluster.receiver(f"{topic}_a")
    told = run(cluster, "publish", topic, "--lines", input=b"one\ntwo\r\nthree")
    assert (told.code, told.out) == (0, "3 published, 3 copies, 0 failed\n")
    told = run(cluster, "publish", topic, "{n}", "--template", "--count", "3", "--rate", "100")
    assert told.code == 0
    assert receiver.wait(6) == [b"one", b"two", b"three", b"1", b"2", b"3"]
    told = run(cluster, "publish", "bad topic", "x", "--count", "2")
    assert told.code == 1
    assert "message 1: bad_name" in told.err


def test_refusals_say_what_to_do_next(cluster: Cluster, topic: str) -> None:
    told = run(cluster, "publish", "bad topic", "x")
    assert told.code == 1
    assert told.err.startswith("gearhorn: bad_name: ")
    assert "Names have 1 to 255 bytes" in told.err
    told = run(cluster, "show", topic)
    assert told.code == 1
    assert "`gearhorn topics`" in told.err


def test_receivers_are_waited_for(cluster: Cluster, topic: str) -> None:
    cluster.subscribe(topic, "a", "b")
    cluster.receiver(f"{topic}_a")
    told = run(cluster, "publish", topic, "x", "--wait", "--timeout", "1", "--receipt")
    assert told.code == 3
    assert told.out == "a\tdelivered\nb\tpending\n"
    told = run(cluster, "publish", topic, "x", "--wait", "--timeout", "5", "--quorum", "1")
    assert (told.code, told.out) == (0, "1 of 2 receivers have processed it\n")


def test_every_host_is_asked(cluster: Cluster, topic: str) -> None:
    cluster.subscribe(topic, "a", "b", "c")
    cluster.receiver(f"{topic}_a", behave=lambda wire, job: wire.complete(job.handle, b"up"))
    cluster.receiver(f"{topic}_b", behave=lambda wire, job: wire.fail(job.handle))
    told = run(cluster, "ask", topic, "?", "--timeout", "1")
    assert told.code == 3
    lines = {line.split("\t")[0]: line for line in told.out.splitlines()}
    assert set(lines) == {"a", "b", "c"}
    assert re.fullmatch(r"a\t0\.\d{3} s\tup", lines["a"])
    assert "1 of 3 answered" in told.err
    told = run(cluster, "ask", topic, "?", "--timeout", "1", "--only-missing")
    assert set(told.out.split()) == {"b", "c"}
    found = json.loads(run(cluster, "ask", topic, "?", "--timeout", "1", "--json").out)
    assert found["answers"] == {"a": "up"}
    assert set(found["failed"]) == {"b", "c"}


def test_what_there_is_is_shown(cluster: Cluster, topic: str) -> None:
    cluster.subscribe(topic, "direct")
    cluster.subscribe(topic, "kept", durable=True)
    run(cluster, "publish", topic, "x", "-H", "A:b")
    [row] = [row for row in run(cluster, "topics").rows if row["topic"] == topic]
    assert (row["subs"], row["durable"], row["log"]) == ("2", "1", "1…1")
    rows = {row["client"]: row for row in run(cluster, "show", topic).rows}
    assert rows["direct"]["kind"] == "direct"
    assert (rows["kept"]["kind"], rows["kept"]["lag"]) == ("durable", "1")
    assert "durable.position\t0" in run(cluster, "show", topic, "kept").out
    shown = json.loads(run(cluster, "--json", "show", topic).out)
    assert set(shown["subscriptions"]) == {"direct", "kept"}
    assert [row["state"] for row in run(cluster, "members").rows] == ["solitary"]
    assert run(cluster, "log", topic, "--headers").out.endswith(f"{topic} 1 a=b x\n")
    assert run(cluster, "top", "--once", "--interval", "0.3").code == 0


def test_who_would_get_a_message(cluster: Cluster, topic: str) -> None:
    cluster.subscribe(topic, "served", "unserved")
    cluster.receiver(f"{topic}_served")
    rows = {row["client"]: row for row in run(cluster, "explain", topic).rows}
    assert rows["served"]["job_server"] == cluster.address
    assert (rows["served"]["receivers"], rows["served"]["note"]) == ("1", "")
    assert "start one" in rows["unserved"]["note"]
    told = run(cluster, "check", "subscription", topic, "unserved", "--receivers-min", "1")
    assert told.code == 2
    assert told.out.startswith(f"GEARHORN CRITICAL - {topic}/unserved: 0 receivers")
    told = run(cluster, "check", "subscription", topic, "served", "--receivers-min", "1")
    assert told.code == 0
    assert run(cluster, "check", "queue", f"{topic}_served", "--receivers-min", "1").code == 0
    assert run(cluster, "check", "topic", topic, "--backlog-crit", "100").code == 0
    assert run(cluster, "check", "cluster").code == 0
    assert run(cluster, "check", "canary", topic).out.startswith("GEARHORN OK")


def test_what_became_of_a_message_and_what_was_parked(cluster: Cluster, topic: str) -> None:
    durable = '{"max_attempts": 1}'
    run(cluster, "subscribe", topic, "a", "--durable", durable)
    run(cluster, "subscribe", topic, "b", "--durable")
    cluster.receiver(f"{topic}_a", behave=lambda wire, job: wire.fail(job.handle))
    run(cluster, "publish", topic, "{n}", "--template", "--count", "3")

    def parked() -> list[dict[str, str]]:
        return run(cluster, "parked", "list", topic, "a").rows

    eventually(lambda: len(parked()) == 3)
    assert [row["payload"] for row in parked()] == ["1", "2", "3"]
    rows = {row["client"]: row for row in run(cluster, "trace", topic, "2").rows}
    assert rows["a"]["state"] == "parked"
    assert f"gearhorn parked redrive {topic} a" in rows["a"]["note"]
    assert (rows["b"]["state"], rows["b"]["note"]) == ("waiting", "behind 1")
    [row] = [row for row in run(cluster, "parked").rows if row["topic"] == topic]
    assert (row["client"], row["parked"]) == ("a", "3")
    assert "\n1\n" in run(cluster, "parked", "show", topic, "a", "1").out
    assert "1 message put back" in run(cluster, "parked", "redrive", topic, "a", "--limit", "1").err
    eventually(lambda: len(parked()) == 3)
    assert run(cluster, "parked", "purge", topic, "a").code == 2, "it needs --yes"
    assert run(cluster, "-y", "parked", "purge", topic, "a", "--limit", "1").code == 0
    assert len(parked()) == 2
    assert run(cluster, "retain", topic, "--max-messages", "7").out.endswith(
        "max_messages 7\n"
    ) or ("max_messages 7" in run(cluster, "retain", topic, "--show").out)


def test_subscriptions_end(cluster: Cluster, topic: str) -> None:
    cluster.subscribe(topic, "a", "b")
    run(cluster, "publish", topic, "x")
    assert run(cluster, "unsubscribe", topic, "a").code == 0
    assert run(cluster, "drain", topic, "b").code == 2
    assert run(cluster, "drain", topic, "b", "-y").out == (
        f"b is not subscribed to {topic}, 1 discarded\n"
    )
    assert not is_subscribed(cluster, topic)


def test_a_listener_of_its_own_takes_nothing_from_others(
    cluster: Cluster, topic: str, started: list[subprocess.Popen[bytes]]
) -> None:
    cluster.subscribe(topic, "a")
    receiver = cluster.receiver(f"{topic}_a")
    listener = start(started, cluster, "listen", topic, "--count", "2", "--raw")
    eventually(lambda: is_subscribed(cluster, topic, 2), 20)
    for text in ("one", "two"):
        run(cluster, "publish", topic, text)
    out, _ = listener.communicate(timeout=30)
    assert (listener.returncode, out) == (0, b"one\ntwo\n")
    assert receiver.wait(2) == [b"one", b"two"]
    assert is_subscribed(cluster, topic, 1), "its own subscription ended with it"


def test_a_listener_ends_on_ctrl_c(
    cluster: Cluster, topic: str, started: list[subprocess.Popen[bytes]]
) -> None:
    listener = start(started, cluster, "listen", topic, "--json")
    eventually(lambda: is_subscribed(cluster, topic), 20)
    run(cluster, "publish", topic, "hello")
    assert listener.stdout is not None
    assert json.loads(listener.stdout.readline())["payload"] == "hello"
    listener.send_signal(signal.SIGINT)
    listener.wait(20)
    assert not is_subscribed(cluster, topic)


def test_nothing_is_acknowledged_that_was_not_run(
    make_cluster: MakeCluster, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    cluster = make_cluster(workers=2, job_servers=2, options=("--lease", "2"))
    note = tmp_path / "note"
    script = f'read line; echo "$line" >> {note}; case $line in bad*) exit 65;; esac'
    arguments = ["listen", "deploy", "--as", "web1", "--durable", '{"max_backoff": 0.5}', "-q"]
    arguments += ["--exec", script]
    host = start(started, cluster, *arguments)
    eventually(lambda: is_subscribed(cluster, "deploy"), 20)
    texts = [f"{number}\n" for number in range(40)]
    texts[7] = "bad\n"
    with gearhorn.Publisher(*(server.address for server in cluster.job_servers)) as publisher:
        for number, text in enumerate(texts):
            publisher.publish("deploy", text, unique=str(number), timeout=60)
            if number == 10:
                host.kill()
                host = start(started, cluster, *arguments)
            elif number == 20:
                cluster.workers[0].kill()
            elif number == 25:
                cluster.job_servers[0].kill()
                cluster.job_servers[0].restart()
            elif number == 30:
                host.terminate()
                host.wait(30)
                host = start(started, cluster, *arguments)

    def is_done() -> bool:
        with gearhorn.Admin(*(server.address for server in cluster.job_servers)) as admin:
            durable = admin.describe("deploy")["subscriptions"]["web1"]["durable"]
        return bool(durable["lag"] == 0 and durable["parked"] == 1)

    eventually(is_done, 60)
    assert set(note.read_text().split()) == {text.strip() for text in texts}
    host.terminate()
    assert host.wait(30) == 0


def test_at_a_terminal_tables_fit_it(cluster: Cluster, topic: str) -> None:
    cluster.subscribe(topic, "a" * 80)
    text = in_terminal(cluster, "show", topic)
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in text.splitlines()]
    assert lines[0].startswith("CLIENT")
    assert all(len(line) <= 60 for line in lines)
    assert "…" in text
    assert "a" * 80 in run(cluster, "show", topic).out, "elsewhere nothing is cut"


def test_topics_and_clients_are_completed(cluster: Cluster, topic: str) -> None:
    cluster.subscribe(topic, "alice")
    words = {"_GEARHORN_COMPLETE": "bash_complete", "COMP_CWORD": "2"}
    for typed, expected in ((f"gearhorn show {topic[:6]}", topic),):
        done = subprocess.run(
            COMMAND,
            check=False,
            capture_output=True,
            text=True,
            env=environment(cluster) | words | {"COMP_WORDS": typed},
        )
        assert f"plain,{expected}" in done.stdout.split()


def test_the_reader_of_a_pipe_may_go(cluster: Cluster, topic: str) -> None:
    cluster.subscribe(topic, *(f"c{number}" for number in range(300)))
    command = " ".join([*COMMAND, "show", topic])
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | head -1"],
        check=False,
        capture_output=True,
        text=True,
        env=environment(cluster),
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_command_is_quick(cluster: Cluster, topic: str) -> None:
    took = []
    for _ in range(5):
        began_s = time.monotonic()
        run(cluster, "publish", topic, "x")
        took.append(time.monotonic() - began_s)
    assert min(took) < 2.5, "a machine that is ten times slower than it should be"
