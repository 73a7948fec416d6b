"""A pytest plugin: real stores, and one member's view of them without a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import redis

from gearhorn.errors import StoreError
from gearhorn.names import queue_of
from gearhorn.store.connection import Connection
from gearhorn.store.members import Members, Renewal
from gearhorn.store.subscriptions import Applied, Change, Listed, Subscriptions
from support.servers import Redis, Valkey

LEASE_MS = 10_000


@pytest.fixture(scope="module", params=[Redis, Valkey])
def shared(request: pytest.FixtureRequest) -> Iterator[Redis]:
    """A server that the tests of this module share."""
    with request.param() as server:
        yield server


@pytest.fixture
def server(shared: Redis) -> Redis:
    """The shared server, empty."""
    with redis.Redis.from_url(shared.url) as client:
        client.flushall()
    return shared


@pytest.fixture(params=[Redis, Valkey])
def durable(request: pytest.FixtureRequest) -> Iterator[Redis]:
    """A server that one test may restart; it keeps what it acknowledged."""
    with request.param(appendonly=True, appendfsync="always") as server:
        yield server


class Heard:
    """What one channel told: publications, and how often some may have been missed."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.gaps = 0

    def hear(self, text: bytes) -> None:
        """Keep a publication."""
        self.texts.append(text)

    def missed(self) -> None:
        """Count it."""
        self.gaps += 1


class Bench:
    """One member's view of a store."""

    def __init__(self, server: Redis, namespace: str = "test") -> None:
        self.connection = Connection(server.url, namespace)
        self.members = Members(self.connection)
        self.subscriptions = Subscriptions(self.connection)

    async def apply(self, *changes: Change, clock_ms: int = 0) -> list[Applied]:
        """Write changes; what became of each."""
        return (await self.subscriptions.apply(changes, clock_ms))[0]

    async def one(self, change: Change, clock_ms: int = 0) -> Applied:
        """Write one change."""
        [applied] = await self.apply(change, clock_ms=clock_ms)
        return applied

    async def join(self, member: str = "me", clock_ms: int = 0) -> Renewal:
        return await self.members.join(member, LEASE_MS, clock_ms)

    async def renew(
        self, known: int, member: str = "me", clock_ms: int = 0, is_past_safe: bool = False
    ) -> Renewal:
        """Renew the lease of a member that the store knows."""
        renewal = await self.members.renew(
            member, known, LEASE_MS, clock_ms, is_past_safe=is_past_safe
        )
        assert renewal is not None
        return renewal

    async def changed_since(self, known: int) -> set[str] | None:
        """The topics that a renewal hands back, each once; None: everything."""
        topics = (await self.renew(known)).topics
        if topics is None:
            return None
        assert len(set(topics)) == len(topics)
        return set(topics)

    async def ask(self, command: str, *parts: Any) -> Any:
        """The reply to ``COMMAND KEY ...``; the key is one of the namespace."""
        key, *more = parts
        [reply] = await self.connection.pipeline([(command, self.connection.key(key), *more)])
        return reply

    async def clients(self, topic: str) -> set[bytes]:
        """The client_ids subscribed to a topic."""
        return set((await self.list_of(topic)).clients)

    async def list_of(self, topic: str) -> Listed:
        """A topic's list, as it is read from the store."""
        [listed] = await self.subscriptions.read([topic])
        if isinstance(listed, StoreError):
            raise listed
        return listed

    async def ends_at(self, topic: str, client_id: str) -> float | None:
        """When a subscription ends by itself, in ms of the members' clock."""
        at: float | None = await self.ask("ZSCORE", "expiries", f"{topic}\0{client_id}")
        return at


def subscribe(topic: str, client_id: str, options: bytes = b"{}") -> Change:
    return Change("subscribe", topic, client_id, queue_of(topic, client_id), options)


def unsubscribe(topic: str, client_id: str, drainer: str = "") -> Change:
    queue = queue_of(topic, client_id)
    return Change("unsubscribe", topic, client_id, queue, drainer=drainer)


def expire(topic: str, client_id: str) -> Change:
    return Change("expire", topic, client_id, queue_of(topic, client_id))


def run(
    server: Redis,
    test: Callable[[Bench], Coroutine[None, None, None]],
    namespace: str = "test",
) -> None:
    """Run a test on a connection of its own."""

    async def main() -> None:
        bench = Bench(server, namespace)
        try:
            await test(bench)
        finally:
            await bench.connection.close()

    asyncio.run(main())
