"""How options, environment and file become one configuration, and which values are refused."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

import gearhorn
from gearhorn.cli import worker
from gearhorn.cli.logs import Writer
from gearhorn.config import Config

MIB = 1024 * 1024


class Ran(NamedTuple):
    """What one run of the command came to; `config` is None if it was refused."""

    code: int
    output: str
    config: Config | None
    logs: tuple[str, str] | None  # format and level


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs the command up to the point where it would serve: `run(*arguments, file, **env)`."""
    seen: dict[str, Any] = {}
    for name in [one for one in os.environ if one.startswith("GEARHORN_")]:
        monkeypatch.delenv(name)

    async def serve(config: Config, stop: asyncio.Event) -> int:
        seen["config"] = config
        return 0

    def start(data: Path | None) -> None:
        raise AssertionError("servers were started")

    monkeypatch.setattr(worker, "_serve", serve)

    def set_up_logs(*how: str) -> Writer:
        seen.update(logs=how)
        return Writer(len, str)

    monkeypatch.setattr(worker, "set_up_logs", set_up_logs)
    monkeypatch.setattr(worker, "start_standalone", start)

    def run(*arguments: str, file: str | bytes | None = None, **env: str) -> Ran:
        seen.clear()
        if file is not None:
            path = tmp_path / "worker.toml"
            path.write_bytes(file if isinstance(file, bytes) else file.encode())
            arguments = ("--config", str(path), *arguments)
        variables = {f"GEARHORN_{key.upper()}": value for key, value in env.items()}
        result = CliRunner().invoke(worker.main, arguments, env=variables)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.output, seen.get("config"), seen.get("logs"))

    return run


class Option(NamedTuple):
    """An option with three values as text, and what each of them means."""

    command_line: str
    environment: str
    file: str  # TOML
    meanings: tuple[Any, ...]


OPTIONS = {
    "servers": Option(
        "a:1 [::1]:2",
        "b/3 c",
        '["d:4"]',
        ((("a", 1), ("::1", 2)), (("b", 3), ("c", 4730)), (("d", 4),)),
    ),
    "redis": Option(
        "redis://a", "redis://b", '"unix:///c"', ("redis://a", "redis://b", "unix:///c")
    ),
    "store_connections": Option("8", "20", "30", (8, 20, 30)),
    "namespace": Option("a", "b", '"c"', ("a", "b", "c")),
    "fanout_function": Option("a", "b", '"c"', ("a", "b", "c")),
    "subscribe_function": Option("a", "b", '"c"', ("a", "b", "c")),
    "register_function": Option("a", "b", '"c"', ("a", "b", "c")),
    "unsubscribe_function": Option("a", "b", '"ü"', ("a", "b", "ü")),
    "describe_function": Option("a", "b", '"c"', ("a", "b", "c")),
    "retain_function": Option("a", "b", '"c"', ("a", "b", "c")),
    "fetch_function": Option("a", "b", '"c"', ("a", "b", "c")),
    "parked_function": Option("a", "b", '"c"', ("a", "b", "c")),
    "lease": Option("1", "2.5", "3", (1.0, 2.5, 3.0)),
    "serve_stale": Option("0", "60", "1.5", (0.0, 60.0, 1.5)),
    "gossip_interval": Option("1", "2", "0.5", (1.0, 2.0, 0.5)),
    "max_payload": Option("1k", "2MiB", "3", (1024, 2 * MIB, 3)),
    "max_fanout_bytes": Option("1", "2k", '"3G"', (1, 2048, 3 * 1024 * MIB)),
    "max_foreground": Option("1", "2", "3", (1, 2, 3)),
    "max_backlog": Option("1", "2", "3", (1, 2, 3)),
    "max_cached": Option("1", "2", "3", (1, 2, 3)),
    "ssl_ca": Option("/etc/passwd", "/etc/group", '"/etc/hosts"', ()),
    "ssl_cert": Option("/etc/passwd", "/etc/group", '"/etc/hosts"', ()),
    "ssl_key": Option("/etc/passwd", "/etc/group", '"/etc/hosts"', ()),
    "log_format": Option("json", "logfmt", '"json"', ("json", "logfmt", "json")),
    "log_level": Option("debug", "warning", '"error"', ("debug", "warning", "error")),
}
FILES = (Path("/etc/passwd"), Path("/etc/group"), Path("/etc/hosts"))
NOT_VALUES = {"config", "version", "standalone", "data", "migrate", "check"}  # tested by themselves


