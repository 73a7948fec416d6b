"""However a subscriber is stopped, its connections end, and those who wait for it are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.made_jobs import Made
from support.proxy import on_loop
from support.scripted import Refusal, Scripted, Silence

from gearhorn.client import session
from gearhorn.client.ending import Told
from gearhorn.client.message import Message
from gearhorn.client.session import Session
from gearhorn.client.subscriber import Subscriber
from gearhorn.errors import GearhornError, InternalError

LONG_S = 3600.0
CLOSED = "127.0.0.1:1"


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    while not is_so():
        await asyncio.sleep(0.01)


def session_of(subscriber: Subscriber) -> Session:
    assert subscriber._session is not None
    return subscriber._session


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[Scripted, Subscriber, list[str]]]:
    """A subscriber at a job server, with a handler that takes long, and what that does."""
    did: list[str] = []
    async with asyncio.timeout(30), Scripted(lambda *_: {}) as server:
        subscriber = Subscriber("x", server.address, grace=LONG_S)

        @subscriber.on("t", envelope=False)
        async def handle(message: Message) -> None:
            did.append("began")
            try:
                if message.data == b"stop":
                    await subscriber.stop(0.05)
                await asyncio.sleep(LONG_S)
            finally:
                did.append("ended")

        yield server, subscriber, did


def take(subscriber: Subscriber, payload: bytes) -> Made:
    """Have a subscriber take a job in hand."""
    job = Made(b"t_x", payload, is_lost=True)
    session_of(subscriber)._deliveries.handle(job)
    return job


@on_loop
async def test_a_run_that_is_cancelled_has_stopped() -> None:
    async with listening() as (server, subscriber, _):
        running = asyncio.create_task(subscriber.run(signals=False))
        await until(subscriber.healthy)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await server.until_left()
        assert subscriber._session is None


@on_loop
async def test_a_stop_that_is_cut_short_ends_the_connections() -> None:
    async with listening() as (server, subscriber, did):
        await subscriber.start()
        session = session_of(subscriber)
        take(subscriber, b"x")
        await until(lambda: bool(did))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(subscriber.stop(), 0.1)
        await server.until_left()
        assert session.stopped.is_set()
        assert did == ["began", "ended"]


@on_loop
async def test_a_run_that_is_told_again_ends_at_once() -> None:
    async with listening() as (server, subscriber, did):
        told = Told.not_yet()
        running = asyncio.create_task(subscriber.run_until(told))
        await until(subscriber.healthy)
        job = take(subscriber, b"x")
        await until(lambda: bool(did))
        told.again()
        told.again()
        await running
        await server.until_left()
        assert (did, job.answers) == (["began", "ended"], [])


@on_loop
async def test_a_handler_may_stop_its_own_subscriber() -> None:
    async with listening() as (server, subscriber, did):
        await subscriber.start()
        job = take(subscriber, b"stop")
        await until(lambda: "ended" in did)
        await server.until_left()
        assert job.answers == []


@pytest.mark.parametrize("address", [CLOSED, None])
@on_loop
async def test_a_stop_ends_a_start(address: str | None) -> None:
    def unanswered(*_: Any) -> Any:
        asked.set()
        raise Silence

    asked = asyncio.Event()
    async with asyncio.timeout(30), Scripted(unanswered) as server:
        subscriber = Subscriber("x", address or server.address)
        subscriber.on("t")
        starting = asyncio.create_task(subscriber.start())
        await until(lambda: subscriber._session is not None)
        if address is None:
            await asked.wait()
        await subscriber.stop()
        with pytest.raises(GearhornError, match="stopped before"):
            await starting
        running = asyncio.create_task(subscriber.run(signals=False))
        await until(lambda: subscriber._session is not None)
        await subscriber.stop()
        await running


class Answering:
    """What a job server says to each subscribe; it notes that it was asked."""

    def __init__(self) -> None:
        self.refusal = ""
        self.asked = 0

    def __call__(self, *_: Any) -> Any:
        self.asked += 1
        if self.refusal:
            raise Refusal(self.refusal)
        return {}


@pytest.mark.parametrize("refusal", ["busy: later", "internal error", "forbidden: no"])
@on_loop
async def test_what_is_not_subscribed_anew_is_not_healthy(
    refusal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "JITTER_S", 0.0)
    monkeypatch.setattr(session, "REQUEST_S", 0.05)
    answering = Answering()
    async with asyncio.timeout(30), Scripted(answering) as server:
        subscriber = Subscriber("x", server.address, grace=0.0)
        subscriber.on("t")
        await subscriber.start()
        assert subscriber.healthy()
        answering.refusal = refusal
        session_of(subscriber).receiver_up(True)
        await until(lambda: not subscriber.healthy())
        if not refusal.startswith("forbidden"):
            answering.refusal = ""
            await until(subscriber.healthy)
        await subscriber.stop()


@on_loop
async def test_a_fault_of_the_worker_ends_a_start() -> None:
    answering = Answering()
    answering.refusal = "internal error"
    async with asyncio.timeout(30), Scripted(answering) as server:
        subscriber = Subscriber("x", server.address)
        subscriber.on("t")
        with pytest.raises(InternalError):
            await subscriber.start()
