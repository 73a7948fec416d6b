"""A pytest plugin: callers and receivers that gearhorn knows nothing of, raw ones and programs."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

import pytest

from support.cluster import Cluster
from support.servers import Gearmand, Redis, missing
from support.wire import (
    ECHO_REQ,
    ECHO_RES,
    JOB_CREATED,
    SUBMIT_JOB,
    WORK_COMPLETE,
    WORK_FAIL,
    WORK_STATUS,
    WORK_WARNING,
    Assigned,
    Outcome,
    Wire,
    packet,
)

PROGRAM_S = 20.0  # longer than any program here takes: beyond, it hangs


class Taker(Wire):
    """A connection that takes copies when a test says so, one by one."""

    def take(self, timeout: float = 10.0) -> Assigned:
        """The next copy; AssertionError if none comes."""
        job = self.grab(timeout)
        assert job is not None, f"no copy in {timeout} s"
        return job

    def finish(self, count: int = 1, answer: bytes = b"") -> list[bytes]:
        """Take and complete this many copies; return their payloads."""
        payloads = []
        for _ in range(count):
            job = self.take()
            self.complete(job.handle, answer)
            payloads.append(job.payload)
        return payloads


class Pending:
    """A foreground request under way, on a connection of its own."""

    def __init__(self, wire: Wire, handle: bytes) -> None:
        self.wire = wire
        self.handle = handle

    def progress(self) -> list[tuple[int, int]]:
        """The done/total that it was told so far; AssertionError if it has been answered."""
        self.wire.send(ECHO_REQ, b"so far")
        statuses = []
        while (got := self.wire.recv())[0] != ECHO_RES:
            assert got[0] == WORK_STATUS, f"answered already: {got}"
            _, done, total = got[1].split(b"\0")
            statuses.append((int(done), int(total)))
        return statuses

    def outcome(self, timeout: float = 15.0) -> Outcome:
        """How it ends."""
        return self.wire.outcome(self.handle, timeout)


class Batch:
    """Foreground requests that were submitted in one piece, on a connection of their own."""

    def __init__(self, wire: Wire, function: str, bodies: Sequence[bytes]) -> None:
        self.wire = wire
        self._early = deque[tuple[int, bytes]]()
        self._handles = list[bytes]()
        wire.send_raw(b"".join(packet(SUBMIT_JOB, function.encode(), b"", body) for body in bodies))
        while len(self._handles) < len(bodies):
            kind, body = wire.recv()
            if kind == JOB_CREATED:
                self._handles.append(body)
            else:
                self._early.append((kind, body))

    def outcomes(self, timeout: float = 15.0) -> list[Outcome]:
        """How they end, in the order in which they were submitted."""
        deadline = time.monotonic() + timeout
        warnings: dict[bytes, list[bytes]] = {handle: [] for handle in self._handles}
        statuses: dict[bytes, list[tuple[int, int]]] = {handle: [] for handle in self._handles}
        ended: dict[bytes, Outcome] = {}
        while len(ended) < len(self._handles):
            if self._early:
                kind, body = self._early.popleft()
            else:
                kind, body = self.wire.recv(deadline - time.monotonic())
            handle, _, rest = body.partition(b"\0")
            assert handle not in ended, f"{handle!r} goes on after its end"
            if kind == WORK_STATUS:
                done, total = rest.split(b"\0")
                statuses[handle].append((int(done), int(total)))
            elif kind == WORK_WARNING:
                warnings[handle].append(rest)
            else:
                name = {WORK_COMPLETE: "complete", WORK_FAIL: "fail"}[kind]
                ended[handle] = Outcome(name, rest, warnings[handle], statuses[handle])
        return [ended[handle] for handle in self._handles]


class Raw:
    """Raw callers and receivers of one job server, all closed by `close`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._wires: list[Wire] = []

    def wire(self) -> Wire:
        """A connection."""
        self._wires.append(Wire(self.address))
        return self._wires[-1]

    def taker(self, *queues: str) -> Taker:
        """A receiver of these queues."""
        taker = Taker(self.address)
        self._wires.append(taker)
        taker.can_do(*(queue.encode() for queue in queues))
        return taker

    def start(self, function: str, body: bytes | None = None, /, **request: Any) -> Pending:
        """Submit a foreground request: `body` as it is, or the keywords as JSON."""
        if body is None:
            body = json.dumps(request).encode()
        wire = self.wire()
        return Pending(wire, wire.submit(function.encode(), body))

    def ask(self, function: str, body: bytes | None = None, /, **request: Any) -> Outcome:
        """Run a foreground request to its end."""
        pending = self.start(function, body, **request)
        outcome = pending.outcome()
        pending.wire.close()
        return outcome

    def fanout(self, topic: str, payload: Any, **options: Any) -> Pending:
        """Start a fan-out that waits for its receivers."""
        return self.start("fanout", topic=topic, payload=payload, **options)

    def batch(self, requests: Iterable[dict[str, Any]]) -> Batch:
        """Submit `fanout` requests in one piece, each a foreground job."""
        return Batch(self.wire(), "fanout", [json.dumps(one).encode() for one in requests])

    def close(self) -> None:
        """Close every connection."""
        for wire in self._wires:
            wire.close()

    def __enter__(self) -> Raw:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@pytest.fixture
def raw(cluster: Cluster) -> Iterator[Raw]:
    """Callers and receivers on the cluster's first job server, closed when the test ends."""
    with Raw(cluster.address) as raw:
        yield raw


@pytest.fixture(scope="session")
def gearmand_cluster() -> Iterator[Cluster]:
    """One worker between gearmand and Redis, for tests with programs that are not ours."""
    shared = Cluster([Gearmand()], Redis())
    yield shared
    shared.close()


def refusal(outcome: Outcome) -> str:
    """The text of a refusal, which must be told as docs/protocol.rst says."""
    assert (outcome.kind, outcome.data, len(outcome.warnings)) == ("fail", b"", 1), outcome
    return outcome.warnings[0].decode()


def receipt(outcome: Outcome) -> dict[str, Any]:
    """The receipt that a fan-out replied with."""
    assert (outcome.kind, outcome.warnings) == ("complete", []), outcome
    decoded = json.loads(outcome.data)
    assert isinstance(decoded, dict)
    return decoded


def find(program: str) -> str:
    """The path of a program, which the test cannot do without."""
    return shutil.which(program) or missing(program)


def run_program(
    command: Sequence[str], stdin: bytes = b"", timeout: float = PROGRAM_S
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end; AssertionError if it hangs."""
    try:
        return subprocess.run(
            command, input=stdin, capture_output=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError(
            f"{command} hangs; it wrote {error.stdout!r} {error.stderr!r}"
        ) from None
