"""What gearhorn relies on in a job server: how jobs are joined, kept, handed on and dropped."""

from __future__ import annotations

import pytest
from support.job_servers import SERVERS, Connect, JobServer, counts, leave, refuses
from support.wire import CANT_DO, RESET_ABILITIES, Outcome, Refused, Wire, admin

pytest_plugins = ["support.job_servers"]
GET_STATUS_UNIQUE, STATUS_RES_UNIQUE = 41, 42


# Unique ids


@pytest.mark.parametrize("running", [False, True], ids=["waiting", "running"])
def test_a_unique_joins_the_job_that_has_it(
    connect: Connect, client: Wire, worker: Wire, function: bytes, running: bool
) -> None:
    other = connect()
    worker.can_do(function)
    handle = client.submit(function, b"first", unique=b"u")
    if running:
        assert worker.grab_now()
    assert other.submit(function, b"second", unique=b"u") == handle
    if not running:
        job = worker.grab_now()
        assert job is not None
        assert (job.unique, job.payload) == (b"u", b"first")
    assert worker.grab_now() is None
    worker.warn(handle, b"careful")
    worker.complete(handle, b"result")
    expected = Outcome("complete", b"result", [b"careful"], [])
    assert client.outcome(handle) == expected
    assert other.outcome(handle) == expected


def test_a_job_is_found_by_its_unique(client: Wire, worker: Wire, function: bytes) -> None:
    def state() -> bytes:
        client.send(GET_STATUS_UNIQUE, unique)
        kind, body = client.recv()
        assert kind == STATUS_RES_UNIQUE
        return body

    unique = function + b"-u"
    assert state() == unique + b"\x000\x000\x000\x000\x000"
    handle = client.submit(function, unique=unique)
    assert state() == unique + b"\x001\x000\x000\x000\x001"
    worker.can_do(function)
    assert worker.grab_now()
    assert state() == unique + b"\x001\x001\x000\x000\x001"
    worker.complete(handle)
    client.outcome(handle)
    assert state() == unique + b"\x000\x000\x000\x000\x000"


def test_a_unique_is_free_when_its_job_has_ended(
    client: Wire, worker: Wire, function: bytes
) -> None:
    worker.can_do(function)
    first = client.submit(function, unique=b"u", background=True)
    assert worker.grab_now()
    worker.complete(first)
    worker.echo()
    assert client.submit(function, unique=b"u", background=True) != first
    assert worker.grab_now()


def test_a_unique_does_not_join_a_job_of_another_function(
    client: Wire, worker: Wire, function: bytes
) -> None:
    functions = function + b"-a", function + b"-b"
    handles = {client.submit(name, unique=b"u", background=True) for name in functions}
    assert len(handles) == 2


def test_without_a_unique_nothing_is_joined(client: Wire, function: bytes) -> None:
    first = client.submit(function, b"same", background=True)
    assert client.submit(function, b"same", background=True) != first


def test_a_dash_joins_by_payload(client: Wire, worker: Wire, function: bytes) -> None:
    first = client.submit(function, b"same", unique=b"-", background=True)
    assert client.submit(function, b"same", unique=b"-", background=True) == first
    assert client.submit(function, b"other", unique=b"-", background=True) != first
    empty = client.submit(function, b"", unique=b"-", background=True)
    assert client.submit(function, b"", unique=b"-", background=True) != empty


def test_a_unique_of_63_bytes_works(client: Wire, worker: Wire, function: bytes) -> None:
    unique = b"u" * 63
    worker.can_do(function)
    handle = client.submit(function, b"payload", unique=unique, background=True)
    assert client.submit(function, b"again", unique=unique, background=True) == handle
    job = worker.grab_now()
    assert job is not None
    assert (job.unique, job.payload) == (unique, b"payload")


def test_a_longer_unique_is_refused(client: Wire, function: bytes) -> None:
    with pytest.raises(Refused) as refusal:
        client.submit(function, unique=b"u" * 65, background=True)
    assert refusal.value.code == "ARGUMENT_TOO_LARGE"
    client.echo()


