"""Lanes: what one durable subscription delivers, in which order, and what comes after a failure.

Law: pure. Two tables say what follows from what, ``DELIVERIES`` for one job and ``LANES`` for the
subscription; an event without a row changes nothing. Time and randomness are passed in: ``now_s``
is of ``timing.now_s``. Who calls does what the returned actions say (PROTOCOL §6).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum, IntEnum, auto
from typing import Any

from gearhorn.messages.durable import DurableOptions, Trouble
from gearhorn.store.log import Entry

SPAN = 16  # a window has room for so many times in_flight, done and not; then the oldest must go
JITTER = 0.1  # of the wait before an attempt, at most (PROTOCOL §6)


class State(IntEnum):
    """Of one delivery."""

    READY = auto()  # to be sent
    SENT = auto()  # submitted; nobody is known to have taken it
    TAKEN = auto()  # a receiver has it
    RESTING = auto()  # waits for its next attempt
    PARKING = auto()  # is being set aside
    DONE = auto()  # acknowledged or parked


class Event(IntEnum):
    """What happens to one delivery."""

    SEND = auto()
    TAKE = auto()  # it was seen with a receiver
    COMPLETE = auto()  # the receiver acknowledges
    LATE = auto()  # a receiver of a former attempt acknowledges
    FAIL = auto()
    GIVE_UP = auto()  # FAIL, and no attempt is left
    EXPIRE = auto()  # the receiver has had its time
    EXPIRE_LAST = auto()  # EXPIRE, and no attempt is left
    LOSE = auto()  # its job server went away
    REFUSE = auto()  # its job server does not take it
    WITHDRAW = auto()  # the lane closes, and nobody has taken it
    DUE = auto()  # its rest is over
    PARK = auto()  # it is set aside


class Action(Enum):
    """What the caller has to do."""

    CANCEL = auto()  # withdraw the job
    STORE = auto()  # keep the failed attempt
    PARK = auto()  # set the message aside


_S, _E, _A = State, Event, Action
DELIVERIES: dict[tuple[State, Event], tuple[State, tuple[Action, ...]]] = {
    (_S.READY, _E.SEND): (_S.SENT, ()),
    (_S.READY, _E.LATE): (_S.DONE, ()),
    (_S.SENT, _E.TAKE): (_S.TAKEN, ()),
    (_S.SENT, _E.COMPLETE): (_S.DONE, ()),
    (_S.SENT, _E.LATE): (_S.DONE, (_A.CANCEL,)),
    (_S.SENT, _E.FAIL): (_S.RESTING, (_A.STORE,)),
    (_S.SENT, _E.GIVE_UP): (_S.PARKING, (_A.PARK,)),
    (_S.SENT, _E.LOSE): (_S.READY, ()),
    (_S.SENT, _E.REFUSE): (_S.RESTING, ()),
    (_S.SENT, _E.WITHDRAW): (_S.READY, (_A.CANCEL,)),
    (_S.TAKEN, _E.COMPLETE): (_S.DONE, ()),
    (_S.TAKEN, _E.LATE): (_S.DONE, (_A.CANCEL,)),
    (_S.TAKEN, _E.FAIL): (_S.RESTING, (_A.STORE,)),
    (_S.TAKEN, _E.GIVE_UP): (_S.PARKING, (_A.PARK,)),
    (_S.TAKEN, _E.EXPIRE): (_S.RESTING, (_A.CANCEL, _A.STORE)),
    (_S.TAKEN, _E.EXPIRE_LAST): (_S.PARKING, (_A.CANCEL, _A.PARK)),
    (_S.TAKEN, _E.LOSE): (_S.READY, ()),
    (_S.RESTING, _E.DUE): (_S.READY, ()),
    (_S.RESTING, _E.LATE): (_S.DONE, ()),
    (_S.PARKING, _E.PARK): (_S.DONE, ()),
}
_NOTHING: tuple[Action, ...] = ()


class LaneState(Enum):
    """Of a lane in the hands of one member."""

    SETTLING = auto()  # a receiver may still have a job of the former owner
    OPEN = auto()
    CLOSING = auto()  # sends nothing more; gives the lane up when nothing is under way
    CLOSED = auto()  # is nobody's, or another member's


class LaneEvent(Enum):
    """What happens to a lane."""

    QUIET = auto()  # no receiver has a job of the former owner any more
    CLOSE = auto()  # it is for another member, or for another TERM
    IDLE = auto()  # nothing is under way
    FENCE = auto()  # it is not ours any more


_L, _V = LaneState, LaneEvent
LANES: dict[tuple[LaneState, LaneEvent], LaneState] = {
    (_L.SETTLING, _V.QUIET): _L.OPEN,
    (_L.SETTLING, _V.CLOSE): _L.CLOSING,
    (_L.SETTLING, _V.FENCE): _L.CLOSED,
    (_L.OPEN, _V.CLOSE): _L.CLOSING,
    (_L.OPEN, _V.FENCE): _L.CLOSED,
    (_L.CLOSING, _V.IDLE): _L.CLOSED,
    (_L.CLOSING, _V.FENCE): _L.CLOSED,
}


def rest_s(failures: int, most_s: float, jitter: float) -> float:
    """Return the wait after the n-th failed attempt: 2, 3, 5, 9, 17 s … up to ``most_s``, and a
    part of it more; ``jitter`` is random from 0 to 1 (PROTOCOL §6)."""
    return min(2.0 ** min(failures - 1, 60) + 1, most_s) * (1 + JITTER * jitter)


class Delivery:
    """One message, or a batch, on its way to the receivers of one subscription.

    ``job`` is the caller's, of the present attempt; ``former`` are those of attempts that timed
    out, whose receivers may still acknowledge. ``through`` is where the position moves when this
    and all before it are done.
    """

    __slots__ = (
        "due_s", "entries", "epoch", "error", "failures", "first_at", "former", "is_redriven",
        "job", "lane", "look_s", "sent_s", "since", "singles", "state", "through",
    )  # fmt: skip

    def __init__(self, lane: Lane, entries: tuple[Entry, ...], through: int) -> None:
        self.lane = lane
        self.entries = entries
        self.through = through
        self.epoch = entries[-1].epoch  # of the message at ``through``
        self.state = State.READY
        self.failures = 0  # since the beginning
        self.since = 0  # failures there had been when it was last put back
        self.first_at = 0.0  # Unix time of the first failure
        self.error = ""
        self.due_s = 0.0
        self.sent_s = 0.0
        self.look_s = 0.0  # when to ask next whether somebody has taken it
        self.is_redriven = False
        self.singles: list[Delivery] = []  # in the place of a batch that failed
        self.job: Any = None
        self.former: list[Any] = []

    @property
    def sequence(self) -> int:
        """The first message's."""
        return self.entries[0].sequence

    @property
    def is_last(self) -> bool:
        """Whether the next failure is the last one."""
        most = self.lane.options.max_attempts
        return bool(most) and self.failures - self.since + 1 >= most

    def apply(self, event: Event) -> tuple[Action, ...]:
        """Let an event happen; return what follows."""
        row = DELIVERIES.get((self.state, event))
        if row is None:
            return _NOTHING
        if self.state is State.READY:
            self.lane.ready -= 1
        elif row[0] is State.READY:
            self.lane.ready += 1
        self.state = row[0]
        return row[1]


