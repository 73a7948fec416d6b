"""What gearhorn relies on in a job server: the text protocol."""

from __future__ import annotations

import pytest
from support.job_servers import Connect, JobServer, counts, leave
from support.servers import EmbeddedGearman
from support.wire import (
    CANT_DO,
    ECHO_REQ,
    ERROR,
    JOB_CREATED,
    SET_CLIENT_ID,
    SUBMIT_JOB_BG,
    SUBMIT_JOB_HIGH_BG,
    SUBMIT_JOB_LOW_BG,
    WORK_FAIL,
    Outcome,
    Refused,
    Wire,
    admin,
    packet,
)

pytest_plugins = ["support.job_servers"]


# The text protocol


def test_maxqueue_refuses_new_jobs_until_some_have_ended(
    job_server: JobServer, client: Wire, worker: Wire, function: bytes
) -> None:
    name = function.decode()
    assert admin(job_server.address, f"create function {name}") == "OK"
    assert admin(job_server.address, f"maxqueue {name} 2") == "OK"
    worker.can_do(function)
    running = client.submit(function, background=True)
    assert worker.grab_now()
    waiting = client.submit(function, unique=b"u", background=True)
    for background in True, False:
        with pytest.raises(Refused) as refusal:  # the running one counts
            client.submit(function, background=background)
        assert refusal.value.code == "QUEUE_ERROR"
    assert client.submit(function, unique=b"u", background=True) == waiting
    worker.complete(running)
    worker.echo()
    client.submit(function, background=True)
    assert admin(job_server.address, f"maxqueue {name} 0") == "OK"
    client.submit(function, background=True)
    assert counts(job_server.address, function) == [3, 0, 1]


def test_a_refusal_keeps_its_place_among_pipelined_answers(
    job_server: JobServer, client: Wire, function: bytes
) -> None:
    full, free = function + b"-full", function + b"-free"
    admin(job_server.address, f"create function {full.decode()}")
    admin(job_server.address, f"maxqueue {full.decode()} 1")
    client.send_raw(b"".join(packet(SUBMIT_JOB_BG, name, b"", b"") for name in [full, free] * 3))
    answers = [client.recv()[0] for _ in range(6)]
    assert answers == [JOB_CREATED, JOB_CREATED, ERROR, JOB_CREATED, ERROR, JOB_CREATED]


def test_maxqueue_of_an_unknown_function_is_ok_and_without_effect(
    job_server: JobServer, client: Wire, function: bytes
) -> None:
    assert admin(job_server.address, f"maxqueue {function.decode()} 1") == "OK"
    client.submit(function, background=True)
    client.submit(function, background=True)


def test_a_cancelled_waiting_job_fails_and_is_never_run(
    job_server: JobServer, client: Wire, worker: Wire, function: bytes
) -> None:
    handle = client.submit(function)
    in_background = client.submit(function, background=True)
    for cancelled in handle, in_background:
        assert admin(job_server.address, f"cancel job {cancelled.decode()}") == "OK"
    assert client.outcome(handle) == Outcome("fail", b"", [], [])
    worker.can_do(function)
    assert worker.grab_now() is None
    assert client.status(handle) == (False, False)
    assert counts(job_server.address, function) == [0, 0, 1]


def test_a_cancelled_running_job_fails_at_once_and_is_not_run_again(
    job_server: JobServer, connect: Connect, client: Wire, worker: Wire, function: bytes
) -> None:
    heir = connect()
    heir.can_do(function)
    worker.can_do(function)
    finished, lost = client.submit(function), client.submit(function)
    assert worker.grab_now()
    assert worker.grab_now()
    for handle in finished, lost:
        assert admin(job_server.address, f"cancel job {handle.decode()}") == "OK"
        assert client.expect(WORK_FAIL) == handle
    worker.complete(finished)
    worker.echo()  # and not an ERROR
    leave(worker, job_server.address)
    assert heir.grab_now() is None


def test_cancelling_an_unknown_job_is_an_error(job_server: JobServer) -> None:
    assert admin(job_server.address, "cancel job H:nowhere:1") == "ERR UNKNOWN_JOB"


def test_a_function_in_use_cannot_be_dropped(
    job_server: JobServer, worker: Wire, function: bytes
) -> None:
    drop = f"drop function {function.decode()}"
    assert admin(job_server.address, f"create function {function.decode()}") == "OK"
    assert counts(job_server.address, function) == [0, 0, 0]
    worker.can_do(function)
    assert str(admin(job_server.address, drop)).startswith("ERR")
    worker.send(CANT_DO, function)
    worker.echo()
    assert admin(job_server.address, drop) == "OK"
    assert str(admin(job_server.address, drop)).startswith("ERR")


