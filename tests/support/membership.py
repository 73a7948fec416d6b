"""One member whose store answers as the test says, and whose time passes only when nothing is left
to do, and then at once, so that whole leases cost nothing."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

import pytest
from structlog.testing import capture_logs

from gearhorn.errors import StoreError
from gearhorn.members.lease import SAFE_PART, Lease
from gearhorn.members.membership import Membership
from gearhorn.store.members import Member, Renewal

LEASE_S = 10.0
LEASE_MS = 10_000
HELD_S = LEASE_S * SAFE_PART  # what a member counts of its lease
PATIENCE_S = 300.0  # of the test, in time that costs nothing


class _Selector(selectors.SelectSelector):
    """Lets the loop's time pass instead of waiting."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("nothing is left that could ever happen")
        self._loop.at_s += timeout
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """An event loop that never waits; ``at_s`` is its time."""

    def __init__(self) -> None:
        self.at_s = 1000.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.at_s


class Call(NamedTuple):
    """What the store was asked, and the answer that the test gives."""

    name: str
    arguments: tuple[Any, ...]
    asked_s: float
    answer: asyncio.Future[Any]


class Store:
    """Stands for ``Members``: each call waits for the test, but for those that leave."""

    def __init__(self, loop: Loop) -> None:
        self.run_id = "run-1"
        self.calls: list[Call] = []
        self.is_away = False  # for those that leave
        self._loop = loop
        self._asked: dict[str, asyncio.Queue[Call]] = {}

    def _of(self, name: str) -> asyncio.Queue[Call]:
        return self._asked.setdefault(name, asyncio.Queue())

    async def _ask(self, name: str, *arguments: Any) -> Any:
        call = Call(name, arguments, self._loop.at_s, self._loop.create_future())
        self.calls.append(call)
        self._of(name).put_nowait(call)
        return await call.answer

    async def join(self, member: str, lease_ms: int, clock_ms: int) -> Renewal:
        return await self._ask("join", member, lease_ms, clock_ms)  # type: ignore[no-any-return]

    async def renew(
        self, member: str, known: int, lease_ms: int, clock_ms: int, *, is_past_safe: bool
    ) -> Renewal | None:
        asked = ("renew", member, known, lease_ms, clock_ms, is_past_safe)
        return await self._ask(*asked)  # type: ignore[no-any-return]

    async def all(self) -> list[Member]:
        return await self._ask("all")  # type: ignore[no-any-return]

    async def reap(self, member: Member) -> bool:
        return await self._ask("reap", member)  # type: ignore[no-any-return]

    async def leave(self, *members: str) -> None:
        self.calls.append(Call("leave", members, self._loop.at_s, self._loop.create_future()))
        if self.is_away:
            raise StoreError("away")

    def find_anew(self) -> None:
        self.calls.append(Call("find_anew", (), self._loop.at_s, self._loop.create_future()))

    async def next(self, name: str) -> Call:
        """Return the next call of this name, from when it comes."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._of(name).get()

    def is_asked(self, name: str) -> bool:
        """Whether there is a call of this name that the test has not taken."""
        return not self._of(name).empty()

    def named(self, name: str) -> list[Call]:
        return [call for call in self.calls if call.name == name]


class Duties:
    """Writes down what a member was made to do, and how its lease stood meanwhile."""

    def __init__(self, lease: Lease) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.until_s: list[float] = []  # of the lease, at each drop and forget
        self.settling: asyncio.Future[None] | None = None  # ``wait_sent`` waits for it
        self.settled: list[Sequence[str] | None] = []
        self.dropping: asyncio.Future[None] | None = None  # ``drop_matching`` waits for it
        self._lease = lease

    async def appear(self, member: str) -> None:
        self.events.append(("appear", member))

    async def disappear(self, member: str) -> None:
        self.events.append(("disappear", member))

    def drop(self, topic: str, is_durable: bool = False, client_id: str | None = None) -> None:
        self.events.append(("drop", topic))
        self.until_s.append(self._lease.until_s)

    def forget(self) -> None:
        self.events.append(("forget",))
        self.until_s.append(self._lease.until_s)

    async def drop_matching(self, names: Sequence[str]) -> None:
        self.events.append(("drop matching", *names))
        self.until_s.append(self._lease.until_s)
        if self.dropping is not None:
            await self.dropping

    async def wait_sent(self, topics: Sequence[str] | None) -> None:
        self.settled.append(topics)
        if self.settling is not None:
            await self.settling

    def expire(self, pairs: Sequence[tuple[str, str]]) -> None:
        self.events.append(("expire", *pairs))

    def abandon(self) -> None:
        self.events.append(("abandon",))

    def bury(self, member: str) -> None:
        self.events.append(("bury", member))

    def take(self) -> list[tuple[Any, ...]]:
        """Take what was done since the last call."""
        events, self.events = self.events, []
        return events


def renewal(
    version: int = 0,
    topics: Sequence[str] | None = (),
    members: Sequence[Member] = (),
    clock_ms: int = 0,
    expired: Sequence[tuple[str, str]] = (),
    is_same_run: bool = True,
    data: str = "data",
) -> Renewal:
    """What the store hands back."""
    changed = None if topics is None else list(topics)
    return Renewal(version, changed, list(members), clock_ms, list(expired), is_same_run, data)


EVERYTHING = None


def peer(count: int = 1, known: int = 0, lease_s: float = LEASE_S, name: str = "peer") -> Member:
    """A peer after so many renewals."""
    return Member(name, b"%d %d %d" % (count, known, lease_s * 1000))


class Bench:
    """One member, its store and its duties."""

    def __init__(self, loop: Loop, stale_s: float) -> None:
        self.loop = loop
        self.store = Store(loop)
        self.lease = Lease(LEASE_S, stale_s)
        self.duties = Duties(self.lease)
        self.member = Membership(self.store, self.lease)  # type: ignore[arg-type]

    async def join(self, answer: Renewal | None = None) -> None:
        """Start, and join at once."""
        self.member.start(self.duties)
        (await self.store.next("join")).answer.set_result(answer or renewal())
        await self.member.joined.wait()
        self.duties.take()

    async def renewed(self, answer: Renewal | None = None) -> Call:
        """Answer the next renewal, at once; return what was asked."""
        call = await self.store.next("renew")
        call.answer.set_result(answer or renewal())
        await turn()
        return call

    async def keep(self, seconds: float, *members: Member) -> None:
        """Renew for so long; the store shows these members."""
        until_s = self.loop.at_s + seconds
        while self.loop.at_s < until_s:
            await self.renewed(renewal(members=members))

    @property
    def is_held(self) -> bool:
        """Whether the lease holds now."""
        return self.loop.at_s <= self.lease.until_s


async def turn() -> None:
    """Let everything that is ready happen."""
    for _ in range(10):
        await asyncio.sleep(0)


def run(
    test: Callable[[Bench], Coroutine[None, None, None]],
    clock: Callable[[], float] | None = None,
    stale_s: float = 0.0,
) -> Store:
    """Run a test on a bench of its own; nothing may crash meanwhile. ``clock``: another one than
    the loop's."""

    async def main() -> Store:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        with pytest.MonkeyPatch.context() as patch:
            for module in ("membership", "peers"):
                patch.setattr(f"gearhorn.members.{module}.now_s", clock or loop.time)
            bench = Bench(loop, stale_s)
            try:
                await test(bench)
            finally:
                await bench.member.leave()
        return bench.store

    with capture_logs() as logs, asyncio.Runner(loop_factory=Loop) as runner:
        store = runner.run(main())
    assert [one for one in logs if "exc_info" in one] == []
    return store


async def polled(bench: Bench, *members: Member) -> Call:
    """Answer the next look at the members."""
    call = await bench.store.next("all")
    call.answer.set_result([peer(name=bench.member.id), *members])
    await turn()
    return call