class Lane:
    """One durable subscription in the hands of this member.

    ``window`` are its deliveries in the log's order, done ones too while an older one is not.
    """

    __slots__ = (
        "active", "client_id", "counter", "envelope", "epoch", "gap", "in_round", "is_dirty",
        "is_settled", "next", "options", "position", "queue", "ready", "redrives", "settled",
        "skip", "state", "term", "topic", "troubles", "wait_until_s", "window",
    )  # fmt: skip

    def __init__(
        self,
        topic: str,
        client_id: str,
        queue: bytes,
        options: DurableOptions,
        envelope: bool,
        term: int,
        position: int,
    ) -> None:
        self.topic = topic
        self.client_id = client_id
        self.queue = queue
        self.options = options
        self.envelope = envelope
        self.state = LaneState.SETTLING
        self.term = term
        self.position = position  # everything up to it is done
        self.settled = position  # as the store knows it
        self.epoch = ""  # of the message at the position
        self.next = position + 1  # in the log
        self.counter = 0  # attempts under this TERM
        self.window: deque[Delivery] = deque()
        self.active = 0  # deliveries that are not done
        self.ready = 0  # deliveries that are READY
        self.redrives: deque[int] = deque()  # sequences that were put back, to be delivered first
        self.troubles: dict[int, Trouble] = {}  # of messages that failed under a former owner
        self.skip: set[int] = set()  # parked under a former owner
        self.gap = 0  # messages that the log had dropped before they were delivered
        self.is_dirty = False  # something happened to it that no round has taken up
        self.in_round = False
        self.is_settled = False  # no receiver has a job of a former owner
        self.wait_until_s = 0.0  # for the former owner's job

    def apply(self, event: LaneEvent) -> bool:
        """Let an event happen; return whether it changed anything."""
        state = LANES.get((self.state, event))
        if state is None:
            return False
        self.state = state
        return True

    @property
    def room(self) -> int:
        """How many messages may be taken from the log now."""
        options = self.options
        if self.state is not LaneState.OPEN or self.redrives:
            return 0
        free = options.in_flight - self.active
        if free <= 0 or len(self.window) >= SPAN * options.in_flight:
            return 0
        return free * options.batch

    @property
    def is_idle(self) -> bool:
        """Whether no job is with the job servers."""
        return not any(one.state in (State.SENT, State.TAKEN) for one in self.window)

    def pass_over(self, sequence: int, epoch: str = "") -> None:
        """Count a message as done that is not for this subscription, or is there no more."""
        self.next = sequence + 1
        if self.window:
            self.window[-1].through, self.window[-1].epoch = sequence, epoch
        else:
            self.position, self.epoch = sequence, epoch

    def take(self, entries: Sequence[Entry], now_s: float, clock_ms: int) -> list[Delivery]:
        """Make deliveries of the entries that follow in the log; there must be room for them.

        Returns those that have to rest first: they failed under a former owner."""
        resting: list[Delivery] = []
        chosen: list[Entry] = []
        is_plain = not self.skip and not self.troubles and self.options.batch == 1
        for entry in entries:
            if is_plain and entry.sequence == self.next and not entry.info.exclude:
                self.next += 1  # as nearly always
                self._append(Delivery(self, (entry,), entry.sequence))
                continue
            if entry.sequence > self.next:
                if chosen:
                    self._add(chosen)
                    chosen = []
                self.pass_gap(entry.sequence)
            is_skipped = entry.sequence in self.skip
            if is_skipped or (entry.info.exclude and self.client_id in entry.info.exclude):
                if chosen:
                    self._add(chosen)
                    chosen = []
                self.skip.discard(entry.sequence)
                self.pass_over(entry.sequence, entry.epoch)
                continue
            self.next = entry.sequence + 1
            trouble = self.troubles.pop(entry.sequence, None)
            if trouble is not None:
                if chosen:
                    self._add(chosen)
                    chosen = []
                one = self._add([entry])
                if self._burden(one, trouble, now_s, clock_ms):
                    resting.append(one)
                continue
            chosen.append(entry)
            if len(chosen) == self.options.batch:
                self._add(chosen)
                chosen = []
        if chosen:
            self._add(chosen)
        return resting

    @property
    def redrive_room(self) -> int:
        """How many messages that were put back may be taken now."""
        if self.state is not LaneState.OPEN:
            return 0
        in_flight = self.options.in_flight
        free = min(in_flight - self.active, SPAN * in_flight - len(self.window))
        return max(0, min(free, len(self.redrives)))

    def take_redriven(
        self, entry: Entry, parked: Trouble, now_s: float, clock_ms: int
    ) -> Delivery | None:
        """Make a delivery of a message that was put back; return it if it has to rest first."""
        one = Delivery(self, (entry,), self.position)
        one.is_redriven = True
        one.failures = one.since = parked.attempts
        one.first_at, one.error = parked.first_at, parked.error
        self._append(one)
        trouble = self.troubles.pop(entry.sequence, None)  # it failed again since
        if trouble is not None and self._burden(one, trouble, now_s, clock_ms):
            return one
        return None

    def _burden(self, one: Delivery, trouble: Trouble, now_s: float, clock_ms: int) -> bool:
        """Count attempts that failed under a former owner; return whether it has to rest first."""
        one.failures, one.since = trouble.attempts, trouble.since
        one.first_at, one.error = trouble.first_at, trouble.error
        left_s = (trouble.due_ms - clock_ms) / 1000
        if left_s <= 0:
            return False
        one.state = State.RESTING
        self.ready -= 1
        one.due_s = now_s + min(left_s, self.options.max_backoff * (1 + JITTER))
        return True

    def _add(self, entries: list[Entry]) -> Delivery:
        one = Delivery(self, tuple(entries), entries[-1].sequence)
        self._append(one)
        return one

    def _append(self, one: Delivery) -> None:
        self.window.append(one)
        self.active += 1
        self.ready += 1

    def pass_gap(self, first: int) -> list[int]:
        """Pass over messages that the log has dropped, up to ``first``; return those that had
        failed: what that left behind is of no use any more."""
        self.gap += first - self.next
        self.pass_over(first - 1)
        dead = [n for n in self.troubles if n < first and n not in self.redrives]
        for sequence in dead:
            del self.troubles[sequence]
        return dead

    def sendable(self) -> list[Delivery]:
        """Return what may be sent now: a delivery waits while as many before it as may be under
        way are not done."""
        if not self.ready or self.state is not LaneState.OPEN:
            return []
        found: list[Delivery] = []
        left = self.options.in_flight
        if self.active <= left:  # all of them, and the newest are most likely
            for one in reversed(self.window):
                if one.state is State.READY:
                    found.append(one)
                    if len(found) == self.ready:
                        break
            found.reverse()
            return found
        # a batch was split: others behind it may be under way
        spare = left - sum(one.state in (State.SENT, State.TAKEN) for one in self.window)
        for one in self.window:
            if one.state is State.DONE:
                continue
            if one.state is State.READY and spare > 0:
                spare -= 1
                found.append(one)
            left -= 1
            if not left:
                break
        return found

    def done(self) -> None:
        """A delivery is done: move the position past all that are, in the log's order."""
        self.active -= 1
        window = self.window
        while window and window[0].state is State.DONE:
            one = window.popleft()
            if one.through > self.position:
                self.position = one.through
                self.epoch = one.epoch

    def split(self, batch: Delivery) -> list[Delivery]:
        """Put single deliveries in the place of a batch that failed; return them."""
        singles = []
        for entry in batch.entries:
            one = Delivery(self, (entry,), entry.sequence)
            one.state, one.due_s = batch.state, batch.due_s
            one.failures, one.since = batch.failures, batch.since
            one.first_at, one.error = batch.first_at, batch.error
            singles.append(one)
        singles[-1].through, singles[-1].epoch = batch.through, batch.epoch
        singles[-1].former, batch.former = batch.former, []
        batch.singles = singles
        at = self.window.index(batch)
        del self.window[at]
        for one in reversed(singles):
            self.window.insert(at, one)
        self.active += len(singles) - 1
        return singles