# Deaths


@pytest.mark.parametrize("background", [True, False], ids=["background", "foreground"])
def test_the_jobs_of_a_dead_worker_go_to_the_next(
    connect: Connect, client: Wire, worker: Wire, function: bytes, background: bool
) -> None:
    heir = connect()
    heir.can_do(function)
    worker.can_do(function)
    handles = [client.submit(function, b"%d" % n, background=background) for n in range(3)]
    for _ in handles:
        assert worker.grab_now()
    worker.close()
    jobs = [heir.grab() for _ in handles]
    assert {job.handle: job.payload for job in jobs if job} == {
        handle: b"%d" % n for n, handle in enumerate(handles)
    }
    for handle in handles:
        heir.complete(handle, b"done")
        if not background:
            assert client.outcome(handle) == Outcome("complete", b"done", [], [])
    heir.echo()
    client.expect_nothing(timeout=0.05)


@pytest.mark.parametrize("background", [False, True], ids=["foreground", "background"])
def test_the_list_of_jobs_counts_the_workers_that_died_with_a_job(
    job_server: JobServer, client: Wire, function: bytes, background: bool
) -> None:
    handle = client.submit(function, background=background)

    def deaths() -> list[str]:
        lines = [line.split("\t") for line in admin(job_server.address, "show jobs")]
        return [line[1] for line in lines if line[0] == handle.decode()]

    assert deaths() == ["0"]
    for died in "1", "2":
        worker = Wire(job_server.address)
        worker.can_do(function)
        assert worker.grab_now()
        assert deaths() == [str(int(died) - 1)], "one that has the job is alive"
        leave(worker, job_server.address)
        assert deaths() == [died], "while the job waits"
    with Wire(job_server.address) as worker:
        worker.can_do(function)
        assert worker.grab_now()
        assert deaths() == ["2"], "while another has it"
        worker.complete(handle)
        worker.echo()
    assert deaths() == []


@pytest.mark.parametrize("server", SERVERS, ids=lambda kind: kind.__name__)
def test_a_job_that_outlives_no_worker_is_given_up_after_so_many(
    server: type[JobServer], function: bytes
) -> None:
    with server("--job-retries=2") as job_server, Wire(job_server.address) as client:
        handle = client.submit(function)
        for _ in range(2):
            with Wire(job_server.address) as worker:
                worker.can_do(function)
                assert worker.grab()
        assert client.outcome(handle) == Outcome("fail", b"", [], [])


def test_a_waiting_foreground_job_dies_with_its_client(
    job_server: JobServer, client: Wire, worker: Wire, function: bytes
) -> None:
    client.submit(function, b"dead")
    client.submit(function, b"alive", background=True)
    leave(client, job_server.address)
    worker.can_do(function)
    job = worker.grab_now()
    assert job is not None
    assert job.payload == b"alive"
    assert worker.grab_now() is None
    assert counts(job_server.address, function) == [1, 1, 1]


def test_a_foreground_job_with_two_clients_outlives_one(
    job_server: JobServer, connect: Connect, client: Wire, worker: Wire, function: bytes
) -> None:
    other = connect()
    handle = client.submit(function, unique=b"u")
    assert other.submit(function, unique=b"u") == handle
    leave(client, job_server.address)
    worker.can_do(function)
    assert worker.grab_now()
    worker.complete(handle, b"result")
    assert other.outcome(handle).data == b"result"


def test_a_running_job_outlives_its_client_but_not_its_worker_too(
    job_server: JobServer, connect: Connect, client: Wire, worker: Wire, function: bytes
) -> None:
    heir = connect()
    heir.can_do(function)
    worker.can_do(function)
    finished, lost = client.submit(function), client.submit(function)
    assert worker.grab_now()
    assert worker.grab_now()
    leave(client, job_server.address)
    assert heir.status(lost) == (True, True)
    worker.complete(finished)
    worker.echo()  # and not an ERROR
    leave(worker, job_server.address)
    assert heir.grab_now() is None
    assert heir.status(lost) == (False, False)


# Cancelled jobs


