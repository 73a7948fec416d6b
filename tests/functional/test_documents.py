"""The documents: what they tell the reader to type does what they say, and pages are made of them.

One job server, one store and one worker serve all of it: those that the tutorial starts.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support.documents import Reader, blocks_of, commands_of
from support.examples import need
from support.servers import ROOT, Gearmand, missing
from support.wire import admin

DOCS = ROOT / "docs"
README = ROOT / "README.rst"
COMMAND = DOCS / "command.rst"
TUTORIAL = DOCS / "tutorial.rst"
GUIDES = sorted((DOCS / "guides").glob("*.rst"))
TYPED = [TUTORIAL, README, COMMAND, *GUIDES]
PROGRAMS = ("redis-cli", "gearman ")  # of Debian's redis-tools and gearman-tools
MAKE_S = 120.0  # it takes five seconds of a core


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[str]]:
    """Where the job server and the store are that the tutorial's first command starts."""
    start = blocks_of(TUTORIAL)[0]
    with Reader(tmp_path_factory.mktemp("trio")) as reader:
        reader.do(start)
        found = re.search(
            r"^job server (\S+) .*\nstore redis://(\S+)/0 ", reader.shown_in(start.terminal), re.M
        )
        assert found
        yield found.groups()


@pytest.fixture
def reader(servers: Sequence[str], tmp_path: Path) -> Iterator[Reader]:
    """Somebody who reads one document."""
    with Reader(tmp_path, servers) as reader:
        yield reader


@pytest.mark.parametrize(
    "document", [TUTORIAL, README, COMMAND, *GUIDES], ids=lambda path: path.stem
)
def test_a_document_does_what_it_says(reader: Reader, document: Path) -> None:
    blocks = blocks_of(document)
    files = [block for block in blocks if block.is_file or block.language == "console"]
    if any(block.language == "php" for block in files):
        need("php")
    for program in PROGRAMS:
        if any(program in block.code for block in files) and not shutil.which(program.strip()):
            missing(program)
    reader.read(document, skipped=1 if document == TUTORIAL else 0)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_what_there_was_before_is_python(guide: Path) -> None:
    """Programs for other systems are not run here: those are not installed."""
    for block in blocks_of(guide):
        if block.name == "before":
            compile(block.code, guide.name, "exec")


def test_what_is_typed_for_the_gearman_command_is_taken(reader: Reader) -> None:
    need("shell")
    commands = commands_of(DOCS / "protocol.rst", "gearman")
    assert len(commands) == 3
    for command in commands:
        assert "bad_request" not in reader.run(command)


class AsTold(Gearmand):
    """gearmand with the options that operators are told."""

    def command(self, directory: Path) -> list[str]:
        program, *_ = super().command(directory)
        [told] = commands_of(DOCS / "operations.rst", "gearmand")
        assert told.startswith("gearmand --")
        printed = subprocess.run(
            ["sh", "-c", told.replace("gearmand", "printf '%s\\n'", 1)],
            capture_output=True,
            text=True,
            check=True,
        )
        return [program, *printed.stdout.splitlines()]


def test_a_gearmand_starts_as_operators_are_told() -> None:
    with AsTold() as gearmand:
        assert "OK" in admin(gearmand.address, "version")


def test_what_operators_type_into_redis_cli_shows_something(
    reader: Reader, servers: Sequence[str]
) -> None:
    if not shutil.which("redis-cli"):
        missing("redis-cli")
    table = (DOCS / "operations.rst").read_text().partition("``redis-cli`` shows what is there")[2]
    commands = re.findall(r"^    \* - ``([A-Z]+ .+)``$", table.partition("\n\n``describe")[0], re.M)
    assert len(commands) == 10
    for command in commands:
        shown = reader.run(f"redis-cli -p 6379 {command.replace('TOPIC', 'deploy')}")
        assert not re.match("ERR|WRONGTYPE", shown), command


def test_the_pages_are_made_without_a_warning(tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "manual.py"), "--offline", "--to", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=MAKE_S,
        check=False,
    )
    assert (made.stderr, made.returncode) == ("", 0)
    api = (tmp_path / "html" / "api.html").read_text()
    for name in ("gearhorn.Publisher.publish", "gearhorn.Subscriber.on", "gearhorn.Busy"):
        assert f'id="{name}"' in api
