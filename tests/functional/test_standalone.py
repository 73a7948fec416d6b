"""``gearhorn-worker --standalone`` and ``scripts/run``: what a newcomer starts first."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import pytest
from support.cluster import Receiver, eventually
from support.lifelines import tied
from support.servers import HOST, ROOT, missing
from support.wire import Outcome, Wire

# The worker's command on a machine without gearmand: here it may be where it is looked for.
WITHOUT_GEARMAND = """
import shutil, sys
which = shutil.which
shutil.which = lambda name, **places: None if name == "gearmand" else which(name, **places)
from gearhorn.cli.worker import main
sys.exit(main())
"""
COMMANDS = {
    "gearmand": [sys.executable, "-m", "gearhorn.cli.worker", "--standalone"],
    "embedded": [sys.executable, "-c", WITHOUT_GEARMAND, "--standalone"],
}
SCRIPT = "scripts/run"
INSTALL_S = 120.0  # the first run of a script may have to make the virtual environment
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("GEARHORN_")}


class Standalone:
    """A ``gearhorn-worker --standalone``; leaving its context ends it, and whatever it left."""

    def __init__(self, kind: str, *options: str) -> None:
        self._directory = tempfile.TemporaryDirectory(
            prefix="gearhorn-standalone-", ignore_cleanup_errors=True
        )
        self._output = Path(self._directory.name) / "output"
        self._log = Path(self._directory.name) / "log"
        with self._output.open("wb") as output, self._log.open("wb") as log:
            self.process = subprocess.Popen(
                tied([*(COMMANDS.get(kind) or [str(ROOT / kind)]), *options]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                # what a killed one leaves behind goes with the test's own directory
                env=ENVIRONMENT | {"TMPDIR": self._directory.name},
                start_new_session=True,  # Ctrl-C is for pytest
            )
        self.children: list[int] = []

    def ready(self) -> Self:
        """Wait until it serves."""
        eventually(
            lambda: "event=ready" in self.log() or self.process.poll() is not None, INSTALL_S
        )
        assert self.process.poll() is None, self.log()
        self.children = children_of(self.process.pid)
        return self

    def __enter__(self) -> Self:
        return self.ready()

    def __exit__(self, *_: object) -> None:
        for process in [self.process.pid, *self.children]:
            if is_alive(process):
                os.kill(process, signal.SIGKILL)
        self.process.wait()
        # until they are gone their ports are taken, which is the next test's affair
        eventually(lambda: not any(map(is_alive, self.children)))
        self._directory.cleanup()

    def output(self) -> str:
        """What it has printed."""
        return self._output.read_text()

    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text()

    @property
    def address(self) -> str:
        """Its job server's."""
        match = re.search(r"^job server  (127\.0\.0\.1:\d+)  ", self.output(), re.M)
        assert match, self.output()
        return match[1]

    def run(self, function: str, **request: object) -> Outcome:
        """Run a foreground request."""
        with Wire(self.address) as wire:
            return wire.run(function.encode(), json.dumps(request).encode())

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Signal the worker alone and return its exit code."""
        self.process.send_signal(how)
        return self.process.wait(20)


def children_of(process: int) -> list[int]:
    """The process ids of a process's children."""
    lists = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for one in lists for child in one.read_text().split()]


def is_alive(process: int) -> bool:
    """Whether a process runs; a dead one that nobody has waited for does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@contextmanager
def taken(port: int) -> Iterator[None]:
    """Listen on the port; where somebody else has done so for 10 s, he will go on."""
    deadline = time.monotonic() + 10
    with ExitStack() as ours:
        while time.monotonic() < deadline:
            try:
                ours.enter_context(socket.create_server((HOST, port)))
                break
            except OSError:
                time.sleep(0.05)
        yield


@pytest.fixture(params=COMMANDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Whether gearmand is found on this machine."""
    name = str(request.param)
    places = os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"))
    if name == "gearmand" and not shutil.which("gearmand", path=places):
        missing("gearmand")
    return name


@pytest.fixture
def begin() -> Iterator[Callable[..., Standalone]]:
    """Starts standalones, which end with the test: `begin(kind, *options)`."""
    with ExitStack() as running:
        yield lambda kind, *options: running.enter_context(Standalone(kind, *options))


Begin = Callable[..., Standalone]
# the worker is started as a module here, which has no command beside it
PROGRAM = f"{sys.executable} -m gearhorn.cli.commands.main -s"


