"""Backlog limits without any server: the limits of a worker, at job servers that write down what
they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence

from gearhorn.fanout.copies import Subscribers
from gearhorn.fanout.limits import Limits
from gearhorn.members.lease import Lease
from gearhorn.timing import now_s


class Admin:
    """Stands for a job server's text commands."""

    def __init__(self) -> None:
        self.told: list[tuple[bytes, int]] = []  # in order
        self.error: OSError | None = None  # what each command ends in
        self.is_open = asyncio.Event()  # answers are given while it is set
        self.is_open.set()

    async def limit(
        self, limits: Sequence[tuple[bytes, int]], are_valid: Callable[[], bool]
    ) -> bool:
        await self.is_open.wait()
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        if not are_valid():
            return False
        self.told += limits
        return True

    @property
    def force(self) -> dict[bytes, int]:
        """The limits that are in force."""
        return dict(self.told)


class Client:
    """Stands for the link to a job server."""

    def __init__(self, name: str) -> None:
        self.server = name
        self.connection: object | None = object()


class Servers:
    """Stands for the job servers, of which the one that ``place`` says carries all queues."""

    def __init__(self, count: int = 1) -> None:
        self.admins = [Admin() for _ in range(count)]
        self.clients = [Client(f"server-{number}") for number in range(count)]
        self.sessions = 1
        self.is_up = True
        self.place = 0
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def route(self, queue: bytes) -> int:
        return self.place

    def restart(self, place: int = 0) -> None:
        """A server went and came back, and has forgotten its limits."""
        self.sessions += 1
        self.clients[place].connection = object()
        self.admins[place].told.clear()
        for listener in self._listeners:
            listener()


class Bench:
    """The limits of a worker; ``again`` are the topics that it wanted to have read again."""

    def __init__(self, *, default: int = 100_000, limit: int = 1_000_000, servers: int = 1) -> None:
        self.servers = Servers(servers)
        self.again: list[str] = []
        self.former: list[Subscribers] = []  # lists that are known to be former ones
        self.lease = Lease(3600.0)
        self.lease.grant(now_s())
        self.limits = Limits(
            self.servers,  # type: ignore[arg-type]
            default=default,
            limit=limit,
            lease=self.lease,
        )
        self.limits.attach(self)
        self.limits._server_changed()  # as the first connections do

    def refresh(self, topic: str) -> None:
        """Note that a list is to be read again."""
        self.again.append(topic)

    def is_current(self, subscribers: Subscribers) -> bool:
        """Whether a list is no former one."""
        return subscribers not in self.former

    @property
    def admin(self) -> Admin:
        """The first job server."""
        return self.servers.admins[0]

    async def read(self, *lists: Subscribers) -> None:
        """Read lists and prepare them."""
        with self.limits.reading() as reading:
            await self.limits.prepare(lists, reading)

    async def quiet(self) -> None:
        """Let everything go on that can."""
        for _ in range(200):
            await asyncio.sleep(0)


def subscribers(topic: str, *clients: str, **own: int) -> Subscribers:
    """A list of clients without a limit of their own, and then of those with one."""
    names = [*clients, *own]
    limits = tuple((len(clients) + at, limit) for at, limit in enumerate(own.values()))
    queues = [f"{topic}_{name}".encode() for name in names]
    return Subscribers(topic, queues, enveloped=len(queues), limits=limits)


def run(test: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run a test on an event loop of its own."""

    async def main() -> None:
        try:
            await test()
        finally:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    asyncio.run(main())
