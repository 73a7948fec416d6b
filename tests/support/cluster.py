"""A whole gearhorn for tests: job servers, a store, workers as processes, and receivers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from support.lifelines import tied
from support.servers import EmbeddedGearman, Gearmand, Redis, Valkey
from support.standstill import Standstill
from support.wire import Assigned, Outcome, Wire

READY_S = 20.0
Behaviour = Callable[[Wire, Assigned], None]


def eventually(check: Callable[..., Any], timeout: float = 10.0, what: str = "") -> Any:
    """Return the first true value of `check()`, asked again until the timeout (seconds)."""
    deadline = time.monotonic() + timeout
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < deadline, what or f"still {value!r} after {timeout} s"
        time.sleep(0.02)


class Worker:
    """A gearhorn-worker process, whose loop is watched unless that would cost what is measured."""

    program: Sequence[str] = ("-m", "gearhorn.cli.worker")

    def __init__(
        self, servers: Sequence[str], redis: str, *options: str, is_watched: bool = True
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="gearhorn-worker-")
        self._log = Path(self._directory.name) / "log"
        self.standstill = Standstill(Path(self._directory.name) / "standstill")
        watched = self.standstill.watched if is_watched else ()
        self.command = [sys.executable, *watched, *self.program]
        self.command += [*servers, "--redis", redis, *options]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GEARHORN_")}
        self.process = self._start(environment)

    def _start(self, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as log:
            return subprocess.Popen(tied(self.command), stderr=log, stdout=log, env=environment)

    def log(self) -> str:
        """What the worker has written."""
        return self._log.read_text(errors="replace")

    def logs(self, text: str, count: int = 1) -> None:
        """Wait until its log holds a text so many times.

        The worker writes its log on a thread, so that a line may come after the answer to the
        request that it is about.
        """
        missing = f"{text!r} is not in the log"
        eventually(lambda: self.log().count(text) >= count, 20, missing)

    def ready(self, timeout: float = READY_S) -> Worker:
        """Wait until it serves."""
        eventually(lambda: "event=ready" in self.log() or self.process.poll() is not None, timeout)
        assert self.process.poll() is None, f"the worker ended:\n{self.log()}"
        return self

    def peak_bytes(self) -> int:
        """The most resident memory that it has had since the last call, or its start."""
        process = Path(f"/proc/{self.process.pid}")
        status = (process / "status").read_text()
        (peak,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        (process / "clear_refs").write_text("5")  # forgets the peak
        return int(peak.split()[1]) * 1024

    def kill(self) -> None:
        """SIGKILL, and reap."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self, timeout: float = 20.0) -> int:
        """SIGTERM; return the exit code."""
        if self.process.poll() is None:
            self.thaw()
            self.process.terminate()
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        return self.process.returncode

    def close(self) -> None:
        """Stop in whatever way, and remove the log."""
        try:
            if self.process.poll() is None:
                self.stop(3)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._directory.cleanup()


class Receiver:
    """Serves queues of one job server in a thread and keeps what came.

    `behave` finishes a job in its own way; without it every job is completed with `answer`.
    """

    def __init__(
        self,
        address: str,
        *queues: str,
        behave: Behaviour | None = None,
        answer: bytes = b"",
    ) -> None:
        self.jobs: list[Assigned] = []
        self._behave = behave or (lambda wire, job: wire.complete(job.handle, answer))
        self._wire = Wire(address)
        self._wire.can_do(*(queue.encode() for queue in queues))
        self._stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def payloads(self) -> list[bytes]:
        """What came, in order."""
        return [job.payload for job in self.jobs]

    def wait(self, count: int, timeout: float = 10.0) -> list[bytes]:
        """Wait for this many jobs and return their payloads."""
        eventually(
            lambda: len(self.jobs) >= count, timeout, f"fewer than {count} jobs in {timeout} s"
        )
        return self.payloads

    def _run(self) -> None:
        try:
            while not self._stopping:
                job = self._wire.grab(0.1)
                if job is not None:
                    self.jobs.append(job)
                    self._behave(self._wire, job)
        except (OSError, AssertionError, EOFError):
            if not self._stopping:
                return  # its server went away: a test that cares looks at what came

    def close(self) -> None:
        """Stop the thread and leave."""
        self._stopping = True
        self._thread.join(5)
        self._wire.close()


class Cluster:
    """Job servers, a store and workers; everything it started, `close` stops."""

    def __init__(
        self,
        job_servers: Sequence[Gearmand | EmbeddedGearman],
        store: Redis | Valkey,
        workers: int = 1,
        options: Sequence[str] = (),
        *,
        is_watched: bool = True,
    ) -> None:
        self._is_watched = is_watched
        self.job_servers = list(job_servers)
        self.store = store
        self.workers: list[Worker] = []
        self._options = tuple(options)
        self._receivers: list[Receiver] = []
        self._wires: list[Wire] = []
        try:
            for server in [*self.job_servers, store]:
                server.start()
            for _ in range(workers):
                self.add_worker()
            for worker in self.workers:
                worker.ready()
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        """The first job server."""
        return self.job_servers[0].address

    def add_worker(self, *options: str) -> Worker:
        """Start one more worker; it is not ready yet."""
        addresses = [server.address for server in self.job_servers]
        worker = Worker(
            addresses, self.store.url, *self._options, *options, is_watched=self._is_watched
        )
        self.workers.append(worker)
        return worker

    def wire(self, address: str | None = None) -> Wire:
        """Open a connection to a job server (the first one)."""
        wire = Wire(address or self.address)
        self._wires.append(wire)
        return wire

    def receiver(self, *queues: str, address: str | None = None, **kwargs: Any) -> Receiver:
        """Serve queues of a job server (the first one)."""
        receiver = Receiver(address or self.address, *queues, **kwargs)
        self._receivers.append(receiver)
        return receiver

    def run(self, function: str, timeout: float = 15.0, /, **request: Any) -> Outcome:
        """Run one foreground request and return its outcome."""
        wire = Wire(self.address)
        try:
            return wire.run(function.encode(), json.dumps(request).encode(), timeout)
        finally:
            wire.close()

    def subscribe(self, topic: str, *clients: str, **options: Any) -> None:
        """Subscribe clients; fails unless each is a success."""
        for client in clients:
            outcome = self.run("subscribe_fanout", topic=topic, client_id=client, **options)
            assert outcome.kind == "complete", outcome

    def publish(self, topic: str, payload: Any, **options: Any) -> Outcome:
        """Fan out in the background unless told otherwise; return the outcome."""
        return self.run("fanout", topic=topic, payload=payload, **{"background": True} | options)

    def close(self) -> None:
        """Stop everything."""
        for receiver in self._receivers:
            receiver.close()
        for wire in self._wires:
            wire.close()
        for worker in self.workers:
            worker.close()
        for server in [*self.job_servers, self.store]:
            server.stop()
