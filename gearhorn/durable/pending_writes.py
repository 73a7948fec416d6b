"""Pending writes: what lanes have for the store besides their positions, until a round wrote it.

There are three kinds. A *failure write* says what is known of messages that were tried: that an
attempt failed, that this is over, or that a receiver acknowledged late. A delivery stands for its
message that is to be *set aside*. And processes that wait for receivers are *told*.

The invariant: what a lane has to write stays in its order, whatever fails. A message that failed
and then succeeded must not be known as failed for good. So the writes of a lane are one list; a
round takes from its front, and what it could not write goes back there (``put_back``), before
whatever came meanwhile. A lane is in one round at a time, so no two rounds have parts of one list.

What processes are told is not kept so: it may be lost, since they poll positions as well
(``AckWaiters``).

Rules: runs on the event loop. One round takes so much and no more: the store does nothing else
while it works on a command.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from gearhorn.durable.lanes import Delivery, Lane
from gearhorn.messages.codec import encode
from gearhorn.messages.events import LOG_DROPPED, encode_done
from gearhorn.messages.logs import FailureHistory, Parked
from gearhorn.store.log import Entry
from gearhorn.store.rounds import FailureKind, FailureWrite, Parking

WRITES = 1000  # of all lanes, written in one round
SEQUENCES = 1000  # in one failure write
LAPSED = 100  # that expired, of one lane, which the store keeps for publishers that wait
PARKED_BYTES = 8 * 1024 * 1024  # copied by the store in one round; one message at least
TOLD = 10_000  # receivers of which processes wait to be told; they poll for the others


class SetAside(NamedTuple):
    """A delivery whose message is set aside, and how: the same however often it is written, so that
    the store can tell."""

    delivery: Delivery
    parking: Parking


Write = FailureWrite | SetAside


class Taken(NamedTuple):
    """What one round writes: by lane, in the lane's order."""

    writes: dict[Lane, list[Write]]
    done: Mapping[str, Sequence[bytes]]  # by process that waits

    @property
    def failures(self) -> list[FailureWrite]:
        """What is known of messages that were tried."""
        return [
            write
            for writes in self.writes.values()
            for write in writes
            if isinstance(write, FailureWrite)
        ]

    @property
    def parked(self) -> list[Delivery]:
        """The deliveries whose messages are set aside."""
        return [aside.delivery for aside in self._aside]

    @property
    def parkings(self) -> list[Parking]:
        """How these are set aside, in the same order."""
        return [aside.parking for aside in self._aside]

    @property
    def _aside(self) -> list[SetAside]:
        return [
            write
            for writes in self.writes.values()
            for write in writes
            if isinstance(write, SetAside)
        ]


