"""The command where things go wrong around it: pipes, terminals, signals, and what others write."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import Cluster, eventually
from support.servers import Gearmand, Redis, free_port, missing

COMMAND = [sys.executable, "-m", "gearhorn.cli.commands.main"]
HOSTILE = b"\x1b]0;title\x07\x1b[31mred\r\nline"


@pytest.fixture(scope="module")
def trio() -> Iterator[Cluster]:
    """One worker between a gearmand and a Redis, for the tests of this module."""
    shared = Cluster([Gearmand()], Redis())
    yield shared
    shared.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the command ``gearhorn`` for shells, and for contexts."""
    directory = tmp_path_factory.mktemp("home")
    (directory / "bin").mkdir()
    program = directory / "bin" / "gearhorn"
    program.write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
    program.chmod(0o755)
    return directory


def environment(cluster: Cluster, home: Path | None = None, **changes: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GEARHORN_")}
    kept |= {"GEARHORN_SERVERS": cluster.address, "XDG_CONFIG_HOME": "/nonexistent"}
    if home is not None:
        kept |= {
            "PATH": f"{home}/bin:{kept['PATH']}",
            "XDG_CONFIG_HOME": str(home),
            "HOME": str(home),
        }
    return kept | changes


def in_shell(cluster: Cluster, line: str, *shell: str) -> subprocess.CompletedProcess[str]:
    """Run a line in bash; ``$G`` is the command."""
    return subprocess.run(
        ["bash", "-c", line, *shell],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(cluster, G=" ".join(COMMAND)),
    )


class Terminal:
    """A program at a terminal of its own."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        self.child, self._number = pty.fork()
        if not self.child:
            os.execvpe(arguments[0], arguments, environment)
        self.written = b""
        self._is_over = False

    def type(self, text: str) -> None:
        """Type; what is typed ahead is read when the program is ready for it."""
        os.write(self._number, text.encode())

    def until(self, text: str, timeout: float = 30.0) -> None:
        """Read until a text has been written."""
        deadline = time.monotonic() + timeout
        while text.encode() not in self.written:
            left = deadline - time.monotonic()
            assert self._read(left), f"{text!r} is not in {self.written!r}"

    def _read(self, timeout: float) -> bool:
        if not select.select([self._number], [], [], max(0.0, timeout))[0]:
            return False
        try:
            data = os.read(self._number, 65536)
        except OSError:  # Linux says so where the program has ended
            data = b""
        self.written += data
        return bool(data)

    def end(self) -> int:
        """Read to the end; return the exit code."""
        while self._read(30.0):
            pass
        return self.close()

    def close(self) -> int:
        """End the program if it runs; return its exit code."""
        if self._is_over:
            return 0
        self._is_over = True
        os.close(self._number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.child, signal.SIGHUP)
        return os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])


# pipes


def is_subscribed(cluster: Cluster, topic: str) -> bool:
    outcome = cluster.run("describe_fanout", topic=topic)
    return outcome.kind == "complete" and bool(
        json.loads(outcome.data)["topics"][topic]["subscriptions"]
    )


def test_a_listener_whose_reader_has_gone_ends(trio: Cluster, topic: str) -> None:
    trio.subscribe(topic, "kept", durable=True)
    line = f"set -o pipefail; $G listen {topic} --as kept --raw | head -1"
    with subprocess.Popen(
        ["bash", "-c", line],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(trio, G=" ".join(COMMAND)),
    ) as running:
        for number in range(3):
            trio.publish(topic, f"{number}")
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out, err) == (0, "0\n", "")
    description = json.loads(trio.run("describe_fanout", topic=topic).data)
    durable = description["topics"][topic]["subscriptions"]["kept"]["durable"]
    assert durable["position"] >= 1, "what was read is acknowledged"
    assert durable["lag"] + durable["position"] == 3
    assert durable["attempts"] == 0, "what was not written has not failed"


def test_a_full_disk_ends_a_listener(trio: Cluster, topic: str) -> None:
    with subprocess.Popen(
        [*COMMAND, "listen", topic, "--raw"],
        stdout=Path("/dev/full").open("wb"),
        stderr=subprocess.PIPE,
        env=environment(trio),
    ) as running:
        eventually(lambda: is_subscribed(trio, topic), 30)
        trio.publish(topic, "x")
        _, err = running.communicate(timeout=60)
    assert running.returncode == 1
    assert err.decode().splitlines()[0].startswith("gearhorn: [Errno 28]")
    assert "Traceback" not in err.decode()
    assert not is_subscribed(trio, topic)


def test_streams_may_be_closed(trio: Cluster, topic: str) -> None:
    done = in_shell(trio, f"$G publish {topic} x <&- >&-; echo code $? >&2")
    assert done.stderr == "code 0\n"
    done = in_shell(trio, f"$G publish {topic} <&-")
    assert (done.returncode, done.stdout) == (0, "0 copies\n"), "no input is an empty payload"
    done = in_shell(trio, "$G topics >&- 2>&-; echo $?")
    assert done.stdout == "0\n"


def test_a_line_is_published_when_it_comes(trio: Cluster, topic: str) -> None:
    trio.subscribe(topic, "a")
    receiver = trio.receiver(f"{topic}_a")
    with subprocess.Popen(
        [*COMMAND, "publish", topic, "--lines"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(trio),
    ) as running:
        assert running.stdin is not None
        running.stdin.write(b"one\n")
        running.stdin.flush()
        assert receiver.wait(1, 30) == [b"one"], "while the pipe is open"
        out, _ = running.communicate(b"two")
    assert (running.returncode, out) == (0, b"2 published, 2 copies, 0 failed\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_waits_for_input_can_be_interrupted(
    trio: Cluster, topic: str, number: signal.Signals
) -> None:
    with subprocess.Popen(
        [*COMMAND, "publish", topic, "--lines"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(trio),
    ) as running:
        assert running.stdin is not None
        trio.subscribe(topic, "a")
        receiver = trio.receiver(f"{topic}_a")
        running.stdin.write(b"one\n")
        running.stdin.flush()
        receiver.wait(1, 30)
        running.send_signal(number)
        _, err = running.communicate(timeout=30)
    assert running.returncode == (130 if number == signal.SIGINT else -signal.SIGTERM)
    assert err.strip() == b""


def test_bytes_that_are_no_text_are_a_payload_and_no_topic(trio: Cluster, topic: str) -> None:
    trio.subscribe(topic, "a")
    receiver = trio.receiver(f"{topic}_a")
    assert in_shell(trio, f"$G publish {topic} $'\\xff\\xfe'").returncode == 0
    assert receiver.wait(1) == [b"\xff\xfe"]
    done = in_shell(trio, "$G publish $'\\xff' x")
    assert (done.returncode, done.stderr) == (2, "gearhorn: an argument is not UTF-8\n")


def test_what_cannot_be_paused_is_not_made(trio: Cluster, topic: str) -> None:
    trio.subscribe(topic, "direct")
    for client in ("direct", "nothing"):
        done = in_shell(trio, f"$G pause {topic} {client}")
        assert done.returncode == 1
        assert done.stderr.startswith(f"gearhorn: unknown: {client} has no durable subscription")
    found = json.loads(trio.run("describe_fanout", topic=topic).data)["topics"][topic]
    assert list(found["subscriptions"]) == ["direct"]
    assert "durable" not in found["subscriptions"]["direct"]


# what others write


def test_what_others_write_does_not_reach_the_terminal(trio: Cluster, topic: str) -> None:
    odd = f"{topic}\u009bx"  # a name may have controls beyond ASCII's
    trio.subscribe(odd, "c\u0085lient", durable=True)
    trio.publish(odd, HOSTILE.decode(), headers={"h": "v\u009b"})
    calls = (["topics"], ["show", odd], ["log", odd, "--headers"], ["top", "--once"])
    wide = environment(trio, COLUMNS="200", TERM="xterm")
    terminals = [Terminal([*COMMAND, *arguments], wide) for arguments in calls]
    for terminal, arguments in zip(terminals, calls, strict=True):
        assert terminal.end() == 0
        text = re.sub(rb"\x1b\[[\d;?]*[a-zA-Z]", b"", terminal.written)  # rich's own
        assert b"\x1b" not in text, arguments
        assert "\u009b".encode() not in text, arguments
        assert "\u0085".encode() not in text, arguments


def test_a_narrow_terminal_is_enough(trio: Cluster, topic: str) -> None:
    trio.subscribe(topic, "alice")
    calls = [(width, name) for width in ("20", "4") for name in ("topics", "show", "doctor")]
    terminals = [
        Terminal(
            [*COMMAND, name, *([topic] if name == "show" else [])],
            environment(trio, COLUMNS=width, TERM="xterm"),
        )
        for width, name in calls
    ]
    for terminal in terminals:
        assert terminal.end() in (0, 1, 3), terminal.written
        assert b"Traceback" not in terminal.written


# servers that do not answer


SILENT = {
    ("publish", "t", "x"): 4,
    ("publish", "t", "--count", "3", "x"): 1,
    ("publish", "t", "--wait", "x"): 4,
    ("ask", "t"): 4,
    ("topics",): 4,
    ("subscribe", "t", "c"): 4,
    ("explain", "t"): 4,
    ("log", "t"): 4,
    ("check", "cluster"): 2,
}


def test_a_server_that_accepts_and_is_silent_is_no_server(trio: Cluster) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        running = {
            arguments: subprocess.Popen(
                [*COMMAND, *arguments, "-s", address, "--timeout", "0.5"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment(trio),
            )
            for arguments in SILENT
        }
        for arguments, process in running.items():
            out, _ = process.communicate(timeout=60)
            assert process.returncode == SILENT[arguments], arguments
            assert b"no job server answers" in out
            assert b"Traceback" not in out


# terminals that are asked


def test_what_destroys_asks_and_names_the_context(trio: Cluster, topic: str, home: Path) -> None:
    at_home = environment(trio, home)
    del at_home["GEARHORN_SERVERS"]
    run = [*COMMAND, "context", "add", "production", trio.address, "--confirm"]
    subprocess.run(run, check=True, env=at_home)
    trio.subscribe(topic, "a", durable={"max_attempts": 1})
    trio.receiver(f"{topic}_a", behave=lambda wire, job: wire.fail(job.handle))
    trio.publish(topic, "x")
    trio.publish(topic, "y")

    def parked() -> int:
        found = json.loads(trio.run("describe_fanout", topic=topic).data)["topics"][topic]
        return int(found["subscriptions"]["a"]["durable"]["parked"])

    eventually(lambda: parked() == 2)
    for answer, left in (("n", 2), ("y", 0)):
        terminal = Terminal([*COMMAND, "parked", "purge", topic, "a", "-y"], at_home)
        terminal.until(f"production: purge 2 parked messages of {topic}/a? [y/N]: ")
        terminal.type(f"{answer}\n")
        assert terminal.end() == (130 if left else 0)
        assert parked() == left
    subprocess.run([*COMMAND, "context", "rm", "production"], check=True, env=at_home)


# completion


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_topics_and_clients(
    trio: Cluster, topic: str, home: Path, shell: str, tmp_path: Path
) -> None:
    if shutil.which(shell) is None:
        missing(shell)
    trio.subscribe(topic, "alice-of-wonderland")
    trio.subscribe(f"{topic[:-1]}:other", "bob")
    run = ["bash", "--norc", "--noprofile", "-i"] if shell == "bash" else ["zsh", "-f", "-i"]
    terminal = Terminal(run, environment(trio, home, TERM="xterm", COLUMNS="200"))
    result = tmp_path / "result"
    try:
        if shell == "zsh":
            terminal.type("autoload -Uz compinit; compinit -u -D\n")
        terminal.type(f'eval "$(gearhorn completion {shell})"; echo rea""dy\n')
        terminal.until("ready")
        terminal.type(f"gearhorn sho\t --json {topic}\tali\t > {result}; echo do''ne\n")
        terminal.until("done", 60)
        assert result.read_text(), terminal.written.decode(errors="replace")
        found = json.loads(result.read_text())
        assert found["client"] == "alice-of-wonderland"
    finally:
        terminal.close()
