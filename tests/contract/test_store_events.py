"""What a store tells everybody, on both kinds of store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import redis
from support.servers import Redis
from support.store import Heard

from gearhorn.store.connection import Connection
from gearhorn.store.events import Events

pytest_plugins = ["support.store"]
TIME_S = 10.0


async def until(check: Callable[[], bool]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(TIME_S):
        while not check():
            await asyncio.sleep(0.01)


def test_whoever_listens_hears_and_is_told_when_anything_may_have_been_missed(
    server: Redis,
) -> None:
    async def test() -> None:
        connection = Connection(server.url, "test")
        heard = Heard()
        events = Events(connection, {"news": heard})
        listening = asyncio.create_task(events.run())
        with redis.Redis.from_url(server.url) as client:
            await until(lambda: heard.gaps == 1)
            client.publish("news", "one")
            await until(lambda: heard.texts == [b"one"])
            # redis-py connects anew by itself and says nothing
            for count in (2, 3):
                assert client.client_kill_filter(_type="pubsub") == 1
                await until(lambda count=count: heard.gaps >= count)  # type: ignore[misc]
            client.publish("news", "two")
            await until(lambda: heard.texts == [b"one", b"two"])
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await connection.close()

    asyncio.run(test())
