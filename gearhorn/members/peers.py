"""Peers: the other members, as their records in the store tell of them.

Theory of operation. Each member has a record in the store, which every renewal of its lease
changes. Clocks of different machines are not compared: a peer counts as dead when its record has
stood still for its whole lease, by the clock of the member that observes it. That is longer than
the peer itself believes in its lease, since it counts from before the renewal was written and we
count from after it was read. The first member that sees it removes the peer.

A change waits for peers that have not answered. What such a peer may still do depends on its
record too: it knows the change (its record says up to which version it knows all), it has gone, or
its lease has lapsed. The records are polled while a change waits, and only then.

Rules: runs on the event loop, which is its only writer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Sequence
from typing import NamedTuple, Protocol

import structlog

from gearhorn.errors import StoreError
from gearhorn.store.members import Member, Members
from gearhorn.tasks import Tasks, went_well
from gearhorn.timing import now_s

POLL_S = 0.1  # between two polls of the records of peers that do not answer
# Fan-outs that hold a former list have so long to be sent, those of a living peer a lease more.
SENT_S = 60.0

log = structlog.get_logger(__name__)


class Observer(Protocol):
    """Takes note of what the store says of all members."""

    def saw(self, members: Sequence[Member], asked_s: float) -> list[Member]:
        """Take note of who the members are, as the store said to a question of ``asked_s``; return
        the peers among them."""


class Undertaker(Protocol):
    """Takes away what a member leaves behind."""

    def bury(self, member: str) -> None:
        """Fail what waits for a member that was removed."""


class _Waiting(NamedTuple):
    """A change that a peer has not answered."""

    peer: Member
    version: int
    since_s: float
    is_patient: bool  # a peer that goes on renewing has SENT_S more
    over: asyncio.Future[None]


class Peers:
    """The other members. ``present`` has them by id; ``reaped`` counts those that this member
    removed."""

    def __init__(self, members: Members) -> None:
        self.present: dict[str, Member] = {}
        self.reaped = 0
        self._members = members
        self._observed: dict[str, tuple[bytes, float]] = {}  # records, and since when they stand
        self._waiting: list[_Waiting] = []
        self._is_waited_for = asyncio.Event()  # something is in ``_waiting``
        self._listeners: list[Callable[[], None]] = []
        self._undertaker: Undertaker | None = None
        self._tasks = Tasks()

    def start(self, observer: Observer, undertaker: Undertaker) -> None:
        """Begin to poll for those who wait, and to remove the dead."""
        self._undertaker = undertaker
        self._tasks.keep("peers", lambda: self._poll(observer), is_vital=True)

    async def stop(self) -> None:
        """Poll no more."""
        await self._tasks.cancel()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have ``listener`` called whenever a peer has come or gone."""
        self._listeners.append(listener)

    def observe(
        self, members: Sequence[Member], asked_s: float, own: Container[str]
    ) -> list[Member]:
        """Take note of the members' records; remove peers whose record stood still too long.

        Arguments:
            members: all of them, as the store said to a question of ``asked_s`` (``timing.now_s``).
            own: ids of this member, former ones among them, which are no peers.

        Returns the peers.
        """
        peers = [member for member in members if member.id not in own]
        former, self.present = self.present, {peer.id: peer for peer in peers}
        if former.keys() != self.present.keys():
            for listener in self._listeners:
                listener()
        observed, self._observed = self._observed, {}
        heard_s = now_s()
        for peer in peers:
            record, since_s = observed.get(peer.id, (b"", 0.0))
            if record != peer.record:
                since_s = heard_s
            self._observed[peer.id] = (peer.record, since_s)
            if asked_s - since_s > peer.lease_s:
                self._observed[peer.id] = (peer.record, heard_s)  # try again a lease later
                self._tasks.spawn(self._reap(peer), "reaping")
        return peers

    def when_known(self, peer: Member, version: int, since_s: float) -> asyncio.Future[None]:
        """Return what is done once a peer cannot use a list of before ``version`` any more: it
        has renewed its lease with it, has gone, or its lease has lapsed.

        ``since_s``: when it was known that the change was written (``timing.now_s``).
        """
        return self._when(peer, version, since_s, is_patient=False)

    def when_sent(self, peer: Member, version: int, since_s: float) -> asyncio.Future[None]:
        """Return what is done once a peer has no copies of before ``version`` on their way.

        One that lives says so in its record, however long its line is, within ``SENT_S`` and a
        lease; the lease of one that does not lapses. What a frozen one has in its sockets is lost
        track of. ``since_s``: as of ``when_known``.
        """
        return self._when(peer, version, since_s, is_patient=True)

    def _when(
        self, peer: Member, version: int, since_s: float, *, is_patient: bool
    ) -> asyncio.Future[None]:
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(peer, version, since_s, is_patient, over))
        self._is_waited_for.set()
        return over

    async def _poll(self, observer: Observer) -> None:
        """Poll the members' records while a change waits for one of them, without end."""
        while True:
            await self._is_waited_for.wait()
            await asyncio.sleep(POLL_S)
            asked_s = now_s()
            known: dict[str, int] = {}
            try:
                members = await self._members.all()
            except StoreError:
                asked_s = float("-inf")  # nothing was heard; leases go on lapsing
            else:
                observer.saw(members, asked_s)
                known = {member.id: member.known for member in members}
            self._end_waiting(known, asked_s)
            went_well()

    def _end_waiting(self, known: dict[str, int], asked_s: float) -> None:
        """Tell those whose peer knows the change by now, has gone, or has lapsed."""
        at_s = now_s()
        still = []
        for waiting in self._waiting:
            if waiting.over.done():
                continue
            has_gone_on = known.get(waiting.peer.id, waiting.version) >= waiting.version
            if self._has_lapsed(waiting, at_s) or (has_gone_on and asked_s >= waiting.since_s):
                waiting.over.set_result(None)
            else:
                still.append(waiting)
        self._waiting = still
        if not still:
            self._is_waited_for.clear()

    def _has_lapsed(self, waiting: _Waiting, at_s: float) -> bool:
        """Whether there is nothing more to wait for, though the peer has not said that it knows."""
        waited_s = at_s - waiting.since_s
        if waiting.is_patient and waited_s <= waiting.peer.lease_s + SENT_S:
            _, moved_s = self._observed.get(waiting.peer.id, (b"", waiting.since_s))
            waited_s = at_s - max(waiting.since_s, moved_s)
        return waited_s > waiting.peer.lease_s

    async def _reap(self, peer: Member) -> None:
        try:
            won = await self._members.reap(peer)
        except StoreError:
            return  # seen again at the next renewal
        if won and self._undertaker is not None:
            self.reaped += 1
            log.warning("member removed: its lease lapsed", member=peer.id, removed=self.reaped)
            self._undertaker.bury(peer.id)
