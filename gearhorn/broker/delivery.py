"""Delivery: runs the lanes of this member against the store and the job servers.

Law: runs on the event loop, in rounds. A round takes every lane to which something happened and
that is in no other, does one round trip to the store for all of them, and only then submits what
comes next, one block to each job server. So the store has an acknowledgement before the next
message is started, and a lane that was lost is noticed before anything more is sent for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from gearhorn.broker.feed import READ_ENTRIES, Feed, Plan
from gearhorn.broker.lanes import (
    Action,
    Delivery,
    Event,
    Lane,
    LaneEvent,
    LaneState,
    State,
)
from gearhorn.broker.membership import Membership
from gearhorn.broker.notes import Notes
from gearhorn.broker.retries import Retries
from gearhorn.broker.shipping import Job, Shipment, Shipping
from gearhorn.errors import StoreError
from gearhorn.gearman.client import Submission
from gearhorn.gearman.cluster import Cluster
from gearhorn.gearman.results import Result
from gearhorn.store.lanes import Acquired, Lanes, Round, Settlement
from gearhorn.store.log import Entry
from gearhorn.tasks import Tasks
from gearhorn.timing import Backoff, now_s

ROUNDS = 2  # under way: one is worked on while the store works on the other
LANES_IN_ROUND = 1000
REFUSED_S = 1.0  # until a job that its server refused is sent again
TOLD_BYTES = 200  # of a receiver's words that are kept with a failure

log = structlog.get_logger(__name__)


class Deliverer:
    """Delivers for the lanes that this member holds. ``lost`` is told of a topic whose lanes have
    to be looked at again, ``dropped`` counts messages that a log had dropped before they could be
    delivered."""

    def __init__(
        self,
        store: Lanes,
        cluster: Cluster,
        membership: Membership,
        lost: Callable[[str], None],
        dropped: Callable[[str, str, int], None],
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._membership = membership
        self._lost = lost
        self._dropped = dropped
        self._lanes: dict[str, dict[str, Lane]] = {}  # by topic and client_id
        self._feed = Feed()
        self.busy: set[Lane] = set()  # lanes with deliveries
        self._dirty: list[Lane] = []
        self._woken = asyncio.Event()
        self._closed: list[Lane] = []  # to be released
        self._notes = Notes()
        self._slots = asyncio.Semaphore(ROUNDS)
        self._tasks = Tasks()
        self._shipping = Shipping(cluster, self)
        self._retries = Retries(
            self._shipping, self._notes, self._touch, lambda: membership.clock_ms
        )
        self.count = 0  # lanes held
        cluster.on_change(self._server_changed)

    # Lanes come and go

    def lanes(self) -> Iterable[Lane]:
        """Return every lane that is held."""
        return [lane for lanes in self._lanes.values() for lane in lanes.values()]

    def find(self, topic: str) -> dict[str, Lane]:
        """Return a topic's lanes by client_id."""
        return self._lanes.get(topic, {})

    @property
    def topics(self) -> list[str]:
        """The topics of the lanes that are held."""
        return list(self._lanes)

    def open(self, lane: Lane, acquired: Acquired) -> None:
        """Begin to deliver for a lane that was just acquired; while it is settling, once it is
        told to be quiet."""
        lane.troubles = acquired.troubles
        lane.skip = acquired.parked
        lane.redrives.extend(acquired.redrives)
        former = self.find(lane.topic).get(lane.client_id)
        if former is not None:
            self._end(former)
        self._feed.follow(lane.topic)
        self._lanes.setdefault(lane.topic, {})[lane.client_id] = lane
        self.count += 1
        if acquired.former == "-":
            self.quiet(lane)
        else:
            self.busy.add(lane)

    def quiet(self, lane: Lane) -> None:
        """No receiver has a job of the lane's former owner."""
        if lane.apply(LaneEvent.QUIET):
            lane.is_settled = True
            self._touch(lane)

    def close(self, lane: Lane) -> None:
        """Send nothing more for a lane, and release it when nothing is under way."""
        if lane.apply(LaneEvent.CLOSE):
            self.busy.add(lane)  # so that somebody looks what can be withdrawn
            self._maybe_release(lane)

    def fence(self, lane: Lane) -> None:
        """A lane is not ours any more: withdraw what waits, and forget it."""
        if lane.apply(LaneEvent.FENCE):
            jobs = [one.job for one in lane.window if one.job is not None]
            self._end(lane)
            self._shipping.withdraw(jobs)

    def abandon(self) -> None:
        """Fence every lane."""
        for lane in self.lanes():
            self.fence(lane)
        self._feed.clear()

    def _end(self, lane: Lane) -> None:
        lane.state = LaneState.CLOSED
        self.busy.discard(lane)
        for one in lane.window:
            self._shipping.forget(one)
        lanes = self.find(lane.topic)
        if lanes.get(lane.client_id) is lane:
            self.count -= 1
            del lanes[lane.client_id]
            if not lanes:
                del self._lanes[lane.topic]
                self._feed.leave(lane.topic)

    def _maybe_release(self, lane: Lane) -> None:
        if lane.state is LaneState.CLOSING and lane.is_idle and not self._is_parking(lane):
            lane.apply(LaneEvent.IDLE)
            self._closed.append(lane)
            self._woken.set()

    def _is_parking(self, lane: Lane) -> bool:
        return any(one.state is State.PARKING for one in lane.window)

    # What wakes lanes

    def appended(self, topic: str, last: int) -> None:
        """Messages were logged up to this sequence."""
        if not self._feed.hear(topic, last):
            return
        for lane in self.find(topic).values():
            if not lane.is_dirty and lane.active < lane.options.in_flight:
                self._touch(lane)

    def missed(self) -> None:
        """Anything may have been logged."""
        self._feed.doubt()
        for lane in self.lanes():
            self._touch(lane)

    def _touch(self, lane: Lane) -> None:
        if not lane.is_dirty:
            lane.is_dirty = True
            if not lane.in_round:
                self._dirty.append(lane)
                self._woken.set()

    def _server_changed(self) -> None:
        for lane in self.busy:
            self._touch(lane)

    # What becomes of jobs

    def accepted(self, submission: Submission) -> None:
        assert isinstance(submission, Shipment)
        self._shipping.arrived(submission)
        for index, one in enumerate(submission.deliveries):
            if one.lane.state is LaneState.CLOSED:  # nobody could take it back before
                self._shipping.withdraw([(submission, index)])
        for index, code in submission.refused or ():
            one = submission.deliveries[index]
            log.warning("delivery refused", queue=one.lane.queue.decode(), code=code.decode())
            if self._is_present(submission, index):
                one.apply(Event.REFUSE)
                one.job = None
                self._retries.rest(one, REFUSED_S)
        if self._dirty:
            self._woken.set()

    def lost(self, submission: Submission) -> None:
        assert isinstance(submission, Shipment)
        self._shipping.arrived(submission)
        for index in range(submission.answered, len(submission.deliveries)):
            self._lose(submission, index)

    def _lose(self, shipment: Shipment, index: int) -> None:
        """A job server went away with a job, and a receiver may still have it: what comes next
        needs another TERM."""
        one = shipment.deliveries[index]
        if self._is_present(shipment, index):
            one.apply(Event.LOSE)
            one.job = None
            if one.lane.state is LaneState.CLOSING:
                self._maybe_release(one.lane)
            else:
                self.close(one.lane)

    def finished(self, submission: Submission, index: int, result: Result) -> None:
        assert isinstance(submission, Shipment)
        one = submission.deliveries[index]
        lane = one.lane
        if lane.state is LaneState.CLOSED:
            return
        is_present = self._is_present(submission, index)
        if result.lost:
            self._lose(submission, index)
        elif result.ok:
            if is_present:
                one.apply(Event.COMPLETE)
                self._finish(one)
            else:
                self._finish_late(one)
        elif is_present:
            words = result.text[:TOLD_BYTES].decode(errors="replace")
            self._retries.fail(one, words or "failed")
            self._maybe_release(lane)

    def broke(self, submission: Submission) -> None:
        """The store is asked again what is to be delivered."""
        self.abandon()
        self._lost("")

    def _finish_late(self, one: Delivery) -> None:
        """A receiver acknowledged after its time; a batch may have been split meanwhile."""
        for late in one.singles or [one]:
            if late.state in (State.DONE, State.PARKING):
                continue
            if Action.CANCEL in late.apply(Event.LATE):
                self._shipping.withdraw([late.job])
            self._finish(late)

    def _is_present(self, shipment: Shipment, index: int) -> bool:
        job = shipment.deliveries[index].job
        return job is not None and job[0] is shipment and job[1] == index

    def taken(self, one: Delivery) -> None:
        """A receiver was seen with the job: its time runs."""
        if one.state is State.SENT:
            one.apply(Event.TAKE)
            loop = asyncio.get_running_loop()
            loop.call_later(one.lane.options.timeout, self._expire, one, one.job)

    def waiting(self, one: Delivery) -> None:
        """The job of a lane that closes has no receiver: withdraw it."""
        job = one.job
        if one.lane.state is LaneState.CLOSING and Action.CANCEL in one.apply(Event.WITHDRAW):
            one.job = None
            self._shipping.withdraw([job])
            self._maybe_release(one.lane)

    def unknown(self, one: Delivery) -> None:
        """The job server does not know the job."""
        if one.job is not None:
            self._lose(*one.job)

    def _expire(self, one: Delivery, job: Job) -> None:
        if one.job is job and one.state is State.TAKEN:
            words = f"no answer in {one.lane.options.timeout:g} s"
            self._retries.fail(one, words, is_late=True)
            self._maybe_release(one.lane)

    def _finish(self, one: Delivery, parked: bool = False) -> None:
        """A delivery is done."""
        lane = one.lane
        self._notes.finish(one, parked)
        if one.former:
            self._shipping.forget(one)
        one.job = None
        lane.done()
        self._touch(lane)
        if lane.state is LaneState.CLOSING:
            self._maybe_release(lane)

    # Rounds

    async def run(self) -> None:
        """Work off rounds, without end."""
        backoff = Backoff(0.05, 1.0)
        self._woken.set()  # it may have crashed when it had been woken
        while True:
            await self._woken.wait()
            self._woken.clear()
            if not self._holds_lease():
                await asyncio.sleep(backoff.next_s())  # nothing is known of who holds what
                self._woken.set()
                continue
            await self._slots.acquire()
            lanes, self._dirty = self._dirty[:LANES_IN_ROUND], self._dirty[LANES_IN_ROUND:]
            if self._dirty:
                self._woken.set()
            for lane in lanes:
                lane.is_dirty, lane.in_round = False, True
            self._tasks.spawn(self._take_up(lanes, backoff), "deliveries")

    async def _take_up(self, lanes: list[Lane], backoff: Backoff) -> None:
        """Work off one round; lanes to which something happens meanwhile wait for another."""
        try:
            await self._round(lanes)
            backoff.reset()
        except StoreError as error:
            log.debug("a round of deliveries failed", error=str(error))
            for lane in lanes:
                lane.is_dirty = True
            await asyncio.sleep(backoff.next_s())
        except Exception as error:  # the store is asked again what is to be delivered
            log.critical("deliveries failed", exc_info=error)
            self.abandon()
            self._lost("")
            await asyncio.sleep(1.0)
        finally:
            for lane in lanes:
                lane.in_round = False
                if lane.is_dirty:
                    self._dirty.append(lane)
            self._slots.release()
            if self._dirty or self._closed:
                self._woken.set()

    async def _round(self, lanes: list[Lane]) -> None:
        closed, self._closed = self._closed[:LANES_IN_ROUND], self._closed[LANES_IN_ROUND:]
        try:
            await self._exchange(lanes)
            await self._release(closed)  # last: what they left behind is written under their TERM
        except StoreError:
            self._closed[:0] = closed
            raise

    async def _exchange(self, lanes: list[Lane]) -> None:
        """Tell the store what has happened, and send what may be sent then."""
        member = self._membership.id
        settled: dict[str, list[Settlement]] = {}
        moved: list[tuple[Lane, int]] = []
        wanted: dict[str, dict[int, int]] = {}
        hungry: list[Lane] = []
        redriving: list[Lane] = []
        at_s, clock_ms = now_s(), self._membership.clock_ms
        for lane in lanes:
            if lane.state is LaneState.CLOSED:
                continue
            if lane.redrives:
                redriving.append(lane)
            elif room := self._fill(lane, at_s, clock_ms):
                hungry.append(lane)
                firsts = wanted.setdefault(lane.topic, {})
                firsts[lane.next] = max(firsts.get(lane.next, 0), room)
            if lane.position > lane.settled:
                one = lane.client_id, lane.term, lane.position, lane.epoch
                settled.setdefault(lane.topic, []).append(one)
                moved.append((lane, lane.position))
        plan = self._feed.plan(wanted)
        taken = self._notes.take()
        if settled or plan.reads or any(taken):
            work = Round(settled, taken.parkings, taken.notes, plan.reads, taken.done)
            try:
                reply = await self._store.round(member, work)
            except StoreError:
                self._notes.put_back(taken)
                raise
            if member != self._membership.id:
                return  # another life: every lane was abandoned
            for topic, client_id in reply.fenced:
                held = self.find(topic).get(client_id)
                if held is not None and held.state is not LaneState.CLOSED:
                    log.warning("lane is not ours any more", topic=topic, client=client_id)
                    self.fence(held)
                    self._feed.forget(topic)
                    self._lost(topic)
            for lane, position in moved:
                lane.settled = position
            for delivery in taken.parked:
                if delivery.lane.state is not LaneState.CLOSED and delivery.apply(Event.PARK) == ():
                    self._finish(delivery, parked=True)
            self._take_in(plan, reply.entries)
        if redriving:
            await self._redrive(redriving)
        at_s, clock_ms = now_s(), self._membership.clock_ms
        for lane in hungry:
            if lane.state is LaneState.CLOSED:
                continue
            if self._fill(lane, at_s, clock_ms) or lane.position > lane.settled:
                self._touch(lane)
        # with no server up, somebody touches the lanes when one is; without a lease they are lost
        may_send = self._cluster.is_up and self._holds_lease()
        for lane in lanes:
            if lane.state is LaneState.CLOSED:
                continue
            if lane.window:
                self.busy.add(lane)
                if may_send and lane.ready:
                    self._send(lane, at_s)
            elif lane.state is LaneState.OPEN:
                self.busy.discard(lane)
        self._shipping.ship()

    def _holds_lease(self) -> bool:
        return now_s() <= self._membership.lease.until_s

    def _take_in(self, plan: Plan, replies: list[tuple[list[Entry], bool]]) -> None:
        """Keep what was read, and let lanes pass over what is gone."""
        found = self._feed.take_in(plan, replies)
        for topic, gone, first in found.gaps:
            for lane in self.find(topic).values():
                if gone <= lane.next < first:
                    self._notes.forget(lane, lane.pass_gap(first))
        for topic in found.news:
            for lane in self.find(topic).values():
                if lane.active < lane.options.in_flight:
                    self._touch(lane)
        for topic in found.lost:
            self._lost(topic)

    async def _redrive(self, lanes: list[Lane]) -> None:
        """Read messages that were put back, as many as may be under way."""
        for lane in lanes:
            count = min(lane.redrive_room, READ_ENTRIES)
            if not count:
                continue
            sequences = [lane.redrives[at] for at in range(count)]
            found = await self._store.parked(lane.topic, lane.client_id, sequences)
            if lane.state is not LaneState.OPEN:
                continue
            for sequence, one in zip(sequences, found, strict=True):
                lane.redrives.popleft()
                if one is not None:
                    entry = Entry(sequence, one.epoch, one.info, one.payload)
                    at_s = now_s()
                    resting = lane.take_redriven(
                        entry, one.trouble, at_s, self._membership.clock_ms
                    )
                    if resting is not None:
                        self._retries.rest(resting, resting.due_s - at_s)
            if not lane.redrives:
                self._touch(lane)

    def _fill(self, lane: Lane, at_s: float, clock_ms: int) -> int:
        """Take what is in memory of what the lane has room for; return how much more there may be
        to take."""
        room = lane.room
        if room and (entries := self._feed.run(lane.topic, lane.next, room)):
            for one in lane.take(entries, at_s, clock_ms):
                self._retries.rest(one, one.due_s - at_s)
            room = lane.room
        if lane.gap:
            self._dropped(lane.topic, lane.client_id, lane.gap)
            lane.gap = 0
        return 0 if not room or self._feed.is_at_end(lane.topic, lane.next) else room

    def _send(self, lane: Lane, at_s: float) -> None:
        if self._shipping.is_full:
            self._touch(lane)
            return
        for one in lane.sendable():
            self._shipping.add(one)
            one.apply(Event.SEND)
            one.sent_s, one.look_s = at_s, 0.0

    async def _release(self, closed: list[Lane]) -> None:
        """Give up lanes that have closed."""
        if not closed:
            return
        by_topic: dict[tuple[str, bool], list[Settlement]] = {}
        for lane in closed:
            one = lane.client_id, lane.term, lane.position, lane.epoch
            by_topic.setdefault((lane.topic, lane.is_settled), []).append(one)
        await self._store.release(self._membership.id, by_topic)
        for lane in closed:
            self._end(lane)
