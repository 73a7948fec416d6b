"""README.rst as a newcomer uses it: its commands run, its programs are those of docs/examples.

What docs/operations.rst says of the options is held here as well. The programs themselves are run
by test_examples.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import click
import pytest
from support.cluster import Cluster, eventually
from support.examples import CLIENTS, EXAMPLES, programs
from support.servers import HOST, ROOT, Gearmand, Redis

from gearhorn.cli.worker import main

BLOCK = re.compile(
    r"^\.\. code-block:: \w+\n    :name: (?P<name>\S+)\n(?P<code>(?:\n|    .*\n)+)", re.M
)
# not read elsewhere
FOR_SPHINX = {f"api{part}.rst" for part in ("", "-aio", "-otel", "-protocol", "-testing")}
FOR_SPHINX |= {"index.rst"}
TEXTS = [ROOT / "README.rst", *sorted((ROOT / "docs").rglob("*.rst"))]
WORKER = re.compile(r"^ +(?:ExecStart=\S*/)?gearhorn-worker (.+)$", re.M)
TYPED = {"terminal-2", "command"}  # by test_documents
COMMANDS = {"two-commands", "worker", *TYPED}


def blocks() -> dict[str, str]:
    """The code of README.rst by the names of its blocks."""
    found = {}
    for match in BLOCK.finditer((ROOT / "README.rst").read_text()):
        found[match["name"]] = textwrap.dedent(match["code"]).strip("\n") + "\n"
    return found


def test_every_block_is_a_command_or_an_example() -> None:
    quoted = set(blocks()) - COMMANDS
    files = {f"{language}-{path.stem}" for language in CLIENTS for path in programs(language)}
    assert set(blocks()) >= COMMANDS
    assert quoted <= files
    for language in CLIENTS:
        assert {f"{language}-publish", f"{language}-receive"} <= quoted
    assert len(blocks()) == (ROOT / "README.rst").read_text().count("code-block::")


@pytest.mark.parametrize("name", sorted(set(blocks()) - COMMANDS))
def test_a_quote_is_what_the_file_says(name: str) -> None:
    language, _, stem = name.partition("-")
    [path] = (path for path in programs(language) if path.stem == stem)
    assert blocks()[name] == path.read_text(), f"copy {path.relative_to(ROOT)} to README.rst"


def test_every_example_is_linked() -> None:
    text = (ROOT / "README.rst").read_text()
    for language in CLIENTS:
        for path in programs(language):
            linked = f"<{path.relative_to(ROOT)}>`__" in text
            assert linked or f"{language}-{path.stem}" in blocks(), path.relative_to(EXAMPLES)


def test_the_two_commands_are_there() -> None:
    # scripts/run is run by test_standalone, and scripts/test runs this
    for line in blocks()["two-commands"].splitlines():
        program, *arguments = shlex.split(line)
        assert os.access(ROOT / program, os.X_OK), f"{program} cannot be run"
        assert not arguments


def test_the_worker_starts_as_the_text_says(tmp_path: Path) -> None:
    cluster = Cluster([Gearmand()], Redis(), workers=0)
    command = blocks()["worker"]
    ports = {"4730": str(cluster.job_servers[0].port), "6379": str(cluster.store.port)}
    for old, new in {**ports, "localhost": HOST}.items():
        assert old in command
        command = command.replace(old, new)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GEARHORN_")}
    environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["sh", "-c", command],
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,  # a shell and what it runs end together
        )
    try:
        eventually(lambda: "event=ready" in log.read_text(), 20, "the worker does not start")
        assert cluster.publish("news", "hello").data == b"0"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)
        cluster.close()


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file(text: Path) -> None:
    for target in re.findall(r"<([^<>:]+)>`__?", text.read_text()):
        path = (text.parent / " ".join(target.split())).resolve()
        assert path.exists(), f"{target} is not there"


@pytest.mark.parametrize(
    "text", [path for path in TEXTS if path.name not in FOR_SPHINX], ids=lambda path: path.name
)
def test_every_text_is_valid_without_sphinx(text: Path) -> None:
    core = pytest.importorskip("docutils.core")
    settings = {"report_level": 1, "halt_level": 1, "warning_stream": False}
    core.publish_doctree(text.read_text(), str(text), settings_overrides=settings)


def test_commands_of_the_worker_have_options_that_there_are() -> None:
    commands = [
        line
        for text in TEXTS
        for line in re.findall(
            r"^ +(?:ExecStart=\S*/)?gearhorn-worker (.+)$", text.read_text(), re.M
        )
    ]
    assert len(commands) >= 4
    known = {name for parameter in main.params for name in parameter.opts}
    for command in commands:
        assert {word for word in command.split() if word.startswith("--")} <= known, command


def test_the_file_of_options_has_keys_that_there_are() -> None:
    text = (ROOT / "docs" / "operations.rst").read_text()
    found = re.search(r"refuses::\n\n((?:    .+\n)+)", text)
    assert found
    keys = {cells[2].strip("`") for cells in rows().values()}
    assert set(tomllib.loads(textwrap.dedent(found[1]))) <= keys


def rows() -> dict[str, list[str]]:
    """The table of options in docs/operations.rst: its cells by the environment's variable."""
    text = (ROOT / "docs" / "operations.rst").read_text()
    table = text.partition(":name: option-table\n")[2].partition("\n\n\n")[0]
    found = {}
    for row in re.split(r"^    \* - ", table, flags=re.M)[2:]:
        cells = [" ".join(cell.split()) for cell in re.split(r"^      -", row, flags=re.M)]
        found[cells[1].strip("`")] = cells
    return found


def test_the_table_of_options_is_what_the_command_has() -> None:
    table = rows()
    parameters = {f"GEARHORN_{one.name}".upper(): one for one in main.params}
    assert set(table) == set(parameters) - {"GEARHORN_VERSION"}
    for variable, (option, _, key, default, _) in table.items():
        parameter = parameters[variable]
        assert key.strip("`") == ("" if parameter.name == "config" else parameter.name)
        if isinstance(parameter, click.Option):
            assert option.strip("`").split()[0] in parameter.opts
            real = parameter.to_info_dict()["default"]
            expected = "off" if parameter.is_flag else "" if real is None else str(real)
            assert default.strip("`") == expected
