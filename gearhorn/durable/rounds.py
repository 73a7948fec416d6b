"""Rounds: work off lanes against the store and the job servers.

Theory of operation. Ten thousand lanes cannot have a round trip to the store for every message. A
round takes all lanes to which something happened (up to 1,000) and does one round trip for them
together. The more there is to do, the more lanes a round has, so that the load sets the size.

The order in a round is the promise of "Deliveries" in docs/protocol.rst:

1. Write what happened: failures and messages to set aside, then positions, then lanes that are
   given up. A position passes a parked message in the round after the one that parked it, so that
   a crash between the two commands loses nothing.
2. Hear the answer. A lane that another member holds is fenced here, before anything is sent for it.
3. Take messages that follow, from memory or from what this round has read.
4. Send. With ``in_flight`` 1 the store has the acknowledgement before the next message is started.

The invariant: a lane is in one round at a time, and what it has to write stays in its order
(``pending_writes``). What happens to it meanwhile has it worked off again, so nothing is missed
between two rounds. Two rounds with different lanes are under way, since the member would otherwise
wait while the store works, and the store while the member does; a third would make rounds smaller.

If the outcome of a round is unknown, everything in it is written again. Each write may therefore
happen twice, and none depends on happening once. If the store refuses one command, its lane alone
waits and tries again; otherwise one damaged key would stop every lane. If the store's server has
restarted, its numbers may mean other messages: a round names the run it belongs to, because a
connection that was made anew can reach the new server before the member knows of the restart.

Rules: runs on the event loop. What becomes of a lane is decided here only, from the state it is in:
a lane that closes is given up in the first round that finds nothing of it under way, after what it
had to write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import structlog

from gearhorn.durable.changed_lanes import ChangedLanes
from gearhorn.durable.endings import Endings
from gearhorn.durable.filling import Filling
from gearhorn.durable.held_lanes import HeldLanes
from gearhorn.durable.lanes import Lane
from gearhorn.durable.latest_lanes import LatestLane, wants_more
from gearhorn.durable.log_cache import LogCache, Plan
from gearhorn.durable.outcomes import Outcomes
from gearhorn.durable.pending_writes import PendingWrites, Taken, Write
from gearhorn.durable.rereads import Redriven, Replies, Rereads
from gearhorn.durable.sending import Sending
from gearhorn.durable.states import LaneState, State
from gearhorn.errors import StoreError, StoreReplaced
from gearhorn.gearman.job_servers import JobServers
from gearhorn.members.membership import Membership
from gearhorn.store.lanes import Lanes
from gearhorn.store.log import Entry
from gearhorn.store.rounds import Pair, PositionWrite, Round, RoundReply
from gearhorn.tasks import Tasks
from gearhorn.timing import Backoff, now_s

ROUNDS = 2  # under way: one is worked on while the store works on the other
AHEAD = 5000  # of what lanes have done beyond their positions, written in one round
REFUSED_LIMIT_S = 5.0  # between two tries of what the store refuses

_READY, _CLOSING = State.READY, LaneState.CLOSING  # a look-up costs as much as what it is for

log = structlog.get_logger(__name__)


# What a round tells the store of a lane: its position, how much of what is done beyond that, how
# many messages expired and were passed by under its TERM (0 where the store knows), and whether the
# lane is given up. There is one for each message where in_flight is 1, and a named tuple costs
# 0.25 us.
_Written = tuple[Lane, int, int, int, int, bool]


class Rounds:
    """Works lanes off; a ``LaneHolder``.

    Arguments:
        store: is told what happened, and asked for messages.
        job_servers: where deliveries go; while none is up nothing is read.
        membership: says under which id lanes are held, and until when.
        held: the lanes, and which of them have something to do.
        log_cache: messages that were read before, and what has to be read.
        pending: what lanes have to write besides their positions.
        outcomes: sends deliveries, and takes what becomes of them.
        endings: is told of lanes that are not this member's any more.
        changed_lanes: is told of topics whose lanes are not what was known of them.
        filling: has lanes take messages.
    """

    def __init__(
        self,
        *,
        store: Lanes,
        job_servers: JobServers,
        membership: Membership,
        held: HeldLanes,
        log_cache: LogCache,
        pending: PendingWrites,
        outcomes: Outcomes,
        endings: Endings,
        changed_lanes: ChangedLanes,
        filling: Filling,
    ) -> None:
        self._store = store
        self._job_servers = job_servers
        self._membership = membership
        self._held = held
        self._log_cache = log_cache
        self._pending = pending
        self._outcomes = outcomes
        self._redriven = Redriven(store, outcomes)
        self._sending = Sending(outcomes)
        self._endings = endings
        self._changed_lanes = changed_lanes
        self._filling = filling
        self._backoffs: dict[Lane, Backoff] = {}  # of lanes that the store refused last
        self._blocked: set[Lane] = set()  # until they are tried again
        self._run_id = ""  # of the store's server, when the lanes were taken
        self._slots = asyncio.Semaphore(ROUNDS)
        self._tasks = Tasks()

    def begin_run(self, run_id: str) -> None:
        """Lanes are taken in this run of the store's server from now on."""
        self._run_id = run_id

    def end(self, lane: Lane) -> None:
        """A lane is not this member's any more: it is not tried again."""
        self._backoffs.pop(lane, None)
        self._blocked.discard(lane)

    async def stop(self) -> None:
        """Begin and finish no more rounds."""
        await self._tasks.cancel()

    async def run(self) -> None:
        """Work off rounds, without end."""
        backoff = Backoff(0.05, 1.0)
        self._held.woken.set()  # it may have crashed when it had been woken
        while True:
            await self._held.woken.wait()
            self._held.woken.clear()
            if not self._holds_lease():
                await asyncio.sleep(backoff.next_s())  # nothing is known of who holds what
                self._held.woken.set()
                continue
            await self._slots.acquire()
            self._tasks.spawn(self._take_up(self._held.take(), backoff), "deliveries")

    async def _take_up(self, lanes: list[Lane], backoff: Backoff) -> None:
        """Work off one round; lanes to which something happens meanwhile wait for another.

        Whatever becomes of it, its lanes are handed back. A round that failed keeps its slot while
        it waits, so a store that is away is asked ever more seldom.
        """
        try:
            await self._exchange(lanes)
            backoff.reset()
        except StoreReplaced:
            self._endings.start_over()
            await asyncio.sleep(backoff.next_s())
        except StoreError as error:
            log.debug("a round of deliveries failed", error=str(error))
            for lane in lanes:
                lane.stir()
            await asyncio.sleep(backoff.next_s())
        except Exception as error:  # the store is asked again what is to be delivered
            log.critical("deliveries failed", exc_info=error)
            self._endings.start_over()
            await asyncio.sleep(1.0)
        finally:
            self._held.put(lanes)
            self._slots.release()

    async def _exchange(self, lanes: list[Lane]) -> None:
        """Tell the store what has happened, and send what may be sent then."""
        # The head of the module says why in this order. In detail: messages are taken from memory
        # before the store is told, since what is passed over moves positions, and once more
        # afterwards, since the store's answer brings messages. Nothing that was taken is sent
        # before the answer. A lane that got less than it has room for, or whose position has moved
        # meanwhile, is worked off again.
        member = self._membership.id
        rereads = Rereads(self._log_cache, self._outcomes)
        live = [
            lane
            for lane in lanes
            if lane.state is not LaneState.CLOSED and lane not in self._blocked
        ]
        wanted = rereads.want(live)
        hungry = self._filling.fill(live)
        for lane, room in hungry.items():
            firsts = wanted.setdefault(lane.topic, {})
            firsts[lane.next] = max(firsts.get(lane.next, 0), room)
        plan = self._log_cache.plan(wanted)
        taken = self._pending.take(live)
        written, work = self._work(live, plan, taken)
        if not work.is_empty:
            try:
                reply = await self._store.round(member, work, self._run_id)
            except StoreError:
                for lane, writes in taken.writes.items():
                    self._put_back(lane, writes)
                raise
            if member != self._membership.id:
                return  # another life: every lane was abandoned
            self._take_reply(live, taken, written, reply)
            self._take_in(plan, reply.entries, rereads, hungry)
        at_s = now_s()
        await self._read_redriven(live)
        going_on = [
            lane
            for lane in hungry
            if lane.state is not LaneState.CLOSED and lane not in self._blocked
        ]
        still_hungry = self._filling.fill(going_on)
        for lane in going_on:
            if lane in still_hungry or lane.position > lane.stored:
                self._held.touch(lane)
        self._send_all(live, at_s)
        if self._backoffs:
            for lane in live:
                if lane not in self._blocked and lane in self._backoffs:
                    del self._backoffs[lane]
                    log.info("the store takes a lane again", **_names(lane))

    def _work(
        self, lanes: Iterable[Lane], plan: Plan, taken: Taken
    ) -> tuple[list[_Written], Round]:
        """Return what these lanes tell the store, and ask of it."""
        # A lane is released after everything that it has to write, which may be a later round's;
        # with its position goes what it has done beyond that, as far as one round may have it.
        written: list[_Written] = []
        positions: dict[str, list[PositionWrite]] = {}
        released: dict[tuple[str, bool], list[PositionWrite]] = {}
        left, waiting = AHEAD, self._pending.lanes
        for lane in lanes:
            ahead, count = None, 0
            has_more = lane in waiting
            if lane.ahead_top:
                ahead = lane.ahead[:left]
                count = len(ahead)
                left -= count
                has_more |= count < len(lane.ahead)
            expired = 0
            if lane.expired.is_possible and count == len(lane.ahead):
                expired = lane.expired.unwritten  # with all that it counts
            skipped = 0
            if lane.is_latest and isinstance(lane, LatestLane):
                skipped = lane.unwritten_skips
            write = lane.client_id, lane.term, lane.position, lane.epoch, ahead, expired, skipped
            if lane.state is _CLOSING and lane.is_releasable and not has_more:
                released.setdefault((lane.topic, lane.is_quiet), []).append(write)
                written.append((lane, lane.position, count, expired, skipped, True))
            elif count or lane.position > lane.stored or expired:
                positions.setdefault(lane.topic, []).append(write)
                written.append((lane, lane.position, count, expired, skipped, False))
            if has_more:
                self._held.touch(lane)  # there is more than one round may write
        parkings, failures = taken.parkings, taken.failures
        work = Round(positions, parkings, failures, plan.reads, taken.done, released)
        return written, work

    def _take_reply(
        self,
        lanes: Iterable[Lane],
        taken: Taken,
        written: Iterable[_Written],
        reply: RoundReply,
    ) -> None:
        """Have happen what the store was told, lane by lane."""
        # Fenced lanes come first: they are closed by that, and nothing that was written for them
        # holds. What was refused is put back then; the rest counts as written, or as set aside.
        by_pair: dict[Pair, Lane] = {}
        if reply.fenced or reply.refused:
            by_pair = {(lane.topic, lane.client_id): lane for lane in lanes}
        for pair in reply.fenced:
            lane = by_pair[pair]
            if lane.state is not LaneState.CLOSED:
                log.warning("lane is not ours any more", **_names(lane))
                self._endings.fence(lane)
                self._log_cache.forget(lane.topic)
                self._changed_lanes.add(lane.topic)
        for pair, error in reply.refused.items():
            self._refuse(by_pair[pair], error)
            self._put_back(by_pair[pair], taken.writes.get(by_pair[pair], []))
        for lane, position, ahead, expired, skipped, is_release in written:
            if lane.state is LaneState.CLOSED:
                continue
            if reply.refused and (lane.topic, lane.client_id) in reply.refused:
                continue
            lane.note_written(position, ahead)
            if expired:
                lane.expired.note_written(expired)
            if skipped and isinstance(lane, LatestLane):
                lane.note_skipped(skipped)
            if is_release:
                self._endings.release(lane)
        for delivery in taken.parked:
            pair = delivery.lane.topic, delivery.lane.client_id
            if pair not in reply.refused:
                self._outcomes.parked(delivery, (*pair, delivery.sequence) in reply.gone)

    def _put_back(self, lane: Lane, writes: list[Write]) -> None:
        """Have what was not written written by another round, unless its lane has ended."""
        if writes and lane.state is not LaneState.CLOSED:
            self._pending.put_back(lane, writes)

    def _refuse(self, lane: Lane, error: StoreError) -> None:
        """The store does not take what a lane has to tell: try again after a while, and send
        nothing for it until then."""
        if lane.state is LaneState.CLOSED:
            return
        backoff = self._backoffs.get(lane)
        if backoff is None:
            log.error("the store refuses a lane", error=str(error), **_names(lane))
            backoff = self._backoffs[lane] = Backoff(0.2, REFUSED_LIMIT_S)
        if lane not in self._blocked:
            self._blocked.add(lane)
            asyncio.get_running_loop().call_later(backoff.next_s(), self._try_again, lane)

    def _try_again(self, lane: Lane) -> None:
        self._blocked.discard(lane)
        self._held.touch(lane)

    def _take_in(
        self,
        plan: Plan,
        entries: Sequence[tuple[list[Entry], bool] | StoreError],
        rereads: Rereads,
        hungry: Iterable[Lane],
    ) -> None:
        """Keep what was read, and let lanes pass over what is gone."""
        reads, replies = [], []
        for wanted, reply in zip(plan.reads, entries, strict=True):
            if isinstance(reply, StoreError):
                for lane in (*hungry, *rereads.lanes):
                    if lane.topic == wanted.topic:
                        self._refuse(lane, reply)
            else:
                reads.append(wanted)
                replies.append(reply)
        plan = Plan(reads, plan.tails)
        self._cache(plan, replies)
        for lane in rereads.take_in(plan, replies):
            self._held.touch(lane)

    def _cache(self, plan: Plan, replies: Replies) -> None:
        """Keep what was read, and tell the lanes that it concerns: those that were at a place which
        the log has dropped, and those that have room where the log is longer than was known."""
        found = self._log_cache.take_in(plan, replies)
        for topic, gone, first, epoch in found.gaps:
            for lane in self._held.find(topic).values():
                if gone <= lane.next < first:
                    self._pending.forget(lane, lane.pass_gap(first, epoch))
        for topic in found.news:
            for lane in self._held.find(topic).values():
                if lane.active < lane.options.in_flight or wants_more(lane):
                    self._held.touch(lane)
        for topic in found.lost:
            self._changed_lanes.add(topic)

    async def _read_redriven(self, lanes: Iterable[Lane]) -> None:
        """Take messages that were put back. It is a round trip of its own, for lanes that have such
        messages alone: these are kept elsewhere, and their sizes have to be asked for first."""
        asking = [
            lane
            for lane in lanes
            if (lane.redrives or lane.redriving) and lane not in self._blocked
        ]
        if asking and not self._filling.may_take:
            for lane in asking if self._job_servers.is_up else ():
                self._outcomes.hold_up(lane)
            return
        if not asking:
            return
        again, refused = await self._redriven.read(asking, self._membership.clock_ms)
        for lane in again:
            self._held.touch(lane)
        for lane, error in refused:
            self._refuse(lane, error)

    def _send_all(self, lanes: Iterable[Lane], at_s: float) -> None:
        """Send what may be sent; without a lease the lanes are lost. ``at_s`` is when the store
        answered, which is when the deliveries count as sent."""
        may_send = self._job_servers.is_up and self._holds_lease()
        self._held.mark(lanes)
        for lane in lanes:
            if lane.counts[_READY] and may_send and lane not in self._blocked:
                self._sending.add(lane)
            if lane.is_latest and isinstance(lane, LatestLane):
                may_take = self._filling.may_take
                if lane.goes_on(may_send and may_take and lane not in self._blocked):
                    self._held.touch(lane)
                if lane.counts[_READY] and not may_take:  # perhaps by what it has just sent
                    self._outcomes.hold_up(lane)
        self._sending.ship(at_s)

    def _holds_lease(self) -> bool:
        """Whether every other member must still take this one for alive, with its lanes."""
        return now_s() <= self._membership.lease.until_s


def _names(lane: Lane) -> dict[str, str]:
    return {"topic": lane.topic, "client": lane.client_id}
