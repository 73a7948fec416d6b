"""A job server, a store and a worker under one supervisor: ``gearhorn.testing`` runs it.

Theory of operation. What a test starts has to end with the test, also where that is killed and can
clean nothing up. So the three belong to a process of their own, this one, which does nothing but
wait for lines on its standard input. The input ends when the program does that holds its other end;
and since a forked child may hold it too, the supervisor also asks whether its parent is still the
one that started it. Then it kills what it started, frozen or not. Should it be killed itself, Linux
kills the three (``child``).

All three are begun before the first is waited for: the worker takes longest, most of it imports,
and tries again where the others are not up yet. So their ports are chosen first; where another
process was quicker to take one, all three are begun again on others.

Rules: one thread. A line in is answered by one line out, a JSON object: ``{"ok": …}`` or
``{"error": TEXT}``. Nothing is kept: what the three write is in a directory that goes with them.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from gearhorn.standalone.child import (
    HOST,
    Child,
    PortTaken,
    Process,
    StandaloneError,
    check_free,
    some_ports,
)
from gearhorn.standalone.servers import find_gearmand, job_server, own_directory, store

WORKER = (sys.executable, "-m", "gearhorn.cli.worker")
READY = "event=ready"  # in the worker's log, once it serves
READY_S = 60.0  # it takes half a second where the machine does nothing else
PARENT_CHECK_S = 0.5  # between two looks whether the parent lives
# A worker that was killed holds up changes of subscriptions for a lease: so it is a short one.
LEASE_S = 2
_POLL_S = 0.01


class Trio:
    """The three while they run; a context manager that kills them.

    Arguments:
        gearmand: the program to run; None: the embedded job server.
        options: of the worker, as on its command line.

    Raises StandaloneError: a program is missing, or one ended or did not answer.
    """

    def __init__(self, gearmand: str | None, options: Sequence[str]) -> None:
        self._options = options
        self._program = None if gearmand is None else find_gearmand(gearmand)
        self._stack = ExitStack()
        self._logs = self._stack.enter_context(own_directory())
        self._worker: Process | None = None
        self._frozen = False
        try:
            self._job_server, self._store = self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> tuple[Child, Child]:
        """Start all three, on ports that are free."""
        *tries, last = zip(some_ports(), some_ports(), strict=True)
        for ports in tries:
            try:
                return self._start_on(*ports)
            except PortTaken:
                continue
        return self._start_on(*last)

    def _start_on(self, gearman_port: int, store_port: int) -> tuple[Child, Child]:
        """Begin all three, then wait for them; kill them where one does not start.

        The worker is the first to be begun, as it takes longest, and the last that is waited for:
        its log says that it has found the others. Their ports are looked at before, so that it does
        not find strangers there.
        """
        check_free("the job server", gearman_port)
        check_free("the store", store_port)
        with ExitStack() as begun:
            begun.callback(self.kill_worker)
            self._begin_worker(gearman_port, store_port)
            kept = store(self._logs, with_parent=signal.SIGKILL)(port=store_port)
            begun.callback(kept.kill)
            begin_job_server = job_server(self._program, self._logs, signal.SIGKILL)
            carrying = begin_job_server(port=gearman_port)
            begun.callback(carrying.kill)
            kept.wait_until_it_answers()
            carrying.wait_until_it_answers()
            self._wait_for_worker()
            self._stack.push(begun.pop_all())
        return carrying, kept

    def _begin_worker(self, gearman_port: int, store_port: int) -> None:
        """Begin a worker. What the environment says of workers is not for this one."""
        command = [*WORKER, f"{HOST}:{gearman_port}", "--redis", f"redis://{HOST}:{store_port}/0"]
        self._worker = Process(
            "gearhorn-worker",
            [*command, "--lease", str(LEASE_S), *self._options],
            self._logs / "worker.log",
            environment={k: v for k, v in os.environ.items() if not k.startswith("GEARHORN_")},
            with_parent=signal.SIGKILL,
        )

    def _wait_for_worker(self) -> None:
        assert self._worker is not None
        deadline = time.monotonic() + READY_S
        while READY not in self._worker.log():
            self._worker.check_alive()
            if time.monotonic() > deadline:
                raise self._worker.complaint(f"was not ready within {READY_S:.0f} s")
            time.sleep(_POLL_S)

    @property
    def server(self) -> str:
        """The job server's address."""
        return f"{HOST}:{self._job_server.port}"

    def kill_worker(self) -> None:
        """End the worker as a crash would, if there is one."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()

    def start_worker(self) -> None:
        """Start a worker, if there is none, and wait until it serves.

        Raises StandaloneError where it ends, or where the job server is frozen: then it would wait.
        """
        if self._worker is None:
            if self._frozen:
                raise StandaloneError("a worker cannot start while the job server is frozen")
            self._begin_worker(self._job_server.port, self._store.port)
            self._wait_for_worker()

    def freeze_job_server(self) -> None:
        """Stop the job server where it stands: its connections stay open, and nothing answers.

        Returns once it stands still: a signal alone is on its way for a moment.
        """
        os.kill(self._job_server.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self._job_server.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        self._frozen = True

    def thaw(self) -> None:
        """Let the job server go on, if it is frozen."""
        os.kill(self._job_server.pid, signal.SIGCONT)
        self._frozen = False

    def log(self) -> str:
        """Return what the present worker has written."""
        return "" if self._worker is None else self._worker.log()

    def close(self) -> None:
        """Kill all three, and take their directory away."""
        self._stack.close()

    def commands(self) -> dict[str, Callable[[], Any]]:
        """Return what a line on the standard input may ask for."""
        return {
            "server": lambda: self.server,
            "kill_worker": self.kill_worker,
            "start_worker": self.start_worker,
            "freeze_job_server": self.freeze_job_server,
            "thaw": self.thaw,
            "log": self.log,
        }


def lines_of(parent: int, source: int) -> Iterator[str]:
    """Yield the lines that come, until there are no more, or the parent has ended.

    Arguments:
        parent: the process that started this one.
        source: the descriptor that they come on.
    """
    waiting = b""
    while os.getppid() == parent:
        if not select.select([source], [], [], PARENT_CHECK_S)[0]:
            continue
        chunk = os.read(source, 1 << 16)
        if not chunk:
            return
        *lines, waiting = (waiting + chunk).split(b"\n")
        yield from (line.decode() for line in lines)


def tell(answer: object, sink: int = 1) -> None:
    """Answer a line, on a descriptor. A reader that has gone is no error: that is found out when
    the next line is waited for."""
    text = json.dumps(answer).encode() + b"\n"
    with suppress(BrokenPipeError):
        while text:
            text = text[os.write(sink, text) :]


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the three, say so, and do as told until the input ends; return the exit status.

    The first line out is the answer to the start: 1 is returned where that failed.
    """
    parser = argparse.ArgumentParser(prog="gearhorn.standalone.trio", description=__doc__)
    parser.add_argument("parent", type=int, help="the process that started this one")
    parser.add_argument("--gearmand", help="this program instead of the embedded job server")
    parser.add_argument("options", nargs="*", help="of the worker, behind --")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program
    try:
        trio = Trio(given.gearmand, given.options)
    except StandaloneError as error:
        tell({"error": str(error)})
        return 1
    try:
        tell({"ok": trio.server})
        commands = trio.commands()
        for line in lines_of(given.parent, sys.stdin.fileno()):
            try:
                tell({"ok": commands[line]()})
            except StandaloneError as error:
                tell({"error": str(error)})
    finally:
        trio.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
