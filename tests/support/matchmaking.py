"""A matchmaker between stand-ins for the membership and the job servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from types import SimpleNamespace

import pytest

from gearhorn.gearman.results import Result
from gearhorn.gearman.submission import Submission
from gearhorn.members.matchmaking import Matchmaker
from gearhorn.messages.peers import Changed
from gearhorn.names import MATCHMAKING, queue_of
from gearhorn.store.members import Member

SINCE_S = 1000.0  # when the changes of these tests were known to be written
NEVER_S = 3600.0  # longer than any test


def peer(name: str = "peer") -> Member:
    return Member(name, b"1 0 10000")


class Known:
    """Stands for ``Membership``: the test says when a peer knows a version."""

    id = "me"

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, float]] = []
        self.over: list[asyncio.Future[None]] = []
        self.heard_: list[list[int]] = []
        self.peers: dict[str, Member] = {name: peer(name) for name in ("peer", "a", "b")}
        self._listeners: list[Callable[[], None]] = []

    def on_members(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def members(self, *names: str) -> None:
        """The peers are these now."""
        self.peers = {name: peer(name) for name in names}
        for listener in self._listeners:
            listener()

    def when_known(self, peer: Member, version: int, since_s: float) -> asyncio.Future[None]:
        self.asked.append((peer.id, version, since_s))
        self.over.append(asyncio.get_running_loop().create_future())
        return self.over[-1]

    def heard(self, versions: Sequence[int]) -> None:
        self.heard_.append(list(versions))


class Servers:
    """Stands for ``Cluster``: keeps what is submitted, and to which of the servers that are up."""

    def __init__(self) -> None:
        self.up = [0, 1]
        self.submitted: list[tuple[int, Submission]] = []

    @property
    def is_up(self) -> bool:
        return bool(self.up)

    def route(self, queue: bytes) -> int:
        return self.up[0]

    def submit(self, place: int, submission: Submission) -> None:
        self.submitted.append((place, submission))


class Job:
    """Stands for a job: writes down how it ended."""

    def __init__(self, arguments: bytes) -> None:
        self.arguments = arguments
        self.completed: list[bytes] = []
        self.failed: list[str] = []

    def complete(self, data: bytes = b"") -> None:
        self.completed.append(data)

    def fail(self, text: str = "") -> None:
        self.failed.append(text)


class Bench:
    """A matchmaker between the stand-ins."""

    def __init__(self) -> None:
        self.known = Known()
        self.servers = Servers()
        self.events: list[tuple[str, str]] = []
        self.buried: list[str] = []
        self.lanes: list[str] = []  # the topics whose lanes were dropped with their lists
        self.clients: list[str | None] = []  # whose subscriptions those are, where that was told
        self.settling: asyncio.Future[None] | None = None
        self.matchmaker = Matchmaker(
            membership=self.known,  # type: ignore[arg-type]
            job_servers=self.servers,  # type: ignore[arg-type]
            caches=self,
            burials=SimpleNamespace(add=self.buried.append),  # type: ignore[arg-type]
        )

    def drop(self, topic: str, is_durable: bool = True, client_id: str | None = None) -> None:
        self.events.append(("drop", topic))
        self.clients.append(client_id)
        if is_durable:
            self.lanes.append(topic)

    def forget(self) -> None:
        raise AssertionError("a message forgets no other topic's list")

    async def drop_matching(self, names: Sequence[str]) -> None:
        self.events += [("drop matching", name) for name in names]
        await asyncio.sleep(0)

    async def wait_sent(self, topics: Sequence[str] | None) -> None:
        self.events += [("sent", topic) for topic in topics or ()]
        if self.settling is not None:
            await self.settling

    def tell(
        self, *changes: tuple[str, int] | Changed, peers: Sequence[str] = ("peer",)
    ) -> asyncio.Task[list[Member]]:
        """Begin to tell peers of changes, as they are or as (topic, version)."""
        changed = [one if isinstance(one, Changed) else Changed(*one) for one in changes]
        told = self.matchmaker.tell(changed, [peer(name) for name in peers], SINCE_S)
        return asyncio.create_task(told)

    @property
    def asked(self) -> list[str]:
        """The peers that were asked, once for each time."""
        prefix = queue_of(MATCHMAKING, "")
        heads = [one.heads[0] for _, one in self.servers.submitted]
        return [head[head.index(prefix) + len(prefix) :].decode() for head in heads]

    def answer(self, number: int, member: str = "peer", version: int = 1) -> None:
        """Let a question's job complete with this answer."""
        body = json.dumps({"member": member, "version": version}).encode()
        self.finish(number, Result(True, body))

    def finish(self, number: int, result: Result) -> None:
        """Let a question's job end."""
        _, submission = self.servers.submitted[number]
        submission.outcome.finished(submission, 0, result)

    def fail(self, number: int) -> None:
        """Let a question's job fail, as who drains the queue does."""
        self.finish(number, Result(False))

    def handle(self, *changes: tuple[str, int, bool | None]) -> Job:
        """Be told of (topic, version, removed or left out) changes."""
        told = [
            {"topic": topic, "version": version} | ({} if removed is None else {"removed": removed})
            for topic, version, removed in changes
        ]
        job = Job(json.dumps({"member": "peer", "changes": told}).encode())
        self.matchmaker.handle("me", job)  # type: ignore[arg-type]
        return job


def run(test: Callable[[Bench], Coroutine[None, None, None]], patience_s: float = NEVER_S) -> None:
    async def main() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gearhorn.members.matchmaking.PATIENCE_S", patience_s)
            await test(Bench())

    asyncio.run(main())


async def turn() -> None:
    """Let everything that is ready happen; nobody's patience of no time outlasts it."""
    for _ in range(10):
        await asyncio.sleep(0)
