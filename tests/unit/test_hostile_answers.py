"""Answers that no job server gives, and faults in what handles answers: one link, one line."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import pytest
import structlog

from gearhorn.gearman import packets
from gearhorn.gearman.client import Client
from gearhorn.gearman.link import Connection, Link
from gearhorn.gearman.reap import reap
from gearhorn.gearman.results import Result
from gearhorn.gearman.server import Server
from gearhorn.gearman.submission import Submission
from gearhorn.gearman.worker import Job, Worker

BROKEN = "job server breaks the protocol; reconnecting"
JOB = b"H:1\0f\0\0payload"


class Transport:
    def __init__(self) -> None:
        self.written = b""
        self.is_aborted = False

    def write(self, data: bytes) -> None:
        self.written += data

    def abort(self) -> None:
        self.is_aborted = True


class Breaking:
    """An outcome that raises whenever it is told anything."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.broken: list[Submission] = []

    def _tell(self, what: str) -> None:
        self.told.append(what)
        raise ZeroDivisionError

    def accepted(self, submission: Submission) -> None:
        self._tell("accepted")

    def lost(self, submission: Submission) -> None:
        self._tell("lost")

    def finished(self, submission: Submission, index: int, result: Result) -> None:
        self._tell("finished")

    def broke(self, submission: Submission) -> None:
        self.broken.append(submission)


def answer(*answers: tuple[int, bytes]) -> bytes:
    return b"".join(b"\0RES" + struct.pack(">II", k, len(b)) + b for k, b in answers)


def connect(link: Link) -> tuple[Connection, Transport]:
    connection, transport = Connection(link, 1 << 20), Transport()
    connection._transport = transport  # type: ignore[assignment]
    link.connection = connection
    link.went_up(connection)
    connection.flush()
    return connection, transport


def run(test: Callable[[], None]) -> list[Any]:
    async def main() -> None:
        test()

    with structlog.testing.capture_logs() as logged:
        asyncio.run(main())
    return logged


def events(logged: list[Any]) -> list[str]:
    return [line["event"] for line in logged]


def client() -> Client:
    return Client(Server("nowhere"), None, b"t", 1 << 20)


def worker(handler: Callable[[Job], None]) -> Worker:
    return Worker(
        Server("nowhere"),
        None,
        b"t",
        limit=1 << 20,
        functions=[b"f"],
        handler=handler,
        in_hand=512,
    )


def submission(outcome: Breaking, foreground: bool) -> Submission:
    tail = packets.tail(b"", b"x")
    heads = packets.heads([b"q"], packets.SUBMIT[foreground]["normal"], len(tail))
    return Submission(outcome, heads, tail, foreground)


@pytest.mark.parametrize(
    "answers",
    [
        [(packets.NO_JOB, b"")] * 3,
        [(packets.JOB_ASSIGN_UNIQ, JOB)] * 3,
        [(packets.JOB_ASSIGN_UNIQ, b"H:1\0f")],
        [(packets.JOB_ASSIGN_UNIQ, b"")],
    ],
    ids=["surplus NO_JOB", "surplus job", "half a job", "empty job"],
)
def test_a_worker_ends_a_connection_that_answers_wrongly(answers: list[tuple[int, bytes]]) -> None:
    jobs: list[Job] = []

    def test() -> None:
        connection, transport = connect(worker(jobs.append))
        connection.data_received(answer(*answers))  # two grabs are out
        assert transport.is_aborted
        assert not connection.is_open

    assert events(run(test)) == [BROKEN]
    assert not jobs


@pytest.mark.parametrize(
    "answers",
    [
        [(packets.STATUS_RES, b"H:1\x001\x001\x000\x000")],
        [(packets.STATUS_RES, b"")],
        [(packets.JOB_CREATED, b"H:1")],
    ],
    ids=["surplus status", "empty status", "surplus acceptance"],
)
def test_a_client_ends_a_connection_that_answers_wrongly(answers: list[tuple[int, bytes]]) -> None:
    def test() -> None:
        connection, transport = connect(client())
        connection.data_received(answer(*answers))
        assert transport.is_aborted
        assert not connection.is_open

    assert events(run(test)) == [BROKEN]


def test_an_error_that_answers_no_copy_refuses_none() -> None:
    def test() -> None:
        link = client()
        connection, transport = connect(link)
        connection.data_received(answer((packets.ERROR, b"UNKNOWN_OPTION\0text")))
        assert link.is_idle
        assert not transport.is_aborted

    assert events(run(test)) == ["job server reports an error"]