def test_the_lists_count_jobs_and_workers(
    job_server: JobServer, client: Wire, worker: Wire, function: bytes
) -> None:
    worker.send(SET_CLIENT_ID, b"lister")
    worker.can_do(function)
    running = client.submit(function, unique=b"lists-1")
    assert worker.grab_now()
    client.submit(function, unique=b"lists-2", background=True, priority="low")
    client.submit(function, background=True, priority="high")
    name = function.decode()
    assert f"{name}\t3\t1\t1" in admin(job_server.address, "status")
    assert f"{name}\t1\t0\t1\t1" in admin(job_server.address, "prioritystatus")
    assert f"{running.decode()}\t0\t0\t0" in admin(job_server.address, "show jobs")
    assert {"lists-1", "lists-2"} <= set(admin(job_server.address, "show unique jobs"))
    workers = [line for line in admin(job_server.address, "workers") if " lister " in line]
    assert [line.split(" ", 1)[1] for line in workers] == [f"127.0.0.1 lister : {name}"]


def test_names_need_not_be_text(job_server: JobServer, worker: Wire, client: Wire) -> None:
    name = b"caf\xe9"
    worker.can_do(name)
    client.submit(name, background=True)
    assert counts(job_server.address, name) == [1, 0, 1]
    job = worker.grab_now()
    assert job is not None
    worker.complete(job.handle)


def test_text_commands_that_are_unknown_are_errors(job_server: JobServer) -> None:
    for command in ("bogus", "shutdown", ""):
        assert str(admin(job_server.address, command)).startswith("ERR UNKNOWN_COMMAND")


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("STATUS", []),
        ("status surplus", []),
        ("PrioritySTATUS x", []),
        ("SHOW JOBS", []),
        ("Show Unique Jobs", []),
        ("MAXQUEUE nobody 2", "OK"),
        ("show", "ERR UNKNOWN_COMMAND Unknown+server+commandshow"),
        ("show foo", "ERR UNKNOWN_SHOW_ARGUMENTS"),
        ("show jobs x", "ERR UNKNOWN_SHOW_ARGUMENTS"),
        ("cancel", "ERR UNKNOWN_COMMAND Unknown+server+commandcancel"),
        ("cancel foo x", "ERR UNKNOWN_ERROR"),
        ("drop function nobody", "ERR function not found"),
        *(
            (
                command,
                "ERR INVALID_ARGUMENTS An+incomplete+set+of+arguments+was+sent+to+this+command+"
                + command.split()[0],
            )
            for command in ("maxqueue", "create", "create foo x", "create function a b", "drop x y")
        ),
    ],
)
def test_text_commands_mind_no_case_and_tell_each_mistake(
    connect: Connect, command: str, answer: str | list[str]
) -> None:
    client = connect()  # a server of its own would take longer: jobs of others may wait here
    client.send_raw(command.encode() + b"\r\n")
    lines = b""
    while not lines.endswith((b".\n", b"\r\n")):
        lines += client.socket.recv(4096)
    if isinstance(answer, list):
        assert lines.endswith(b".\n")
    else:
        assert lines.decode().rstrip() == answer


def test_a_line_of_too_many_words_ends_the_connection(client: Wire) -> None:
    client.send_raw(b"a b c d e f g h i\r\n")
    assert client.socket.recv(4096) == b""


@pytest.mark.parametrize(
    ("limits", "taken"),
    [("2", [2, 0, 0]), ("3 1", [3, 0, 4]), ("3 1 0", [3, 0, 4]), ("x 1", [4, 0, 4])],
)
def test_maxqueue_with_several_numbers_limits_each_priority(
    job_server: JobServer, client: Wire, function: bytes, limits: str, taken: list[int]
) -> None:
    name = function.decode()
    admin(job_server.address, f"create function {name}")
    assert admin(job_server.address, f"maxqueue {name} {limits}") == "OK"
    found = []
    for kind in (SUBMIT_JOB_HIGH_BG, SUBMIT_JOB_BG, SUBMIT_JOB_LOW_BG):
        client.send_raw(packet(kind, function, b"", b"") * 4)
        found.append(sum(client.recv()[0] == JOB_CREATED for _ in range(4)))
    assert found == taken


def test_the_server_tells_its_version_and_process(job_server: JobServer) -> None:
    assert str(admin(job_server.address, "version")).startswith("OK ")
    assert admin(job_server.address, "getpid") == f"OK {job_server.pid}"


def test_text_and_packets_may_share_a_connection(client: Wire) -> None:
    client.send_raw(b"version\r\n" + packet(ECHO_REQ, b"x"))
    answer = b""
    while not answer.endswith(b"\0\0\0\x01x"):
        answer += client.socket.recv(4096)
    assert answer.startswith(b"OK ")


# The embedded server alone


def test_handles_of_two_starts_never_meet(function: bytes) -> None:
    handles = set()
    for _ in range(2):
        with EmbeddedGearman() as server, Wire(server.address) as client:
            handles.add(client.submit(function, background=True))
    assert len(handles) == 2
