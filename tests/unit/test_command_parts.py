"""The parts of the command ``gearhorn`` that need no server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from gearhorn.aio import Durable, Message, Park, Position, Published, Results, Retry
from gearhorn.cli.commands import (
    ask,
    bench,
    check,
    completion,
    context,
    contexts,
    execute,
    explain,
    lines,
    listen,
    log,
    main,
    output,
    parked,
    publish,
    servers,
    settings,
    sheets,
    subscriptions,
    top,
    topics,
    values,
)
from gearhorn.errors import Busy

EPOCH = "0123456789abcdef"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("GEARHORN_SERVERS", raising=False)
    monkeypatch.delenv("GEARHORN_CONTEXT", raising=False)


def run(*arguments: str) -> int:
    return main.outcome(list(arguments))


# main


def test_help_names_every_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    text = capsys.readouterr().out
    for name in main._COMMANDS:
        assert f"\n  {name} " in text


@pytest.mark.parametrize("name", list(main._COMMANDS))
def test_every_subcommand_has_help_of_its_own(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(name, "--help") == 0
    assert capsys.readouterr().out.startswith(f"Usage: gearhorn {name}")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("publsh",), "No such command"),
        (("publish",), "Missing argument"),
        (("publish", "t", "x", "--server", "a b"), "a b"),
        (("publish", "t", "x", "-H", "no colon"), "NAME:VALUE"),
        (("publish", "t", "!", "--base64"), "--base64"),
        (("subscribe", "t", "c", "--durable", "{"), "--durable"),
        (("subscribe", "t", "c", "--durable", "[]"), "expected a JSON object"),
        (("listen", "t", "--as", "c", "--durable", '{"n": 1}'), "--durable"),
        (("listen", "t", "--durable", "--exec", "true"), "--durable needs --as"),
        (("--context", "nowhere", "members"), "nowhere"),
        (("parked", "purge", "t", "c"), "--yes"),
        (("listen", "t", "--start", "all"), "--start needs --durable"),
        (("listen", "t", "--wait", "nan"), "above 0"),
        (("topics", "--timeout", "inf"), "above 0"),
        (("pause", "t", "c", "--for", "0"), "above 0"),
        (("retain", "t", "--max-age", "nan"), "above 0, or 0"),
        (("doctor", "-s", "a:b:c"), "a:b:c"),
        (("publish", "t", "x", "--quorum", "1"), "--quorum needs --wait"),
        (("publish", "t", "x", "--rate", "1"), "--rate needs"),
        (("publish", "t", "x", "--count", "2", "--rate", "0"), "above 0"),
        (("publish", "t", "x", "--count", "2", "--rate", "nan"), "above 0"),
        (("publish", "t", "x", "--count", "2", "--unique", "u"), "--template"),
        (("publish", "t", "x", "--count", "2", "--wait"), "for one message"),
        (("publish", "t", "x", "--wait", "--priority", "high"), "--priority"),
        (("publish", "t\udcff", "x"), "not UTF-8"),
        (("help", "nothing"), "nothing"),
        (("context", "use", "nowhere"), "none yet"),
    ],
)
def test_a_wrong_call_says_what_was_expected(
    arguments: tuple[str, ...],
    text: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", open(os.devnull, encoding="utf-8"))  # noqa: SIM115
    assert run(*arguments) == 2
    assert text in capsys.readouterr().err


def test_without_a_job_server_the_code_is_four(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-s", "127.0.0.1:1", "--timeout", "0.2", "publish", "t", "x") == 4
    assert run("publish", "t", "x", "-s", "127.0.0.1:1", "--timeout", "0.2") == 4
    text = capsys.readouterr().err
    assert "nothing was sent" in text
    assert "$GEARHORN_SERVERS" in text


def test_the_settings_that_are_nearest_count() -> None:
    with click.Context(main.main) as ctx:
        assert ctx is not None
        found = settings.Settings({"server": ("a:1",), "timeout": 2.0, "columns": "x,,y"})
    assert (found.servers, found.timeout, found.columns) == (("a:1",), 2.0, ["x", "y"])
    assert found.tls is None


# contexts


def test_contexts_are_kept_and_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert contexts.read_context(None) == contexts.Context()
    assert run("context", "add", "staging", "a:1", "b:2") == 0
    assert run("context", "add", "production", "c", "--confirm", "--tls-ca", "/ca") == 0
    assert contexts.read_context(None).servers == ("a:1", "b:2")
    assert contexts.read_context("production") == contexts.Context(
        "production", ("c",), tls_ca="/ca", confirm=True
    )
    assert contexts.read_context("-").servers == ()
    assert run("context", "use", "production") == 0
    assert run("context", "ls") == 0
    listed = ["current\tname\tservers", "\tstaging\ta:1 b:2", "*\tproduction\tc"]
    assert capsys.readouterr().out.splitlines() == listed
    assert run("context", "ls", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["is_current"]) for one in found] == [
        ("staging", False),
        ("production", True),
    ]
    assert run("context", "show") == 0
    assert "confirm\tTrue" in capsys.readouterr().out
    assert run("context", "rm", "production") == 0
    assert contexts.read_context(None) == contexts.Context()
    assert stat.S_IMODE(contexts.path().stat().st_mode) == 0o600
    assert run("context", "use", "staging") == 0
    assert run("context", "-") == 0
    assert contexts.read_context(None) == contexts.Context()
    assert set(contexts.read_all()[1]) == {"staging"}
    for wrong in (("rm", "x"), ("use", "x"), ("show", "x"), ("add", "-", "a")):
        assert run("context", *wrong) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = [", "contexts.toml"),
        ("[a]\nserver = 'x'", "expected"),
        ("[a]\nservers = 'x'", "expected an array"),
        ("[a]\ntls_key = 'x'", "chmod 600"),
    ],
)
def test_a_file_that_is_no_good_is_refused(text: str, expected: str) -> None:
    contexts.path().parent.mkdir(parents=True)
    contexts.path().write_text(text)
    contexts.path().chmod(0o644)
    with pytest.raises(contexts.ContextError, match=expected):
        contexts.read_all()


# output


ROWS = [{"topic": "a\tb", "lag": 3, "at": None}, {"topic": "c", "lag": 0, "at": 1.5}]
COLUMNS = [
    output.Column("topic"),
    output.Column("lag", is_number=True, is_alarm=True),
    output.Column("at"),
]


def test_elsewhere_lines_are_parted_by_tabs(capsys: pytest.CaptureFixture[str]) -> None:
    output.show(settings.Settings({}), COLUMNS, ROWS)
    assert capsys.readouterr().out == "topic\tlag\tat\na\\tb\t3\t\nc\t0\t1.5\n"
    output.show(settings.Settings({"columns": "lag"}), COLUMNS, ROWS)
    assert capsys.readouterr().out == "lag\n3\n0\n"
    with pytest.raises(click.UsageError, match="no column x"):
        output.show(settings.Settings({"columns": "x"}), COLUMNS, ROWS)


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    output.show(settings.Settings({"is_json": True}), COLUMNS, ROWS)
    assert json.loads(capsys.readouterr().out) == ROWS
    output.show(settings.Settings({"is_json": True}), COLUMNS, ROWS, {"all": 1})
    assert json.loads(capsys.readouterr().out) == {"all": 1}


def test_times_are_for_people() -> None:
    assert output.moment(0) == ""
    assert output.moment(1_790_000_000.5) == "2026-09-21T14:13:20Z"
    assert [output.duration(s) for s in (2, 90, 7200, 86400 * 3)] == [
        "2.0 s",
        "1.5 min",
        "2.0 h",
        "3.0 d",
    ]


def test_what_is_no_number_is_refused() -> None:
    assert values.Rate().convert("100/s", None, None) == 100
    assert values.SECONDS.convert("1.5", None, None) == 1.5
    for kind in (values.Rate(), values.SECONDS):
        for text in ("soon", "0", "-1", "nan", "inf"):
            with pytest.raises(click.BadParameter, match="expected a number above 0"):
                kind.convert(text, None, None)


def test_one_is_singular() -> None:
    assert values.counted(1, "copy", "copies") == "1 copy"
    assert [values.counted(n, "message") for n in (0, 1, 2)] == [
        "0 messages",
        "1 message",
        "2 messages",
    ]


# execute


def message(data: bytes = b"x", **more: Any) -> Message:
    return Message("t", data, client_id="web1", position=Position(7, EPOCH), **more)


def test_a_command_gets_the_message_and_its_output_is_the_answer() -> None:
    command = execute.Command('cat; echo " $GEARHORN_TOPIC $GEARHORN_HEADER_A_B"', None, ())
    assert command(message(b"hello", headers={"a-b": "c"})) == b"hello t c\n"
    found = execute.environment(message(unique="u", attempt=3, at=2.5))
    assert {key: value for key, value in found.items() if key.startswith("GEARHORN_")} == {
        "GEARHORN_TOPIC": "t",
        "GEARHORN_CLIENT": "web1",
        "GEARHORN_SEQUENCE": "7",
        "GEARHORN_EPOCH": EPOCH,
        "GEARHORN_ATTEMPT": "3",
        "GEARHORN_AT": "2.500000",
        "GEARHORN_UNIQUE": "u",
    }


@pytest.mark.parametrize(
    ("line", "error", "text"),
    [
        ("echo first >&2; echo disk full >&2; exit 3", Retry, "exit code 3: disk full"),
        ("exit 75", Retry, "exit code 75"),
        ("echo broken >&2; exit 65", Park, "exit code 65: broken"),
        ("exit 4", Park, "exit code 4"),
        ("kill -9 $$", Retry, "killed by signal 9"),
        ("sleep 60", Retry, "no end after 0.3 s"),
        ("true < /dev/null; sleep 60 & sleep 60", Retry, "no end after 0.3 s"),
    ],
)
def test_how_a_command_ends_is_how_the_attempt_does(
    line: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        execute.Command(line, 0.3, (4,))(message(b"x" * 100_000))


# the others


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", "all"),
        ("last", "last"),
        ("17", 17),
        ("1h", {"window": 3600.0}),
        ("1.5m", {"window": 90.0}),
    ],
)
def test_where_to_start(text: str, expected: Any) -> None:
    assert listen.start_of(text) == expected


def test_a_start_that_is_none_is_refused() -> None:
    with pytest.raises(click.UsageError, match="--start"):
        listen.start_of("yesterday")


def test_a_message_is_a_line() -> None:
    text = listen.line_of(message(b"a\xff", attempt=2, headers={"h": "v"}, at=1.0), True)
    assert text[8:] == " t 7 (attempt 2) h=v a\\xff"


def test_messages_are_dumped_to_files(tmp_path: Path) -> None:
    write = listen.writer_of(settings.Settings({}), {"dump": str(tmp_path / "d"), "raw": False})
    write(message(b"one"))
    assert (tmp_path / "d" / "t-7").read_bytes() == b"one"


def test_a_template_is_filled_in() -> None:
    options = {"is_base64": False, "template": True}
    filled = publish._filled(b"{n} {random:5} {other}", options, 3).decode().split()
    assert (filled[0], len(filled[1]), filled[2]) == ("3", 5, "{other}")


def test_a_queue_is_carried_by_the_server_of_the_highest_hash() -> None:
    names = ["a:4730", "b:4730", "c:4730"]
    carriers = {servers.carrier_of(f"t_{number}", names) for number in range(50)}
    assert carriers == set(names)
    assert servers.carrier_of("t_1", []) == ""
    table = b"OK\nt_a\t3\t1\t2\nbroken\n.\n"
    assert servers._queues(table) == {"t_a": servers.Queue(3, 1, 2)}


@pytest.mark.parametrize(
    ("value", "is_least", "level", "text"),
    [
        (5, False, 0, "x=5;10;20"),
        (10, False, 1, "x=10;10;20"),
        (20, False, 2, "x=20;10;20"),
        (25, True, 0, "x=25;10:;20:"),
        (15, True, 2, "x=15;10:;20:"),
    ],
)
def test_figures_are_judged(value: float, is_least: bool, level: int, text: str) -> None:
    figure = check.Figure("x", value, 10, 20, is_least)
    assert (figure.level, str(figure)) == (level, text)


DURABLE = {"position": 5, "in_flight": 2, "attempts": 3, "pull": False}


@pytest.mark.parametrize(
    ("sequence", "changes", "state"),
    [
        (5, {}, "done"),
        (6, {}, "failing"),
        (6, {"attempts": 0}, "in flight"),
        (9, {}, "waiting"),
        (6, {"pull": True}, "waiting"),
    ],
)
def test_what_became_of_a_message(sequence: int, changes: dict[str, Any], state: str) -> None:
    row = explain._became("t", "c", DURABLE | changes, sequence=sequence, parked=None)
    assert row["state"] == state


def test_what_is_parked_tells_how_it_is_put_back() -> None:
    parked_one = {"error": "disk full", "at": 5.0, "attempts": 4}
    row = explain._became("t", "c", DURABLE, sequence=3, parked=parked_one)
    assert row["state"] == "parked"
    assert "gearhorn parked redrive t c" in row["note"]


@pytest.mark.parametrize(
    ("queue", "changes", "text"),
    [
        (servers.Queue(0, 0, 1), {}, ""),
        (servers.Queue(0, 0, 0), {}, "no receiver"),
        (servers.Queue(9, 0, 1), {}, "full"),
        (servers.Queue(0, 0, 0), {"durable": {"paused": True}}, "paused"),
        (servers.Queue(0, 0, 0), {"kind": "pull"}, ""),
        (servers.Queue(0, 0, 0), {"carrier": ""}, "no job server"),
    ],
)
def test_what_is_wrong_with_a_subscription(
    queue: servers.Queue, changes: dict[str, Any], text: str
) -> None:
    values: dict[str, Any] = {"durable": {}, "carrier": "a:4730", "limit": 9, "kind": "direct"}
    values |= changes
    assert explain._note(values.pop("kind"), queue=queue, **values).startswith(text)


def test_rows_of_topics_and_subscriptions() -> None:
    subscription = {"queue": "t_c", "drops": 0, "backlog": 2, "durable": DURABLE | {"lag": 4}}
    row = topics.subscription_row("c", subscription)
    assert (row["kind"], row["lag"]) == ("durable", 4)
    assert topics.member_row({"uptime": 90, "servers": ["a", "b"]})["servers"] == "a b"
    assert subscriptions.durable_of(None) is None
    assert subscriptions.durable_of('{"batch": 3}') == {"batch": 3}
    assert Durable(batch=3).options()["batch"] == 3


def test_a_completion_is_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("completion", "bash") == 0
    assert "_GEARHORN_COMPLETE=bash_complete" in capsys.readouterr().out


def test_every_module_has_its_command() -> None:
    for module in (ask, bench, completion, log, parked, top):
        name = module.__name__.rpartition(".")[2]
        assert isinstance(getattr(module, f"{name}_command"), click.Command)


def test_values_that_several_subcommands_have() -> None:
    assert values.headers_of([]) is None
    assert values.headers_of(["a: b:c", "d:"]) == {"a": "b:c", "d": ""}
    with pytest.raises(click.UsageError, match="NAME:VALUE"):
        values.headers_of(["no colon"])
    assert [values.quorum_of(text) for text in (None, "3", "50%")] == [None, 3, "50%"]


# cheat sheets


@pytest.mark.parametrize("name", list(sheets._SHEETS))
def test_what_a_cheat_sheet_says_is_a_command(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("help", name) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    calls = [re.split(r"\s{3,}", line)[0] for line in lines if "gearhorn " in line]
    assert len(calls) >= 3
    for call in calls:
        assert len(call) <= 79
        words = shlex.split(call.partition("gearhorn ")[2])
        command: click.Command = main.main
        ctx = click.Context(command, info_name="gearhorn")
        while isinstance(command, click.Group):
            command.parse_args(ctx, words)
            if not ctx._protected_args:
                break
            name_, found, words = command.resolve_command(ctx, [*ctx._protected_args, *ctx.args])
            assert found is not None
            command, ctx = found, click.Context(found, info_name=name_, parent=ctx)
        if not isinstance(command, click.Group) and "--file" not in call:
            command.parse_args(ctx, words)


def test_without_a_name_the_cheat_sheets_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("help") == 0
    assert "publish|ask|listen" in capsys.readouterr().out
    assert run("help", "all") == 0
    assert capsys.readouterr().out.count("gearhorn ") > 30


# what others have written


def test_names_and_payloads_do_not_reach_the_terminal_as_they_are() -> None:
    assert values.clean("a\x1b[31m\tb\r\n\x9bc\u00e9") == "a\\x1b[31m\\tb\\r\\n\\x9bc\u00e9"
    assert "\x1b" not in listen.line_of(message(b"\x1b]0;x\x07", headers={"h": "\x1b"}), True)
    assert output._plain(1790000000.5) == "1790000000.5"


def test_what_a_monitoring_system_reads_stays_in_its_form(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert check._report("prometheus", 'a"b\\c', [check.Figure("lag", 1)]) == 0
    assert capsys.readouterr().out == 'gearhorn_check_lag{subject="a\\"b\\\\c"} 1\n'
    gone = ("-s", "127.0.0.1:1", "--timeout", "0.2")
    assert run("check", "cluster", "--format", "json", *gone) == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["level"] == "CRITICAL"
    assert run("check", "topic") == 3, "a wrong call is UNKNOWN: 2 would be CRITICAL"
    assert run("check", "topic", "t", "--lag-warn", "nan") == 3
    assert run("check", "topic", "t", "--nothing") == 3


# lines


def lines_in(source: Any) -> list[bytes]:
    async def main() -> list[bytes]:
        return [line async for some in lines.lines_of(source) for line in some]

    return asyncio.run(main())


def test_lines_come_from_texts_files_and_pipes(tmp_path: Path) -> None:
    assert lines_in(b"one\ntwo\r\n\nthree") == [b"one", b"two", b"", b"three"]
    assert lines_in(b"") == []
    (tmp_path / "f").write_bytes(b"x" * 200_000 + b"\ny\n")
    with (tmp_path / "f").open("rb") as file:
        assert lines_in(file) == [b"x" * 200_000, b"y"]
    with open(os.devnull, "rb") as file:
        assert lines_in(file) == []


def test_a_line_is_given_before_the_next_one_has_come() -> None:
    reading, writing = os.pipe()

    async def main() -> None:
        found = lines.lines_of(source)
        os.write(writing, b"one\ntw")
        assert await anext(found) == [b"one"]
        os.write(writing, b"o\n")
        assert await anext(found) == [b"two"]
        os.close(writing)
        with pytest.raises(StopAsyncIteration):
            await anext(found)

    with open(reading, "rb") as source:
        asyncio.run(main())


def test_a_line_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINE_BYTES", 10)
    with pytest.raises(click.UsageError, match="more than 10 bytes"):
        lines_in(b"x" * 20)


@pytest.mark.parametrize(
    ("text", "before"),
    [("", ""), ("ne", "nd\U0010ffff"), ("!", ""), ("a\ue000", ""), ("a_", "a^\U0010ffff")],
)
def test_a_page_begins_right_before_what_is_completed(text: str, before: str) -> None:
    assert settings._before(text) == before
    assert before < text or not before
    assert context.context_command.name == "context"


def test_what_publishes_and_listens_imports_no_tables() -> None:
    """They are started once for each message: what draws tables would double the time."""
    script = (
        "import sys, gearhorn.cli.commands.main\n"
        "from gearhorn.cli.commands import ask, listen, publish\n"
        "sys.exit('rich' in sys.modules or 'redis' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_many_results_are_summed_up() -> None:
    found = publish._Sum()
    results: list[Any] = [Published(2), *[Busy("x")] * 12]
    found.add(Results(results))
    found.add(Results([Published(1)]))
    assert (found.published, found.copies, found.failed) == (2, 3, 12)
    assert len(found.errors) == publish.SHOWN
    assert found.errors[0] == "message 2: busy: x"
