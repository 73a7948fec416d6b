"""What gearhorn relies on in a job server: connections, grabbing and results.

This file and its ``test_jobserver_*`` neighbours make each claim of gearmand and of the embedded
server alike. A claim that fails for gearmand says that this gearmand is not the one gearhorn was
built on; one that fails for the embedded server, that a laptop would see something else.
"""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from support.job_servers import Connect, refuses
from support.wire import (
    ECHO_REQ,
    ECHO_RES,
    ERROR,
    GET_STATUS,
    GRAB_JOB,
    GRAB_JOB_ALL,
    GRAB_JOB_UNIQ,
    JOB_ASSIGN,
    JOB_ASSIGN_UNIQ,
    JOB_CREATED,
    NO_JOB,
    NOOP,
    OPTION_REQ,
    PRE_SLEEP,
    STATUS_RES,
    SUBMIT_JOB_BG,
    WORK_COMPLETE,
    WORK_FAIL,
    Outcome,
    Wire,
    packet,
)

pytest_plugins = ["support.job_servers"]


# The connection


def test_echo_comes_back_as_it_was(client: Wire) -> None:
    for data in (b"", b"x", b"\0\n\0REQ", bytes(range(256)) * 100):
        client.echo(data)


def test_pipelined_requests_are_answered_in_their_order(
    client: Wire, worker: Wire, function: bytes
) -> None:
    count = 500
    block = b"".join(
        packet(SUBMIT_JOB_BG, function, b"", b"%d" % number)
        + packet(ECHO_REQ, b"%d" % number)
        + packet(GET_STATUS, b"none such")
        for number in range(count)
    )
    client.send_raw(block)
    handles = []
    for number in range(count):
        handles.append(client.expect(JOB_CREATED))
        assert client.expect(ECHO_RES) == b"%d" % number
        assert client.expect(STATUS_RES) == b"none such\x000\x000\x000\x000"
    worker.can_do(function)
    for number, handle in enumerate(handles):
        job = worker.grab_now()
        assert job is not None
        assert (job.handle, job.payload) == (handle, b"%d" % number)
        worker.complete(job.handle)


def test_a_request_may_arrive_in_pieces(client: Wire, function: bytes) -> None:
    request = packet(SUBMIT_JOB_BG, function, b"", b"payload") + packet(ECHO_REQ, b"end")
    for byte in request:
        client.send_raw(bytes([byte]))
    client.expect(JOB_CREATED)
    assert client.expect(ECHO_RES) == b"end"


def test_small_answers_are_not_held_back(client: Wire, worker: Wire, function: bytes) -> None:
    worker.can_do(function)
    begin = time.monotonic()
    for _ in range(100):
        handle = client.submit(function)
        job = worker.grab_now()
        assert job is not None
        worker.warn(handle, b"first")
        worker.complete(handle)
        assert client.outcome(handle).kind == "complete"
    assert time.monotonic() - begin < 2  # 40 ms for each, were Nagle's algorithm at work


def test_bad_magic_ends_that_connection_only(connect: Connect, client: Wire) -> None:
    stranger = connect()
    stranger.send_raw(b"\0BAD" + bytes(8))
    with pytest.raises((EOFError, ConnectionError)):
        stranger.recv()
    client.echo()


def test_an_unknown_packet_type_is_not_met_with_silence(connect: Connect, client: Wire) -> None:
    stranger = connect()
    stranger.send(77, b"?")
    with suppress(EOFError, ConnectionError):  # gearmand hangs up
        stranger.expect(ERROR)
    client.echo()


def test_an_unknown_option_is_refused(client: Wire) -> None:
    client.send(OPTION_REQ, b"bogus")
    refuses(client, b"UNKNOWN_OPTION")


# Grabbing


