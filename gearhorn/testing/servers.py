"""A gearhorn of one's own: the job server, the store and the worker that a test runs against.

Theory of operation. The three run under a supervisor (``gearhorn.standalone.trio``), which is this
process's only child, and which ends them when this process ends, however that comes. What a test
asks for goes to it as a line on its standard input, and its answer comes back as one. So there is
no thread here, and nothing that a fork would break.

Rules: blocks, also where a test is asynchronous: a start takes a second at most, anything else
milliseconds. Safe from any thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from gearhorn import aio
from gearhorn.client import sync
from gearhorn.standalone.child import StandaloneError

SUPERVISOR = (sys.executable, "-m", "gearhorn.standalone.trio")
END_S = 20.0  # for the supervisor to kill what it has: it takes a tenth of a second


class Aio:
    """Makes objects for asyncio, each for the loop on which it is used: ``async with`` closes it.

    Arguments:
        servers: the job servers.
    """

    def __init__(self, servers: tuple[str, ...]) -> None:
        self._servers = servers

    def publisher(self, **settings: Any) -> aio.Publisher:
        """Return a publisher; ``settings`` are its arguments."""
        return aio.Publisher(*self._servers, **settings)

    def subscriber(self, client_id: str, **settings: Any) -> aio.Subscriber:
        """Return a subscriber of that name, not started; ``settings`` are its arguments."""
        return aio.Subscriber(client_id, *self._servers, **settings)

    def admin(self, **settings: Any) -> aio.Admin:
        """Return an administrator; ``settings`` are its arguments."""
        return aio.Admin(*self._servers, **settings)


class Standalone:
    """A running job server, store and worker; a context manager that ends them.

    They end with this process too, even if it is killed. Made by ``standalone``.

    Attributes:
        servers: the addresses of the job servers, for whatever connects by itself.
        aio: makes the same objects for asyncio.

    Each method raises ``StandaloneError`` where the supervisor has ended.
    """

    def __init__(self, supervisor: subprocess.Popen[str]) -> None:
        self._supervisor = supervisor
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._made = contextlib.ExitStack()
        self.servers: tuple[str, ...] = (self._answer(),)
        self.aio = Aio(self.servers)

    def publisher(self, **settings: Any) -> sync.Publisher:
        """Return a publisher, which is closed at the end; ``settings`` are its arguments."""
        publisher = sync.Publisher(*self.servers, **settings)
        self._made.callback(publisher.close)
        return publisher

    def subscriber(self, client_id: str, **settings: Any) -> sync.Subscriber:
        """Return a subscriber of that name, not started, which is stopped at the end; ``settings``
        are its arguments."""
        subscriber = sync.Subscriber(client_id, *self.servers, **settings)
        self._made.callback(subscriber.close)
        return subscriber

    def admin(self, **settings: Any) -> sync.Admin:
        """Return an administrator, which is closed at the end; ``settings`` are its arguments."""
        admin = sync.Admin(*self.servers, **settings)
        self._made.callback(admin.close)
        return admin

    def kill_worker(self) -> None:
        """End the worker as a crash would. Requests wait at the job server from here on, until
        ``start_worker``. Without effect where there is none."""
        self._ask("kill_worker")

    def start_worker(self) -> None:
        """Start a worker where there is none, and return once it serves.

        Raises ``StandaloneError`` where it ends, or the job server is frozen.
        """
        self._ask("start_worker")

    def freeze_job_server(self) -> None:
        """Halt the job server, until ``thaw``: connections to it stay open, and nothing answers."""
        self._ask("freeze_job_server")

    def thaw(self) -> None:
        """Let the job server go on."""
        self._ask("thaw")

    def log(self) -> str:
        """Return what the present worker has logged."""
        return str(self._ask("log"))

    @contextlib.contextmanager
    def lent(self) -> Iterator[Standalone]:
        """Lend it to one test of many: whole, whatever the former one has killed; what this one
        makes is closed behind it, and what it freezes is thawed."""
        self.start_worker()
        with contextlib.ExitStack() as behind:
            behind.callback(self._made.close)  # the last: what was made may have goodbyes to say
            behind.callback(self.thaw)
            yield self

    def close(self) -> None:
        """Close what was made, and end the three; may be repeated.

        Without effect in a forked child, whose parent goes on with them.
        """
        if os.getpid() != self._pid:
            return
        with contextlib.ExitStack() as behind:
            behind.callback(_end, self._supervisor)
            behind.callback(self._made.close)  # what was made may have goodbyes to say
            with contextlib.suppress(StandaloneError):
                self.thaw()

    def __enter__(self) -> Standalone:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, command: str) -> Any:
        """Have the supervisor do something; return its answer. Raises ``StandaloneError``."""
        assert self._supervisor.stdin is not None
        with self._lock:
            try:
                self._supervisor.stdin.write(f"{command}\n")
                self._supervisor.stdin.flush()
            except (OSError, ValueError):  # its end is gone, or ours
                raise StandaloneError("the servers have ended") from None
            return self._answer()

    def _answer(self) -> Any:
        """Return what the supervisor says next; raises ``StandaloneError``."""
        assert self._supervisor.stdout is not None
        line = self._supervisor.stdout.readline()
        if not line:
            raise StandaloneError("the servers have ended")
        answer = json.loads(line)
        if "error" in answer:
            raise StandaloneError(answer["error"])
        return answer["ok"]


def standalone(*, gearmand: str | None = None, options: Sequence[str] = ()) -> Standalone:
    """Start a job server, a store and a worker; return once they serve.

    They listen on free ports of 127.0.0.1, keep everything in memory, and have nothing to do with
    others that run on this machine. Needs the extra ``standalone``, which has the store.

    Arguments:
        gearmand: run this program as the job server; None: the one that gearhorn brings along,
            which is the same on every machine.
        options: of the worker, as on its command line: ``("--max-payload", "1k")``.

    Raises ``StandaloneError``: something is not installed, or one of the three did not start. The
    text ends with the last lines of its log.
    """
    chosen = () if gearmand is None else ("--gearmand", gearmand)
    supervisor = subprocess.Popen(
        [*SUPERVISOR, *chosen, str(os.getpid()), "--", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the program, which then ends this one
    )
    try:
        return Standalone(supervisor)
    except BaseException:  # an interrupt, too
        _end(supervisor)
        raise


def _end(supervisor: subprocess.Popen[str]) -> None:
    """Have a supervisor end what it has started, and wait for that."""
    for pipe in (supervisor.stdin, supervisor.stdout):
        with contextlib.suppress(OSError):  # nobody reads it any more
            if pipe is not None:
                pipe.close()
    try:
        supervisor.wait(END_S)
    except subprocess.TimeoutExpired:  # Linux kills the three with it
        supervisor.kill()
        supervisor.wait()
