"""What gearhorn relies on in a job server: what ends it, and what a restart and a cancel leave.

Each of these tests has a server of its own, since it ends it or leaves something behind in it.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.job_servers import JobServer, counts
from support.servers import EmbeddedGearman, Gearmand
from support.wire import (
    ERROR,
    JOB_CREATED,
    PRE_SLEEP,
    SUBMIT_JOB_EPOCH,
    Refused,
    Wire,
    admin,
    packet,
)

WAIT_S = 10.0


@pytest.fixture(params=[Gearmand, EmbeddedGearman], ids=lambda kind: kind.__name__)
def own(request: pytest.FixtureRequest) -> Iterator[JobServer]:
    """A job server that no other test uses."""
    with request.param() as server:
        yield server


gearmand_only = pytest.mark.parametrize("own", [Gearmand], indirect=True)
embedded_only = pytest.mark.parametrize("own", [EmbeddedGearman], indirect=True)
POISONS = pytest.mark.parametrize(
    "poison",
    [packet(0x80000000), packet(0xFFFFFFFF), b"create function \n"],
    ids=["the first type", "the last type", "a function without a name"],
)


def is_gone(server: JobServer) -> bool:
    """Whether the server stops listening within ten seconds."""
    host, _, port = server.address.rpartition(":")
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            return True
        time.sleep(0.01)
    return False


# What ends it


@gearmand_only
@POISONS
def test_a_few_bytes_end_the_whole_process(own: JobServer, poison: bytes) -> None:
    with Wire(own.address) as stranger:
        stranger.send_raw(poison)
        assert is_gone(own)


@embedded_only
@POISONS
def test_the_same_bytes_do_not_end_the_embedded_server(own: JobServer, poison: bytes) -> None:
    with Wire(own.address) as client, Wire(own.address) as stranger:
        stranger.send_raw(poison)
        client.echo()


def test_it_goes_on_after_it_stood_still(own: JobServer) -> None:
    with Wire(own.address) as client:
        own.freeze()
        time.sleep(1.1)  # longer than the embedded one goes without a look at its parent
        own.thaw()
        client.echo()
        client.submit(b"f", background=True)
    time.sleep(0.1)  # it would have ended a moment later
    assert counts(own.address, b"f") == [1, 0, 0]


# What a restart leaves


def test_a_restart_empties_the_queues(own: JobServer) -> None:
    with Wire(own.address) as client:
        client.submit(b"f", background=True)
    assert counts(own.address, b"f") == [1, 0, 0]
    own.restart()
    assert admin(own.address, "status") == []


@gearmand_only
def test_handles_begin_anew_with_a_restart(own: JobServer) -> None:
    handles = []
    for _ in range(2):
        with Wire(own.address) as client:
            handles.append(client.submit(b"f", background=True))
        own.restart()
    assert handles[0] == handles[1]
    assert handles[0].endswith(b":1")


def test_a_limit_is_forgotten_with_a_restart(own: JobServer) -> None:
    for is_limited in (True, False):
        assert admin(own.address, "create function f") == "OK"
        if is_limited:
            assert admin(own.address, "maxqueue f 1") == "OK"
        with Wire(own.address) as client:
            client.submit(b"f", background=True)
            if is_limited:
                with pytest.raises(Refused):
                    client.submit(b"f", background=True)
            else:
                client.submit(b"f", background=True)
        own.restart()


# What a cancelled job leaves


@gearmand_only
def test_a_cancelled_waiting_job_counts_until_a_worker_asks(own: JobServer) -> None:
    with Wire(own.address) as client, Wire(own.address) as worker:
        handle = client.submit(b"f", background=True)
        assert admin(own.address, f"cancel job {handle.decode()}") == "OK"
        assert counts(own.address, b"f") == [1, 0, 0]
        worker.can_do(b"f")
        assert counts(own.address, b"f") == [1, 0, 1]
        assert worker.grab_now() is None
        assert counts(own.address, b"f") == [0, 0, 1]


@embedded_only
def test_in_the_embedded_server_a_cancelled_waiting_job_is_gone_at_once(own: JobServer) -> None:
    with Wire(own.address) as client:
        handle = client.submit(b"f", background=True)
        assert admin(own.address, f"cancel job {handle.decode()}") == "OK"
        assert counts(own.address, b"f") == [0, 0, 0]


@embedded_only
def test_in_the_embedded_server_an_abandoned_foreground_job_is_gone_at_once(
    own: JobServer,
) -> None:
    with Wire(own.address) as client:
        with Wire(own.address) as leaver:
            handle = leaver.submit(b"f", unique=b"u")
        deadline = time.monotonic() + WAIT_S
        while counts(own.address, b"f")[0]:
            assert time.monotonic() < deadline
        assert client.submit(b"f", unique=b"u", background=True) != handle


# Names, time, TLS


def test_names_are_printed_as_they_are(own: JobServer) -> None:
    with Wire(own.address) as client:
        client.submit(b"a\tb\nc", background=True)
    assert admin(own.address, "status") == ["a\tb", "c\t1\t0\t0"]


def test_a_name_can_end_a_table_early(own: JobServer) -> None:
    with Wire(own.address) as client:
        client.submit(b"a\n.\nb", background=True)
    host, _, port = own.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=WAIT_S) as connection:
        connection.sendall(b"status\r\nversion\r\n")
        lines = connection.makefile("rb")
        assert [next(lines) for _ in range(4)] == [b"a\n", b".\n", b"b\t1\t0\t0\n", b".\n"]
        assert next(lines).startswith(b"OK ")


@gearmand_only
def test_a_job_with_a_time_wakes_no_worker_when_it_is_due(own: JobServer) -> None:
    with Wire(own.address) as client, Wire(own.address) as worker:
        worker.can_do(b"f")
        due = int(time.time()) + 2
        client.send(SUBMIT_JOB_EPOCH, b"f", b"", b"%d" % due, b"payload")
        client.expect(JOB_CREATED)
        assert worker.grab_now() is None
        worker.send(PRE_SLEEP)
        with pytest.raises(TimeoutError):
            worker.recv(timeout=due + 2 - time.time())
        job = worker.grab_now()
        assert job is not None
        assert job.payload == b"payload"


@embedded_only
def test_in_the_embedded_server_a_job_with_a_time_is_refused(own: JobServer) -> None:
    with Wire(own.address) as client:
        client.send(SUBMIT_JOB_EPOCH, b"f", b"", b"0", b"payload")
        assert client.expect(ERROR).startswith(b"INVALID_COMMAND")


class TalkativeGearmand(Gearmand):
    """A gearmand whose log tells how it was started."""

    def command(self, directory: Path) -> list[str]:
        quiet = super().command(directory)
        return ["--verbose=INFO" if option == "--verbose=ERROR" else option for option in quiet]


def test_debians_gearmand_takes_ssl_and_speaks_plain_text() -> None:
    with TalkativeGearmand("--ssl") as server, Wire(server.address) as client:
        client.echo()
        assert "SSL: true" in server.log()


# The embedded server alone


@embedded_only
def test_in_the_embedded_server_functions_of_a_connection_take_turns(own: JobServer) -> None:
    with Wire(own.address) as client, Wire(own.address) as worker:
        worker.can_do(b"a", b"b")
        for function in (b"a", b"a", b"b", b"b"):
            client.submit(function, background=True)
        order = [job.function for _ in range(4) if (job := worker.grab_now())]
        assert order == [b"a", b"b", b"a", b"b"]


@embedded_only
def test_in_the_embedded_server_a_drop_minds_case_and_fails_what_waits(own: JobServer) -> None:
    with Wire(own.address) as client:
        handle = client.submit(b"f")
        assert str(admin(own.address, "drop function F")).startswith("ERR")
        client.expect_nothing()
        assert admin(own.address, "drop function f") == "OK"
        assert client.outcome(handle).kind == "fail"


@embedded_only
def test_in_the_embedded_server_a_unique_of_64_bytes_is_refused(own: JobServer) -> None:
    with Wire(own.address) as client:
        with pytest.raises(Refused) as refusal:
            client.submit(b"f", unique=b"u" * 64, background=True)
        assert refusal.value.code == "ARGUMENT_TOO_LARGE"
