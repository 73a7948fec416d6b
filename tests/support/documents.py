"""Somebody who reads a document and types what it says, in the order in which it is said.

What a document means by its blocks of code:

* ``console``: what is typed into a terminal (``$ ``, and ``> `` where a line goes on), with what it
  shows. Without a name it is typed into the reader's own terminal, and ends.
* ``console`` with the name ``terminal-N``, or ``terminal-N-WORD``: typed into terminal N, where it
  goes on. ``^C`` before it ends what went on there, ``^\\`` ends it as ``kill -9`` would.
* ``text`` with the name ``terminal-N-WORD``: what that terminal shows from now on.
* any language with a name that has a period: a file of that name, which the reader makes.

In what is shown ``...`` stands for anything on one line, and a line of it for any lines; a time of
day for any, and so does the port 4730. White space counts as one space, since tables are as wide as
they must be.
"""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from support.lifelines import tied
from support.servers import HOST, ROOT

SHOWN_S = 60.0  # until a terminal shows what it is to show; some counts are 10 s old
ENDED_S = 60.0  # until a command has ended
# What may be asked again until the answer is what the text shows: it changes nothing.
LOOKS = re.compile(r"gearhorn (show|topics|trace|ask|check|parked list) |python ask")
BLOCK = re.compile(
    r"^\.\. code-block:: (?P<language>\w+)\n(?:    :name: (?P<name>\S+)\n)?"
    r"(?P<code>(?:\n|    .*\n)+)",
    re.M,
)
LITERAL = re.compile(r"::\n(?P<code>(?:\n|    .*\n)+)")
_TERMINAL = re.compile(r"terminal-(\d+)")
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_TIME = re.compile(r"\d\d:\d\d:\d\d")


class Block(NamedTuple):
    """A block of code of a document; ``name`` is empty where it has none."""

    language: str
    name: str
    code: str

    @property
    def terminal(self) -> str:
        """The number of the terminal that is meant; empty where none is."""
        match = _TERMINAL.match(self.name)
        return match[1] if match else ""

    @property
    def is_file(self) -> bool:
        """Whether the reader is to make a file of it."""
        return "." in self.name


def blocks_of(document: Path) -> list[Block]:
    """The blocks of a document, in order."""
    return [
        Block(
            found["language"],
            found["name"] or "",
            textwrap.dedent(found["code"]).strip("\n") + "\n",
        )
        for found in BLOCK.finditer(document.read_text())
    ]


def commands_of(document: Path, program: str) -> list[str]:
    """The literal blocks of a document that are one command of a program."""
    return [
        textwrap.dedent(found["code"]).strip("\n")
        for found in LITERAL.finditer(document.read_text())
        if found["code"].lstrip("\n").startswith(f"    {program} ")
    ]


class Typed(NamedTuple):
    """A command and what it shows; ``key`` is ``^C`` or ``^\\`` where that is pressed first."""

    key: str
    command: str
    shown: str


def typed(code: str) -> Iterator[Typed]:
    """The commands of a console block."""
    key, command, shown = "", "", ""
    for line in code.splitlines():
        if line in ("^C", "^\\"):
            if command:
                yield Typed(key, command, shown)
            key, command, shown = line, "", ""
        elif line.startswith("$ "):
            if command:
                yield Typed(key, command, shown)
                key = ""
            command, shown = line[2:], ""
        elif line.startswith("> ") and not shown:
            command += "\n" + line[2:]
        else:
            shown += line + "\n"
    yield Typed(key, command, shown)


def pattern_of(shown: str) -> re.Pattern[str]:
    """What matches the lines that a document shows."""
    lines = []
    for line in plain(shown).splitlines():
        if line == "...":
            lines.append(r"(?:.*\n)*?")
            continue
        marked = _TIME.sub("\0", line.replace("4730", "..."))
        escaped = re.escape(marked).replace(re.escape("..."), ".*")
        lines.append(escaped.replace("\0", _TIME.pattern) + r"\n")
    return re.compile("".join(lines))


def plain(text: str) -> str:
    """What a terminal shows, without colours and with single spaces."""
    lines = _COLOUR.sub("", text).replace("\r", "").splitlines()
    return "".join(" ".join(line.split()) + "\n" for line in lines if line.strip())


