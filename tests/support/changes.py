"""The writer of subscriptions between stand-ins for the store, the peers and the caches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from types import SimpleNamespace

from gearhorn.errors import StoreError
from gearhorn.gearman.drain import Drained
from gearhorn.members.change_queue import ChangeQueue
from gearhorn.members.changes import Changes
from gearhorn.messages.peers import Changed
from gearhorn.store.members import Member
from gearhorn.store.subscriptions import Applied, Change


class Job:
    """A job, and how it ended."""

    oversized = False

    def __init__(self, arguments: bytes) -> None:
        self.arguments = arguments
        self.outcome = ""

    def complete(self, data: bytes = b"") -> None:
        self.outcome += f"complete {data.decode()}"

    def fail(self, text: str = "") -> None:
        self.outcome += f"fail {text}"

    def wait(self) -> None:
        """Take no place while it waits."""


class Store:
    """Writes what it is told, or fails; says what became of it when it is asked."""

    def __init__(self, events: list[str]) -> None:
        self.events = events
        self.applied: dict[str, Applied] = {}  # by kind and client_id; otherwise the usual
        self.failures: list[StoreError] = []  # of the next calls
        self.written: list[Applied | None] = []  # of what was withdrawn
        self.version = 0

    async def apply(
        self, changes: Sequence[Change], clock_ms: int
    ) -> tuple[list[Applied], list[Member]]:
        if self.failures:
            raise self.failures.pop(0)
        found = []
        for change in changes:
            self.events.append(f"write {change.kind} {change.client_id}")
            self.version += 1
            usual = Applied(self.version, existed=False, is_draining=bool(change.drainer))
            found.append(self.applied.pop(change.client_id, usual))
        return found, []

    async def withdraw(self, changes: Sequence[Change], clock_ms: int) -> list[Applied | None]:
        if self.failures:
            raise self.failures.pop(0)
        return self.written or [None] * len(changes)

    async def draining(self, queues: Sequence[bytes]) -> set[bytes]:
        return set()

    async def drained(self, queue: bytes, member: str, request: str) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.events.append(f"unmark {queue.decode()}")


class Bench:
    """A writer; ``events`` is what happened, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.store = Store(self.events)
        self.queue = ChangeQueue()
        self.membership = SimpleNamespace(
            id="me",
            clock_ms=0,
            lease=SimpleNamespace(length_s=1.0),
            saw=lambda members, asked_s: [],
            heard=lambda versions: self.events.append(f"heard {versions}"),
            when_leases_hold=self._at_once,
            when_sent=self._at_once,
            holds=lambda member: member == "me",
            refresh=self._at_once,
            renew_soon=lambda: self.events.append("renew soon"),
            peers={},
        )
        self.changes = Changes(
            subscriptions=self.store,  # type: ignore[arg-type]
            queue=self.queue,
            matchmaker=SimpleNamespace(tell=self._tell),  # type: ignore[arg-type]
            membership=self.membership,  # type: ignore[arg-type]
            caches=self,
            drainer=SimpleNamespace(drain=self._drain),  # type: ignore[arg-type]
            served=frozenset({b"fanout"}),
        )

    async def _at_once(self, *_: object) -> None:
        """Nothing is to be waited for."""

    async def _tell(
        self, changes: list[Changed], peers: Sequence[Member], since_s: float
    ) -> list[Member]:
        self.events.append(f"tell {' '.join(change.topic for change in changes)}")
        return []

    async def _drain(self, queue: bytes, may_go_on: Callable[[], bool]) -> Drained:
        self.events.append(f"drain {queue.decode()}")
        return Drained(3, ())

    def drop(self, topic: str, is_durable: bool = True, client_id: str | None = None) -> None:
        self.events.append(f"drop {topic}")

    def forget(self) -> None:
        raise AssertionError("a change forgets no other topic's list")

    async def drop_matching(self, names: Sequence[str]) -> None:
        self.events += [f"drop matching {name}" for name in names]

    async def wait_sent(self, topics: Sequence[str] | None) -> None:
        self.events += [f"sent {topic}" for topic in topics or ()]

    def ask(self, what: str, client_id: str, **more: object) -> Job:
        """Put a request in; return its job."""
        fields = {"topic": "t", "client_id": client_id, **more}
        job = Job(json.dumps(fields).encode())
        getattr(self.changes, what)(job)
        return job


def run(test: Callable[[Bench], Coroutine[None, None, None]]) -> None:
    """Run a test while the writer runs."""

    async def main() -> None:
        bench = Bench()
        writing = asyncio.create_task(bench.changes.run())
        try:
            await asyncio.wait_for(test(bench), 20)
        finally:
            writing.cancel()

    asyncio.run(main())


async def answered(*jobs: Job) -> None:
    """Wait until these jobs are finished."""
    while not all(job.outcome for job in jobs):
        await asyncio.sleep(0.001)