@pytest.mark.parametrize("others", [0, 1], ids=["one client", "two clients"])
def test_how_a_cancelled_running_job_ends_is_told_behind_the_failure(
    job_server: JobServer,
    connect: Connect,
    client: Wire,
    worker: Wire,
    function: bytes,
    others: int,
) -> None:
    """A delivery that timed out is withdrawn so, and its receiver may finish all the same."""
    clients = [client, *(connect() for _ in range(others))]
    worker.can_do(function)
    [handle] = {one.submit(function, unique=b"u") for one in clients}
    assert worker.grab_now()
    assert admin(job_server.address, f"cancel job {handle.decode()}") == "OK"
    for one in clients:
        assert one.outcome(handle) == Outcome("fail", b"", [], [])
        assert one.status(handle) == (True, True)
        one.expect_nothing(timeout=0.05)
    worker.data(handle, b"half")
    worker.warn(handle, b"careful")
    worker.complete(handle, b" done")
    for one in clients:
        assert one.outcome(handle) == Outcome("complete", b"half done", [b"careful"], [])
        assert one.status(handle) == (False, False)
        one.expect_nothing(timeout=0.05)
    assert counts(job_server.address, function) == [0, 0, 1]


def test_a_cancelled_running_job_that_fails_fails_twice(
    job_server: JobServer, client: Wire, worker: Wire, function: bytes
) -> None:
    worker.can_do(function)
    handle = client.submit(function)
    assert worker.grab_now()
    assert admin(job_server.address, f"cancel job {handle.decode()}") == "OK"
    assert client.outcome(handle) == Outcome("fail", b"", [], [])
    worker.fail(handle)
    assert client.outcome(handle) == Outcome("fail", b"", [], [])
    client.expect_nothing(timeout=0.05)


def test_a_cancelled_running_job_dies_with_its_worker_in_silence(
    job_server: JobServer, connect: Connect, client: Wire, worker: Wire, function: bytes
) -> None:
    heir = connect()
    heir.can_do(function)
    worker.can_do(function)
    handle = client.submit(function, unique=b"u")
    assert worker.grab_now()
    assert admin(job_server.address, f"cancel job {handle.decode()}") == "OK"
    assert client.outcome(handle) == Outcome("fail", b"", [], [])
    leave(worker, job_server.address)
    assert heir.grab_now() is None
    client.expect_nothing(timeout=0.05)
    assert client.status(handle) == (False, False)


def test_a_cancelled_running_job_may_be_ended_though_its_client_has_left(
    job_server: JobServer, client: Wire, worker: Wire, function: bytes
) -> None:
    worker.can_do(function)
    handle = client.submit(function)
    assert worker.grab_now()
    assert admin(job_server.address, f"cancel job {handle.decode()}") == "OK"
    assert client.outcome(handle) == Outcome("fail", b"", [], [])
    leave(client, job_server.address)
    assert worker.status(handle) == (True, True)
    worker.complete(handle, b"result")
    worker.echo()  # and not an ERROR
    assert counts(job_server.address, function) == [0, 0, 1]


# Abilities


def test_a_function_that_was_never_served_may_be_left(client: Wire) -> None:
    client.send(CANT_DO, b"never served")
    client.send(RESET_ABILITIES)
    client.echo()


@pytest.mark.parametrize("request_type", [CANT_DO, RESET_ABILITIES], ids=["one", "all"])
def test_leaving_a_function_gives_its_running_jobs_back(
    connect: Connect, client: Wire, worker: Wire, function: bytes, request_type: int
) -> None:
    heir = connect()
    heir.can_do(function)
    worker.can_do(function)
    handle = client.submit(function)
    assert worker.grab_now()
    worker.send(request_type, *([function] if request_type == CANT_DO else []))
    job = heir.grab()
    assert job is not None
    assert job.handle == handle
    worker.complete(handle)
    refuses(worker, b"JOB_NOT_FOUND")
    heir.complete(handle, b"result")
    assert client.outcome(handle).data == b"result"
    client.submit(function)
    assert worker.grab_now() is None
