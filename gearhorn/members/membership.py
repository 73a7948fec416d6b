"""Membership: this worker's place among its peers, held by a lease.

Theory of operation. The problem: a list that a member has cached must not be used once the caller
that changed it has been told that the change is done, though messages get lost and members freeze.

The invariant: a member uses what it has cached only under a lease that is valid, and the store
renews a lease only together with the names of all topics that changed since the last renewal. So a
member that waits for one lease length after a change knows that each member has either renewed, and
heard of the change, or uses nothing that is cached. Messages between members (``matchmaking``) make
this fast; they are not needed for it to be true.

Why in this order. A member serves its own queues before it joins, since peers ask every member that
is in the store. It forgets every list when it joins, since nothing says what changed before. A
renewal first drops the lists that changed and only then counts; the store is told that the member
knows of the changes (its ``known`` version) later still, when what held the former lists has been
sent, since a drain waits for that.

A store that restarted may have lost the end of what it knew: members, versions, changes. Leases
under the former run hold on, but the new run does not know of them. So after a restart, and after
any doubt whether the store lost data, changes wait for the longest lease that may hold
(``StorePast``).

What was tried and failed. Counting renewals instead of versions: a renewal whose reply a frozen
member has not read must not count as knowledge. Keeping the id after a lapse: an answer of the
former life came late and was taken for one of the new. So a member that loses its lease joins anew
under another id, and takes its former self away.

Rules: runs on the event loop. Of two members that see the same peer lapse, the store lets one
remove it ("Between workers" in docs/protocol.rst).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import secrets
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from gearhorn.errors import StoreError
from gearhorn.members.caches import Caches, drop_changed
from gearhorn.members.lease import Lease
from gearhorn.members.peers import Peers
from gearhorn.members.store_past import StorePast
from gearhorn.store.members import Member, Members, Renewal
from gearhorn.tasks import Tasks, on_crash, went_well
from gearhorn.timing import Backoff, now_s

RENEWALS = 3  # in the time of one lease
RETRY_S = 0.5  # fan-outs go on within 2 s of the store's return
HEARD = 10_000  # versions remembered out of order
LINGER_S = 0.2  # a peer that read the members just before one left may ask it for so long
FORMER = 16  # own former ids that are being taken away at once

log = structlog.get_logger(__name__)


def new_id() -> str:
    """Return ``HOST-PID-RANDOM``, never used before, in characters that queue names may have."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()) or "host"
    return f"{host[:150]}-{os.getpid()}-{secrets.token_hex(4)}"


class Duties(Caches, Protocol):
    """What a member has to do besides holding its lease: parts above this one do it."""

    async def appear(self, member: str) -> None:
        """Serve the member's own queues; return once the job servers know."""

    async def disappear(self, member: str) -> None:
        """Serve them no more, and fail what waits there."""

    def abandon(self) -> None:
        """The lease is lost: deliver for no durable subscription any more."""

    def expire(self, pairs: Sequence[tuple[str, str]]) -> None:
        """End subscriptions whose time is over."""

    def bury(self, member: str) -> None:
        """Fail what waits for a member that was removed."""


