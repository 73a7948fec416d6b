"""Ownership: which member delivers for which durable subscription.

Rules: runs on the event loop. Lanes are spread over the members by rendezvous hashing (Thaler and
Ravishankar 1998), so that members agree without talking; what counts is the owner and the TERM that
the store has. A lane is taken when nobody holds it, and given up when it is another member's. Where
one subscription has changed its lane alone is looked at; a topic's lanes are read part by part.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from hashlib import sha256

import structlog

from gearhorn.durable.deliverer import Deliverer
from gearhorn.durable.lanes import Lane
from gearhorn.durable.redrives import Redrives
from gearhorn.durable.states import LaneState
from gearhorn.errors import StoreError
from gearhorn.members.membership import Membership
from gearhorn.messages.events import Leaving
from gearhorn.messages.subscriptions import DurableOptions
from gearhorn.names import queue_of
from gearhorn.store.lanes import PAGE, LaneRecord, Lanes
from gearhorn.store.rounds import Settlement
from gearhorn.tasks import went_well
from gearhorn.timing import Backoff, now_s

RETRY_S = 0.5  # until lanes that another member still holds are looked at again
PAIRS = 500  # changed lanes looked at in one go
TURN = 500  # lanes looked at in one turn of the loop, or those of one part

log = structlog.get_logger(__name__)


def owner_of(members: Sequence[str], queue: bytes) -> str:
    """Return the member that delivers to a queue; there must be one."""
    return max(members, key=lambda member: sha256(member.encode() + b"\0" + queue).digest())


class Ownership:
    """Takes and gives up lanes. ``run_id`` returns the run id of the store's server."""

    def __init__(
        self,
        store: Lanes,
        membership: Membership,
        deliverer: Deliverer,
        redrives: Redrives,
        run_id: Callable[[], str],
    ) -> None:
        self._store = store
        self._membership = membership
        self._deliverer = deliverer
        self._redrives = redrives
        self._run_id = run_id
        self._seen_run = ""
        self._leaving: set[str] = set()  # members that give their lanes up
        self._is_leaving = False
        self._topics: set[str] = set()  # to look at
        self._pairs: set[tuple[str, str]] = set()  # topics and client_ids to look at
        self._retry: set[str] = set()  # have lanes of ours that others still hold
        self._is_all = True
        self._came = asyncio.Event()
        self._came.set()
        self._looking: asyncio.Future[None] | None = None  # done when the next look is over

    def changed(self, topic: str, client_id: str | None = None) -> None:
        """Look at a topic's lanes, or at one client's alone; "" is every topic."""
        if topic and client_id:
            self._pairs.add((topic, client_id))
        elif topic:
            self._topics.add(topic)
        else:
            self._is_all = True
        self._came.set()

    def refresh(self) -> None:
        """Look at every lane: other members are there now, or anything may have happened."""
        self.changed("")

    async def wait_ended(self, topics: Sequence[str] | None) -> None:
        """Return once the lanes of these topics (None: of any) that have ended, and of which
        ``changed`` was told, deliver nothing more."""
        held = self._deliverer.topics
        if not held or (topics is not None and not set(topics) & set(held)):
            return
        if topics is None:
            self.refresh()
        self._came.set()
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._looking)

    def leaves(self, member: str) -> None:
        """A member gives its lanes up."""
        if member != self._membership.id:
            self._leaving.add(member)
            self.refresh()

    async def leave(self) -> None:
        """Give every lane up, as soon as no receiver has a job of it."""
        self._is_leaving = True
        try:
            await self._store.tell(Leaving(self._membership.id))
        except StoreError as error:
            log.debug("the others are not told", error=str(error))
        for lane in self._deliverer.lanes():
            self._deliverer.close(lane)

    async def run(self) -> None:
        """Look whenever something has changed, without end."""
        backoff = Backoff(0.05, 1.0)
        while True:
            try:
                async with asyncio.timeout(RETRY_S if self._retry else None):
                    await self._came.wait()
            except TimeoutError:
                pass
            await self._membership.joined.wait()
            self._came.clear()
            topics, self._topics = self._topics | self._retry, set()
            pairs, self._pairs = self._pairs, set()
            is_all, self._is_all, self._retry = self._is_all, False, set()
            looking, self._looking = self._looking, None
            try:
                await self._look(None if is_all else topics, pairs)
            except BaseException as error:  # lanes stay as they are, and are looked at again
                self._pairs |= pairs
                self._look_again(topics, is_all, looking)
                if not isinstance(error, StoreError):
                    raise
                log.debug("lanes cannot be looked at; trying again", error=str(error))
                await asyncio.sleep(backoff.next_s())
                continue
            backoff.reset()
            if looking is not None:
                looking.set_result(None)
            went_well()

    def _look_again(
        self, topics: set[str], is_all: bool, looking: asyncio.Future[None] | None
    ) -> None:
        """A look has failed; whoever waits for it waits for the next one."""
        self._topics |= topics
        self._is_all |= is_all
        self._came.set()
        if looking is not None:
            if self._looking is not None:
                self._looking.add_done_callback(lambda _: looking.set_result(None))
            else:
                self._looking = looking

    async def _look(self, topics: set[str] | None, pairs: set[tuple[str, str]]) -> None:
        """Look at the lanes of topics (None: of all), and at single lanes besides."""
        peers = self._membership.peers.keys()
        self._leaving &= peers
        run_id = self._run_id()
        if run_id != self._seen_run:
            if self._seen_run:
                log.warning("the store was restarted or replaced; lanes begin anew")
                self._deliverer.abandon()
                self.refresh()  # whatever these topics are
            self._seen_run = run_id
            self._deliverer.begin_run(run_id)
        if topics is None:
            left = set(self._deliverer.topics)
            after: str | None = None
            while page := await self._store.topics(after):
                await self._look_at(page)
                left.difference_update(page)
                after = page[-1]
            await self._look_at_all(left)
            return
        await self._look_at_all(topics)
        single = sorted(pair for pair in pairs if pair[0] not in topics)
        for at in range(0, len(single), PAIRS):
            await self._look_at_pairs(single[at : at + PAIRS])

    async def _look_at_all(self, topics: Iterable[str]) -> None:
        """Look at every lane of any number of topics."""
        ordered = sorted(topics)
        for at in range(0, len(ordered), PAGE):
            await self._look_at(ordered[at : at + PAGE])

    async def _look_at(self, topics: Sequence[str]) -> None:
        """Look at every lane of these topics, part by part."""
        here = {topic: set(self._deliverer.find(topic)) for topic in topics}
        cursors = dict.fromkeys(topics, 0)
        while cursors:
            found, cursors = await self._store.page(cursors)
            count = 0  # lanes in this turn of the loop
            for topic, lanes in found.items():
                here[topic].difference_update(lanes)
                await self._take(topic, lanes)
                count += len(lanes)
                if count >= TURN:
                    count = 0
                    await asyncio.sleep(0)
        self._ended(here)

    async def _look_at_pairs(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Look at single lanes."""
        wanted: dict[str, set[str]] = {}
        for topic, client_id in pairs:
            wanted.setdefault(topic, set()).add(client_id)
        found = await self._store.some(wanted)
        for topic, lanes in found.items():
            wanted[topic].difference_update(lanes)
            await self._take(topic, lanes)
        self._ended(wanted)

    def _ended(self, lanes: Mapping[str, Collection[str]]) -> None:
        """The store has no such lanes, client_ids by topic."""
        for topic, clients in lanes.items():
            for client_id in clients:
                lane = self._deliverer.find(topic).get(client_id)
                if lane is not None:
                    self._deliverer.fence(lane)

    async def _take(
        self, topic: str, lanes: Mapping[str, tuple[LaneRecord, DurableOptions, bool]]
    ) -> None:
        """Keep, take or give up lanes of a topic, as the store has them."""
        member = self._membership.id
        members = [one for one in self._membership.peers if one not in self._leaving]
        if not self._is_leaving:
            members.append(member)
        wanted: list[str] = []
        left: list[Settlement] = []
        for client_id, (held, durable, envelope) in lanes.items():
            is_ours = bool(members) and not durable.pull
            is_ours = is_ours and owner_of(members, queue_of(topic, client_id)) == member
            lane_here = self._deliverer.find(topic).get(client_id)
            if lane_here is not None and self._keep(lane_here, held, member, is_ours):
                lane_here.adopt(durable, envelope)
            elif is_ours:
                wanted.append(client_id)
            elif held.owner == member:  # it was fenced here, and is another's now
                left.append((client_id, held.term, held.position, "", None))
        if left:
            await self._store.release(member, {(topic, False): left})
        if wanted and member == self._membership.id:
            await self._acquire(member, topic, wanted, lanes)

    async def _acquire(
        self,
        member: str,
        topic: str,
        wanted: Sequence[str],
        lanes: Mapping[str, tuple[LaneRecord, DurableOptions, bool]],
    ) -> None:
        acquired, held = await self._store.acquire(member, {topic: wanted})
        self._retry |= held
        if member != self._membership.id:
            return  # another life: nothing of the former one is ours
        for one in acquired.get(topic, ()):
            _, durable, envelope = lanes[one.client_id]
            queue = queue_of(topic, one.client_id)
            lane = Lane(
                topic,
                one.client_id,
                queue,
                durable,
                envelope,
                one.term,
                one.position,
                keeper=self._deliverer.held,
                wait_until_s=now_s() + durable.timeout,
            )
            self._deliverer.open(lane, one)
            self._redrives.opened(one.seen_redrive)

    def _keep(self, lane: Lane, held: LaneRecord, member: str, is_ours: bool) -> bool:
        """Whether a lane that is here stays, at least until it is released."""
        if lane.state in (LaneState.CLOSING, LaneState.CLOSED):
            return True
        if held.owner != member or held.term != lane.term:
            self._deliverer.fence(lane)
            return False
        if not is_ours:
            self._deliverer.close(lane)
        return True
