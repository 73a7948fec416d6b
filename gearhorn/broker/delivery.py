"""Delivery: runs the lanes of this member against the store and the job servers.

Law: runs on the event loop, in rounds. A round takes every lane to which something happened, does
one round trip to the store for all of them, and only then submits what comes next, one block to
each job server. So the store has an acknowledgement before the next message is started, and a lane
that was lost is noticed before anything more is sent for it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

import structlog

from gearhorn.broker.entries import Entries
from gearhorn.broker.lanes import (
    Action,
    Delivery,
    Event,
    Lane,
    LaneEvent,
    LaneState,
    State,
    rest_s,
)
from gearhorn.broker.membership import Membership
from gearhorn.errors import StoreError
from gearhorn.gearman import packets
from gearhorn.gearman.client import Result, Submission
from gearhorn.gearman.cluster import Cluster
from gearhorn.gearman.connection import Connection
from gearhorn.messages.codec import encode
from gearhorn.messages.durable import Parked, Trouble, durable_envelope
from gearhorn.store.lanes import Acquired, Lanes, Parking, Round, Settlement, Wanted
from gearhorn.store.log import Entry
from gearhorn.tasks import Tasks
from gearhorn.timing import Backoff, now_s

READS = 32  # parts of logs read in one round
READ_ENTRIES = 64
READ_BYTES = 256 * 1024
UNSENT_BYTES = 64 * 1024 * 1024  # handed to the job servers and not accepted
LANES_IN_ROUND = 1000
REFUSED_S = 1.0  # until a job that its server refused is sent again
TOLD_BYTES = 200  # of a receiver's words that are kept with a failure
_KIND = packets.SUBMIT[True, "normal"]
_ENVELOPE_BYTES = 64  # of a packet besides its arguments

log = structlog.get_logger(__name__)


class _Topic:
    """What is known of a topic with lanes here."""

    __slots__ = ("heard", "is_known", "lanes")

    def __init__(self) -> None:
        self.lanes: dict[str, Lane] = {}
        self.heard = 0  # the last sequence that somebody told of or that was read
        self.is_known = False  # whether nothing is behind it but what will be told of


class Job(NamedTuple):
    """One attempt: where its job is."""

    shipment: Shipment
    at: int


class Shipment(Submission):
    """Deliveries of one round to one job server."""

    __slots__ = ("connection", "deliveries", "place", "size")

    def __init__(
        self,
        outcome: Deliverer,
        place: int,
        connection: Connection | None,
        deliveries: list[Delivery],
        blocks: list[bytes],
    ) -> None:
        super().__init__(outcome, blocks, b"", foreground=True)  # blocks are whole packets
        self.place = place
        self.connection = connection
        self.deliveries = deliveries
        self.size = sum(map(len, blocks))
        self.unit = self.size // len(blocks) + _ENVELOPE_BYTES


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
        self._topics: dict[str, _Topic] = {}
        self._entries = Entries()
        self.busy: set[Lane] = set()  # lanes with deliveries
        self._dirty: list[Lane] = []
        self._woken = asyncio.Event()
        self._closed: list[Lane] = []  # to be released
        self._parking: list[Delivery] = []
        self._troubles: list[tuple[str, str, int, Trouble | None]] = []
        self._redriven: list[tuple[str, str, int]] = []
        self._done: defaultdict[str, list[bytes]] = defaultdict(list)  # by process that waits
        self._out: defaultdict[int, list[tuple[Delivery, bytes]]] = defaultdict(list)
        self._unsent = 0
        self._tasks = Tasks()
        self.count = 0  # lanes held
        self.failures = 0  # attempts, since the beginning
        self.parked = 0
        cluster.on_change(self._server_changed)

    # Lanes come and go

    def lanes(self) -> Iterable[Lane]:
        """Return every lane that is held."""
        return [lane for topic in self._topics.values() for lane in topic.lanes.values()]

    def find(self, topic: str) -> dict[str, Lane]:
        """Return a topic's lanes by client_id."""
        found = self._topics.get(topic)
        return found.lanes if found else {}

    @property
    def topics(self) -> list[str]:
        """The topics of the lanes that are held."""
        return list(self._topics)

    def open(self, lane: Lane, acquired: Acquired) -> None:
        """Begin to deliver for a lane that was just acquired; while it is settling, once it is
        told to be quiet."""
        lane.troubles = acquired.troubles
        lane.skip = acquired.parked
        lane.redrives.extend(acquired.redrives)
        topic = self._topics.setdefault(lane.topic, _Topic())
        topic.is_known = False
        former = topic.lanes.get(lane.client_id)
        if former is not None:
            self._end(former)
        topic.lanes[lane.client_id] = lane
        self.count += 1
        if acquired.former == "-":
            self.quiet(lane)
        else:
            self.busy.add(lane)

    def quiet(self, lane: Lane) -> None:
        """No receiver has a job of the lane's former owner."""
        if lane.apply(LaneEvent.QUIET):
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
            self._withdraw(jobs)

    def abandon(self) -> None:
        """Fence every lane."""
        for lane in self.lanes():
            self.fence(lane)
        self._entries.clear()

    def _end(self, lane: Lane) -> None:
        lane.state = LaneState.CLOSED
        self.busy.discard(lane)
        for one in lane.window:
            self._forget_jobs(one)
        topic = self._topics.get(lane.topic)
        if topic is not None and topic.lanes.get(lane.client_id) is lane:
            self.count -= 1
            del topic.lanes[lane.client_id]
            if not topic.lanes:
                del self._topics[lane.topic]

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
        found = self._topics.get(topic)
        if found is None or last <= found.heard:
            return
        found.heard = last
        for lane in found.lanes.values():
            if not lane.is_dirty and lane.active < lane.options.in_flight:
                self._touch(lane)

    def missed(self) -> None:
        """Anything may have been logged."""
        for topic in self._topics.values():
            topic.is_known = False
            for lane in topic.lanes.values():
                self._touch(lane)

    def _touch(self, lane: Lane) -> None:
        if not lane.is_dirty:
            lane.is_dirty = True
            self._dirty.append(lane)
            self._woken.set()

    def _server_changed(self) -> None:
        for lane in self.busy:
            self._touch(lane)

    # What becomes of jobs

    def accepted(self, submission: Submission) -> None:
        assert isinstance(submission, Shipment)
        self._unsent -= submission.size
        for index, code in submission.refused or ():
            one = submission.deliveries[index]
            log.warning("delivery refused", queue=one.lane.queue.decode(), code=code.decode())
            if self._is_present(submission, index):
                one.apply(Event.REFUSE)
                self._rest(one, REFUSED_S)
        submission.heads = ()  # the payloads are with the server
        if self._dirty:
            self._woken.set()

    def lost(self, submission: Submission) -> None:
        assert isinstance(submission, Shipment)
        self._unsent -= submission.size
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
            actions = one.apply(Event.COMPLETE if is_present else Event.LATE)
            if one.state is State.DONE and actions:
                self._withdraw([one.job])
            if one.state is State.DONE:
                self._finish(one)
        elif is_present:
            words = result.text[:TOLD_BYTES].decode(errors="replace")
            self._fail(one, Event.GIVE_UP if self._gives_up(one) else Event.FAIL, words or "failed")

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
            self._withdraw([job])
            self._maybe_release(one.lane)

    def unknown(self, one: Delivery) -> None:
        """The job server does not know the job."""
        if one.job is not None:
            self._lose(*one.job)

    def _expire(self, one: Delivery, job: Job) -> None:
        if one.job is job and one.state is State.TAKEN:
            words = f"no answer in {one.lane.options.timeout:g} s"
            event = Event.EXPIRE_LAST if self._gives_up(one) else Event.EXPIRE
            self._fail(one, event, words)

    def _gives_up(self, one: Delivery) -> bool:
        """Whether a failure parks the message; a batch is first tried one by one."""
        return one.is_last and len(one.entries) == 1

    def _fail(self, one: Delivery, event: Event, words: str) -> None:
        """An attempt failed."""
        lane = one.lane
        job = one.job
        actions = one.apply(event)
        if not actions:
            return
        self.failures += 1
        at = time.time()
        one.failures += 1
        one.first_at = one.first_at or at
        one.error = words
        one.job = None
        if Action.CANCEL in actions:
            one.former.append(job)
            self._withdraw([job], is_late=True)
        if Action.PARK in actions:
            self.parked += 1
            log.warning(
                "message parked",
                topic=lane.topic,
                client=lane.client_id,
                sequence=one.sequence,
                attempts=one.failures,
                error=words,
            )
            self._parking.append(one)
            self._touch(lane)
            return
        wait_s = rest_s(one.failures - one.since, lane.options.max_backoff, random.random())
        due_ms = self._membership.clock_ms + int(wait_s * 1000)
        for entry in one.entries:
            trouble = Trouble(one.failures, one.first_at, at, words, due_ms, one.since)
            self._troubles.append((lane.topic, lane.client_id, entry.sequence, trouble))
        for single in lane.split(one) if len(one.entries) > 1 else [one]:
            self._rest(single, wait_s)
        self._touch(lane)
        self._maybe_release(lane)

    def _rest(self, one: Delivery, wait_s: float) -> None:
        one.due_s = now_s() + wait_s
        asyncio.get_running_loop().call_later(wait_s, self._due, one, one.due_s)

    def _due(self, one: Delivery, due_s: float) -> None:
        if one.due_s == due_s and one.state is State.RESTING:
            one.apply(Event.DUE)
            self._touch(one.lane)

    def _finish(self, one: Delivery, parked: bool = False) -> None:
        """A delivery is done."""
        lane = one.lane
        for entry in one.entries:
            if one.failures and not parked:
                self._troubles.append((lane.topic, lane.client_id, entry.sequence, None))
            if one.is_redriven and not parked:
                self._redriven.append((lane.topic, lane.client_id, entry.sequence))
            if entry.info.waiter:
                words = f"{lane.topic}\0{lane.client_id}\0{entry.sequence}\0"
                words += one.error if parked else ""
                self._done[entry.info.waiter].append(words.replace("\n", " ").encode())
        if one.former:
            self._forget_jobs(one)
        one.job = None
        lane.done()
        self._touch(lane)
        if lane.state is LaneState.CLOSING:
            self._maybe_release(lane)

    def _forget_jobs(self, one: Delivery) -> None:
        """Wait no more for the receivers of former attempts."""
        for shipment, index in one.former:
            client = self._cluster.clients[shipment.place]
            if client.connection is shipment.connection and shipment.handles:
                client.drop(shipment, index)
        one.former.clear()

    def _withdraw(self, jobs: Iterable[Job], is_late: bool = False) -> None:
        """Take jobs back, as far as no receiver has them; ``is_late``: who has one may still
        acknowledge it."""
        by_place: defaultdict[int, list[bytes]] = defaultdict(list)
        for shipment, index in jobs:
            client = self._cluster.clients[shipment.place]
            handles = shipment.handles or []
            if client.connection is not shipment.connection or index >= len(handles):
                continue
            if is_late:
                client.expect_late(shipment, index)
            else:
                client.drop(shipment, index)
            by_place[shipment.place].append(handles[index])
        for place, handles in by_place.items():
            self._tasks.spawn(self._cancel(place, handles), "withdraw")

    async def _cancel(self, place: int, handles: list[bytes]) -> None:
        connection = self._cluster.clients[place].connection
        if connection is None:
            return
        try:
            await self._cluster.admins[place].cancel(handles, lambda: connection.is_open)
        except OSError as error:
            words = str(error) or type(error).__name__
            log.debug("deliveries are not withdrawn", error=words)

    # Rounds

    async def run(self) -> None:
        """Work off rounds, for ever."""
        backoff = Backoff(0.05, 1.0)
        while True:
            await self._woken.wait()
            self._woken.clear()
            if not self._holds_lease():
                await asyncio.sleep(backoff.next_s())  # nothing is known of who holds what
                self._woken.set()
                continue
            lanes, self._dirty = self._dirty[:LANES_IN_ROUND], self._dirty[LANES_IN_ROUND:]
            if self._dirty:
                self._woken.set()
            for lane in lanes:
                lane.is_dirty = False
            try:
                await self._round(lanes)
            except StoreError as error:
                log.debug("a round of deliveries failed", error=str(error))
                for lane in lanes:
                    self._touch(lane)
                await asyncio.sleep(backoff.next_s())
                self._woken.set()
            except Exception:  # a bug: the store is asked again what is to be delivered
                log.exception("deliveries failed")
                self.abandon()
                self._lost("")
                await asyncio.sleep(1.0)
            else:
                backoff.reset()

    async def _round(self, lanes: list[Lane]) -> None:
        member = self._membership.id
        await self._release(member)
        settled: dict[str, list[Settlement]] = {}
        wanted: dict[str, dict[int, int]] = {}
        redriving: list[Lane] = []
        for lane in lanes:
            if lane.state is LaneState.CLOSED:
                continue
            if lane.position > lane.settled:
                one = Settlement(lane.client_id, lane.term, lane.position, lane.epoch)
                settled.setdefault(lane.topic, []).append(one)
            if lane.redrives and lane.state is LaneState.OPEN:
                redriving.append(lane)
            elif (room := lane.room) and not self._is_at_end(lane):
                if not self._entries.run(lane.topic, lane.next, 1):
                    firsts = wanted.setdefault(lane.topic, {})
                    firsts[lane.next] = max(firsts.get(lane.next, READ_ENTRIES), room)
        reads, later = _reads(wanted)
        heard = {topic: self._topics[topic].heard for topic in wanted if topic in self._topics}
        parking, self._parking = self._parking, []
        troubles, self._troubles = self._troubles, []
        redriven, self._redriven = self._redriven, []
        done, self._done = self._done, defaultdict(list)
        parkings = [_parking(one) for one in parking if one.lane.state is not LaneState.CLOSED]
        if settled or parkings or troubles or redriven or reads or done:
            work = Round(settled, parkings, troubles, redriven, reads, done)
            try:
                reply = await self._store.round(member, work)
            except StoreError:
                self._parking[:0] = parking
                self._troubles[:0] = troubles
                self._redriven[:0] = redriven
                for process, words in done.items():
                    self._done[process][:0] = words
                raise
            if member != self._membership.id:
                return  # another life: every lane was abandoned
            for topic, client_id in reply.fenced:
                held = self.find(topic).get(client_id)
                if held is not None:
                    log.warning("lane is not ours any more", topic=topic, client=client_id)
                    self.fence(held)
                    self._lost(topic)
            for topic, some in settled.items():
                held_here = self.find(topic)
                for one in some:
                    held = held_here.get(one.client_id)
                    if held is not None and held.term == one.term:
                        held.settled = max(held.settled, one.position)
            for delivery in parking:
                if delivery.lane.state is not LaneState.CLOSED and delivery.apply(Event.PARK) == ():
                    self._finish(delivery, parked=True)
            self._take_in(reads, reply.entries, heard)
        await self._redrive(redriving)
        for lane in lanes:
            if lane.state is LaneState.CLOSED:
                continue
            if later and lane.topic in later:
                self._touch(lane)
            self._fill(lane)
        self._ship()

    def _holds_lease(self) -> bool:
        return now_s() <= self._membership.lease.until_s

    def _is_at_end(self, lane: Lane) -> bool:
        topic = self._topics.get(lane.topic)
        return topic is None or (topic.is_known and lane.next > topic.heard)

    def _take_in(
        self, reads: list[Wanted], replies: list[list[Entry]], heard: dict[str, int]
    ) -> None:
        """Keep what was read, and note where logs end and where they begin."""
        for wanted, entries in zip(reads, replies, strict=True):
            topic = self._topics.get(wanted.topic)
            if topic is None:
                continue
            self._entries.add(wanted.topic, entries)
            last = entries[-1].sequence if entries else wanted.first - 1
            size = sum(len(entry.payload) for entry in entries)
            if len(entries) < wanted.most and size < wanted.size:
                if not entries and heard.get(wanted.topic, 0) >= wanted.first:
                    # what somebody told of is not there: the store lost it
                    topic.heard = last
                    self._lost(wanted.topic)
                topic.is_known = True
            topic.heard = max(topic.heard, last)
            if entries and entries[0].sequence > wanted.first:
                first = entries[0].sequence
                for lane in topic.lanes.values():
                    if wanted.first <= lane.next < first:
                        lane.gap += first - lane.next
                        lane.pass_over(first - 1)

    async def _redrive(self, lanes: list[Lane]) -> None:
        """Read messages that were put back, as many as may be under way."""
        for lane in lanes:
            count = min(lane.options.in_flight - lane.active, len(lane.redrives), READ_ENTRIES)
            if count <= 0 or lane.state is not LaneState.OPEN:
                continue
            sequences = [lane.redrives[at] for at in range(count)]
            found = await self._store.parked(lane.topic, lane.client_id, sequences)
            if lane.state is not LaneState.OPEN:
                continue
            for sequence, one in zip(sequences, found, strict=True):
                lane.redrives.popleft()
                if one is not None:
                    entry = Entry(sequence, one.epoch, one.info, one.payload)
                    lane.take_redriven(entry, one.trouble)
            if not lane.redrives:
                self._touch(lane)

    def _fill(self, lane: Lane) -> None:
        """Take what the lane has room for, and send what may be sent."""
        room = lane.room
        if room:
            if entries := self._entries.run(lane.topic, lane.next, room):
                at_s = now_s()
                for one in lane.take(entries, at_s, self._membership.clock_ms):
                    self._rest(one, one.due_s - at_s)
            if lane.position > lane.settled or (lane.room and not self._is_at_end(lane)):
                self._touch(lane)
        if lane.gap:
            self._dropped(lane.topic, lane.client_id, lane.gap)
            lane.gap = 0
        if lane.window:
            self.busy.add(lane)
            self._send(lane)
        elif lane.state is LaneState.OPEN:
            self.busy.discard(lane)

    def _send(self, lane: Lane) -> None:
        if not self._cluster.is_up or not self._holds_lease():
            return  # woken when a server is back; abandoned when the lease is lost
        if self._unsent > UNSENT_BYTES:
            self._touch(lane)
            return
        sent_s = now_s()
        for one in list(lane.sendable()):
            lane.counter += 1
            first = one.entries[0]
            unique = b"%s:%d:%d.%d" % (
                first.epoch[:8].encode(),
                first.sequence,
                lane.term,
                lane.counter,
            )
            block = packets.pack(_KIND, lane.queue, unique, _arguments(lane, one))
            one.apply(Event.SEND)
            one.sent_s = sent_s
            one.look_s = 0.0
            self._unsent += len(block)
            self._out[self._cluster.route(lane.queue)].append((one, block))

    def _ship(self) -> None:
        """Submit what this round sends."""
        out, self._out = self._out, defaultdict(list)
        for place, some in out.items():
            connection = self._cluster.clients[place].connection
            deliveries = [one for one, _ in some]
            shipment = Shipment(self, place, connection, deliveries, [block for _, block in some])
            for index, one in enumerate(deliveries):
                one.job = Job(shipment, index)
            self._cluster.submit(place, shipment)

    async def _release(self, member: str) -> None:
        """Give up the lanes that have closed."""
        if not self._closed:
            return
        closed = self._closed
        by_topic: dict[str, list[Settlement]] = {}
        for lane in closed:
            one = Settlement(lane.client_id, lane.term, lane.position, lane.epoch)
            by_topic.setdefault(lane.topic, []).append(one)
        await self._store.release(member, by_topic)
        self._closed = self._closed[len(closed) :]
        for lane in closed:
            self._end(lane)


