"""The command as a process: where its options come from, what it refuses, and what it logs."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
from support.bulk import fanout_body, run_all
from support.cluster import READY_S, Cluster, eventually
from support.lifelines import tied
from support.servers import HOST, Gearmand, Redis, free_port
from support.wire import Wire, admin

DEAD = f"{HOST}:1"  # nobody listens there
HOSTILE = 'a="b\\c\u2028d\u0085e\U0001f600'
NAMES = (
    "fanout",
    "subscribe_fanout",
    "register_fanout_subscriber",
    "unsubscribe_fanout",
    "describe_fanout",
    "retain_fanout",
    "fetch_fanout",
    "parked_fanout",
)


class Command:
    """The worker's command with any arguments and GEARHORN_ variables (keys without the prefix).

    It can stand in a cluster's `workers`.
    """

    def __init__(
        self, *arguments: str, env: Mapping[str, str] | None = None, stderr: Any = None
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="gearhorn-command-")
        self.out, self.err = (Path(self._directory.name) / name for name in ("out", "err"))
        clean = {key: value for key, value in os.environ.items() if not key.startswith("GEARHORN_")}
        ours = {f"GEARHORN_{key.upper()}": value for key, value in (env or {}).items()}
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                tied([sys.executable, "-m", "gearhorn.cli.worker", *arguments]),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=stderr or err,
                env=clean | ours,
            )

    def log(self) -> str:
        """What it wrote on standard error."""
        return self.err.read_bytes().decode(errors="replace")

    def ready(self) -> Command:
        """Wait until it serves."""
        eventually(lambda: self.says("ready") or self.process.poll() is not None, READY_S)
        assert self.process.poll() is None, f"the worker ended:\n{self.log()}"
        return self

    def says(self, event: str) -> bool:
        """Whether it logged an event of this name, in either format."""
        return bool(re.search(rf'event(=|": )"?{event}\b', self.log()))

    def code(self, timeout: float = 10.0) -> int:
        """Wait for its end and return the exit code."""
        return self.process.wait(timeout)

    def stop(self) -> int:
        """SIGTERM; return the exit code."""
        self.process.terminate()
        return self.code()

    def close(self) -> None:
        """End it in whatever way and remove what it wrote."""
        self.process.kill()
        self.process.wait()
        self._directory.cleanup()


Launch = Callable[..., Command]


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Runs the command: `launch(*arguments, env={}, stderr=None)`."""
    made: list[Command] = []

    def launch(*arguments: str, **how: Any) -> Command:
        made.append(Command(*arguments, **how))
        return made[-1]

    yield launch
    for one in made:
        one.close()


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    """gearmand and Redis, and no worker yet."""
    return make_cluster(workers=0)


def workers_of(address: str) -> set[str]:
    """The functions that gearmand has workers for, members' own left out."""
    rows = [line.rsplit("\t", 3) for line in admin(address, "status")]
    return {row[0] for row in rows if int(row[3]) and not row[0].startswith("__")}


def works_end_to_end(cluster: Cluster, topic: str = "news") -> None:
    """Subscribe, publish in the foreground and receive."""
    cluster.subscribe(topic, "alice")
    alice = cluster.receiver(f"{topic}_alice")
    outcome = cluster.publish(topic, "hello", background=False)
    assert (outcome.kind, outcome.data) == ("complete", b"1")
    assert alice.wait(1) == [b"hello"]


# What is refused: tests/unit/test_cli.py has all of it; here is that the process ends as it should.


class Wrong(NamedTuple):
    """Arguments, variables and a file with one wrong value, and what the refusal must say."""

    words: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    file: str | None = None