class Terminal:
    """A program in a terminal of its own, and everything that it has shown."""

    def __init__(self, command: str, directory: Path, environment: dict[str, str]) -> None:
        ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            tied(["sh", "-c", command]),
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,  # a shell and what it runs end together
        )
        os.close(theirs)
        self._written = b""
        self._at = 0
        self._thread = threading.Thread(target=self._read, args=(ours,), daemon=True)
        self._thread.start()

    def _read(self, terminal: int) -> None:
        try:
            while data := os.read(terminal, 65536):
                self._written += data
        except OSError:
            pass  # the last program that had the terminal has ended
        os.close(terminal)

    def text(self) -> str:
        """Everything that it has shown, in whole lines: a line that grows would be another."""
        written = self._written
        return plain(written[: written.rfind(b"\n") + 1].decode(errors="replace"))

    def ended(self) -> str:
        """Wait for its end; return everything that it has shown."""
        self.process.wait(ENDED_S)
        self._thread.join(ENDED_S)
        return plain(self._written.decode(errors="replace"))

    def shows(self, shown: str) -> None:
        """Wait until it shows this, behind what was shown before."""
        expected = pattern_of(shown)
        deadline = time.monotonic() + SHOWN_S
        while not (found := expected.search(self.text(), self._at)):
            text = f"expected\n{shown}\nbehind\n{self.text()}"
            assert time.monotonic() < deadline, text
            time.sleep(0.02)
        self._at = found.end()

    def end(self, how: signal.Signals) -> None:
        """End it with all that it runs."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, how)
        self.process.wait(ENDED_S)
        self._thread.join(ENDED_S)


class Reader:
    """Types what documents say, in a directory of its own, beside servers on another port.

    Arguments:
        directory: where files are made and commands are run.
        servers: the addresses of the job server and the store; none until the reader starts some.
    """

    def __init__(self, directory: Path, servers: Sequence[str] = ()) -> None:
        self._directory = directory
        self._terminals: dict[str, Terminal] = {}
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("GEARHORN_")}
        self._environment |= {"COLUMNS": "120", "TERM": "xterm"}
        self._environment |= {"XDG_CONFIG_HOME": str(directory)}
        path = (str(Path(sys.executable).parent), self._environment["PATH"])
        self._environment["PATH"] = os.pathsep.join(path)
        self._ports: dict[str, str] = {}
        if servers:
            self._environment["GEARHORN_SERVERS"] = servers[0]
            for port, server in zip(("4730", "6379"), servers, strict=True):
                self._ports[port] = server.rpartition(":")[2]

    def read(self, document: Path, *, skipped: int = 0) -> None:
        """Do everything that a document says, behind some blocks that were done before."""
        for block in blocks_of(document)[skipped:]:
            self.do(block)

    def do(self, block: Block) -> None:
        """Do what one block says."""
        if block.is_file:
            file = self._directory / block.name
            file.write_text(self._here(block.code))
            file.chmod(0o755)
        elif block.language == "console":
            for entry in typed(block.code):
                self._type(entry, block.terminal)
        elif block.terminal:
            self._terminals[block.terminal].shows(block.code)

    def run(self, command: str) -> str:
        """Type a command; return what it shows once it has ended well."""
        terminal = self._run(command)
        text = terminal.ended()
        assert terminal.process.returncode == 0, text
        return text

    def _type(self, entry: Typed, terminal: str) -> None:
        if entry.key:
            how = signal.SIGTERM if entry.key == "^C" else signal.SIGKILL
            self._terminals.pop(terminal).end(how)
        if not entry.command:
            return
        if terminal:
            assert terminal not in self._terminals, f"something runs in terminal {terminal}"
            self._terminals[terminal] = self._run(entry.command)
            self._terminals[terminal].shows(entry.shown)
            return
        deadline = time.monotonic() + SHOWN_S
        while True:
            text = self._run(entry.command).ended()
            if pattern_of(entry.shown).fullmatch(text):
                return
            is_last = not LOOKS.match(entry.command) or time.monotonic() > deadline
            assert not is_last, f"$ {entry.command}\nexpected\n{entry.shown}\ngot\n{text}"
            time.sleep(0.1)

    def _run(self, command: str) -> Terminal:
        return Terminal(self._here(command), self._directory, self._environment)

    def _here(self, text: str) -> str:
        """What is meant by a text in this place: other ports, and the checkout elsewhere."""
        for port, here in self._ports.items():
            text = text.replace(port, here)
        text = text.replace("localhost", HOST)
        text = text.replace(". .venv/bin/activate", f". {sys.prefix}/bin/activate")
        return re.sub(r"(?<![\w/])scripts/", f"{ROOT}/scripts/", text)

    def shown_in(self, terminal: str) -> str:
        """Everything that a terminal has shown."""
        return self._terminals[terminal].text()

    def close(self) -> None:
        """End what goes on in the terminals: those that were opened last first."""
        for terminal in reversed(self._terminals.values()):
            terminal.end(signal.SIGTERM)
        self._terminals.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
