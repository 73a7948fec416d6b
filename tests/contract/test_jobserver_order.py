"""What gearhorn relies on in a job server: whose turn it is, and what abandoned jobs do."""

from __future__ import annotations

import pytest
from support.job_servers import Connect, JobServer, leave
from support.servers import Gearmand
from support.wire import PRE_SLEEP, Wire, admin

pytest_plugins = ["support.job_servers"]
gearmand_only = pytest.mark.parametrize("job_server", [Gearmand], indirect=True)


@gearmand_only
def test_the_function_registered_last_is_served_first(
    client: Wire, worker: Wire, function: bytes
) -> None:
    first, last = function + b"-first", function + b"-last"
    worker.can_do(first, last)
    for payload in (b"1", b"2"):
        client.submit(first, payload, background=True)
        client.submit(last, payload, background=True)
    order = [job.function for _ in range(4) if (job := worker.grab_now())]
    assert order == [last, last, first, first]


def test_a_function_that_a_sleeper_adds_does_not_wake_it(
    client: Wire, worker: Wire, function: bytes
) -> None:
    client.submit(function, background=True)
    worker.send(PRE_SLEEP)
    worker.can_do(function)
    worker.echo()  # a NOOP would be here before the echo
    assert worker.grab_now()


def test_the_jobs_of_a_dead_worker_go_behind_those_that_wait(
    connect: Connect, client: Wire, job_server: JobServer, function: bytes
) -> None:
    for number in range(4):
        client.submit(function, b"%d" % number, background=True)
    dying, heir = connect(), connect()
    dying.can_do(function)
    assert [job.payload for _ in range(2) if (job := dying.grab_now())] == [b"0", b"1"]
    leave(dying, job_server.address)
    heir.can_do(function)
    order = [job.payload for _ in range(4) if (job := heir.grab_now())]
    assert order == [b"2", b"3", b"1", b"0"]


@gearmand_only
def test_an_abandoned_foreground_job_swallows_jobs_with_its_unique(
    connect: Connect, client: Wire, worker: Wire, job_server: JobServer, function: bytes
) -> None:
    leaver = connect()
    handle = leaver.submit(function, unique=b"u")
    leave(leaver, job_server.address)
    assert client.submit(function, unique=b"u", background=True) == handle
    worker.can_do(function)
    assert worker.grab_now() is None
    client.submit(function, unique=b"u", background=True)
    assert worker.grab_now()


@gearmand_only
def test_a_unique_of_64_bytes_puts_a_nul_before_the_payload(
    client: Wire, worker: Wire, function: bytes
) -> None:
    unique = b"u" * 64
    handle = client.submit(function, b"payload", unique=unique, background=True)
    assert client.submit(function, unique=unique, background=True) != handle
    worker.can_do(function)
    job = worker.grab_now()
    assert job is not None
    assert (job.unique, job.payload) == (unique[:63], b"\0payload")


@gearmand_only
def test_dropping_a_function_loses_its_jobs_whatever_the_case_of_its_name(
    client: Wire, worker: Wire, job_server: JobServer, function: bytes
) -> None:
    client.submit(function, background=True)
    assert admin(job_server.address, f"drop function {function.decode().upper()}") == "OK"
    worker.can_do(function)
    assert worker.grab_now() is None