WRONG = {
    "port": Wrong(("expected a port from 1 to 65535", "70000"), ("localhost:70000",)),
    "size in the environment": Wrong(("expected bytes", "'0'"), env={"max_payload": "0"}),
    "toml syntax": Wrong(("worker.toml", "line 1"), file="max_payload\n"),
    "toml type": Wrong(("max-cached", "[1]"), file="max-cached = [1]"),
    "redis scheme": Wrong(("--redis", "redis://"), ("--redis", "http://a")),
    "redis without scheme": Wrong(("--redis", "redis://"), ("--redis", "localhost:6379")),
    "redis a number": Wrong(("redis", "a string"), file="redis = 5"),
    "redis port": Wrong(("--redis", "from 1 to 65535"), ("--redis", "redis://a:99999")),
    "redis port a word": Wrong(("--redis", "from 1 to 65535"), ("--redis", "redis://a:abc")),
    "redis option value": Wrong(
        ("--redis", "socket_timeout"), ("--redis", "redis://a/?socket_timeout=soon")
    ),
    "redis option unknown": Wrong(("--redis", "ssl_ca_certs"), ("--redis", "redis://a/?bogus=1")),
    "redis host": Wrong(("--redis", "host name"), ("--redis", "redis://a..b")),
    "redis database": Wrong(("--redis", "the database"), ("--redis", "redis://a/zero")),
    "redis ca missing": Wrong(
        ("--redis", "ssl_ca_certs"), ("--redis", "rediss://a/?ssl_ca_certs=/nowhere")
    ),
    "ca no certificate": Wrong(("--ssl-ca /etc/passwd",), ("--ssl-ca", "/etc/passwd")),
    "ca empty": Wrong(("--ssl-ca /dev/null",), ("--ssl-ca", "/dev/null")),
    "key without ca": Wrong(("--ssl-key", "--ssl-ca"), ("--ssl-key", "/etc/passwd")),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_ends_the_process_with_code_2_and_says_why(
    launch: Launch, tmp_path: Path, case: str
) -> None:
    wrong = WRONG[case]
    arguments = wrong.arguments
    if wrong.file is not None:
        (tmp_path / "worker.toml").write_text(wrong.file)
        arguments = ("--config", str(tmp_path / "worker.toml"), *arguments)
    command = launch(*arguments, env=wrong.env)
    eventually(lambda: command.process.poll() is not None, 5, "it starts all the same")
    assert "Traceback" not in command.log()
    assert command.code() == 2
    for word in wrong.words:
        assert word in " ".join(command.log().split())
    assert command.out.read_text() == ""


@pytest.mark.parametrize("file", ["# für alle\n", 'namespace = "größe"\n'])
def test_the_file_is_utf_8_whatever_the_locale(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    (tmp_path / "worker.toml").write_text(file, encoding="utf-8")
    for key, value in (("LC_ALL", "C"), ("PYTHONCOERCECLOCALE", "0"), ("PYTHONUTF8", "0")):
        monkeypatch.setenv(key, value)
    command = launch("--config", str(tmp_path / "worker.toml"), DEAD, "--redis", f"redis://{DEAD}")
    eventually(lambda: command.says("starting") or command.process.poll() is not None)
    assert command.stop() == 0, command.log()


# Where options come from


def test_file_environment_and_command_line_are_put_together(
    launch: Launch, cluster: Cluster, tmp_path: Path
) -> None:
    """Each option stands in the worker's behaviour, not only in a table."""
    lines = [
        f'servers = ["{DEAD}"]',
        f'redis = "redis://{DEAD}"',
        'namespace = "file"',
        'fanout-function = "file_fanout"',
        'subscribe-function = "file_subscribe"',
        'unsubscribe_function = "file_unsubscribe"',
        'retain-function = "file_retain"',
        'max-payload = "1k"',
        "max-fanout-bytes = 1500",
        'log-format = "json"',
        'log-level = "error"',
    ]
    (tmp_path / "worker.toml").write_text("\n".join(lines))
    env = {
        "config": str(tmp_path / "worker.toml"),
        "redis": cluster.store.url,
        "fanout_function": "env_fanout",
        "unsubscribe_function": "env_unsubscribe",
        "fetch_function": "env_fetch",
        "max_payload": "2k",
        "log_level": "warning",
        "namespace": "env",
    }
    options = ["--fanout-function", "cli_fanout", "--max-payload", "1000", "--log-level", "info"]
    options += ["--parked-function", "cli_parked"]
    worker = launch(cluster.address, *options, env=env).ready()
    names = {"cli_fanout", "file_subscribe", "env_unsubscribe"}
    names |= {"register_fanout_subscriber", "describe_fanout"}
    names |= {"file_retain", "env_fetch", "cli_parked"}
    eventually(lambda: workers_of(cluster.address) == names)
    for client in ("alice", "bob"):
        assert cluster.run("file_subscribe", topic="t", client_id=client).kind == "complete"
    pair = {"topic": "t", "client_id": "alice"}
    assert json.loads(cluster.run("file_retain", topic="t").data).keys() == {"version"}
    assert json.loads(cluster.run("env_fetch", topic="t", after=0).data)["messages"] == []
    [direct] = cluster.run("cli_parked", **pair, action="list").warnings
    assert direct == b"unknown: client alice has no durable subscription to topic t"
    assert cluster.run("file_retain", topic="t", max_age=None).kind == "complete"
    with redis.Redis.from_url(cluster.store.url) as store:
        assert {key.partition(b":")[0] for key in store.scan_iter()} == {b"{env}"}
    [large] = cluster.run("cli_fanout", topic="t", payload="x" * 1001).warnings
    assert large == b"too_large: payload of 1001 bytes is over --max-payload 1000"
    [wide] = cluster.run("cli_fanout", topic="t", payload="x" * 800).warnings
    assert b"--max-fanout-bytes 1500" in wide
    lines = worker.log().splitlines()
    assert {json.loads(line)["level"] for line in lines} == {"info"}


def test_counts_given_as_options_hold(launch: Launch, cluster: Cluster) -> None:
    launch(cluster.address, "--redis", cluster.store.url, "--max-foreground", "2").ready()
    cluster.subscribe("t", "alice")
    waiting = [cluster.wire() for _ in range(2)]
    body = fanout_body("t", "x", background=False)
    handles = [wire.submit(b"fanout", body) for wire in waiting]
    eventually(lambda: "t_alice\t2" in "\n".join(admin(cluster.address, "status")))
    assert b"busy: 2 " in cluster.publish("t", "x", background=False).warnings[0]
    cluster.receiver("t_alice")
    assert [wire.outcome(one).data for wire, one in zip(waiting, handles, strict=True)] == [
        b"1"
    ] * 2


def test_the_job_servers_may_be_named_in_the_environment(launch: Launch, cluster: Cluster) -> None:
    launch(env={"servers": cluster.address, "redis": cluster.store.url}).ready()
    eventually(lambda: "fanout" in workers_of(cluster.address), 5)
    works_end_to_end(cluster)


def test_a_worker_serves_all_of_its_job_servers_however_they_are_written(
    launch: Launch, make_cluster: Callable[..., Cluster]
) -> None:
    cluster = make_cluster(workers=0, job_servers=2)
    first, second = cluster.job_servers
    launch(f"{HOST}/{first.port}", f"localhost:{second.port}", "--redis", cluster.store.url).ready()
    for server in (first, second):
        eventually(lambda at=server.address: workers_of(at) == set(NAMES))
    works_end_to_end_on_both(cluster)


def works_end_to_end_on_both(cluster: Cluster) -> None:
    clients = [f"c{number}" for number in range(20)]
    cluster.subscribe("both", *clients)
    queues = [f"both_{client}" for client in clients]
    addresses = [server.address for server in cluster.job_servers]
    receivers = [cluster.receiver(*queues, address=address) for address in addresses]
    assert cluster.publish("both", "hello", background=False).data == b"20"
    assert all(receiver.jobs for receiver in receivers), "one server carries nothing"
    assert sum(len(receiver.jobs) for receiver in receivers) == 20


@pytest.mark.parametrize(
    ("arguments", "servers"),
    [
        ((), "localhost:4730"),
        (("somewhere.invalid",), "somewhere.invalid:4730"),
        (("[::1]", "[::1]:4731", "127.0.0.1/1"), "[::1]:4730 [::1]:4731 127.0.0.1:1"),
    ],
)
def test_a_server_without_a_port_is_asked_on_4730(
    launch: Launch, arguments: tuple[str, ...], servers: str
) -> None:
    command = launch(*arguments, "--redis", f"redis://{DEAD}")
    eventually(lambda: command.says("starting"))
    [line] = [one for one in command.log().splitlines() if "event=starting" in one]
    assert logfmt(line)["servers"] == servers


def test_a_job_server_on_ipv6_is_served(launch: Launch, cluster: Cluster, tmp_path: Path) -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError as error:
        pytest.skip(f"this machine has no IPv6 loopback: {error}")
    server = Gearmand()
    port = free_port()
    command = [*server.command(tmp_path), "--port", str(port)]
    command[command.index(f"--listen={HOST}")] = "--listen=::1"
    silent = subprocess.DEVNULL
    with subprocess.Popen(tied(command), stdout=silent, stderr=silent) as process:
        try:
            launch(f"[::1]:{port}", "--redis", cluster.store.url).ready()
            eventually(lambda: listens(port))
            eventually(lambda: workers_of(f"::1:{port}") == set(NAMES))
            with Wire(f"::1:{port}") as wire, Wire(f"::1:{port}") as receiver:
                body = json.dumps({"topic": "six", "client_id": "alice"}).encode()
                assert wire.run(b"subscribe_fanout", body).kind == "complete"
                assert wire.run(b"fanout", fanout_body("six", "hello")).data == b"1"
                receiver.can_do(b"six_alice")
                job = receiver.grab()
                assert job is not None
                assert job.payload == b"hello"
        finally:
            process.terminate()


def listens(port: int) -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        return probe.connect_ex(("::1", port)) == 0


def test_a_store_on_a_unix_socket_is_used(launch: Launch, cluster: Cluster, tmp_path: Path) -> None:
    path = f"/tmp/gearhorn-{os.getpid()}-{free_port()}.sock"  # tmp_path may be too long for one
    with Redis("--unixsocket", path) as store:
        launch(cluster.address, "--redis", f"unix://{path}").ready()
        works_end_to_end(cluster)
        with redis.Redis.from_url(store.url) as plain:
            assert plain.exists("{gearhorn}:schema")


# Names


def test_a_worker_with_other_names_serves_those_and_not_the_usual_ones(
    launch: Launch, cluster: Cluster
) -> None:
    kinds = ["fanout", "subscribe", "register", "unsubscribe", "describe"]
    kinds += ["retain", "fetch", "parked"]
    options = [word for kind in kinds for word in (f"--{kind}-function", f"my_{kind}")]
    launch(cluster.address, "--redis", cluster.store.url, *options).ready()
    eventually(lambda: workers_of(cluster.address) == {f"my_{kind}" for kind in kinds})
    assert cluster.run("my_subscribe", topic="t", client_id="alice").kind == "complete"
    assert cluster.run("my_register", topic="t", client_id="bob").kind == "complete"
    cluster.receiver("t_alice", "t_bob")
    assert cluster.run("my_fanout", topic="t", payload="x").data == b"2"
    assert cluster.run("my_unsubscribe", topic="t", client_id="bob").kind == "complete"
    assert cluster.run("my_fanout", topic="t", payload="x").data == b"1"
    assert json.loads(cluster.run("my_describe", topic="t").data)["topics"].keys() == {"t"}
    durable = {"topic": "log", "client_id": "carol"}
    assert cluster.run("my_subscribe", **durable, durable={"pull": True}).kind == "complete"
    assert cluster.run("my_fanout", topic="log", payload="kept", background=True).data == b"1"
    assert cluster.run("my_retain", topic="log", max_age=60).kind == "complete"
    [message] = json.loads(cluster.run("my_fetch", **durable).data)["messages"]
    assert message["payload"] == "kept"
    assert cluster.run("my_parked", **durable, action="list").data == b'{"parked":[]}'


def test_the_names_that_a_worker_serves_are_the_ones_nobody_may_subscribe(
    launch: Launch, cluster: Cluster
) -> None:
    kinds = ("fanout", "subscribe", "retain", "fetch", "parked")
    options = [word for kind in kinds for word in (f"--{kind}-function", f"my_{kind}")]
    launch(cluster.address, "--redis", cluster.store.url, *options).ready()
    for kind in kinds:
        refused = cluster.run("my_subscribe", topic="my", client_id=kind)
        assert refused.kind == "fail"
        assert refused.warnings[0].startswith(b"reserved: ")
    for kind in kinds[1:]:
        assert cluster.run("my_subscribe", topic=kind, client_id="fanout").kind == "complete"


def test_two_namespaces_on_one_store_do_not_see_each_other(
    launch: Launch, make_cluster: Callable[..., Cluster]
) -> None:
    cluster = make_cluster(workers=0, job_servers=2)
    first, second = cluster.job_servers
    launch(first.address, "--redis", cluster.store.url, "--namespace", "a").ready()
    launch(second.address, "--redis", cluster.store.url, "--namespace", "b").ready()
    with Wire(first.address) as one, Wire(second.address) as other:
        body = json.dumps({"topic": "t", "client_id": "alice"}).encode()
        assert one.run(b"subscribe_fanout", body).kind == "complete"
        assert one.run(b"fanout", fanout_body("t", "x")).data == b"1"
        assert other.run(b"fanout", fanout_body("t", "x")).data == b"0"
        assert other.run(b"unsubscribe_fanout", body).kind == "complete"
        assert one.run(b"fanout", fanout_body("t", "x")).data == b"1"
    with redis.Redis.from_url(cluster.store.url) as store:
        assert store.hlen("{a}:members") == store.hlen("{b}:members") == 1
        assert not [key for key in store.scan_iter() if not key.startswith((b"{a}:", b"{b}:"))]


@pytest.mark.parametrize("schema", ["1", "3", "6", ""])
def test_a_store_of_another_layout_is_refused_and_left_alone(
    launch: Launch, cluster: Cluster, schema: str
) -> None:
    with redis.Redis.from_url(cluster.store.url) as store:
        store.set("{gearhorn}:schema", schema)
        command = launch(cluster.address, "--redis", cluster.store.url)
        assert command.code() == 1
        assert "Traceback" not in command.log()
        [line] = [one for one in command.log().splitlines() if one.startswith("Error: ")]
        assert f"'{schema}'" in line
        assert "--namespace" in line
        assert store.keys() == [b"{gearhorn}:schema"]
        assert store.get("{gearhorn}:schema") == schema.encode()
        launch(cluster.address, "--redis", cluster.store.url, "--namespace", "other").ready()


@pytest.mark.parametrize("patterns", ["", "+patterns"])
def test_a_store_of_the_former_layout_is_migrated(
    launch: Launch, cluster: Cluster, patterns: str
) -> None:
    at = ("--redis", cluster.store.url)
    with redis.Redis.from_url(cluster.store.url) as store:
        first = launch(cluster.address, *at).ready()
        with Wire(cluster.address) as wire:
            pair = {"topic": "kept", "client_id": "bob"}
            body = json.dumps(pair | {"durable": True}).encode()
            assert wire.run(b"subscribe_fanout", body).kind == "complete"
            if patterns:
                body = json.dumps(pair | {"topic": "k*", "pattern": True}).encode()
                assert wire.run(b"subscribe_fanout", body).kind == "complete"
            assert wire.run(b"fanout", fanout_body("kept", "x")).data
        assert "runs: stop every worker" in failed(launch(*at, "--migrate", "--lease", "2"))
        assert first.stop() == 0
        # as layout 4 had it
        store.delete("{gearhorn}:most:lag")
        store.hdel("{gearhorn}:log:kept", "near")
        store.set("{gearhorn}:schema", "4" + patterns)
        line = failed(launch(cluster.address, *at))
        assert f"'4{patterns}'" in line
        assert "gearhorn-worker --migrate" in line
        assert failed(launch(*at, "--check")) == line
        store.set("{gearhorn}:schema", "4 to 5")  # one that was cut short
        assert "--migrate again" in failed(launch(cluster.address, *at))
        assert launch(*at, "--migrate").code() == 0
        assert store.get("{gearhorn}:schema") == b"5" + patterns.encode()
        assert store.zscore("{gearhorn}:most:lag", "kept") == -1
        assert launch(*at, "--check").code() == 0
        store.zadd("{gearhorn}:most:drops", {"kept": -7})
        wrong = launch(*at, "--check")
        assert wrong.code() == 1
        assert "kept: kept Counts(" in wrong.out.read_text()
        assert launch(*at, "--migrate").code() == 0, "where there is nothing to migrate"
        assert launch(*at, "--check").code() == 0
        launch(cluster.address, *at).ready()


def test_nothing_is_migrated_that_is_not_of_the_former_layout(
    launch: Launch, cluster: Cluster
) -> None:
    at = ("--redis", cluster.store.url)
    assert "the store holds nothing" in failed(launch(*at, "--migrate"))
    with redis.Redis.from_url(cluster.store.url) as store:
        store.set("{gearhorn}:schema", "3")
        assert "layout '3'" in failed(launch(*at, "--migrate"))
        assert store.get("{gearhorn}:schema") == b"3"
    assert launch(*at, "--migrate", "--check").code() == 2
    assert "--redis" in failed(launch("--redis", "nonsense", "--migrate"), 2)


def failed(command: Command, code: int = 1) -> str:
    """Wait until a command has failed; why."""
    assert command.code(30) == code
    [line] = [one for one in command.log().splitlines() if one.startswith("Error: ")]
    return line


# Logs

_PAIR = re.compile(r'([A-Za-z_]+)=("(?:[^"\\]|\\.)*"|[^ "=]*)(?: |\Z)')


def logfmt(line: str) -> dict[str, str]:
    """Read a line of key=value strictly; AssertionError if any of it is something else."""
    found = {}
    at = 0
    while at < len(line):
        pair = _PAIR.match(line, at)
        assert pair is not None, f"not logfmt from {line[at:]!r} on: {line!r}"
        key, value = pair.groups()
        assert key not in found, f"{key} twice: {line!r}"
        found[key] = re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
        at = pair.end()
    return found


def parse(style: str, log: str) -> list[dict[str, Any]]:
    """Read a log whose lines are all of this style; AssertionError for anything else."""
    assert log.endswith("\n")
    lines = log.splitlines()  # at U+0085 and U+2028, too
    assert len(lines) == log.count("\n")
    read: Callable[[str], dict[str, Any]] = json.loads if style == "json" else logfmt
    events = [read(line) for line in lines]
    for event in events:
        assert {"timestamp", "level", "event"} <= set(event)
    return events


@pytest.mark.parametrize("style", ["logfmt", "json"])
def test_every_line_is_one_event_of_keys_and_values(
    launch: Launch, cluster: Cluster, style: str
) -> None:
    """From start to stop, with hostile names, with servers that go away, at every level."""
    options = ("--log-format", style, "--log-level", "debug")
    worker = launch(cluster.address, "--redis", cluster.store.url, *options).ready()
    pairs = [
        (HOSTILE, "alice"),
        ("t", HOSTILE),
        ("=", '"'),
        ("\\", "\\\\"),
        ("\u2028", "\u0085"),
        ("\u00a0", "\x80"),
        ("t", "x\\n"),
        ("key=value", 'level="error"'),
    ]
    for topic, client in pairs:
        cluster.subscribe(topic, client, max_backlog=1)
        for _ in range(3):
            cluster.publish(topic, "x")
    eventually(lambda: worker.log().count("queue full") >= len(pairs) - 1)
    cluster.run("unsubscribe_fanout", topic=HOSTILE, client_id="alice", drain=True)
    cluster.run("fanout", topic="a\nb", payload=1)
    cluster.job_servers[0].kill()
    cluster.store.kill()
    eventually(lambda: "connection lost" in worker.log())
    cluster.job_servers[0].restart()
    eventually(lambda: "fanout" in workers_of(cluster.address))
    with Wire(cluster.address) as wire:
        wire.submit(b"fanout", fanout_body(f"{HOSTILE}2", "x"))
        refused = wire.run(b"subscribe_fanout", b'{"topic":"t","client_id":"x"}')
        assert refused.kind == "fail"
    cluster.store.restart()
    assert worker.stop() == 0
    events = parse(style, worker.log())
    assert {event["level"] for event in events} >= {"debug", "info", "warning"}
    subscribed = [event for event in events if event["event"] == "subscribed"]
    assert len(subscribed) == len(pairs)
    assert ("=", '"') in {(event["topic"], event["client"]) for event in subscribed}
    assert worker.out.read_text() == ""


def test_a_thousand_messages_leave_no_line(launch: Launch, cluster: Cluster) -> None:
    worker = launch(cluster.address, "--redis", cluster.store.url).ready()
    cluster.subscribe("t", "alice", "bob")
    alice = cluster.receiver("t_alice", "t_bob")
    before = worker.log()
    bodies = [fanout_body("t", "x", background=n % 2 == 0, timeout=10) for n in range(1000)]
    answers = run_all(cluster.address, (("fanout", body) for body in bodies))
    assert answers == [("complete", b"2")] * 1000
    refused = run_all(cluster.address, [("fanout", b"{"), ("subscribe_fanout", b"{}")] * 50)
    assert {kind for kind, _ in refused} == {"fail"}
    alice.wait(2000)
    assert worker.log() == before


@pytest.mark.parametrize(("level", "levels"), [("warning", {"warning"}), ("error", set())])
def test_lines_below_the_level_are_left_out(launch: Launch, level: str, levels: set[str]) -> None:
    worker = launch(DEAD, "--redis", f"redis://{DEAD}", "--log-level", level)
    if levels:
        eventually(lambda: "job server unreachable" in worker.log())
    assert stops_once_it_can(worker) == 0
    assert {logfmt(line)["level"] for line in worker.log().splitlines()} == levels


def stops_once_it_can(worker: Command) -> int:
    """SIGTERM once the worker handles it, which no line of its log tells at these levels.

    It handles SIGHUP last, and what measures coverage, which has a handler of SIGTERM itself, does
    not.
    """
    status = Path(f"/proc/{worker.process.pid}/status")
    hang_up = 1 << (signal.SIGHUP - 1)
    eventually(lambda: int(re.findall(r"SigCgt:\s*(\w+)", status.read_text())[0], 16) & hang_up)
    return worker.stop()


def test_a_log_that_cannot_be_written_stops_nothing(launch: Launch, cluster: Cluster) -> None:
    with Path("/dev/full").open("wb") as full:
        worker = launch(cluster.address, "--redis", cluster.store.url, stderr=full)
    eventually(lambda: "fanout" in workers_of(cluster.address) or worker.process.poll() is not None)
    assert worker.process.poll() is None, "a full disk ended the worker"
    works_end_to_end(cluster)
    cluster.job_servers[0].restart()
    eventually(lambda: "fanout" in workers_of(cluster.address), 5)
    assert worker.stop() == 0


def test_a_reader_of_the_log_that_goes_away_stops_nothing(launch: Launch, cluster: Cluster) -> None:
    reading, writing = os.pipe()
    worker = launch(cluster.address, "--redis", cluster.store.url, stderr=writing)
    os.close(writing)
    eventually(lambda: "fanout" in workers_of(cluster.address))
    os.close(reading)
    cluster.job_servers[0].restart()
    eventually(
        lambda: "fanout" in workers_of(cluster.address) or worker.process.poll() is not None,
        5,
        "the worker lives and does not serve",
    )
    works_end_to_end(cluster)
    assert worker.stop() == 0


def test_a_reader_of_the_log_that_stalls_stops_nothing(launch: Launch, cluster: Cluster) -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    options = "--log-level", "debug"
    worker = launch(cluster.address, "--redis", cluster.store.url, *options, stderr=writing)
    os.close(writing)
    eventually(lambda: "fanout" in workers_of(cluster.address))
    for number in range(200):  # a line for each, which nobody reads
        cluster.subscribe("stalled", f"client-{number}")
    assert len(select.select([reading], [], [], 0)[0]) == 1
    works_end_to_end(cluster)
    assert worker.stop() == 0
    os.close(reading)


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&- <&-"])
def test_without_standard_streams_it_serves(cluster: Cluster, closed: str) -> None:
    command = [sys.executable, "-m", "gearhorn.cli.worker", cluster.address]
    command += ["--redis", cluster.store.url]
    with subprocess.Popen(tied(["sh", "-c", f'exec "$@" {closed}', "sh", *command])) as process:
        try:
            eventually(
                lambda: "fanout" in workers_of(cluster.address) or process.poll() is not None
            )
            assert process.poll() is None
            works_end_to_end(cluster)
            for number in range(3):
                assert not os.readlink(f"/proc/{process.pid}/fd/{number}").startswith("socket")
        finally:
            process.terminate()
        assert process.wait(20) == 0


def test_a_second_signal_stops_it_at_once(launch: Launch, cluster: Cluster) -> None:
    worker = launch(cluster.address, "--redis", cluster.store.url).ready()
    cluster.subscribe("second-signal", "absent")
    wire = cluster.wire()  # its caller waits for a receiver that is not there
    wire.submit(b"fanout", b'{"topic": "second-signal", "payload": 1, "timeout": 60}')
    eventually(lambda: waiting_of(cluster.address, "second-signal_absent"))
    worker.process.send_signal(signal.SIGTERM)
    eventually(lambda: worker.says("stopping"))
    with pytest.raises(subprocess.TimeoutExpired):
        worker.process.wait(1)
    worker.process.send_signal(signal.SIGINT)
    assert worker.code(5) == 128 + signal.SIGINT
    assert worker.says("stopping at once")


def test_a_terminal_that_is_closed_does_not_end_it(launch: Launch, cluster: Cluster) -> None:
    worker = launch(cluster.address, "--redis", cluster.store.url).ready()
    worker.process.send_signal(signal.SIGHUP)
    eventually(lambda: worker.says("SIGHUP"))
    works_end_to_end(cluster)
    assert worker.stop() == 0


def waiting_of(address: str, queue: str) -> int:
    """Jobs that wait or run on a queue."""
    for line in admin(address, "status"):
        name, total, _, _ = line.rsplit("\t", 3)
        if name == queue:
            return int(total)
    return 0