class Membership:
    """One member. ``id`` changes when a lease is lost; ``peers`` are the others.

    Arguments:
        members: the members' records in the store.
        lease: this member's; the users of cached lists read it, and this class alone changes it.

    ``joined`` is set while this member is in the store under ``id``.
    """

    def __init__(self, members: Members, lease: Lease) -> None:
        self.id = new_id()
        self.lease = lease
        self._peers = Peers(members)
        self.joined = asyncio.Event()
        self._members = members
        self._duties: Duties | None = None
        self._asked = False  # to join: from then on the store may know this member
        self._known = -1  # every list that changed up to this version is dropped
        self._heard: set[int] = set()  # versions above it that are dropped too
        # What changed with a renewal is not known to be sent; and whose renewal, under which run.
        self._behind: tuple[Renewal, tuple[str, str | None]] | None = None
        self._acknowledging: asyncio.Task[None] | None = None
        self._formers: set[str] = set()  # own ids of before, that are being taken away
        self._kick = asyncio.Event()  # renew now
        self._clock = (0, now_s())  # the members' clock in ms, and when it was read
        self._past = StorePast()
        self._may_live = asyncio.Event()  # cleared while this member stands down
        self._may_live.set()
        self._is_alive = False  # under ``id``, which peers may know
        self._tasks = Tasks()
        self._is_lost = False  # the store
        self._joined_s = float("inf")

    def start(self, duties: Duties) -> None:
        """Begin to join; ``joined`` tells when that is done."""
        self._duties = duties
        self._tasks.keep("membership", self._hold, is_vital=True)
        self._peers.start(self, duties)

    async def leave(self) -> None:
        """Give the lease back, if the store can be told. No list may be used afterwards.

        Former ids that are still there go with it. Peers remove what the store cannot be told of.
        """
        await self._tasks.cancel()
        await self._peers.stop()
        self.lease.end()
        if not self._asked:
            return
        try:
            await self._members.leave(self.id, *self._formers)
        except StoreError as error:
            log.warning("left without telling the store", error=str(error))
        else:
            log.info("left", member=self.id)

    def stand_down(self) -> None:
        """Give the lease up, and join again only after ``stand_up``.

        Its users see at once that it has ended; ``_renew``, woken, has the record taken away.
        """
        self._may_live.clear()
        self.lease.end()
        self._kick.set()

    def stand_up(self) -> None:
        """Join again."""
        self._may_live.set()

    @property
    def peers(self) -> dict[str, Member]:
        """The other members, by id."""
        return self._peers.present

    @property
    def reaped(self) -> int:
        """How many members this one removed."""
        return self._peers.reaped

    @property
    def count(self) -> int:
        """How many members there are, this one among them."""
        return len(self.peers) + 1

    def on_members(self, listener: Callable[[], None]) -> None:
        """Have ``listener`` called whenever a peer has come or gone."""
        self._peers.on_change(listener)

    def renew_soon(self) -> None:
        """Renew the lease now: more subscriptions may be due than one renewal hands out."""
        self._kick.set()

    @property
    def known(self) -> int:
        """The version up to which this member knows every change."""
        return self._known

    def holds(self, member: str) -> bool:
        """Whether this is that member, under a lease that holds: it cannot have been removed, nor
        the marks of its drains."""
        return member == self.id and now_s() <= self.lease.until_s

    @property
    def clock_ms(self) -> int:
        """The members' clock, in ms: what the store said, and what has passed here since."""
        read, at_s = self._clock
        return read + int((now_s() - at_s) * 1000)

    def heard(self, versions: Sequence[int]) -> None:
        """The lists of these changes are dropped, and what held them is sent.

        Versions come out of order, since peers tell their changes side by side. ``known`` moves on
        as soon as there is no gap. A gap that stays (a message was lost) is closed by a renewal;
        ``HEARD`` bounds what is remembered until then.
        """
        if len(self._heard) < HEARD:
            self._heard.update(versions)
        while self._known + 1 in self._heard:
            self._known += 1
            self._heard.remove(self._known)

    def saw(self, members: Sequence[Member], asked_s: float) -> list[Member]:
        """Take note of who the members are, as the store said to a question of ``asked_s``; return
        the peers among them. Those that stood still too long are removed.

        A store that does not list this member, though it was asked after this member had joined,
        has removed it or lost its data. Its lease ends here, not at the next renewal: peers do not
        ask it any more, so it may not use a list for a moment longer.
        """
        if asked_s > self._joined_s and all(member.id != self.id for member in members):
            self.lease.end()
            self._past.doubt(self._after_a_lease())
            self._kick.set()
        return self._observe(members, asked_s)

    def _observe(self, members: Sequence[Member], asked_s: float) -> list[Member]:
        return self._peers.observe(members, asked_s, {self.id, *self._formers})

    async def refresh(self) -> None:
        """Ask who the members are now; without effect where the store does not answer."""
        asked_s = now_s()
        with contextlib.suppress(StoreError):  # the next renewal says more
            self.saw(await self._members.all(), asked_s)

    def when_known(self, peer: Member, version: int, since_s: float) -> asyncio.Future[None]:
        """Return what is done once a peer cannot use a list of before ``version`` any more: see
        ``Peers.when_known``."""
        return self._peers.when_known(peer, version, since_s)

    def when_sent(self, peer: Member, version: int, since_s: float) -> asyncio.Future[None]:
        """Return what is done once a peer has no copies of before ``version`` on their way: see
        ``Peers.when_sent``."""
        return self._peers.when_sent(peer, version, since_s)

    async def when_leases_hold(self) -> None:
        """Return once no lease of a former run of the store can hold: what such a member knows,
        and that it is there, may be lost."""
        self._notice_run()
        while (left_s := self._past.safe_from_s - now_s()) > 0:
            await asyncio.sleep(left_s)

    async def _hold(self) -> None:
        """Live one life after the other: join, and hold the lease until it is lost.

        A life begins with ``appear`` and not with the store: peers ask every member that is there,
        and one whose queue is not served yet would keep them waiting for its lease. If any step
        crashes the lease ends with it, so that nothing that is cached is used without renewals.
        """
        duties = self._duties
        assert duties is not None
        if self._is_alive:  # the loop crashed
            self._end_life(duties, "a part of the worker crashed")
        while True:
            await self._may_live.wait()
            self._is_alive = True
            with on_crash(self.lease.end):
                await duties.appear(self.id)
                await self._join(duties)
                self.joined.set()
                why = await self._renew(duties)
            self._end_life(duties, why)

    def _end_life(self, duties: Duties, why: str) -> None:
        """The lease is lost: what comes next is another member.

        The id changes before any part is told: what is answered from here on in the former name is
        known to be of a former life. A lease that has lapsed is not ended, since lists may be used
        stale after it. Durable subscriptions are abandoned at once: others deliver for them now.
        """
        log.warning("lease lost; every list is forgotten, joining anew", why=why)
        self._members.find_anew()
        self._is_alive = False
        self.joined.clear()
        self._joined_s = float("inf")
        former, self.id = self.id, new_id()
        if not self._may_live.is_set():
            self.lease.end()
        self._formers.add(former)
        duties.abandon()
        self._tasks.spawn(self._retire(former, duties), "former self")

    async def _retire(self, former: str, duties: Duties) -> None:
        """Take away what is left of this member's former self. Its record goes first: as long as
        it is there peers ask it, and wait, so its queue is served until then."""
        backoff = Backoff(0.05, RETRY_S)
        while len(self._formers) <= FORMER:  # beyond, the others remove it
            try:
                await self._members.leave(former)
                break
            except StoreError:
                await asyncio.sleep(backoff.next_s())
        await asyncio.sleep(LINGER_S)
        await duties.disappear(former)
        self._formers.discard(former)

    async def _join(self, duties: Duties) -> None:
        """Join the members, tried until the store answers.

        Lists are forgotten before the lease is granted: nothing says what changed while there was
        none. Changes wait for a lease where the store's data, or the run that it is served under,
        is another than before: it does not know the leases of its past.
        """
        backoff = Backoff(0.05, RETRY_S)
        while True:
            self._asked = True
            asked_s = now_s()
            try:
                renewal = await self._members.join(self.id, self.lease.length_ms, self.clock_ms)
            except StoreError as error:
                self._store_is_lost(error)
                await asyncio.sleep(backoff.next_s())
                continue
            self._notice_run()
            duties.forget()  # nothing that was read before may be kept
            self._known = renewal.version
            self._heard.clear()
            self._take(renewal, asked_s)
            if self._past.joined(renewal.data, self._after_a_lease()):
                log.warning("the store lost its data; changes wait one lease")
            if not renewal.is_same_run:
                self._past.lost(self._after_a_lease())
            self._joined_s = now_s()
            log.info("joined", member=self.id, peers=len(self.peers))
            return

    async def _renew(self, duties: Duties) -> str:
        """Keep the lease; return why it is lost.

        The steps of a renewal stand in this order:

        1. Wait for a third of the lease, or for a kick. While the store is away, try again soon.
        2. ``asked_s`` is read before the store is asked: the lease is counted from then, which is
           earlier than when the store granted it.
        3. The store takes note of ``_known``, and of no more: what this renewal itself tells of is
           known only when it has been dropped and sent.
        4. The clock is read after the reply has come. A member that was frozen finds that its lease
           had lapsed, and must not revive it: peers have counted it out meanwhile.
        5. A store under another run does not know what changed under the former one, so every list
           goes then. Lists go before the lease is granted, so that none is used that changed.
        6. That the lists are gone is acknowledged later, once what held them is sent.
        """
        while True:
            each_s = self.lease.length_s / RENEWALS
            delay_s = RETRY_S if self._is_lost else each_s * random.uniform(0.9, 1.0)
            try:
                async with asyncio.timeout(min(delay_s, each_s)):
                    await self._kick.wait()
            except TimeoutError:
                pass
            self._kick.clear()
            if not self._may_live.is_set():
                return "a part of the worker fails"
            self._notice_run()
            asked_s = now_s()
            try:
                renewal = await self._members.renew(
                    self.id,
                    self._known,
                    self.lease.length_ms,
                    self.clock_ms,
                    is_past_safe=not self._past.is_same_run and asked_s > self._past.safe_from_s,
                )
            except StoreError as error:
                self._store_is_lost(error)
                if now_s() > self.lease.until_s:
                    return "the store cannot be reached"
                went_well()
                continue
            if renewal is None:
                self.lease.end()
                self._past.doubt(self._after_a_lease())
                return "the store does not know this member"
            if self._notice_run():  # what changed in another past is of no use
                renewal = renewal._replace(topics=None)
            if renewal.topics is None:
                duties.forget()
            else:
                await drop_changed(duties, renewal.topics)
            if now_s() > self.lease.until_s:  # also where it was ended meanwhile
                self.lease.end()
                return "it was not renewed in time"
            self._take(renewal, asked_s)
            went_well()
            if renewal.topics is None or renewal.topics:
                self._behind = renewal, (self.id, self._past.run_id)
                if self._acknowledging is None or self._acknowledging.done():
                    work = self._acknowledge(duties)
                    self._acknowledging = self._tasks.spawn(work, "acknowledgement")

    async def _acknowledge(self, duties: Duties) -> None:
        """Say at once that this member knows what changed: a peer may wait for that. One at a
        time: a later renewal tells of what an earlier one told of too, until that is known."""
        while self._behind is not None:
            (renewal, past), self._behind = self._behind, None
            await duties.wait_sent(renewal.topics)
            if past == (self.id, self._past.run_id) and renewal.version > self._known:
                self._known = renewal.version
                self._heard = {version for version in self._heard if version > self._known}
                self._kick.set()

    def _take(self, renewal: Renewal, asked_s: float) -> None:
        """Count the lease as renewed, from ``asked_s``; the lists that changed are dropped."""
        if self._is_lost:
            self._is_lost = False
            log.info("store is back")
        self.lease.grant(asked_s)
        if renewal.clock_ms > self.clock_ms:  # it was read a while ago, and never goes back
            self._clock = (renewal.clock_ms, now_s())
        self._past.granted(renewal.is_same_run)
        self._observe(renewal.members, asked_s)
        if renewal.expired and self._duties is not None:
            self._duties.expire(renewal.expired)

    def _store_is_lost(self, error: StoreError) -> None:
        """The store does not answer, and the lease runs out. Logged once for each outage."""
        self.lease.store_is_lost()
        if not self._is_lost:
            self._is_lost = True
            log.error("store unreachable; the lease runs out", error=str(error))

    def _notice_run(self) -> bool:
        """Note under which run the store answers; return whether it is another one.

        Versions of the former run mean nothing under a new one that lost some of them, so what this
        member knows begins again at nothing, and every list goes.
        """
        if not self._past.answered_under(self._members.run_id):
            return False
        log.warning("the store was restarted or replaced; changes wait one lease")
        self._past.lost(self._after_a_lease())
        self._known = -1
        self._heard.clear()
        if self._duties is not None:
            self._duties.forget()
        return True

    def _after_a_lease(self) -> float:
        """Return when every lease that holds now, as far as this member knows, has lapsed."""
        longest_s = max([self.lease.length_s, *(peer.lease_s for peer in self.peers.values())])
        return now_s() + longest_s