def on_command_line(key: str, value: str) -> list[str]:
    return value.split() if key == "servers" else [f"--{key.replace('_', '-')}", value]


def meaning(ran: Ran, key: str) -> Any:
    assert ran.code == 0, ran.output
    assert ran.config is not None
    assert ran.logs is not None
    logs = dict(zip(("log_format", "log_level"), ran.logs, strict=True))
    return logs[key] if key in logs else getattr(ran.config, key)


def test_every_option_is_in_the_table_of_these_tests() -> None:
    assert {one.name for one in worker.main.params} - NOT_VALUES == set(OPTIONS)


@pytest.mark.parametrize("key", OPTIONS)
def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    run: Run, key: str
) -> None:
    option = OPTIONS[key]
    meanings = option.meanings or FILES
    file = f"{key} = {option.file}\n"
    assert meaning(run(file=file), key) == meanings[2]
    assert meaning(run(file=file, **{key: option.environment}), key) == meanings[1]
    arguments = on_command_line(key, option.command_line)
    assert meaning(run(*arguments, file=file, **{key: option.environment}), key) == meanings[0]


@pytest.mark.parametrize("key", [key for key in OPTIONS if "_" in key])
def test_a_key_of_the_file_may_be_written_as_the_option(run: Run, key: str) -> None:
    option = OPTIONS[key]
    ran = run(file=f"{key.replace('_', '-')} = {option.file}\n")
    assert meaning(ran, key) == (option.meanings or FILES)[2]


def test_without_options_the_defaults_hold(run: Run) -> None:
    ran = run()
    assert (ran.code, ran.config, ran.logs) == (0, Config(), ("logfmt", "info"))
    default = Config()
    assert default.servers == (("localhost", 4730),)
    assert default.redis == "redis://localhost:6379/0"
    assert default.max_payload == 8 * MIB
    assert default.max_fanout_bytes == 1024 * MIB
    assert default.max_foreground == 10_000
    assert default.max_backlog == 100_000


@pytest.mark.parametrize("key", OPTIONS)
def test_an_empty_variable_is_no_variable(run: Run, key: str) -> None:
    ran = run(**{key: ""})
    assert (ran.code, ran.config) == (0, Config()), ran.output


def test_a_part_from_each_source_makes_one_configuration(run: Run) -> None:
    file = 'namespace = "file"\nredis = "redis://file"\nmax_payload = 1\nservers = ["file:1"]\n'
    ran = run("cli:1", "--max-payload", "2", file=file, redis="redis://env", max_backlog="3")
    expected = replace(
        Config(),
        servers=(("cli", 1),),
        redis="redis://env",
        namespace="file",
        max_payload=2,
        max_backlog=3,
    )
    assert ran.config == expected