def test_several_grabs_may_be_outstanding_on_one_connection(
    client: Wire, worker: Wire, function: bytes
) -> None:
    worker.can_do(function)
    handles = [client.submit(function, background=True) for _ in range(5)]
    worker.send_raw(packet(GRAB_JOB_UNIQ) * 7)
    assigned = [worker.expect(JOB_ASSIGN_UNIQ).split(b"\0")[0] for _ in range(5)]
    assert assigned == handles
    worker.expect(NO_JOB)
    worker.expect(NO_JOB)
    for handle in assigned[2], assigned[0], assigned[4], assigned[3], assigned[1]:
        worker.complete(handle)
        worker.echo()
        assert client.status(handle) == (False, False)


def test_grab_job_gives_the_job_without_its_unique(
    client: Wire, worker: Wire, function: bytes
) -> None:
    handle = client.submit(function, b"pay\0load", unique=b"u")
    worker.can_do(function)
    worker.send(GRAB_JOB)
    assert worker.expect(JOB_ASSIGN) == b"\0".join((handle, function, b"pay\0load"))


def test_grab_job_all_gives_the_job(client: Wire, worker: Wire, function: bytes) -> None:
    handle = client.submit(function, b"payload", unique=b"u")
    worker.can_do(function)
    worker.send(GRAB_JOB_ALL)
    body = worker.expect(JOB_ASSIGN_UNIQ)  # JOB_ASSIGN_ALL is for jobs with a reducer
    assert body == b"\0".join((handle, function, b"u", b"payload"))


def test_one_connection_takes_jobs_of_all_its_functions(
    client: Wire, worker: Wire, function: bytes
) -> None:
    functions = {function + b"%d" % number for number in range(5)}
    worker.can_do(*functions)
    for name in functions:
        client.submit(name, background=True)
    jobs = [worker.grab_now() for _ in functions]
    assert {job.function for job in jobs if job} == functions
    assert worker.grab_now() is None


def test_a_sleeping_worker_is_woken_once(client: Wire, worker: Wire, function: bytes) -> None:
    worker.can_do(function)
    worker.send(PRE_SLEEP)
    worker.echo()
    client.submit(function, background=True)
    client.submit(function, background=True)
    worker.expect(NOOP)
    worker.expect_nothing(timeout=0.05)
    assert worker.grab_now()
    assert worker.grab_now()


def test_a_worker_that_sleeps_on_work_is_woken_at_once(
    client: Wire, worker: Wire, function: bytes
) -> None:
    worker.can_do(function)
    client.submit(function, background=True)
    worker.send(PRE_SLEEP)
    worker.expect(NOOP)


def test_a_worker_may_sleep_with_jobs_in_hand(client: Wire, worker: Wire, function: bytes) -> None:
    worker.can_do(function)
    client.submit(function, background=True)
    worker.send_raw(packet(GRAB_JOB_UNIQ) * 2 + packet(PRE_SLEEP))
    handle = worker.expect(JOB_ASSIGN_UNIQ).split(b"\0")[0]
    worker.expect(NO_JOB)
    worker.complete(handle)
    worker.echo()
    client.submit(function, background=True)
    worker.expect(NOOP)


def test_one_job_wakes_every_sleeping_worker(
    connect: Connect, client: Wire, function: bytes
) -> None:
    workers = [connect() for _ in range(3)]
    for worker in workers:
        worker.can_do(function)
        worker.send(PRE_SLEEP)
        worker.echo()
    client.submit(function, background=True)
    for worker in workers:
        worker.expect(NOOP)


def test_high_goes_before_normal_before_low(client: Wire, worker: Wire, function: bytes) -> None:
    worker.can_do(function)
    for priority in ("low", "normal", "high", "low", "normal", "high"):
        client.submit(function, priority.encode(), background=True, priority=priority)
    jobs = [worker.grab_now() for _ in range(6)]
    payloads = [job.payload for job in jobs if job]
    assert payloads == [b"high", b"high", b"normal", b"normal", b"low", b"low"]


# Results


