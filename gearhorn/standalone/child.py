"""Children: a server as a process of its own, which counts as started once it answers.

Theory of operation. A child is begun, and then waited for, in two steps: so several can be begun
before the first is waited for. Its port is checked before the process is started, because gearmand
would try for 20 s and Valkey end with an error; and the answer after it, because another process
may have been quicker. The log is a file: a pipe that is not read would stall the server.

On Linux a child ends when the thread that started it does (PR_SET_PDEATHSIG), however that comes.

Rules: begun on the main thread before any other thread exists, since a fork copies only the calling
thread, and Linux counts the end of the thread that forked as the parent's. Everything here blocks.
"""

from __future__ import annotations

import ctypes
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from gearhorn.errors import GearhornError

HOST = "127.0.0.1"
# Outside the ephemeral range of Linux (from 32768): there a client that reconnects to a port whose
# server is down can be given that very port for its own end, and then talks to itself.
PORTS = range(20000, 32000)
PORT_ATTEMPTS = 20  # were half of these ports taken, 1 start in a million would find none
START_TIMEOUT_S = 60.0  # Valkey reads its whole log before it answers: 10 GB or so
STOP_TIMEOUT_S = 10.0  # each ends in milliseconds; what does not is stuck
POLL_S = 0.02  # between two questions whether a server is up, which takes some 50 ms
ASK_TIMEOUT_S = 1.0  # for one answer over loopback

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class StandaloneError(GearhornError):
    """A server could not be started; the text names it and ends with the last lines of its log."""


class PortTaken(StandaloneError):
    """Another process listens on the port: the next one may be free."""


class Process:
    """A program in a process of its own, that writes to a log, and ends when its parent does.

    Arguments:
        name: what errors call it.
        command: how to run it.
        log: the file for its output.
        keep: descriptors to leave open for it.
        environment: its variables; None: those of this process.
        with_parent: the signal that Linux sends it when its parent ends.

    Raises StandaloneError if it cannot be run.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        keep: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
        with_parent: signal.Signals = signal.SIGTERM,
    ) -> None:
        self._name, self._log = name, log
        try:
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=keep,
                    env=environment,
                    start_new_session=True,
                    preexec_fn=partial(_end_with, os.getpid(), with_parent),  # noqa: PLW1509  # no threads yet
                )
        except (OSError, subprocess.SubprocessError) as error:
            raise StandaloneError(f"{name} cannot be run: {error}") from error

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def log(self) -> str:
        """Return what it has written."""
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        """End the process and wait for its end; it is killed after ``STOP_TIMEOUT_S``."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End the process at once, frozen or not, and wait for its end."""
        self._process.kill()
        self._process.wait()

    def check_alive(self) -> None:
        """Raise StandaloneError if it has ended."""
        status = self._process.poll()
        if status is not None:
            raise self.complaint(f"ended with status {status} as it started")

    def complaint(self, what: str) -> StandaloneError:
        """Return an error with the end of the log, of the kind that the log tells: both servers and
        the embedded one write "address already in use" there."""
        lines = self.log().splitlines()[-10:]
        kind = PortTaken if "ddress already in use" in "".join(lines) else StandaloneError
        return kind("\n".join((f"{self._name} {what}", *lines)))


class Child(Process):
    """A server on a port.

    Arguments:
        name, command, log, keep, with_parent: see ``Process``; the port is added to the command.
        question, answer: what to ask it, and the pattern of its answer with the groups ``pid`` and
            ``version``. The process id tells it from a stranger that was quicker to take the port.
        port: the port to listen on.

    Raises StandaloneError if it cannot be run; ``PortTaken`` if another port may help.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        question: bytes,
        answer: bytes,
        port: int,
        keep: Sequence[int] = (),
        with_parent: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.port = port
        self.version = ""
        self._question, self._answer = question, re.compile(answer)
        check_free(name, port)
        command = [*command, "--port", str(port)]
        super().__init__(name, command, log, keep=keep, with_parent=with_parent)

    def wait_until_it_answers(self) -> None:
        """Wait until the server tells its ``version``.

        Raises StandaloneError with the last lines of its log where it ends or is silent,
        ``PortTaken`` where another process answers. The process goes on then, unless it has ended.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            self.check_alive()
            if match := _ask(self.port, self._question, self._answer):
                if int(match["pid"]) != self.pid:
                    raise PortTaken(f"{self._name}: port {self.port} is taken")
                self.version = match["version"].decode()
                return
            time.sleep(POLL_S)
        raise self.complaint(f"did not answer within {START_TIMEOUT_S:.0f} s")


def start_on_a_port(begin: partial[Child], ports: Sequence[int]) -> Child:
    """Start a server on the first of these ports that is free, and wait until it answers.

    Arguments:
        begin: makes the child, but for its port.
        ports: to be tried in this order.

    An interrupt while it starts (``BaseException``) ends it. Raises StandaloneError: what any
    attempt found that another port does not help, or what the last one found.
    """
    *tries, last = ports
    for port in tries:
        try:
            return _start(begin, port)
        except PortTaken:
            continue
    return _start(begin, last)


def check_free(name: str, port: int) -> None:
    """Raise ``PortTaken`` where a port of ``HOST`` cannot be listened on; gearmand itself would try
    for 20 s."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen()
        except OSError:
            raise PortTaken(f"{name}: port {port} is taken") from None


def some_ports() -> list[int]:
    """Return ports that may be free."""
    return random.sample(PORTS, PORT_ATTEMPTS)


def _start(begin: partial[Child], port: int) -> Child:
    child = begin(port=port)
    try:
        child.wait_until_it_answers()
    except BaseException:
        child.stop()
        raise
    return child


def _end_with(parent: int, number: signal.Signals) -> None:
    """Between fork and exec: end when the parent does, and hear signals that the parent blocks.

    The parent may have ended before the kernel was asked, which then tells nothing: so its process
    id is compared afterwards.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if _LIBC:
        _LIBC.prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def _ask(port: int, question: bytes, answer: re.Pattern[bytes]) -> re.Match[bytes] | None:
    """Ask a server; None if it does not listen yet, or says something else."""
    received = b""
    try:
        with socket.create_connection((HOST, port), timeout=ASK_TIMEOUT_S) as connection:
            connection.sendall(question)
            while not (match := answer.search(received)):
                chunk = connection.recv(1 << 16)
                if not chunk:
                    return None
                received += chunk
            return match
    except OSError:
        return None