def test_the_file_may_be_named_in_the_environment(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "named.toml"
    path.write_text("max-backlog = 7\n")
    assert meaning(run(config=str(path)), "max_backlog") == 7


@pytest.mark.parametrize("file", ['servers = "a:1 b:2"', 'servers = ["a:1", "b/2"]'])
def test_servers_in_the_file_are_words_or_an_array(run: Run, file: str) -> None:
    assert meaning(run(file=file), "servers") == (("a", 1), ("b", 2))


def test_an_empty_file_changes_nothing(run: Run) -> None:
    assert run(file="").config == Config()


@pytest.mark.parametrize("name", ["VERSION", "HELP"])
def test_a_variable_that_happens_to_be_named_like_a_flag_changes_nothing(
    run: Run, name: str
) -> None:
    """A container image sets GEARHORN_VERSION to say what is in it."""
    for value in ("0.1.0", "1"):
        ran = run(**{name: value})
        assert (ran.code, ran.config) == (0, Config()), ran.output


def test_version_and_help_answer_and_end(run: Run) -> None:
    assert run("--version")[:3] == (0, f"gearhorn {gearhorn.__version__}\n", None)
    ran = run("--help")
    assert (ran.code, ran.config) == (0, None)
    for key in {*OPTIONS, *NOT_VALUES} - {"servers"}:
        assert f"--{key.replace('_', '-')}" in ran.output


class Wrong(NamedTuple):
    """A wrong value: where it stands and which words the refusal must have."""

    words: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    file: str | bytes | None = None
    env: Mapping[str, str] = {}


def sized(*arguments: str, got: str) -> Wrong:
    return Wrong((arguments[0], "expected bytes", got), arguments)


WRONG = {
    "port 0": Wrong(("1 to 65535", "0"), ("host:0",)),
    "port too high": Wrong(("1 to 65535", "65536"), ("host:65536",)),
    "port no number": Wrong(("HOST:PORT", "host:x"), ("host:x",)),
    "ipv6 without brackets": Wrong(("[IPV6]:PORT", "::1"), ("::1",)),
    "no host": Wrong(("HOST", "''"), ("",)),
    "host of two words": Wrong(("HOST", "a b"), ("a b",)),
    "host with an empty label": Wrong(("expected", "a..b"), ("a..b",)),
    "host with a long label": Wrong(("expected", "x" * 64), ("x" * 64,)),
    "no ipv6 in brackets": Wrong(("expected", "[hello]"), ("[hello]",)),
    "second server": Wrong(("HOST:PORT", "b:"), ("a", "b:")),
    "duplicate server": Wrong(("different servers", "twice"), ("a", "b", "a")),
    "duplicate with the default port": Wrong(("different servers", "twice"), ("a", "a/4730")),
    "server in the environment": Wrong(("1 to 65535", "0"), env={"servers": "a b:0"}),
    "duplicate in the environment": Wrong(("different",), env={"servers": "a a"}),
    "server in the file": Wrong(("1 to 65535", "0"), file='servers = ["a", "b:0"]'),
    "duplicate in the file": Wrong(("different",), file='servers = "a a"'),
    "size 0": sized("--max-payload", "0", got="'0'"),
    "negative size": sized("--max-payload", "-1", got="'-1'"),
    "fractional size": sized("--max-payload", "1.5M", got="'1.5M'"),
    "unit unknown": sized("--max-fanout-bytes", "1T", got="'1T'"),
    "size in the environment": Wrong(("expected bytes", "'lots'"), env={"max_payload": "lots"}),
    "size in the file": Wrong(("expected bytes", "'lots'"), file='max_payload = "lots"'),
    "size 0 in the file": Wrong(("expected bytes", "'0'"), file="max_payload = 0"),
    "count 0": Wrong(("--max-foreground", "x>=1", "0"), ("--max-foreground", "0")),
    "negative count": Wrong(("--max-backlog", "x>=1", "-5"), ("--max-backlog", "-5")),
    "count no number": Wrong(("--max-cached", "integer", "'many'"), ("--max-cached", "many")),
    "fractional count": Wrong(("--max-cached", "integer", "'1.5'"), ("--max-cached", "1.5")),
    "count 0 in the environment": Wrong(("x>=1", "0"), env={"max_cached": "0"}),
    "count 0 in the file": Wrong(("x>=1", "0"), file="max-cached = 0"),
    "lease too short": Wrong(("--lease", "seconds from 0.5", "'0.1'"), ("--lease", "0.1")),
    "lease no number": Wrong(("--lease", "seconds", "'nan'"), ("--lease", "nan")),
    "endless staleness": Wrong(("seconds", "'inf'"), ("--serve-stale", "inf")),
    "interval in the file": Wrong(("seconds from 0.1", "'0'"), file="gossip_interval = 0"),
    "empty name": Wrong(
        ("--fanout-function", "expected a function name", "''"), ("--fanout-function", "")
    ),
    "name with a space": Wrong(("function name", "'a b'"), ("--fanout-function", "a b")),
    "name with a newline": Wrong(("function name", r"'a\nb'"), ("--register-function", "a\nb")),
    "long name": Wrong(("function name", "256"), ("--subscribe-function", "x" * 256)),
    "name of bytes that are no text": Wrong(
        ("function name", r"\udcff"), ("--fanout-function", "\udcff")
    ),
    "same name twice": Wrong(
        ("different function names", "got subscribe_fanout, fanout, subscribe_fanout"),
        ("--register-function", "subscribe_fanout"),
    ),
    "same name from two sources": Wrong(
        ("different function names", "x, x"),
        ("--fanout-function", "x"),
        env={"subscribe_function": "x"},
    ),
    "empty namespace": Wrong(("--namespace", "a word", "''"), ("--namespace", "")),
    "namespace with a space": Wrong(("a word", "'a b'"), ("--namespace", "a b")),
    "namespace with an opening brace": Wrong(("without braces", "'a{b'"), ("--namespace", "a{b")),
    "namespace with a closing brace": Wrong(("without braces", "'a}'"), ("--namespace", "a}")),
    "namespace with a newline": Wrong(("a word", r"'a\n'"), ("--namespace", "a\n")),
    "log format": Wrong(("'logfmt', 'json'", "'xml'"), ("--log-format", "xml")),
    "log level": Wrong(("'debug', 'info', 'warning', 'error'", "'loud'"), ("--log-level", "loud")),
    "data without standalone": Wrong(("--data", "--standalone"), ("--data", "/tmp")),
    "standalone with a server": Wrong(("--standalone", "its own"), ("--standalone", "localhost")),
    "standalone with a store": Wrong(
        ("--standalone", "its own"), ("--standalone", "--redis", "redis://a")
    ),
    "standalone maybe": Wrong(("--standalone", "'maybe'", "yes"), env={"standalone": "maybe"}),
    "ca missing": Wrong(("--ssl-ca", "/nowhere", "not exist"), ("--ssl-ca", "/nowhere")),
    "ca a directory": Wrong(("--ssl-ca", "directory"), ("--ssl-ca", "/etc")),
    "certificate missing": Wrong(("--ssl-cert", "/nowhere"), ("--ssl-cert", "/nowhere")),
    "key missing": Wrong(("--ssl-key", "/nowhere"), ("--ssl-key", "/nowhere")),
    "ca missing in the file": Wrong(("/nowhere", "not exist"), file='ssl-ca = "/nowhere"'),
    "option unknown": Wrong(("No such option", "--nosuch"), ("--nosuch",)),
    "config missing": Wrong(("--config", "/nowhere", "not exist"), ("--config", "/nowhere")),
    "config a directory": Wrong(("--config", "directory"), ("--config", "/etc")),
    "config missing in the environment": Wrong(("/nowhere",), env={"config": "/nowhere"}),
    "toml syntax": Wrong(("worker.toml", "line 2"), file="redis = 'redis://a'\nmax_payload 5\n"),
    "toml key twice": Wrong(("worker.toml", "line 2"), file="max_payload = 5\nmax_payload = 6\n"),
    "toml not utf-8": Wrong(("worker.toml", "utf-8"), file=b"namespace = '\xff'\n"),
    "key unknown": Wrong(("expected one of", "max_payload", "'max_paylod'"), file="max_paylod = 1"),
    "section unknown": Wrong(("expected one of", "'worker'"), file="[worker]\nmax_payload = 1"),
    "config inside config": Wrong(("expected one of", "'config'"), file='config = "a"'),
    "version in the file": Wrong(("expected one of", "'version'"), file="version = true"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_is_refused_with_what_was_expected_and_what_came(run: Run, case: str) -> None:
    wrong = WRONG[case]
    ran = run(*wrong.arguments, file=wrong.file, **wrong.env)
    assert (ran.code, ran.config) == (2, None), ran.output
    shown = " ".join(ran.output.split())  # click wraps lines
    for word in wrong.words:
        assert word in shown


KINDS = {  # TOML, and how the refusal may show it
    "array": ("[1]", r"\[1\]"),
    "boolean": ("true", r"\b[Tt]rue\b"),
    "float": ("1.5", r"1\.5"),
    "table": ("{a = 1}", r"\ba\b.*1"),
    "date": ("2026-01-02", r"2026\D+0?1\D+0?2"),
    "integer": ("5", r"\b5\b"),
    "string": ('"5"', r"\b5\b"),
}
NUMBERS = (
    "max_payload",
    "max_fanout_bytes",
    "max_foreground",
    "max_backlog",
    "max_cached",
    "store_connections",
)
SECONDS = ("lease", "serve_stale", "gossip_interval")
TAKES = {  # which kinds of TOML value an option takes, if not a string alone
    **{key: {"integer", "string"} for key in NUMBERS},
    **{key: {"integer", "float", "string"} for key in SECONDS},
    "standalone": {"boolean", "string"},
}
# what stands for --redis is judged when the worker starts: tests/functional/test_cli.py
MISFITS = [
    (key, kind)
    for key in sorted({*OPTIONS, "standalone", "data"} - {"redis"})
    for kind in KINDS
    if kind not in TAKES.get(key, {"string"})
]


@pytest.mark.parametrize(("key", "kind"), MISFITS)
def test_a_value_of_the_wrong_type_in_the_file_is_refused(run: Run, key: str, kind: str) -> None:
    value, shown = KINDS[kind]
    ran = run(file=f"{key} = {value}\n")
    assert (ran.code, ran.config) == (2, None), ran.output
    assert re.search(f"{key}|{key.replace('_', '-')}|HOST", ran.output)
    assert re.search(shown, ran.output)


@pytest.mark.parametrize("element", ["5", "true", "1.5", '["a"]', "{a = 1}"])
def test_a_server_in_the_file_is_a_string(run: Run, element: str) -> None:
    ran = run(file=f'servers = ["a", {element}]\n')
    assert (ran.code, ran.config) == (2, None), ran.output


MALFORMED = [  # with HUNTER where the password is, or what is left of it
    "redis://:HUNTER@host:99999/0",
    "redis://:pa/HUNTER@host/0",
    "redis://:HUNTER/ss@host/0",
    "redis://:pa?HUNTER@host/0",
    "redis://:pa?a&HUNTER=b@host/0",
    "redis://:pa#HUNTER@host/0",
    "redis://:HUNTER#ss@host/0",
    "redis://:pa%HUNTER/@host/zero",
    "redis://user:HUNTER@host/zero",
    "redis://user:HUNTER",
    "redis://[:HUNTER@host",
    "redis://:HUNTER@ho st/0",
    "redis://:HUNTER@a..b/0",
    "redis://host?password=HUNTER&bogus=1",
    "redis://host?password=x&HUNTER=1",
    "redis://host?protocol=HUNTER",
    "redis://host/HUNTER",
    "rediss://:HUNTER@host?ssl_ca_certs=/nowhere",
    "unix://:HUNTER@host",
    "unix://:pa/HUNTER@/path?db=x",
    "http://user:HUNTER@host",
    "user:HUNTER@host:6379",
    ":HUNTER@host",
]


@pytest.mark.parametrize("url", MALFORMED)
@pytest.mark.parametrize("how", ["option", "environment", "file", "file array", "server"])
def test_no_part_of_a_password_in_a_malformed_url_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str, url: str
) -> None:
    monkeypatch.setattr(worker, "set_up_logs", lambda *how: Writer(len, str))
    arguments, variables = [], {}
    if how == "option":
        arguments = ["--redis", url]
    elif how == "server":
        arguments = [url]
    elif how == "environment":
        variables = {"GEARHORN_REDIS": url}
    else:
        file = tmp_path / "worker.toml"
        file.write_text(f"redis = '{url}'" if how == "file" else f"redis = ['{url}']")
        arguments = ["--config", str(file)]
    result = CliRunner().invoke(worker.main, arguments, env=variables)
    assert result.exit_code == 2, result.output
    assert "HUNTER" not in result.output
    assert "hunter" not in result.output.lower()


def test_no_option_shows_the_stores_url_where_its_value_is_printed() -> None:
    assert "hunter2" not in repr(Config(redis="redis://:hunter2@host/0"))