def test_data_warnings_and_status_reach_the_client_in_order(
    client: Wire, worker: Wire, function: bytes
) -> None:
    worker.can_do(function)
    handle = client.submit(function)
    assert worker.grab_now()
    worker.data(handle, b"one ")
    worker.warn(handle, b"careful")
    worker.progress(handle, 1, 2)
    worker.data(handle, b"two ")
    worker.complete(handle, b"th\0ree")
    assert client.outcome(handle) == Outcome("complete", b"one two th\0ree", [b"careful"], [(1, 2)])


def test_a_warning_and_then_a_failure_both_reach_the_client(
    client: Wire, worker: Wire, function: bytes
) -> None:
    worker.can_do(function)
    handle = client.submit(function)
    assert worker.grab_now()
    worker.warn(handle, b"bad_request: no")
    worker.fail(handle)
    assert client.outcome(handle) == Outcome("fail", b"", [b"bad_request: no"], [])


def test_an_exception_is_a_failure_without_the_option(
    client: Wire, worker: Wire, function: bytes
) -> None:
    worker.can_do(function)
    handle = client.submit(function)
    assert worker.grab_now()
    worker.exception(handle, b"trace")
    assert client.expect(WORK_FAIL).rstrip(b"\0") == handle
    client.expect_nothing(timeout=0.05)
    worker.fail(handle)  # the exception was its end
    refuses(worker, b"JOB_NOT_FOUND")


def test_an_exception_is_an_exception_with_the_option(
    client: Wire, worker: Wire, function: bytes
) -> None:
    worker.can_do(function)
    client.send(OPTION_REQ, b"exceptions")
    client.recv()
    handle = client.submit(function)
    assert worker.grab_now()
    worker.exception(handle, b"trace")
    assert client.outcome(handle) == Outcome("exception", b"trace", [], [])
    client.expect_nothing(timeout=0.05)


def test_only_the_connection_that_was_assigned_a_job_may_end_it(
    connect: Connect, client: Wire, worker: Wire, function: bytes
) -> None:
    other = connect()
    worker.can_do(function)
    other.can_do(function)
    handle = client.submit(function)
    worker.complete(handle)  # waiting: nobody's
    refuses(worker, b"JOB_NOT_FOUND")
    assert worker.grab_now()
    for report in other.complete, other.fail, other.exception:
        report(handle)
        refuses(other, b"JOB_NOT_FOUND")
    other.data(handle, b"data")
    refuses(other, b"JOB_NOT_FOUND")
    worker.complete(handle, b"result")
    assert client.outcome(handle) == Outcome("complete", b"result", [], [])


def test_a_job_ends_once(client: Wire, worker: Wire, function: bytes) -> None:
    worker.can_do(function)
    handle = client.submit(function)
    assert worker.grab_now()
    worker.complete(handle)
    worker.complete(handle)
    refuses(worker, b"JOB_NOT_FOUND")
    client.expect(WORK_COMPLETE)
    client.expect_nothing(timeout=0.05)


def test_status_tells_a_waiting_job_from_a_running_one(
    connect: Connect, client: Wire, worker: Wire, function: bytes
) -> None:
    other = connect()
    handle = client.submit(function)
    assert other.status(handle) == (True, False)
    worker.can_do(function)
    assert worker.grab_now()
    assert other.status(handle) == (True, True)
    worker.progress(handle, 3, 4)
    worker.echo()
    other.send(GET_STATUS, handle)
    assert other.expect(STATUS_RES) == handle + b"\x001\x001\x003\x004"
    worker.complete(handle)
    worker.echo()
    assert other.status(handle) == (False, False)


def test_eight_mebibytes_arrive_whole_both_ways(
    client: Wire, worker: Wire, function: bytes
) -> None:
    payload = bytes(range(256)) * (8 << 12)
    worker.can_do(function)
    handle = client.submit(function, payload)
    job = worker.grab_now()
    assert job is not None
    assert job.payload == payload
    worker.complete(handle, payload[::-1])
    assert client.outcome(handle).data == payload[::-1]
