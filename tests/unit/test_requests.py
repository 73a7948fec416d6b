"""The shell around handlers: whatever happens in one, its job is finished, once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import structlog

from gearhorn.errors import BadRequest, StoreError
from gearhorn.gearman import packets
from gearhorn.gearman.link import Connection
from gearhorn.gearman.server import Server
from gearhorn.gearman.worker import Job, Worker
from gearhorn.requests import answer, answering, attempt


class Written:
    """Stands for a connection, and keeps what is written to it."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.packets.append(data)

    def wake(self) -> None:
        pass


def job(written: Written, oversized: bool = False) -> Job:
    worker = Worker(
        Server("nowhere"),
        None,
        b"t",
        limit=1 << 20,
        functions=[b"f"],
        handler=lambda _: None,
        in_hand=8,
    )
    connection: Connection = written  # type: ignore[assignment]
    return Job(worker, connection, b"H:1\0f\0\0{}", oversized)


def complete(text: bytes) -> bytes:
    return packets.pack(packets.WORK_COMPLETE, b"H:1", text)


def failed(text: bytes) -> list[bytes]:
    warning = packets.pack(packets.WORK_WARNING, b"H:1", text)
    return [warning, packets.pack(packets.WORK_FAIL, b"H:1")]


def raising(error: BaseException) -> Callable[[Job], Awaitable[bytes]]:
    async def reply(job: Job) -> bytes:
        raise error

    return reply


async def hello(job: Job) -> bytes:
    return b"hello"


def test_a_reply_completes_the_job() -> None:
    written = Written()
    asyncio.run(answer(job(written), hello))
    assert written.packets == [complete(b"hello")]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (BadRequest("no"), b"bad_request: no"),
        (StoreError("away"), b"unavailable: the store: away"),
    ],
)
def test_a_refusal_fails_it(error: Exception, text: bytes) -> None:
    written = Written()
    asyncio.run(answer(job(written), raising(error)))
    assert written.packets == failed(text)


def test_a_request_that_was_cut_is_refused() -> None:
    written = Written()
    asyncio.run(answer(job(written, oversized=True), hello))
    assert written.packets == failed(b"too_large: the request is longer than 262144 bytes")


@pytest.mark.parametrize("error", [ZeroDivisionError(), asyncio.CancelledError()])
def test_a_fault_fails_it_and_goes_on(error: BaseException) -> None:
    written = Written()

    async def test() -> None:
        with pytest.raises(type(error)):
            await answer(job(written), raising(error))

    asyncio.run(test())
    assert written.packets == failed(b"internal error")


def test_a_worker_that_stops_leaves_the_job_to_others() -> None:
    written = Written()

    async def forever(job: Job) -> bytes:
        await asyncio.Event().wait()
        return b""

    async def test() -> None:
        task = asyncio.create_task(answer(job(written), forever))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(test())
    assert written.packets == []


def test_what_was_answered_before_a_fault_stays_so() -> None:
    written = Written()
    done = job(written)
    done.complete(b"hello")
    with pytest.raises(ZeroDivisionError), answering(done):
        raise ZeroDivisionError
    assert written.packets == [complete(b"hello")]


def test_an_attempt_that_raises_fails_its_job_and_is_logged() -> None:
    written = Written()

    def call() -> None:
        raise ZeroDivisionError

    with structlog.testing.capture_logs() as logged:
        attempt(job(written), call)
    assert written.packets == failed(b"internal error")
    [line] = logged
    assert line["log_level"] == "critical"