def test_an_outcome_that_raises_is_told_and_no_other_suffers() -> None:
    def test() -> None:
        link, outcome = client(), Breaking()
        connection, transport = connect(link)
        submissions = [submission(outcome, foreground=True) for _ in range(2)]
        for each in submissions:
            link.submit(each)
        connection.flush()
        connection.data_received(
            answer((packets.JOB_CREATED, b"H:1"), (packets.JOB_CREATED, b"H:2"))
        )
        assert outcome.told == ["accepted"] * 2
        connection.data_received(answer((packets.WORK_COMPLETE, b"H:1\0")))
        connection.data_received(answer((packets.WORK_COMPLETE, b"H:2\0data")))
        assert outcome.told[2:] == ["finished"] * 2
        assert outcome.broken == submissions * 2
        assert not transport.is_aborted
        assert link.is_idle

    logged = run(test)
    assert [line["log_level"] for line in logged] == ["critical"] * 4
    assert all(isinstance(line["exc_info"], ZeroDivisionError) for line in logged)


def test_an_outcome_that_raises_when_its_copies_are_lost_takes_no_other_with_it() -> None:
    def test() -> None:
        link, outcome = client(), Breaking()
        connection, _ = connect(link)
        submissions = [submission(outcome, foreground=False) for _ in range(2)]
        for each in submissions:
            link.submit(each)
        connection.flush()
        link.connection = None
        link.went_down(connection)
        assert outcome.told == ["lost"] * 2
        assert outcome.broken == submissions

    assert len(run(test)) == 2


def test_a_fault_in_a_link_ends_its_connection_with_one_line() -> None:
    class Faulty(Link):
        def handle(self, connection: Connection, batch: list[packets.Packet]) -> None:
            raise KeyError("a fault")

    def test() -> None:
        connection, transport = connect(Faulty(Server("nowhere"), None, b"t", 1 << 20))
        connection.data_received(answer((packets.NOOP, b"")))
        assert transport.is_aborted

    [line] = run(test)
    assert line["log_level"] == "critical"
    assert isinstance(line["exc_info"], KeyError)


def test_what_was_asked_and_what_was_answered_is_counted() -> None:
    def test() -> None:
        taker = worker(lambda job: job.complete())
        connection, _ = connect(taker)
        assert taker.debt() == (0, 2)
        connection.data_received(answer((packets.JOB_ASSIGN_UNIQ, JOB), (packets.NO_JOB, b"")))
        answered, owed = taker.debt()
        assert answered == 2
        connection.data_received(answer(*[(packets.NO_JOB, b"")] * owed))
        assert taker.debt() == (2 + owed, 0)

        sender, outcome = client(), Breaking()
        connection, _ = connect(sender)
        sent = submission(outcome, foreground=True)
        sender.submit(sent)
        connection.flush()
        assert sender.debt() == (0, 1)
        connection.data_received(answer((packets.JOB_CREATED, b"H:1")))
        assert sender.debt() == (1, 0)
        sender.ask_status(sent, 0, lambda is_known, is_running: None)
        assert sender.debt() == (1, 1)
        connection.data_received(answer((packets.STATUS_RES, b"H:1\x001\x000\x000\x000")))
        assert sender.debt() == (2, 0)

    run(test)


def test_a_fault_in_what_one_link_sends_keeps_no_other_from_sending() -> None:
    class Faulty(Link):
        is_faulty = False

        def fill(self, connection: Connection) -> None:
            if self.is_faulty:
                raise ZeroDivisionError

    async def main() -> None:
        links = [Faulty(Server(name), None, b"t", 1 << 20) for name in "abc"]
        (_, first), (broken, second), (_, third) = made = [connect(link) for link in links]
        links[1].is_faulty = True
        for connection, _ in made:
            connection.write(b"one")
        await asyncio.sleep(0.01)
        for connection, _ in made:
            connection.write(b"two")
        await asyncio.sleep(0.01)
        assert (first.written, third.written) == (b"onetwo", b"onetwo")
        assert (second.written, second.is_aborted, broken.is_open) == (b"", True, False)

    with structlog.testing.capture_logs() as logged:
        asyncio.run(main())
    assert events(logged) == ["what goes to a job server was not handled"]


def test_a_server_that_breaks_the_protocol_while_jobs_are_taken_off_is_not_reached() -> None:
    async def main() -> None:
        async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"not a packet at all")
            await reader.read()
            writer.close()

        server = await asyncio.start_server(lie, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(OSError, match="breaks the protocol"):
                await reap(Server("127.0.0.1", port), None, [b"queue"])

    asyncio.run(main())
