"""README.rst as a newcomer uses it: each command and program in it runs, taken from the text.

Only hosts and ports are put in. What docs/operations.rst says of the options is held here as well.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from support.cluster import Cluster, eventually
from support.servers import HOST, ROOT, Gearmand, Redis, missing
from support.wire import admin

from gearhorn.cli.worker import main

BLOCK = re.compile(
    r"^\.\. code-block:: \w+\n    :name: (?P<name>\S+)\n(?P<code>(?:\n|    .*\n)+)", re.M
)
TEXTS = [ROOT / "README.rst", *sorted((ROOT / "docs").glob("*.rst"))]
SHELL = ["subscribe", "receive", "publish", "receipt", "durable", "unsubscribe"]
CLIENTS = {"python": "bob", "perl": "carol", "php": "dave"}  # who subscribes in which language


def blocks() -> dict[str, str]:
    """The code of README.rst by the names of its blocks."""
    found = {}
    for match in BLOCK.finditer((ROOT / "README.rst").read_text()):
        found[match["name"]] = re.sub(r"^    ", "", match["code"], flags=re.M).strip() + "\n"
    return found


class Reader:
    """Somebody who follows README.rst beside servers on other ports than it names."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        self._directory = directory
        self._ports = {"4730": str(cluster.job_servers[0].port), "6379": str(cluster.store.port)}
        self._running: list[subprocess.Popen[bytes]] = []
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("GEARHORN_")}
        self._environment["PATH"] = path

    def run(self, name: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run a block to its end."""
        return subprocess.run(
            self._command(name, changes),
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def start(self, name: str) -> Path:
        """Start a block that goes on for ever; return the file that has its output."""
        output = self._directory / f"{name}.out"
        with output.open("wb") as file:
            self._running.append(
                subprocess.Popen(
                    self._command(name, {}),
                    env=self._environment,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,  # a shell and what it runs end together
                )
            )
        return output

    def _command(self, name: str, changes: dict[str, str]) -> list[str]:
        code = blocks()[name]
        for port, real in self._ports.items():
            code = code.replace(port, real)
        for old, new in {"localhost": HOST, **changes}.items():
            assert old in code, f"{name} does not say {old}"
            code = code.replace(old, new)
        program = self._directory / name
        program.write_text(code)
        language = name.partition("-")[0]
        interpreter = {"python": sys.executable, "perl": "perl", "php": "php"}.get(language)
        return [interpreter or "sh", str(program)]

    def stop(self) -> None:
        """End what was started and goes on."""
        for process in self._running:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(20)
        self._running.clear()


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """gearmand, Redis, and the worker that README.rst starts."""
    cluster = Cluster([Gearmand()], Redis(), workers=0)
    worker = Reader(cluster, tmp_path_factory.mktemp("worker"))
    try:
        log = worker.start("worker")
        eventually(lambda: "event=ready" in log.read_text(), 20, "the worker does not start")
        yield cluster
    finally:
        worker.stop()
        cluster.close()


@pytest.fixture
def reader(followed: Cluster, tmp_path: Path) -> Iterator[Reader]:
    """A reader whose programs end with the test."""
    one = Reader(followed, tmp_path)
    yield one
    one.stop()


def servers_of(cluster: Cluster, function: str) -> int:
    """How many workers serve a function."""
    for line in admin(cluster.address, "status"):
        name, _, _, workers = line.rsplit("\t", 3)
        if name == function:
            return int(workers)
    return 0


def need(language: str) -> None:
    """Skip the test without the interpreter, or the library."""
    perl = ["perl", "-MGearman::Client", "-MGearman::Worker", "-e1"]
    if language == "perl" and subprocess.run(perl, capture_output=True, check=False).returncode:
        missing("libgearman-client-perl")
    php = ["php", "-r", "exit((int) !extension_loaded('gearman'));"]
    if language == "php" and (
        not shutil.which("php") or subprocess.run(php, capture_output=True, check=False).returncode
    ):
        missing("php-gearman")


def test_every_snippet_has_a_test() -> None:
    text = (ROOT / "README.rst").read_text()
    programs = [f"{language}-{what}" for language in CLIENTS for what in ("subscribe", "publish")]
    tested = {"two-commands", "worker", *(f"shell-{what}" for what in SHELL), *programs}
    assert set(blocks()) == tested
    assert len(blocks()) == text.count("code-block::")


def test_the_two_commands_are_there() -> None:
    # scripts/run is run by test_standalone, and scripts/test runs this
    for line in blocks()["two-commands"].splitlines():
        program, *arguments = shlex.split(line)
        assert os.access(ROOT / program, os.X_OK), f"{program} cannot be run"
        assert not arguments


def test_the_shell_commands_do_what_the_text_says(reader: Reader) -> None:
    if not shutil.which("gearman"):
        missing("gearman")
    subscribed = reader.run("shell-subscribe")
    assert re.fullmatch(r'\{"queue":"news_alice","version":\d+\}', subscribed.stdout), subscribed
    received = reader.start("shell-receive")
    assert reader.run("shell-publish").stdout == "1"
    eventually(lambda: received.read_text() == "hello")
    receipt = reader.run("shell-receipt").stdout
    assert '"copies":1,"delivered":["alice"]' in receipt
    assert "100% Complete" in receipt
    eventually(lambda: received.read_text() == "hellohello")
    durable = reader.run("shell-durable")
    assert re.fullmatch(r'\{"queue":"news_alice","version":\d+\}', durable.stdout), durable
    assert '"sequence":1,' in reader.run("shell-receipt").stdout
    eventually(lambda: received.read_text() == "hellohellohello")
    ended = reader.run("shell-unsubscribe").stdout
    assert re.fullmatch(r'\{"version":\d+,"parked_discarded":0\}', ended), ended
    assert reader.run("shell-publish").stdout == "0"


@pytest.mark.parametrize("language", CLIENTS)
def test_a_program_receives_what_its_language_publishes(reader: Reader, language: str) -> None:
    need(language)
    client = CLIENTS[language]
    received = reader.start(f"{language}-subscribe")
    queue = f"news_{client}"
    eventually(lambda: servers_of(reader.cluster, queue), what=f"{queue} has no worker")
    try:
        published = reader.run(f"{language}-publish")
        assert (published.stdout, published.stderr) == ("copies: 1\n", "")
        eventually(lambda: received.read_text() == f"{client} received hello\n")
    finally:
        reader.cluster.run("unsubscribe_fanout", topic="news", client_id=client)


@pytest.mark.parametrize("language", CLIENTS)
def test_a_program_tells_why_it_was_refused(reader: Reader, language: str) -> None:
    need(language)
    refused = reader.run(f"{language}-publish", news="__news")
    assert "reserved: topic __news" in refused.stderr
    assert "copies" not in refused.stdout


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file(text: Path) -> None:
    for target in re.findall(r"<([^<>:]+)>`__?", text.read_text()):
        path = (text.parent / " ".join(target.split())).resolve()
        assert path.exists(), f"{target} is not there"


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.name)
def test_every_text_is_valid(text: Path) -> None:
    core = pytest.importorskip("docutils.core")
    settings = {"report_level": 1, "halt_level": 1, "warning_stream": False}
    core.publish_doctree(text.read_text(), str(text), settings_overrides=settings)


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