class PendingWrites:
    """Collects what lanes have to write.

    Parts that find out what happened to a delivery add to it, and touch its lane, or no round would
    take what was added. ``Rounds`` takes.

    ``lanes`` has those that have something to write; others only look whether a lane is there. Such
    a lane is not released yet.
    """

    def __init__(self) -> None:
        self.lanes: dict[Lane, list[Write]] = {}
        self._done: dict[str, list[bytes]] = {}  # by process that waits
        self._told = 0  # receivers in ``_done``

    def park(self, delivery: Delivery) -> None:
        """A message, the only one of its delivery, is to be set aside. The position may pass it
        only in a later round: a crash between the two would lose it."""
        aside = SetAside(delivery, parking(delivery))
        self.lanes.setdefault(delivery.lane, []).append(aside)

    def fail(self, delivery: Delivery, trouble: FailureHistory) -> None:
        """An attempt failed: keep what it left behind, so that it counts whichever member delivers
        the message next."""
        sequences = [entry.sequence for entry in delivery.entries]
        self._add(delivery.lane, "fail", sequences, encode(trouble))

    def finish(self, delivery: Delivery, is_parked: bool, is_expired: bool = False) -> None:
        """A delivery is done: what it left in the store goes, and processes that wait are told.

        Arguments:
            delivery: one that is done, with all its messages.
            is_parked: whether its message was set aside. The script that does so also removes what
                failed attempts left; so nothing is written for it here, and processes are told the
                error.
            is_expired: whether its messages expired instead of being acknowledged.
        """
        for entry in delivery.entries:
            if delivery.failures or delivery.is_redriven or entry.info.waiter or is_expired:
                break
        else:
            return  # as nearly always
        sequences = [entry.sequence for entry in delivery.entries]
        if delivery.failures and not is_parked:
            self._add(delivery.lane, "clear", sequences)
        if delivery.is_redriven and not is_parked:
            self._add(delivery.lane, "redriven", sequences)
        if is_expired:
            self._lapse(delivery.lane, delivery.entries)
        error = delivery.error if is_parked else ""
        self._tell(delivery.lane, delivery.entries, error, is_expired)

    def vanish(self, delivery: Delivery, entries: Sequence[Entry]) -> None:
        """The log does not have these messages of a delivery any more."""
        sequences = [entry.sequence for entry in entries]
        if delivery.failures:
            self._add(delivery.lane, "clear", sequences)
        if delivery.is_redriven:
            self._add(delivery.lane, "redriven", sequences)
        self._tell(delivery.lane, entries, LOG_DROPPED)

    def pass_over(self, lane: Lane, left: Sequence[tuple[Entry, bool]]) -> None:
        """Messages of a lane expired and were not taken at all: what they left goes, and processes
        that wait are told.

        ``left`` are the messages, and whether each had failed under a former owner.
        """
        failed = [entry.sequence for entry, has_failed in left if has_failed]
        if failed:
            self._add(lane, "clear", failed)
        entries = [entry for entry, _ in left]
        self._lapse(lane, entries)
        self._tell(lane, entries, "", is_expired=True)

    def _lapse(self, lane: Lane, entries: Sequence[Entry]) -> None:
        """Have the store keep that messages expired which a publisher may wait for: the position
        passes them like those that were acknowledged, and what tells it may be lost."""
        lapsed = [entry.sequence for entry in entries if entry.info.waiter or entry.info.unique]
        if lapsed:
            self._add(lane, "lapsed", lapsed[-LAPSED:])

    def _tell(
        self, lane: Lane, entries: Iterable[Entry], error: str, is_expired: bool = False
    ) -> None:
        """Tell those who wait for these messages; ``error`` is why they are not delivered, unless
        they expired."""
        for entry in entries:
            if entry.info.waiter and self._told < TOLD:
                done = encode_done(
                    lane.topic,
                    lane.client_id,
                    entry.sequence,
                    error,
                    epoch=entry.epoch,
                    is_expired=is_expired,
                )
                self._done.setdefault(entry.info.waiter, []).append(done)
                self._told += 1

    def late(self, delivery: Delivery) -> None:
        """A receiver acknowledged a message after it was set aside: it is to be taken out again."""
        self._add(delivery.lane, "late", [delivery.sequence])

    def forget(self, lane: Lane, sequences: Sequence[int]) -> None:
        """Messages of a lane that had failed are gone from the log."""
        self._add(lane, "clear", sequences)

    def _add(
        self,
        lane: Lane,
        kind: FailureKind,
        sequences: Sequence[int],
        body: bytes = b"",
    ) -> None:
        """Add failure writes for any number of messages, each under the lane's present TERM: a
        write that another member's TERM has overtaken must be refused."""
        for at in range(0, len(sequences), SEQUENCES):
            piece = sequences[at : at + SEQUENCES]
            write = FailureWrite(lane.topic, lane.client_id, lane.term, kind, piece, body)
            self.lanes.setdefault(lane, []).append(write)

    def drop(self, lane: Lane) -> None:
        """A lane is another member's: the store would refuse what it had to write."""
        self.lanes.pop(lane, None)

    def take(self, lanes: Iterable[Lane]) -> Taken:
        """Return what these lanes have to write, as much of it as one round may have.

        What is left stays, and the lane in ``lanes``. A message is set aside by the store, which
        copies its payload: so these are counted in bytes, and the first of a round is taken
        whatever its size.
        """
        left, left_bytes = WRITES, PARKED_BYTES
        taken: dict[Lane, list[Write]] = {}
        for lane in lanes:
            writes = self.lanes.get(lane)
            if writes is None:
                continue
            count = 0
            for write in islice(writes, left):
                if isinstance(write, SetAside):
                    size = write.delivery.entries[0].size
                    if size > left_bytes < PARKED_BYTES:
                        break
                    left_bytes -= size
                count += 1
            if count:
                taken[lane], rest = writes[:count], writes[count:]
                left -= count
                if rest:
                    self.lanes[lane] = rest
                else:
                    del self.lanes[lane]
        done, self._done, self._told = self._done, {}, 0
        return Taken(taken, done)

    def put_back(self, lane: Lane, writes: list[Write]) -> None:
        """The round failed that took these: have them written before what came meanwhile."""
        self.lanes[lane] = writes + self.lanes.get(lane, [])


def parking(delivery: Delivery) -> Parking:
    """Return how the message of a delivery is set aside, with what its attempts left behind. The
    store copies the payload from the log, so it is not sent."""
    lane, entry = delivery.lane, delivery.entries[0]
    trouble = FailureHistory(delivery.failures, delivery.first_at, time.time(), delivery.error)
    message = Parked(entry.epoch, trouble, entry.info, b"")
    return Parking(lane.topic, lane.client_id, lane.term, entry.sequence, message, entry.length)
