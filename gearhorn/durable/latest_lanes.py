"""Lanes of subscriptions that want the latest message only (``durable.latest``): conflation.

Theory of operation. A receiver that shows a price wants the present one, not the thousand before
it. So a lane that is free looks through the log to its end before it sends anything, and of all
messages with one *value* (of a header, or of nothing: then all have the same) it sends the newest.
What it passes by counts as *skipped*.

The messages that it has found, and not sent, are deliveries in its window, which are ready; here
they are called *candidates*. A newer message of the value takes a candidate's place: it leaves the
window as if it had never been made (``Window.pass_by``). So the position, retries and the order of
the others are those of any lane, and a new owner looks through the same messages and decides alike.

Rules, of the messages with one value:

* Nothing older is begun after something newer. So what was done or parked under a former owner
  takes the place of what is before it. And a delivery that is under way when a newer one is found
  is not tried again if it fails (``outdated``).
* Two are never under way at once, whatever ``in_flight`` allows: the newer one waits until the
  older one is done, or has failed.
* The newest is never passed by. Excluded and expired messages take nobody's place.
* What rests after a failure gives way at once: the newest is not to wait for an hour because the
  one before it failed. What was put back (a redrive) is sent in any case: it was asked for.

What is skipped is counted with the position, so that each message counts once, whoever delivers: a
delivery carries the skipped messages that its ``through`` covers, as the position moves over them
together (``_skips``).

A look has a *goal*: where the log ended as its first round began. Messages that come later are for
the next look, or a busy topic would keep the lane looking. The candidates are bounded in number and
bytes; a lane that has so many sends the first ones, and looks on as they are done. With one value
there is one candidate, and any number of messages may be passed by.

A candidate of a former round has no payload any more. Where the look ends at such a one, the lane
*settles*: for one more round it takes nothing, so that what it has chosen is read and sent, however
busy the topic is. Every such round is followed by another, which looks again: what came meanwhile
woke no lane that had no room.

With ``in_flight`` 1 the store has what was acknowledged before the next message is begun. In any
other lane that follows from the order of a round, as its window holds one delivery. Here more stand
behind it, and what is heard in the middle of a round (a receiver that acknowledges late) makes the
next one the first. So it is asked (``_is_told``).

Rules: pure.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from gearhorn.durable.lanes import SPAN, Delivery, Lane
from gearhorn.durable.states import Event, LaneState, State
from gearhorn.messages.headers import bytes_of
from gearhorn.messages.logs import FailureHistory, Info
from gearhorn.messages.subscriptions import DurableOptions
from gearhorn.store.log import Entry

CANDIDATES = 1000  # in the window of one lane
CANDIDATE_BYTES = 1024 * 1024  # of headers, which are kept while they wait
LOOKED = 1000  # messages that are taken at once

GIVES_WAY = State.READY, State.RESTING  # with nothing under way

_READY, _OPEN = State.READY, LaneState.OPEN


class LatestLane(Lane):
    """One subscription with ``latest`` in the hands of this member.

    ``skipped`` is how many messages it passed by under its TERM, up to its position. ``outdated``
    are deliveries that a newer message has taken the place of, and that cannot leave without more:
    they are under way, or have left something in the store.
    """

    __slots__ = (
        "_began_at", "_current", "_goal", "_header", "_held", "_is_settling", "_is_told",
        "_reads_on", "_settles", "_skips", "_stored_skips", "outdated", "skipped",
    )  # fmt: skip

    is_latest = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take the arguments of ``Lane``."""
        super().__init__(*args, **kwargs)
        latest = self.options.latest
        self._header = latest if isinstance(latest, str) else ""
        self._current: dict[str | None, Delivery] = {}  # the newest in the window, by value
        self._skips: dict[Delivery, int] = {}  # messages passed by that a delivery answers for
        self._held = 0  # bytes of headers in the window
        self._goal: int | None = None  # a sequence; None: it is not known where the log ends
        self._began_at = self.next  # in the log, as the round began
        self._reads_on = False  # the next round goes on towards the same goal
        self._settles = False  # the next round takes nothing, and sends what was chosen
        self._is_settling = False  # this one does so
        self._is_told = True  # the store has everything that was acknowledged
        self._stored_skips = 0
        self.outdated: dict[Delivery, None] = {}
        self.skipped = 0

    # Looking

    def begin_round(self) -> None:
        """The lane is worked off now. It looks anew, to where the log ends by then, unless it
        settles or is on its way: what a round had in mind that failed, or could not send, may be
        minutes old."""
        super().begin_round()
        self._is_settling, self._settles = self._settles, False
        if not (self._is_settling or self._reads_on):
            self._goal = None
        self._reads_on = False
        self._began_at = self.next

    def goes_on(self, may_send: bool) -> bool:
        """Return whether the lane needs another round, now that this one has sent what it could: to
        read payloads of what was chosen, unless nothing can be sent at present; or to look at what
        came while the lane settled."""
        self._settles = may_send and any(
            delivery.is_bare and not delivery.is_redriven for delivery in self.sendable()
        )
        self._reads_on = may_send and self.next > self._began_at and not self.has_looked
        return self._settles or self._is_settling

    def aim(self, last: int | None) -> None:
        """Look up to ``last``, where the log ends; None: that is not known. Without effect while
        the lane looks already."""
        if self._goal is None:
            self._goal = last

    def reach_end(self) -> None:
        """There is nothing behind what was taken."""
        self._goal = self.next - 1

    @property
    def has_looked(self) -> bool:
        """Whether every message was taken that there was when the lane began to look."""
        return self._goal is not None and self.next > self._goal

    @property
    def is_full(self) -> bool:
        """Whether the lane has to send before it may look further. It has not while something that
        was done under a former owner is still to come, or it would send what that took the place
        of; so far the former owner has looked, within the same bounds."""
        if self._owes_a_look:
            return False
        in_flight = self.options.in_flight
        return (
            self.active >= in_flight + CANDIDATES
            or self._held > CANDIDATE_BYTES
            or self._is_too_far
        )

    @property
    def _owes_a_look(self) -> bool:
        """Whether something that was done or parked under a former owner is still to come."""
        if self.passed and self.passed[-1][1] >= self.next:
            return True
        return any(parked and parked[0] >= self.next for parked in self.skip)

    @property
    def _is_too_far(self) -> bool:
        """Whether as many are done behind one that is not as may be."""
        return self.beyond >= SPAN * self.options.in_flight

    @property
    def room(self) -> int:
        """How many messages may be looked at now: none while as many are under way as may be."""
        if self.state is not _OPEN or self.redrives or self._is_settling or self.is_full:
            return 0
        is_free = self.under_way + self.counts[State.PARKING] < self.options.in_flight
        return LOOKED if is_free else 0

    # Taking

    def take(self, entries: Sequence[Entry], now_s: float, clock_ms: int) -> list[Delivery]:
        """Look at the entries that follow in the log; return deliveries that have to rest first."""
        resting: list[Delivery] = []
        for entry in entries:
            sequence = entry.sequence
            if sequence > self.next:
                self.pass_gap(sequence, entry.epoch)
            if self._was_done(entry):
                self._heed_done(entry.info, clock_ms)
                self.pass_over(sequence, entry.epoch)
            elif entry.info.excludes(self.client_id):
                self.pass_over(sequence, entry.epoch)
            elif self.expired.passes(entry, clock_ms, self.troubles):
                self._count_beyond(sequence, sequence, entry.epoch)
                self.pass_over(sequence, entry.epoch)
            elif self._add_candidate(entry, now_s, clock_ms):
                resting.append(self._current[self._value_of(entry.info)])
        return resting

    def _add_candidate(self, entry: Entry, now_s: float, clock_ms: int) -> bool:
        """Make a delivery of a message, in the place of those of the same value; return whether it
        has to rest first. The newer one comes first, so that the position stays in front of it."""
        self.next = entry.sequence + 1
        value = self._value_of(entry.info)
        delivery = self._make((entry,), entry.sequence)
        self._outdate(value)
        self._current[value] = delivery
        if self._header:
            self._held += _weight(entry.info)
        trouble = self.troubles.pop(entry.sequence, None)
        return trouble is not None and self._burden(delivery, trouble, now_s, clock_ms)

    def _heed_done(self, info: Info, clock_ms: int) -> None:
        """A message was done under a former owner: nothing older of its value is begun any more.
        One that has expired takes the place of none, as it may never have been delivered."""
        if not info.is_expired(clock_ms):
            self._outdate(self._value_of(info))

    def _value_of(self, info: Info) -> str | None:
        """Return which messages one takes the place of: those with the same value. None: those that
        have no such header, or all where no header was named."""
        headers = info.headers
        return headers.get(self._header) if headers and self._header else None

    def _outdate(self, value: str | None) -> None:
        """Something newer has this value. Most candidates have left nothing behind, and go at once;
        the others are gone on with by ``Latest``."""
        older = self._current.pop(value, None)
        if older is None:
            return
        if older.state is _READY and not (older.failures or older.entries[0].info.waiter):
            older.apply(Event.SKIP)
            self.give_way(older)
        else:
            self.outdated[older] = None

    def take_redriven(
        self, entry: Entry, parked: FailureHistory, now_s: float, clock_ms: int
    ) -> Delivery | None:
        """Make a delivery of a message that was put back, in front of all candidates; return it if
        it has to rest first."""
        first = self._first_candidate()
        resting = super().take_redriven(entry, parked, now_s, clock_ms)
        if first is not None:
            self.pull_ahead(first)
        return resting

    def _first_candidate(self) -> Delivery | None:
        for delivery in self.window:
            if delivery.state is _READY and not delivery.is_redriven:
                return delivery
        return None

    @property
    def redrive_room(self) -> int:
        """How many messages that were put back may be taken now, whatever candidates there are."""
        if not self.redrives or self.state is not _OPEN or self._is_too_far:
            return 0
        candidates = sum(
            delivery.state is _READY and not delivery.is_redriven for delivery in self.window
        )
        busy = self.active - candidates
        return max(0, min(self.options.in_flight - busy, len(self.redrives)))

    def sendable(self) -> list[Delivery]:
        """Return what may be sent now: candidates only once the lane has looked, and nothing that
        something newer has taken the place of.

        As in any lane, one waits while ``in_flight`` before it are not done. What waits for another
        message of its own value is not among these: one slow receiver would hold up all values.
        """
        if not self.counts[_READY] or self.state is not _OPEN:
            return []
        limit = self.options.in_flight
        if not (self._is_told or limit > 1):
            return []
        may_begin = self.has_looked or self.is_full
        busy = self._busy_values()
        return self.due(
            limit, lambda one: one.is_redriven or (may_begin and self._is_due(one, busy))
        )

    def _busy_values(self) -> Collection[str | None]:
        """Return the values of which an older message is under way, of those with a newer one:
        receivers at two job servers, or two at one, would begin and end both in any order."""
        return {
            self._value_of(delivery.entries[0].info)
            for delivery in self.outdated
            if delivery.state not in GIVES_WAY
        }

    def _is_due(self, delivery: Delivery, busy: Collection[str | None]) -> bool:
        """Whether nothing newer has a candidate's place, and nothing of its value is under way."""
        if not self.outdated:  # as nearly always
            return True
        return (
            delivery not in self.outdated and self._value_of(delivery.entries[0].info) not in busy
        )

    # Ending

    def give_way(self, delivery: Delivery) -> None:
        """A delivery is passed by, since there is something newer: it leaves the window."""
        count = 1 + self._skips.pop(delivery, 0)
        before = self.pass_by(delivery)
        self._count(before, count)
        if before is None and delivery.through > self.position:
            self.position, self.epoch = delivery.through, delivery.epoch
        self._forget(delivery)

    def done(self, delivery: Delivery, is_parked: bool = False) -> None:
        """A delivery is done; what was skipped behind it counts with it."""
        before = delivery.before
        if not (is_parked or delivery.is_redriven):
            self._is_told = False
        super().done(delivery, is_parked)
        count = self._skips.pop(delivery, 0)
        if count:
            self._count(before, count)
        self._forget(delivery)

    def note_written(self, position: int, count: int) -> None:
        """The store has a position, and what was done beyond it; perhaps not what was acknowledged
        since."""
        super().note_written(position, count)
        if position == self.position and not self.ahead:
            self._is_told = True

    def _count(self, before: Delivery | None, count: int) -> None:
        """Count messages that were passed by: now, where the position moves over them; else with
        the delivery before them."""
        if before is None:
            self.skipped += count
        else:
            self._skips[before] = self._skips.get(before, 0) + count

    def _forget(self, delivery: Delivery) -> None:
        """A delivery has left the window."""
        self.outdated.pop(delivery, None)
        if delivery.is_redriven:
            return
        info = delivery.entries[0].info
        if self._header:
            self._held -= _weight(info)
        value = self._value_of(info)
        if self._current.get(value) is delivery:
            del self._current[value]

    def clear(self) -> None:
        """The lane is not this member's any more: hold nothing."""
        super().clear()
        self._current.clear()
        self._skips.clear()
        self.outdated.clear()

    @property
    def unwritten_skips(self) -> int:
        """``skipped``, where the store does not know it; 0 where it does."""
        return self.skipped if self.skipped > self._stored_skips else 0

    def note_skipped(self, count: int) -> None:
        """The store knows so many of those that were skipped."""
        self._stored_skips = max(self._stored_skips, count)


def _weight(info: Info) -> int:
    """Return how many bytes of a message stay in memory while it waits."""
    return bytes_of(info.headers or {}) + len(info.unique or "")


def wants_more(lane: Lane) -> bool:
    """Whether a lane would look at what is new although its window has no room for more."""
    return lane.is_latest and lane.room > 0


def lane_class(options: DurableOptions) -> type[Lane]:
    """Return which kind of lane delivers for a subscription with these options."""
    return LatestLane if options.latest else Lane