def _reads(wanted: dict[str, dict[int, int]]) -> tuple[list[Wanted], set[str]]:
    """Return the parts of logs to read, without what others bring, and the topics that have to
    wait for the next round."""
    reads: list[Wanted] = []
    later = set()
    for topic, firsts in wanted.items():
        end = 0
        for first in sorted(firsts):
            if first < end:
                continue
            if len(reads) == READS:
                later.add(topic)
                break
            reads.append(Wanted(topic, first, firsts[first], READ_BYTES))
            end = first + firsts[first]
    return reads, later


def _parking(one: Delivery) -> Parking:
    lane, entry = one.lane, one.entries[0]
    trouble = Trouble(one.failures, one.first_at, time.time(), one.error)
    message = Parked(entry.epoch, trouble, entry.info, entry.payload)
    return Parking(lane.topic, lane.client_id, lane.term, entry.sequence, message)


def _arguments(lane: Lane, one: Delivery) -> bytes:
    """Return what the receiver gets: bytes, an envelope, or an array of envelopes."""
    if lane.options.batch == 1 and not lane.envelope:
        return one.entries[0].payload
    attempt = one.failures + 1
    envelopes = [
        durable_envelope(
            lane.topic, entry.sequence, entry.epoch, attempt, entry.info, entry.payload
        )
        for entry in one.entries
    ]
    return encode(envelopes if lane.options.batch > 1 else envelopes[0])