def test_it_prints_what_it_started_and_where(begin: Begin, kind: str) -> None:
    one = begin(kind)
    job_server, store, *_ = one.output().splitlines()
    names = {"gearmand": "gearmand [0-9.]+", "embedded": "gear's embedded job server .*not on .*"}
    assert re.match(rf"job server  127\.0\.0\.1:\d+  {names[kind]}", job_server)
    where = re.fullmatch(
        r"store       redis://127\.0\.0\.1:(\d+)/0  Valkey .* \(in memory only\)", store
    )
    assert where, store
    with socket.create_connection((HOST, int(where[1]))) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(100) == b"+PONG\r\n"


def test_the_commands_that_it_prints_work(begin: Begin, kind: str) -> None:
    if not shutil.which("gearman"):
        missing("gearman")
    one = begin(kind)
    commands = [line for line in one.output().splitlines() if line.startswith("  ")]
    listen, say, subscribe, receive, publish = commands
    listening = subprocess.Popen(
        f"{listen.replace('gearhorn -s', PROGRAM)} --count 1 --raw",
        shell=True,
        stdout=subprocess.PIPE,
    )
    said = say.replace("gearhorn -s", PROGRAM)

    def copies() -> str:
        done = subprocess.run(said, shell=True, capture_output=True, timeout=20, check=True)
        return done.stdout.decode()

    eventually(lambda: copies() == "1 copy\n", 20)
    assert listening.communicate(timeout=20)[0] == b"hello\n"
    subscribed = subprocess.run(subscribe, shell=True, capture_output=True, timeout=20, check=True)
    assert json.loads(subscribed.stdout)["queue"] == "news_alice"
    published = subprocess.run(publish, shell=True, capture_output=True, timeout=20, check=True)
    assert published.stdout == b"1"
    first = receive.replace(" -w ", " -w -c 1 ")  # otherwise it goes on for ever
    received = subprocess.run(first, shell=True, capture_output=True, timeout=20, check=True)
    assert received.stdout == b"hello"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_stops_the_servers_too(begin: Begin, kind: str, how: signal.Signals) -> None:
    one = begin(kind)
    assert len(one.children) == 2
    assert one.stop(how) == 0
    assert "event=stopped" in one.log()
    assert not [child for child in one.children if is_alive(child)]


def test_a_job_in_hand_is_finished_before_the_servers_stop(begin: Begin, kind: str) -> None:
    one = begin(kind)
    one.run("subscribe_fanout", topic="t", client_id="slow")
    with Wire(one.address) as receiver, Wire(one.address) as publisher:
        receiver.can_do(b"t_slow")
        handle = publisher.submit(b"fanout", b'{"topic": "t", "payload": "x"}')
        job = receiver.grab()
        assert job is not None
        one.process.send_signal(signal.SIGINT)
        eventually(lambda: "event=stopping" in one.log())
        receiver.complete(job.handle)
        assert publisher.outcome(handle).data == b"1"
    assert one.process.wait(20) == 0


def test_a_killed_worker_leaves_no_orphan(begin: Begin, kind: str) -> None:
    one = begin(kind)
    assert len(one.children) == 2
    one.process.kill()
    one.process.wait()
    eventually(lambda: not [child for child in one.children if is_alive(child)])


def test_a_worker_killed_while_it_starts_leaves_no_orphan(kind: str) -> None:
    one = Standalone(kind)
    try:
        eventually(lambda: children_of(one.process.pid))
        one.children = children_of(one.process.pid)
    finally:
        one.process.kill()
        one.process.wait()
    eventually(lambda: not [child for child in one.children if is_alive(child)])
    one.__exit__()


def test_data_keeps_subscriptions_between_runs(begin: Begin, kind: str, tmp_path: Path) -> None:
    data = tmp_path / "made" / "if need be"
    first = begin(kind, "--data", str(data))
    assert f"(data in {data})" in first.output()
    first.run("subscribe_fanout", topic="t", client_id="c", envelope=True)
    assert first.stop() == 0
    second = begin(kind, "--data", str(data))
    receiver = Receiver(second.address, "t_c")
    assert second.run("fanout", topic="t", payload="x").data == b"1"
    assert json.loads(receiver.payloads[0])["payload"] == "x"
    receiver.close()


def test_without_data_the_next_run_knows_nothing(begin: Begin) -> None:
    first = begin("embedded")
    first.run("subscribe_fanout", topic="t", client_id="c")
    first.stop()
    assert begin("embedded").run("fanout", topic="t", payload="x", background=True).data == b"0"


def test_a_directory_is_used_by_one_at_a_time(begin: Begin, tmp_path: Path) -> None:
    begin("embedded", "--data", str(tmp_path))
    second = Standalone("embedded", "--data", str(tmp_path))
    try:
        assert second.process.wait(20) == 1
        assert f"another one keeps its data in {tmp_path}" in second.log()
    finally:
        second.__exit__()


