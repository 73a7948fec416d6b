"""Lanes: what one durable subscription delivers, in which order, and what comes after a failure.

Theory of operation. Receivers finish in any order, but the store keeps one number for a lane: the
*position*, up to which everything is done. A message that fails for hours must neither lose what
was acknowledged behind it nor hold that in memory.

The invariant: each message from the position to ``next`` is in a delivery of the window, or some
delivery there answers for it. A delivery that is done before an older one leaves the window and
hands what it would have moved the position to (``through``) to the delivery before it. So each step
costs the same, however long the window is. What was done like that goes to the store besides the
position (``ahead``): the next owner passes it over instead of delivering it again.

The window is bounded twice: by deliveries that are not done (``in_flight``), and by those that are
done behind one that is not (``SPAN``), or ``ahead`` would grow as long as one message fails. For
the same reason a batch that fails is split in its place: in front of the window its messages would
overtake those that are under way, and behind it the position would pass them.

A job that may still be with a receiver while nothing is heard of it (its connection ended) has no
state of its own. The lane is closed and taken again under another TERM, as after the death of its
owner; the way back is the same for both, and the receivers can tell the attempts apart.

Rules: pure. The tables of ``states`` say what follows from what. Time and randomness are passed in:
``now_s`` is of ``timing.now_s``. The caller does what the returned actions say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from gearhorn.durable.delivery import JITTER, Attempts, batches
from gearhorn.durable.expired import Expired
from gearhorn.durable.keeper import NO_KEEPER, Keeper
from gearhorn.durable.states import DELIVERIES, LANES, Action, Event, LaneEvent, LaneState, State
from gearhorn.durable.worked import Worked
from gearhorn.messages.logs import FailureHistory
from gearhorn.messages.subscriptions import DurableOptions
from gearhorn.store.inherited import Sequences, count_over
from gearhorn.store.lanes import Acquired
from gearhorn.store.log import Entry

# Looking a member of an enumeration up costs as much as the step that it is for.
_READY, _SEND, _LOSE = State.READY, Event.SEND, Event.LOSE
_OPEN, _CLOSING = LaneState.OPEN, LaneState.CLOSING

SPAN = 16  # a window has room for so many times in_flight, done and not; then the oldest must go


class Delivery(Attempts):
    """One message, or a batch, on its way to the receivers of a subscription.

    It is made with the options of that moment and keeps them: a change of the subscription concerns
    what is made after it. ``through`` is where the position moves when this and all before it are
    done.
    """

    __slots__ = ("lane", "singles")

    def __init__(
        self, lane: Lane, entries: tuple[Entry, ...], through: int, before: Delivery | None = None
    ) -> None:
        # every attribute here, those of the bases too: on the hot path, where a call of another
        # constructor costs a tenth of what a delivery does
        self.lane = lane
        self.options = lane.options
        self.envelope = lane.envelope
        self.singles: Sequence[Delivery] = ()  # in the place of a batch that failed
        self.before = before
        self.after = None
        self.through = through
        self.epoch = entries[-1].epoch
        self.beyond = 0
        self.entries = entries
        self.is_bare = False
        self.state = _READY
        self.failures = 0
        self.since = 0
        self.first_at = 0.0
        self.error = ""
        self.due_s = 0.0
        self.sent_s = 0.0
        self.ask_s = 0.0
        self.is_redriven = False
        self.is_acknowledged = False
        self.job = None
        self.former = ()
        self.timer = None

    @property
    def is_last(self) -> bool:
        """Whether the next failure is the last one."""
        limit = self.lane.options.max_attempts
        return bool(limit) and self.failures - self.since + 1 >= limit

    def apply(self, event: Event) -> tuple[Action, ...]:
        """Let an event happen; return what follows. Whatever waited for the former state to last
        is dropped, and a lane that closes is worked off, as it may be given up by that."""
        row = DELIVERIES.get((self.state, event))
        if row is None:
            return ()
        if self.timer is not None:
            self.timer.drop(self)
            self.timer = None
        self.lane.moved(self.state, row[0], event is _LOSE)
        self.state = row[0]
        return row[1]

    def ship(self, job: Any, at_s: float) -> None:
        """It is handed to a job server as ``job``."""
        self.apply(_SEND)
        self.job, self.sent_s, self.ask_s = job, at_s, 0.0

    def unship(self, event: Event) -> tuple[Action, ...]:
        """Its job is over by ``event`` without an attempt."""
        self.job = None
        return self.apply(event)

    def rest_until(self, due_s: float) -> None:
        """It was just made, and rests first: it failed under a former owner."""
        self.lane.moved(self.state, State.RESTING)
        self.state, self.due_s = State.RESTING, due_s

    def split(self) -> Sequence[Delivery]:
        """Return deliveries of the single messages of this batch, which take its place: they are in
        its state, and the last one answers for what the batch was to do."""
        self.singles = [
            Delivery(self.lane, (entry,), entry.sequence).go_on_as(self) for entry in self.entries
        ]
        self.singles[-1].succeed(self)
        self.forget_former()
        return self.singles

    def refill(self, entries: Sequence[Entry]) -> bool:
        """Take the messages again; return whether they are the same ones."""
        if any(a.epoch != b.epoch for a, b in zip(entries, self.entries, strict=True)):
            return False
        self.entries, self.is_bare = tuple(entries), False
        self.lane.laden.append(self)
        return True


class Lane(Worked[Delivery]):
    """One durable subscription in the hands of this member."""

    __slots__ = (
        "ahead", "ahead_top", "client_id", "counter", "envelope", "epoch", "expired", "gap",
        "is_quiet", "keeper", "next", "options", "passed", "position", "queue", "redrives",
        "redriving", "seen_redrive", "skip", "state", "stored", "term", "topic", "troubles",
        "wait_until_s",
    )  # fmt: skip
    is_latest = False  # a ``LatestLane``, which wants the newest messages only

    def __init__(
        self,
        topic: str,
        client_id: str,
        queue: bytes,
        options: DurableOptions,
        envelope: bool,
        term: int,
        position: int,
        *,
        keeper: Keeper = NO_KEEPER,
        wait_until_s: float = 0.0,
    ) -> None:
        super().__init__()
        self.topic = topic
        self.client_id = client_id
        self.queue = queue
        self.options = options
        self.envelope = envelope
        self.keeper = keeper
        self.state = LaneState.TAKING_OVER
        self.term = term
        self.position = position  # everything up to it is done
        self.stored = position  # as the store knows it
        self.epoch = ""  # of the message at the position
        self.next = position + 1  # in the log
        self.counter = 0  # attempts under this TERM
        self.ahead: list[tuple[int, int, str]] = []  # first, last, epoch: done, not in the store
        self.ahead_top = 0  # the highest sequence of those that the store may hold
        self.passed: deque[tuple[int, int]] = deque()  # done under a former owner: first, last
        self.redrives = Sequences()  # what was put back, to be delivered first
        self.redriving = 0  # deliveries of messages that were put back
        self.seen_redrive = 0  # the number of the last one that is among them
        self.troubles: dict[int, FailureHistory] = {}  # of messages, under a former owner
        self.skip: list[Sequences] = []  # parked under a former owner, or put back
        self.gap = 0  # messages that the log had dropped before they were delivered
        self.expired = Expired()
        self.is_quiet = False  # no receiver can have a job of a former owner, or a lost one
        self.wait_until_s = wait_until_s  # for the former owner's job

    def apply(self, event: LaneEvent) -> bool:
        """Let an event happen; return whether it changed anything."""
        state = LANES.get((self.state, event))
        if state is None:
            return False
        self.state = state
        if state is LaneState.OPEN:
            self.is_quiet = True
        elif state is LaneState.CLOSING:
            self.keeper.touch(self)
        return True

    def moved(self, former: State, state: State, is_lost: bool = False) -> None:
        """A delivery is in another state now; ``is_lost``: a receiver may have its job, of which
        nothing more is heard. A lane that closes is worked off, whatever it was that happened."""
        self.counts[former] -= 1
        self.counts[state] += 1
        if is_lost:
            self.is_quiet = False
        if self.state is _CLOSING:
            self.keeper.touch(self)

    def note_written(self, position: int, count: int) -> None:
        """The store has a position, and ``count`` of what was done beyond it."""
        self.stored = position
        del self.ahead[:count]
        if self.ahead_top <= position and not self.ahead:
            self.ahead_top = 0

    def note_late(self, sequence: int) -> None:
        """A receiver acknowledged a message that was parked; the store keeps it as such."""
        self.ahead_top = max(self.ahead_top, sequence)

    def inherit(self, acquired: Acquired) -> None:
        """Take over what a former owner left in the store."""
        self.troubles = acquired.troubles
        self.skip = list(acquired.parked)
        self.redrives = acquired.redrives
        self.seen_redrive = acquired.seen_redrive
        self.passed.extend(acquired.ahead)
        self.ahead_top = acquired.ahead_top

    def close_gap(self) -> int:
        """Return how many messages the log had dropped since the last time this was asked."""
        gap, self.gap = self.gap, 0
        return gap

    def vanish(self, delivery: Delivery) -> None:
        """The log does not have the messages of a delivery any more, which is over by that."""
        self.gap += len(delivery.entries)
        self.done(delivery)

    def lose_before(self, delivery: Delivery, first: int) -> Sequence[Entry]:
        """The log has the messages of a delivery from ``first`` on only; return the others."""
        lost = delivery.keep_from(first)
        self.gap += len(lost)
        self.ahead.append((lost[0].sequence, lost[-1].sequence, lost[-1].epoch))
        self.ahead_top = max(self.ahead_top, lost[-1].sequence)
        return lost

    def clear(self) -> None:
        """The lane is not this member's any more: hold nothing."""
        self.detach_all()
        self.redriving = 0

    def next_attempt(self) -> int:
        """Count an attempt under this TERM, and return its number."""
        self.counter += 1
        return self.counter

    def adopt(self, options: DurableOptions, envelope: bool) -> None:
        """Make deliveries with these options from now on; there may be room for more."""
        if options != self.options:
            self.keeper.touch(self)
        self.options, self.envelope = options, envelope

    @property
    def is_releasable(self) -> bool:
        """Whether the lane closes and nothing of it is under way or being set aside."""
        closing = self.state is LaneState.CLOSING
        return closing and not self.under_way and not self.counts[State.PARKING]

    @property
    def room(self) -> int:
        """How many messages may be taken from the log now."""
        options = self.options
        if self.state is not _OPEN or self.redrives:
            return 0
        free = (options.in_flight if options.batch == 1 else batches(options)) - self.active
        if free <= 0 or self.active + self.beyond >= SPAN * options.in_flight:
            return 0
        return free * options.batch

    def pass_over(self, sequence: int, epoch: str = "") -> None:
        """Count a message as done that is not for this subscription, or is there no more."""
        self.next = sequence + 1
        if self.tail is not None:
            self.tail.reach(sequence, epoch)
        else:
            self.position, self.epoch = sequence, epoch

    def take(self, entries: Sequence[Entry], now_s: float, clock_ms: int) -> list[Delivery]:
        """Make deliveries of the entries that follow in the log; there must be room for them.

        Returns those that have to rest first: they failed under a former owner."""
        # In the log's order; first the usual case. What was gathered for a batch ends at whatever
        # cannot be in it: a gap, a message that is over, or one that failed before.
        resting, chosen = list[Delivery](), list[Entry]()
        is_plain = not (self.skip or self.passed or self.troubles) and self.options.batch == 1
        for entry in entries:
            if is_plain and entry.sequence == self.next and entry.is_plain:
                self.next += 1  # as nearly always
                delivery = Delivery(self, (entry,), entry.sequence, self.tail)
                self.append(delivery)
                self.laden.append(delivery)
                continue
            if entry.sequence > self.next:
                self._add(chosen)
                self.pass_gap(entry.sequence, entry.epoch)
            is_over = self._was_done(entry) or entry.info.excludes(self.client_id)
            is_expired = not is_over and self.expired.passes(entry, clock_ms, self.troubles)
            if is_over or is_expired:
                self._add(chosen)
                if is_expired:
                    self._count_beyond(entry.sequence, entry.sequence, entry.epoch)
                self.pass_over(entry.sequence, entry.epoch)
                continue
            self.next = entry.sequence + 1
            trouble = self.troubles.pop(entry.sequence, None)
            if trouble is not None:
                self._add(chosen)
                delivery = self._make((entry,), entry.sequence)
                if self._burden(delivery, trouble, now_s, clock_ms):
                    resting.append(delivery)
                continue
            chosen.append(entry)
            if len(chosen) == self.options.batch:
                self._add(chosen)
        if chosen:
            self._add(chosen)
        return resting

    def _was_done(self, entry: Entry) -> bool:
        """Whether a message was parked, put back or done under a former owner."""
        sequence = entry.sequence
        if self.skip:
            was_parked = [sequences.pass_to(sequence) for sequences in self.skip]
            self.skip = [sequences for sequences in self.skip if sequences]
            if any(was_parked):
                return True
        passed = self.passed
        while passed and passed[0][1] < sequence:
            passed.popleft()
        if passed and passed[0][0] <= sequence:
            # a position that stands still lets no more pass under many owners than under one
            if self.tail is not None and sequence == passed[0][0]:
                self.tail.cover_passed()
                self.beyond += 1
            return True
        return False

    def _count_beyond(self, first: int, last: int, epoch: str, may_join: bool = True) -> None:
        """Messages that are passed over were counted: where the position cannot move past them now,
        they are done beyond it, or the next owner counts them again. ``may_join``: no round writes.
        """
        if self.tail is None:
            return
        if may_join and self.ahead and self.ahead[-1][1:] == (first - 1, epoch):
            self.ahead[-1] = self.ahead[-1][0], last, epoch
        else:
            self.ahead.append((first, last, epoch))
            self.tail.cover_passed()
            self.beyond += 1
        self.ahead_top = max(self.ahead_top, last)

    @property
    def redrive_room(self) -> int:
        """How many messages that were put back may be taken now."""
        if self.state is not _OPEN:
            return 0
        in_flight = self.options.in_flight
        free = min(in_flight - self.active, SPAN * in_flight - self.active - self.beyond)
        return max(0, min(free, len(self.redrives)))

    def take_redriven(
        self, entry: Entry, parked: FailureHistory, now_s: float, clock_ms: int
    ) -> Delivery | None:
        """Make a delivery of a message that was put back; return it if it has to rest first."""
        self.expired.expect(entry)
        delivery = self._make((entry,), self.position)
        delivery.redrive(parked)
        self.redriving += 1
        trouble = self.troubles.pop(entry.sequence, None)
        if trouble is None or trouble.attempts <= parked.attempts:  # it has not failed again since
            return None
        return delivery if self._burden(delivery, trouble, now_s, clock_ms) else None

    def _burden(
        self, delivery: Delivery, trouble: FailureHistory, now_s: float, clock_ms: int
    ) -> bool:
        """Count attempts that failed under a former owner; return whether it has to rest first."""
        delivery.remember(trouble)
        left_s = (trouble.due_ms - clock_ms) / 1000
        if left_s <= 0:
            return False
        delivery.rest_until(now_s + min(left_s, self.options.max_backoff * (1 + JITTER)))
        return True

    def _add(self, chosen: list[Entry]) -> None:
        """Make one delivery of what was chosen for it, if anything was."""
        if chosen:
            self._make(tuple(chosen), chosen[-1].sequence)
            chosen.clear()

    def _make(self, entries: tuple[Entry, ...], through: int) -> Delivery:
        """Make the newest delivery of the window."""
        delivery = Delivery(self, entries, through, self.tail)
        self.append(delivery)
        self.laden.append(delivery)
        return delivery

    def pass_gap(self, first: int, epoch: str) -> list[int]:
        """Pass over messages that the log has dropped, up to ``first``, which has this ``epoch``.
        Return those that had failed: what that left behind is of no use any more."""
        self.gap += first - self.next - count_over(self.passed, self.skip, self.next, first)
        self._count_beyond(self.next, first - 1, epoch, may_join=False)  # other rounds tell of gaps
        self.pass_over(first - 1)
        has = self.redrives.has
        dead = [sequence for sequence in self.troubles if sequence < first and not has(sequence)]
        for sequence in dead:
            del self.troubles[sequence]
        return dead

    def sendable(self) -> list[Delivery]:
        """Return what may be sent now: a delivery waits while as many before it as may be under
        way are not done."""
        if not self.counts[_READY] or self.state is not _OPEN:
            return []
        return self.next_ready(self.options.in_flight)

    def done(self, delivery: Delivery, is_parked: bool = False) -> None:
        """A delivery is done: take it out of the window, and move the position past it or keep
        that it is done. What was parked the store knows as such."""
        if delivery.is_redriven:
            self.redriving -= 1
        if self.remove(delivery) and delivery.through > self.position:
            self.position, self.epoch = delivery.through, delivery.epoch
        last = delivery.entries[-1]
        if last.sequence > self.position and not is_parked:
            self.ahead.append((delivery.sequence, last.sequence, last.epoch))
            self.ahead_top = max(self.ahead_top, last.sequence)

    def split(self, batch: Delivery) -> list[Delivery]:
        """Put single deliveries in the place of a batch that failed; return them."""
        singles = list(batch.split())
        self.replace(batch, singles)
        return singles
