"""Ownership: which member delivers for which durable subscription.

Theory of operation. Each lane is to have one owner, all members are to have about as many, and a
member that comes or goes is to move few of them. So each member computes the owner of a lane by
rendezvous hashing (Thaler and Ravishankar 1998) over the members that it sees: members that see the
same ones agree without talking.

They do not always see the same ones. So the hash says who *should* own a lane, and the store says
who *does*: a lane is taken by a script that gives it a new TERM, and whatever its former owner
writes under the older TERM is refused. The invariant is that no member writes a position, or
releases a lane, under a TERM that is not its own. Two members may deliver for one lane while one of
them has not noticed yet; its receivers then get a message twice, and positions stay right.

Ownership compares what the hash and the store say with the lanes that are held here:

* A lane that should be this member's, and has no owner, is taken. One that another member still
  holds is tried again after ``RETRY_S``.
* A lane that is held here and should be another's is closed: nothing more is sent, and it is
  released when nothing of it is under way. That member takes it then. A hand-over is so a matter of
  one delivery, and no receiver gets a message twice.
* A lane that is held here, and that the store gave to another member or to a later TERM, is fenced:
  it is forgotten at once, since that member delivers already.
* A lane that the store does not have any more has ended, and is fenced too.

A paused lane has no owner. One that is held is closed like one that should be another's; where the
pause ends by itself, the member that should own it compares it again then (``Pauses``).

A member that leaves says so first, so that the others take its lanes while it closes them.

What a comparison costs is bounded: of one subscription that changed its lane alone is read
(``ChangedLanes`` keeps which), topics are read part by part, and the loop has its turn after
``TURN`` lanes. A comparison that fails is repeated whole; nothing was forgotten before it ended.

Rules: runs on the event loop. See docs/protocol.rst, "Between workers".
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Protocol

import structlog

from gearhorn.durable.changed_lanes import Changed, ChangedLanes
from gearhorn.durable.deliverer import Deliverer
from gearhorn.durable.lanes import Lane
from gearhorn.durable.latest_lanes import lane_class
from gearhorn.durable.pauses import Pauses
from gearhorn.durable.redrives import Redrives
from gearhorn.durable.states import LaneState
from gearhorn.errors import StoreError
from gearhorn.members.membership import Membership
from gearhorn.messages.events import Leaving
from gearhorn.messages.subscriptions import DurableOptions, pause_left_s
from gearhorn.names import queue_of
from gearhorn.store.lanes import PAGE, Acquired, LaneRecord, Lanes
from gearhorn.store.rounds import PositionWrite
from gearhorn.tasks import went_well
from gearhorn.timing import Backoff, now_s

RETRY_S = 0.5  # until lanes that another member still holds are tried again
PAIRS = 500  # single lanes compared in one go
TURN = 500  # lanes compared in one turn of the loop, or those of one part

log = structlog.get_logger(__name__)

_Records = Mapping[str, tuple[LaneRecord, DurableOptions, bool]]  # by client_id, as the store has


class StoreServer(Protocol):
    """The server that is the store."""

    @property
    def run_id(self) -> str:
        """The id of its present run; another one after a restart or a fail-over."""


def owner_of(members: Sequence[str], queue: bytes) -> str:
    """Return the member that should deliver to a queue. Where a member comes or goes, only its own
    share of the queues has another owner.

    Arguments:
        members: their ids, in any order; there must be one at least.
        queue: its name on the job servers.
    """
    return max(members, key=lambda member: sha256(member.encode() + b"\0" + queue).digest())


class Ownership:
    """Takes lanes and gives them up.

    Arguments:
        lanes: what the store has.
        membership: who may own lanes.
        deliverer: holds the lanes of this member.
        redrives: is told of lanes that were taken.
        changed_lanes: which lanes to compare.
        server: a new run of it may have lost what lanes were told.
    """

    def __init__(
        self,
        *,
        lanes: Lanes,
        membership: Membership,
        deliverer: Deliverer,
        redrives: Redrives,
        changed_lanes: ChangedLanes,
        server: StoreServer,
    ) -> None:
        self._lanes = lanes
        self._membership = membership
        self._deliverer = deliverer
        self._redrives = redrives
        self._changed_lanes = changed_lanes
        self._server = server
        self._pauses = Pauses(membership)
        self._seen_run = ""
        self._leaving: set[str] = set()  # members that give their lanes up
        self._is_leaving = False
        self._retry: set[str] = set()  # topics with lanes of ours that others still hold
        self._comparison: asyncio.Future[None] | None = None  # done when the next one is over

    async def wait_ended(self, topics: Sequence[str] | None) -> None:
        """Return once the lanes of these topics (None: of any) that have ended, and that were
        added to the changed lanes, deliver nothing more.

        A comparison that is under way may have read the store before they ended. So the next one
        is waited for, which is begun at once.
        """
        held = self._deliverer.topics
        if not held or (topics is not None and not set(topics) & set(held)):
            return
        if topics is None:
            self._changed_lanes.add_all()
        self._changed_lanes.came.set()
        if self._comparison is None:
            self._comparison = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._comparison)

    def leaves(self, member: str) -> None:
        """A member gives its lanes up: it is no owner any more, whatever the store says. Its record
        stays there until it stops."""
        if member != self._membership.id:
            self._leaving.add(member)
            self._changed_lanes.add_all()

    async def leave(self) -> None:
        """Give every lane up, as soon as no receiver has a job of it. The others are told first, so
        that none is given up before its next owner knows that it is the owner; where they cannot be
        told, they take the lanes once this member's record is gone."""
        self._is_leaving = True
        try:
            await self._lanes.tell(Leaving(self._membership.id))
        except StoreError as error:
            log.debug("the others are not told", error=str(error))
        for lane in self._deliverer.lanes():
            self._deliverer.close(lane)

    async def run(self) -> None:
        """Compare whenever something has changed, without end."""
        # What is to be compared is taken before it is read, so that what changes meanwhile is
        # compared once more. Those that wait are told last: only a whole comparison tells that
        # lanes have ended.
        backoff = Backoff(0.05, 1.0)
        while True:
            await self._wait()
            for pair in self._pauses.take_due():
                self._changed_lanes.add(*pair)
            changed = self._changed_lanes.take(self._retry)
            self._retry = set()
            comparison, self._comparison = self._comparison, None
            try:
                await self._compare(changed)
            except BaseException as error:  # lanes stay as they are
                self._changed_lanes.put_back(changed)
                self._postpone(comparison)
                if not isinstance(error, StoreError):
                    raise
                log.debug("lanes cannot be compared; trying again", error=str(error))
                await asyncio.sleep(backoff.next_s())
                continue
            backoff.reset()
            if comparison is not None:
                comparison.set_result(None)
            went_well()

    async def _wait(self) -> None:
        """Return when there is something to compare, and this member may own lanes."""
        wait_s = self._pauses.wait_s
        if self._retry:
            wait_s = RETRY_S if wait_s is None else min(RETRY_S, wait_s)
        try:
            async with asyncio.timeout(wait_s):
                await self._changed_lanes.came.wait()
        except TimeoutError:
            pass  # other members may have released what is to be taken here, or a pause is over
        await self._membership.joined.wait()

    def _postpone(self, comparison: asyncio.Future[None] | None) -> None:
        """A comparison has failed; what waits for it waits for the next one. Where that has those
        that wait already, both are told together."""
        if comparison is None:
            return
        if self._comparison is None:
            self._comparison = comparison
        else:
            self._comparison.add_done_callback(lambda _: comparison.set_result(None))

    async def _compare(self, changed: Changed) -> None:
        """Compare lanes that may have changed. Members that left and are gone are forgotten first;
        then a new run of the store, which gives up every lane that would be compared."""
        self._leaving &= self._membership.peers.keys()
        self._notice_run()
        if changed.is_all:
            await self._compare_every()
            return
        await self._compare_all(changed.topics)
        single = sorted(pair for pair in changed.pairs if pair[0] not in changed.topics)
        for at in range(0, len(single), PAIRS):
            await self._compare_pairs(single[at : at + PAIRS])

    def _notice_run(self) -> None:
        """Where the store's server runs anew, it may have lost what lanes were told: give up every
        lane, and compare all of them once more."""
        run_id = self._server.run_id
        if run_id == self._seen_run:
            return
        if self._seen_run:
            log.warning("the store was restarted or replaced; lanes begin anew")
            self._deliverer.abandon()
            self._changed_lanes.add_all()
        self._seen_run = run_id
        self._deliverer.begin_run(run_id)

    async def _compare_every(self) -> None:
        """Compare the lanes of every topic: those that the store has, page by page, and at last
        those that are only held here."""
        left = set(self._deliverer.topics)
        after: str | None = None
        while page := await self._lanes.topics(after):
            await self._compare_topics(page)
            left.difference_update(page)
            after = page[-1]
        await self._compare_all(left)

    async def _compare_all(self, topics: Iterable[str]) -> None:
        """Compare every lane of any number of topics, a page of topics at a time."""
        ordered = sorted(topics)
        for at in range(0, len(ordered), PAGE):
            await self._compare_topics(ordered[at : at + PAGE])

    async def _compare_topics(self, topics: Sequence[str]) -> None:
        """Compare every lane of these topics, part by part. A lane that is held here, and that no
        part had, has ended: it was held before the first part was read, and parts leave out no lane
        that is there all the time."""
        here = {topic: set(self._deliverer.find(topic)) for topic in topics}
        cursors = dict.fromkeys(topics, 0)
        while cursors:
            found, cursors = await self._lanes.page(cursors)
            count = 0  # lanes in this turn of the loop
            for topic, lanes in found.items():
                here[topic].difference_update(lanes)
                await self._take(topic, lanes)
                count += len(lanes)
                if count >= TURN:
                    count = 0
                    await asyncio.sleep(0)
        self._ended(here)

    async def _compare_pairs(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Compare single lanes."""
        wanted: dict[str, set[str]] = {}
        for topic, client_id in pairs:
            wanted.setdefault(topic, set()).add(client_id)
        found = await self._lanes.find(wanted)
        for topic, lanes in found.items():
            wanted[topic].difference_update(lanes)
            await self._take(topic, lanes)
        self._ended(wanted)

    def _ended(self, lanes: Mapping[str, Collection[str]]) -> None:
        """The store has no such lanes, client_ids by topic."""
        for topic, clients in lanes.items():
            for client_id in clients:
                self._pauses.forget(topic, client_id)
                lane = self._deliverer.find(topic).get(client_id)
                if lane is not None:
                    self._deliverer.fence(lane)

    async def _take(self, topic: str, lanes: _Records) -> None:
        """Keep, take or give up lanes of a topic, as the store has them.

        Lanes with ``pull`` have no owner: their receivers fetch. Nor have those that are paused.
        """
        # Lanes that are held keep their options up to date by this comparison alone. Those that
        # the store says are this member's, without being held, are released before any is taken:
        # their next owner may wait for them already.
        member = self._membership.id
        members = self._owners()
        wanted: list[str] = []
        left: list[PositionWrite] = []
        for client_id, (record, durable, envelope) in lanes.items():
            is_ours = bool(members) and not durable.pull
            is_ours = is_ours and owner_of(members, queue_of(topic, client_id)) == member
            is_ours = is_ours and not self._is_paused(topic, client_id, durable)
            lane = self._deliverer.find(topic).get(client_id)
            if lane is not None and self._keep(lane, record, member, is_ours):
                self._adopt(lane, durable, envelope)
            elif is_ours:
                wanted.append(client_id)
            elif record.owner == member:  # it was fenced here, and should be another's now
                left.append((client_id, record.term, record.position, "", None, 0, 0))
        if left:
            await self._lanes.release(member, {(topic, False): left})
        if wanted and member == self._membership.id:
            await self._acquire(member, topic, wanted, lanes)

    def _adopt(self, lane: Lane, durable: DurableOptions, envelope: bool) -> None:
        """A lane stays: have it go on with the options that the store has. One that is to be of
        another kind is given up and taken again."""
        if lane_class(durable) is not type(lane) or durable.latest != lane.options.latest:
            self._deliverer.close(lane)
        else:
            lane.adopt(durable, envelope)

    def _is_paused(self, topic: str, client_id: str, durable: DurableOptions) -> bool:
        """Whether a lane that should be this member's is paused; its end is kept, as this member is
        to take it then."""
        if durable.paused_ms and pause_left_s(durable.paused_ms, self._membership.clock_ms):
            self._pauses.keep(topic, client_id, durable.paused_ms)
            return True
        self._pauses.forget(topic, client_id)
        return False

    def _owners(self) -> list[str]:
        """Return the members that may own lanes: none of those that leave, this one included."""
        members = [member for member in self._membership.peers if member not in self._leaving]
        if not self._is_leaving:
            members.append(self._membership.id)
        return members

    async def _acquire(
        self, member: str, topic: str, wanted: Sequence[str], lanes: _Records
    ) -> None:
        """Take lanes of a topic, as far as no other member holds them."""
        acquired, held = await self._lanes.acquire(member, {topic: wanted})
        self._retry |= held
        if member != self._membership.id:
            return  # the lease was lost meanwhile: nothing of the former id is ours
        for taken in acquired.get(topic, ()):
            _, durable, envelope = lanes[taken.client_id]
            self._open(topic, taken, durable, envelope)

    def _open(self, topic: str, taken: Acquired, durable: DurableOptions, envelope: bool) -> None:
        """Begin to deliver for a lane that was taken. Should a receiver have a job of the former
        owner, it is waited for no longer than its time-out."""
        lane = lane_class(durable)(
            topic,
            taken.client_id,
            queue_of(topic, taken.client_id),
            durable,
            envelope,
            taken.term,
            taken.position,
            keeper=self._deliverer.held,
            wait_until_s=now_s() + durable.timeout,
        )
        self._deliverer.open(lane, taken)
        self._redrives.opened(taken.seen_redrive)

    def _keep(self, lane: Lane, record: LaneRecord, member: str, is_ours: bool) -> bool:
        """Return whether a lane that is held here stays, at least until it is released; close or
        fence it where it should be another's, or is."""
        if lane.state in (LaneState.CLOSING, LaneState.CLOSED):
            return True
        if record.owner != member or record.term != lane.term:
            self._deliverer.fence(lane)
            return False
        if not is_ours:
            self._deliverer.close(lane)
        return True
