"""Stores that refuse something: a member's view of one, and what it meets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from gearhorn.errors import StoreError
from gearhorn.store.connection import Connection
from gearhorn.store.subscriptions import Subscriptions
from support.servers import Redis
from support.store import Bench, subscribe

Test = Callable[[Bench], Coroutine[Any, Any, None]]


def run(server: Redis, test: Test, url: str = "") -> None:
    """Run a test with a connection of its own, on which a topic has a subscriber."""

    async def main() -> None:
        bench = Bench(server)
        await bench.join("me")
        await bench.one(subscribe("t", "a"))
        if url:
            await bench.connection.close()
            bench.connection = Connection(url, "test")
            bench.subscriptions = Subscriptions(bench.connection)
        try:
            await test(bench)
        finally:
            await bench.connection.close()

    asyncio.run(main())


async def write(bench: Bench) -> StoreError:
    """The error that a subscribe meets."""
    try:
        applied = await bench.one(subscribe("t", "b"))
    except StoreError as error:
        return error
    assert applied.error is not None, "the store took it"
    return applied.error


def assert_is(error: StoreError, kind: type[StoreError], code: str) -> None:
    assert type(error) is kind, repr(error)
    assert str(error).startswith(code)


async def goes_on(bench: Bench) -> None:
    """Writes are taken again, over connections that look for the store by themselves."""
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(StoreError):
                if (await bench.one(subscribe("t", "later"))).version:
                    return
            await asyncio.sleep(0.05)
