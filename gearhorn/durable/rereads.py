"""Rereads: payloads of deliveries that are sent once more, and of messages that were put back.

No payload is kept while a delivery is under way or rests, since that may be for days and in many
lanes. It is read again when it can be sent: from the log, or, where the message was put back after
it had been parked, from where it was put back, since the log may have dropped it by then.

Reading again may find that the message is no more: the log was capped, or the store lost its end
and has another message under that sequence (the epoch tells). Such a delivery is *gone*, which ends
it like one that was acknowledged, except that the subscription's drops count it.

Rules: runs on the event loop. One round reads so much and no more; lanes that get nothing of it ask
again. What was read for other lanes, and is in memory, costs no reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gearhorn.durable.lanes import Delivery, Lane
from gearhorn.durable.log_cache import READ_ENTRIES, LogCache, Plan
from gearhorn.durable.outcomes import Outcomes
from gearhorn.durable.states import LaneState, State
from gearhorn.errors import StoreError
from gearhorn.messages.logs import Parked
from gearhorn.store.lanes import Lanes
from gearhorn.store.log import Entry
from gearhorn.timing import now_s

BYTES = 8 * 1024 * 1024  # read again in one round, of the log and of what was put back each
PUT_BACK = 1500  # messages that were put back, asked for in one round

Replies = Sequence[tuple[list[Entry], bool]]


class Rereads:
    """What one round reads again of logs. It is made for a round: ``want`` is called before the
    store is asked, ``take_in`` with its answer.

    Arguments:
        log_cache: messages that are in memory.
        outcomes: is told of messages that are gone.
    """

    def __init__(self, log_cache: LogCache, outcomes: Outcomes) -> None:
        self._log_cache = log_cache
        self._outcomes = outcomes
        self._missing: list[Delivery] = []
        self._bytes = 0

    def want(self, lanes: Iterable[Lane]) -> dict[str, dict[int, int]]:
        """Fill what these lanes may send from memory; return what is to be read of logs: by topic
        and first sequence, how many messages."""
        wanted: dict[str, dict[int, int]] = {}
        for lane in lanes:
            if lane.counts[State.READY] and lane.state is LaneState.OPEN:
                if lane.expired.is_possible:
                    self._outcomes.expiry.sweep(lane)  # nothing is read for those
                self._want(lane, wanted)
        return wanted

    @property
    def lanes(self) -> list[Lane]:
        """The lanes of what is read again, which may name one more than once."""
        return [delivery.lane for delivery in self._missing]

    def _want(self, lane: Lane, wanted: dict[str, dict[int, int]]) -> None:
        """Fill what a lane may send, or add it to what is wanted. One delivery over ``BYTES`` is
        wanted all the same, since a large message would never be read otherwise; those beyond it
        are only kept, and have their lanes ask again."""
        for delivery in lane.sendable():
            if not delivery.is_bare or delivery.is_redriven:
                continue
            count = len(delivery.entries)
            known = self._fill(delivery)
            if known == count:
                continue
            if self._bytes <= BYTES:
                # a batch may be longer than what is read in one go: only what follows is asked for
                self._bytes += sum(entry.size for entry in delivery.entries[known:])
                first = delivery.sequence + known
                firsts = wanted.setdefault(lane.topic, {})
                firsts[first] = max(firsts.get(first, 0), count - known)
            self._missing.append(delivery)

    def take_in(self, plan: Plan, replies: Replies) -> list[Lane]:
        """Fill what was read; return the lanes that have to ask again.

        Arguments:
            plan: what was read; other lanes' reads are in it too, which may bring what was wanted.
            replies: for each part of it, the messages and whether the log ends there.
        """
        left = []
        for delivery in self._missing:
            lane = delivery.lane
            if lane.state is not LaneState.OPEN or self._fill(delivery) == len(delivery.entries):
                continue
            first = _first_left(delivery, plan, replies)
            if first == delivery.sequence:
                left.append(lane)
            elif first is None:
                self._outcomes.gone(delivery)
            else:
                self._outcomes.gone_before(delivery, first)
                left.append(lane)
        return left

    def _fill(self, delivery: Delivery) -> int:
        """Fill a delivery if all its messages are in memory; return how many of the first ones
        are."""
        count = len(delivery.entries)
        found = self._log_cache.run(delivery.lane.topic, delivery.sequence, count)
        if len(found) == count and not delivery.refill(found):
            self._outcomes.gone(delivery)  # the store lost it, and has another message there
        return len(found)


def _first_left(delivery: Delivery, plan: Plan, replies: Replies) -> int | None:
    """Return the first message of a delivery that its log may have still, None where it has none.

    A log that lacks what a read began with begins with what was brought, or ended before. A part
    that brought nothing, and did not reach the end, tells nothing."""
    last = delivery.entries[-1].sequence
    first = delivery.sequence
    for wanted, (entries, is_end) in zip(plan.reads, replies, strict=True):
        if wanted.topic != delivery.lane.topic or wanted.first > last:
            continue
        if not entries:
            first = last + 1 if is_end else first
        elif entries[0].sequence > wanted.first:
            first = max(first, entries[0].sequence)
    return first if first <= last else None


def _redriven(lane: Lane) -> list[Delivery]:
    """Return the deliveries of messages that were put back whose payloads are to be read again."""
    sendable = lane.sendable() if lane.counts[State.READY] else ()
    return [delivery for delivery in sendable if delivery.is_bare and delivery.is_redriven]


def wants_redriven(lane: Lane) -> list[int]:
    """Return the messages that were put back and that a lane may send now: those of deliveries
    that are sent once more, and then new ones, the oldest first, as many as it has room for."""
    again = [delivery.sequence for delivery in _redriven(lane)]
    count = min(lane.redrive_room, READ_ENTRIES)
    return again + lane.redrives.lowest(count)


class Redriven:
    """Reads messages that were put back, and has lanes make deliveries of them.

    Arguments:
        store: where they were put back.
        outcomes: is told of messages that are gone, and of those that have to rest.
    """

    def __init__(self, store: Lanes, outcomes: Outcomes) -> None:
        self._store = store
        self._outcomes = outcomes

    async def read(
        self, lanes: Sequence[Lane], clock_ms: int
    ) -> tuple[list[Lane], list[tuple[Lane, StoreError]]]:
        """Make deliveries of what these lanes may send; return the lanes that have to ask again,
        and those that the store refuses. Raises ``StoreError`` where it does not answer.

        Arguments:
            lanes: those with messages that were put back.
            clock_ms: the members' clock, by which rests are kept.
        """
        # What each lane asks for is fixed before the store is asked, in the lane's order; its
        # answer is a prefix of that, as long as the bytes of one round allow. A lane whose state
        # changed meanwhile takes nothing. One that got less than it asked for, has more room, or
        # has nothing left that was put back (its log comes next) asks again.
        asking: list[tuple[Lane, list[int]]] = []
        again: dict[Lane, None] = {}
        left = PUT_BACK
        for lane in lanes:
            if sequences := wants_redriven(lane):
                if len(sequences) > left:
                    again[lane] = None
                if left:
                    asking.append((lane, sequences[:left]))
                    left -= len(asking[-1][1])
        if not asking:
            return [], []
        wanted = [(lane.topic, lane.client_id, sequences) for lane, sequences in asking]
        replies = await self._store.put_back(wanted, BYTES)
        refused = []
        for (lane, sequences), found in zip(asking, replies, strict=True):
            if isinstance(found, StoreError):
                refused.append((lane, found))
            elif lane.state is LaneState.OPEN:
                self._take(lane, zip(sequences, found, strict=False), clock_ms)
                if len(found) < len(sequences) or not lane.redrives or lane.redrive_room:
                    again[lane] = None
        return list(again), refused

    def _take(self, lane: Lane, found: Iterable[tuple[int, Parked | None]], clock_ms: int) -> None:
        """Take messages of a lane that were read, by sequence; None: it is no more. New deliveries
        are made of the lowest only, which keeps the order whatever the answer leaves out."""
        waiting = {delivery.sequence: delivery for delivery in _redriven(lane)}
        for sequence, parked in found:
            entry = None
            if parked is not None:
                entry = Entry(sequence, parked.epoch, parked.info, parked.payload)
            delivery = waiting.get(sequence)
            if delivery is not None:
                if entry is None or not delivery.refill([entry]):
                    self._outcomes.gone(delivery)
            elif lane.redrives.lowest(1) == [sequence]:
                lane.redrives.popleft()
                if entry is not None and parked is not None:
                    resting = lane.take_redriven(entry, parked.trouble, now_s(), clock_ms)
                    if resting is not None:
                        self._outcomes.retries.rest_until(resting)
