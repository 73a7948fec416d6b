"""Ownership: which member delivers for which durable subscription.

Law: runs on the event loop. Lanes are spread over the members by rendezvous hashing (Thaler and
Ravishankar 1998), so that members agree without talking; what counts is the owner and the TERM that
the store has. A lane is taken when nobody holds it, and given up when it is another member's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from hashlib import sha256

import structlog

from gearhorn.broker.delivery import Deliverer
from gearhorn.broker.lanes import Lane
from gearhorn.broker.membership import Membership
from gearhorn.broker.redrives import Redrives
from gearhorn.broker.states import LaneState
from gearhorn.errors import StoreError
from gearhorn.messages.durable import DurableOptions
from gearhorn.names import queue_of
from gearhorn.store.lanes import PAGE, Held, Lanes
from gearhorn.store.rounds import Settlement
from gearhorn.tasks import went_well
from gearhorn.timing import Backoff, now_s

RETRY_S = 0.5  # until lanes that another member still holds are looked at again

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
        self._retry: set[str] = set()  # have lanes of ours that others still hold
        self._is_all = True
        self._came = asyncio.Event()
        self._came.set()
        self._looking: asyncio.Future[None] | None = None  # done when the next look is over

    def changed(self, topic: str) -> None:
        """Look at a topic's lanes; "" is every topic."""
        if topic:
            self._topics.add(topic)
        else:
            self._is_all = True
        self._came.set()

    def refresh(self) -> None:
        """Look at every lane: other members are there now, or anything may have happened."""
        self.changed("")

    async def settled(self, topics: Sequence[str] | None) -> None:
        """Return once the lanes of these topics (None: of any) that have ended deliver nothing
        more."""
        held = self._deliverer.topics
        if not held or (topics is not None and not set(topics) & set(held)):
            return
        for topic in [""] if topics is None else topics:
            self.changed(topic)
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
            await self._store.tell(f"leaving\0{self._membership.id}")
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
            is_all, self._is_all, self._retry = self._is_all, False, set()
            looking, self._looking = self._looking, None
            try:
                await self._look(None if is_all else topics)
            except BaseException as error:  # lanes stay as they are, and are looked at again
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

    async def _look(self, topics: set[str] | None) -> None:
        peers = self._membership.peers.keys()
        self._leaving &= peers
        if topics is None:
            pages = [self._deliverer.topics]
            after: str | None = None
            while page := await self._store.topics(after):
                pages.append(page)
                after = page[-1]
        else:
            ordered = sorted(topics)
            pages = [ordered[at : at + PAGE] for at in range(0, len(ordered), PAGE)]
        run_id = self._run_id()
        if run_id != self._seen_run:
            if self._seen_run:
                log.warning("the store was restarted or replaced; lanes begin anew")
                self._deliverer.abandon()
                self.refresh()  # whatever these topics are
            self._seen_run = run_id
        for page in pages:
            if page:
                await self._look_at(page)

    async def _look_at(self, topics: Sequence[str]) -> None:
        member = self._membership.id
        members = [one for one in self._membership.peers if one not in self._leaving]
        if not self._is_leaving:
            members.append(member)
        found = await self._store.of(topics)
        wanted: dict[str, list[str]] = {}
        left: dict[tuple[str, bool], list[Settlement]] = {}
        options: dict[tuple[str, str], tuple[DurableOptions, bool]] = {}
        for topic, lanes in zip(topics, found, strict=True):
            for client_id, lane in list(self._deliverer.find(topic).items()):
                if client_id not in lanes:
                    self._deliverer.fence(lane)
            for client_id, (held, durable, envelope) in lanes.items():
                is_ours = bool(members) and not durable.pull
                is_ours = is_ours and owner_of(members, queue_of(topic, client_id)) == member
                lane_here = self._deliverer.find(topic).get(client_id)
                if lane_here is not None and self._keep(lane_here, held, member, is_ours):
                    lane_here.adopt(durable, envelope)
                elif is_ours:
                    wanted.setdefault(topic, []).append(client_id)
                    options[topic, client_id] = durable, envelope
                elif held.owner == member:  # it was fenced here, and is another's now
                    last = client_id, held.term, held.position, "", None
                    left.setdefault((topic, False), []).append(last)
        if left:
            await self._store.release(member, left)
        if not wanted or member != self._membership.id:
            return
        acquired, self_held = await self._store.acquire(member, wanted)
        self._retry |= self_held
        if member != self._membership.id:
            return  # another life: nothing of the former one is ours
        for topic, some in acquired.items():
            for one in some:
                durable, envelope = options[topic, one.client_id]
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

    def _keep(self, lane: Lane, held: Held, member: str, is_ours: bool) -> bool:
        """Whether a lane that is here stays, at least until it is released."""
        if lane.state in (LaneState.CLOSING, LaneState.CLOSED):
            return True
        if held.owner != member or held.term != lane.term:
            self._deliverer.fence(lane)
            return False
        if not is_ours:
            self._deliverer.close(lane)
        return True