def test_where_4730_is_taken_another_port_is_used(begin: Begin, kind: str) -> None:
    with taken(4730):
        first, second = begin(kind), begin(kind)
        assert len({f"{HOST}:4730", first.address, second.address}) == 3
        assert first.address in first.output().partition("Try")[2].replace(" -p ", ":")
        for one in (first, second):
            assert one.run("fanout", topic="t", payload="x").data == b"0"


def test_it_does_not_go_with_servers_of_ones_own() -> None:
    for more in (["localhost"], ["--redis", "redis://localhost:1/0"]):
        wrong = subprocess.run(
            [*COMMANDS["gearmand"], *more],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert wrong.returncode == 2
        assert "--standalone brings its own job server and store" in wrong.stderr
        assert wrong.stdout == ""


def test_the_script_starts_all_three_and_passes_its_options_on(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = begin(SCRIPT, "--data", "here", "--max-payload", "1k")
    assert (tmp_path / "here").is_dir(), "a relative path is one from where the script is run"
    assert one.run("fanout", topic="t", payload="x").data == b"0"
    assert b"too_large" in one.run("fanout", topic="t", payload="x" * 2000).warnings[0]
    assert one.stop(signal.SIGINT) == 0
    assert not [child for child in one.children if is_alive(child)]


def test_the_demo_shows_three_subscribers_receiving_and_ends() -> None:
    demo = subprocess.run(
        [ROOT / SCRIPT, "demo"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=INSTALL_S,
        check=False,
    )
    assert demo.returncode == 0, demo.stderr
    for client in ("alice", "bob", "carol"):
        assert len(re.findall(rf"ms  {client} +received ", demo.stdout)) == 2
    said = demo.stdout.partition("Everything arrived")[2]
    for command in ("scripts/run", "gearhorn listen news", "gearhorn publish news hello"):
        assert command in said


def test_the_demo_fails_with_a_line_when_it_cannot_start(tmp_path: Path) -> None:
    broken = tmp_path / "gearmand"
    broken.write_text("#!/bin/sh\necho no queue today >&2\nexit 3\n")
    broken.chmod(0o755)
    demo = subprocess.run(
        [sys.executable, ROOT / "scripts" / "demo.py"],
        env=ENVIRONMENT | {"PATH": f"{tmp_path}:{ENVIRONMENT['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert demo.returncode == 1
    assert "no queue today" in demo.stderr
    assert "Traceback" not in demo.stderr


def left_behind(one: Standalone) -> list[str]:
    """What lies in its directory for temporary files."""
    return [path.name for path in Path(one._directory.name).glob("gearhorn-standalone-*")]


def test_a_signal_as_it_starts_leaves_nothing_behind() -> None:
    for number in range(10):
        one = Standalone("gearmand")
        try:
            time.sleep(0.1 + number * 0.05)
            one.children = children_of(one.process.pid)
            assert one.stop() in (0, -signal.SIGTERM)  # before Python runs any of ours
            assert left_behind(one) == []
            eventually(lambda: not any(map(is_alive, one.children)))  # noqa: B023
        finally:
            one.__exit__()


def test_what_a_killed_one_left_is_taken_away_by_the_next(begin: Begin) -> None:
    killed = begin("gearmand")
    assert len(left_behind(killed)) == 1
    killed.stop(signal.SIGKILL)
    assert len(left_behind(killed)) == 1
    environment = ENVIRONMENT | {"TMPDIR": killed._directory.name}
    command = [*COMMANDS["gearmand"]]
    log = Path(killed._directory.name) / "next"
    with log.open("wb") as output:
        other = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        eventually(lambda: b"event=ready" in log.read_bytes(), INSTALL_S)
        assert len(left_behind(killed)) == 1, "its own"
    finally:
        other.terminate()
    assert other.wait(20) == 0
    assert left_behind(killed) == []


def test_two_beside_each_other_leave_each_other_alone(begin: Begin) -> None:
    one = begin("gearmand")
    environment = ENVIRONMENT | {"TMPDIR": one._directory.name}
    log = Path(one._directory.name) / "other"
    with log.open("wb") as output:
        other = subprocess.Popen(
            COMMANDS["gearmand"], stdout=output, stderr=output, env=environment
        )
    try:
        eventually(lambda: b"event=ready" in log.read_bytes(), INSTALL_S)
        assert len(left_behind(one)) == 2
    finally:
        other.terminate()
        other.wait(20)
    assert len(left_behind(one)) == 1
