"""A pytest plugin: a job server of either kind, with connections and functions to use it.

A test module that names it in `pytest_plugins` runs each of its tests against gearmand and against
the embedded server. The two servers serve all tests; each test has functions of its own.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import pytest

from support.servers import EmbeddedGearman, Gearmand
from support.wire import ERROR, SET_CLIENT_ID, Wire, admin

JobServer = Gearmand | EmbeddedGearman
Connect = Callable[[], Wire]
SERVERS = [Gearmand, EmbeddedGearman]

_numbers = itertools.count(1)


@pytest.fixture(scope="session", params=SERVERS, ids=lambda kind: kind.__name__)
def job_server(request: pytest.FixtureRequest) -> Iterator[JobServer]:
    """A running job server."""
    with request.param() as server:
        yield server


@pytest.fixture
def connect(job_server: JobServer) -> Iterator[Connect]:
    """Opens connections, which are closed when the test ends."""
    wires: list[Wire] = []

    def connect() -> Wire:
        wires.append(Wire(job_server.address))
        return wires[-1]

    yield connect
    for wire in wires:
        wire.close()


@pytest.fixture
def client(connect: Connect) -> Wire:
    """A connection."""
    return connect()


@pytest.fixture
def worker(connect: Connect) -> Wire:
    """Another connection; it serves no function yet."""
    return connect()


@pytest.fixture
def function(request: pytest.FixtureRequest) -> bytes:
    """A function name that no other test uses."""
    name = str(request.node.name).partition("[")[0]
    return f"{name}-{next(_numbers)}".encode()


def leave(wire: Wire, address: str) -> None:
    """Close the connection and wait until the server has noticed."""
    wire.send(SET_CLIENT_ID, b"leaving")
    wire.echo()
    wire.close()
    deadline = time.monotonic() + 10
    while any(" leaving :" in line for line in admin(address, "workers")):
        assert time.monotonic() < deadline, "the server keeps the connection"


def counts(address: str, function: bytes) -> list[int]:
    """What `status` says of a function: jobs, running jobs, workers."""
    for line in admin(address, "status"):
        name, *numbers = line.rsplit("\t", 3)
        if name.encode(errors="surrogateescape") == function:
            return [int(number) for number in numbers]
    raise AssertionError(f"status does not list {function!r}")


def refuses(wire: Wire, code: bytes) -> None:
    """Assert that the next answer is this ERROR and that the connection lives on."""
    assert wire.expect(ERROR).split(b"\0")[0] == code
    wire.echo()
