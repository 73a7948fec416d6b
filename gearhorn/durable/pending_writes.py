"""Notes: what lanes have for the store besides their positions, until a round has written it.

Rules: runs on the event loop. What a lane has to write is kept in its order, and a lane is in one
round at a time; so nothing overtakes what was to be written before it, whatever fails. One round
takes so much and no more.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Literal, NamedTuple

from gearhorn.durable.lanes import Delivery, Lane
from gearhorn.messages.codec import encode
from gearhorn.messages.events import encode_done
from gearhorn.messages.logs import FailureHistory, Parked
from gearhorn.store.rounds import FailureWrite, Parking

NOTES = 1000  # written in one round
SEQUENCES = 1000  # in one note
PARKED_BYTES = 8 * 1024 * 1024  # copied by the store in one round; one message at least
DONE_WORDS = 10_000  # that wait to be told; positions are looked at besides

Write = FailureWrite | Delivery  # a delivery is to be set aside


class Taken(NamedTuple):
    """What one round writes: by lane, in the lane's order."""

    writes: dict[Lane, list[Write]]
    done: Mapping[str, Sequence[bytes]]  # by process that waits

    @property
    def notes(self) -> list[FailureWrite]:
        """What is known of messages."""
        return [
            one for some in self.writes.values() for one in some if isinstance(one, FailureWrite)
        ]

    @property
    def parked(self) -> list[Delivery]:
        """The deliveries whose messages are set aside."""
        return [one for some in self.writes.values() for one in some if isinstance(one, Delivery)]


class PendingWrites:
    """Collects, by lane."""

    def __init__(self) -> None:
        self._writes: dict[Lane, list[Write]] = {}
        self._done: dict[str, list[bytes]] = {}  # by process that waits
        self._words = 0

    def park(self, delivery: Delivery) -> None:
        """A message is to be set aside."""
        self._writes.setdefault(delivery.lane, []).append(delivery)

    def fail(self, delivery: Delivery, trouble: FailureHistory) -> None:
        """An attempt failed: keep what it left behind."""
        sequences = [entry.sequence for entry in delivery.entries]
        self._add(delivery.lane, "fail", sequences, encode(trouble))

    def finish(self, delivery: Delivery, is_parked: bool) -> None:
        """A delivery is done."""
        for entry in delivery.entries:
            if delivery.failures or delivery.is_redriven or entry.info.waiter:
                break
        else:
            return  # as nearly always
        sequences = [entry.sequence for entry in delivery.entries]
        if delivery.failures and not is_parked:
            self._add(delivery.lane, "clear", sequences)
        if delivery.is_redriven and not is_parked:
            self._add(delivery.lane, "redriven", sequences)
        error = delivery.error if is_parked else ""
        lane = delivery.lane
        for entry in delivery.entries:
            if entry.info.waiter and self._words < DONE_WORDS:
                done = encode_done(lane.topic, lane.client_id, entry.sequence, error)
                self._done.setdefault(entry.info.waiter, []).append(done)
                self._words += 1

    def late(self, delivery: Delivery) -> None:
        """A receiver acknowledged a message after it was set aside."""
        self._add(delivery.lane, "late", [delivery.sequence])

    def forget(self, lane: Lane, sequences: Sequence[int]) -> None:
        """Messages that had failed are gone from the log."""
        self._add(lane, "clear", sequences)

    def _add(
        self,
        lane: Lane,
        kind: Literal["fail", "clear", "redriven", "late"],
        sequences: Sequence[int],
        body: bytes = b"",
    ) -> None:
        for at in range(0, len(sequences), SEQUENCES):
            piece = sequences[at : at + SEQUENCES]
            note = FailureWrite(lane.topic, lane.client_id, lane.term, kind, piece, body)
            self._writes.setdefault(lane, []).append(note)

    def has(self, lane: Lane) -> bool:
        """Whether a lane has something to write."""
        return lane in self._writes

    def drop(self, lane: Lane) -> None:
        """A lane is not ours any more."""
        self._writes.pop(lane, None)

    def take(self, lanes: Iterable[Lane]) -> Taken:
        """Return what these lanes have to write, as much of it as one round may have."""
        left, left_bytes = NOTES, PARKED_BYTES
        taken: dict[Lane, list[Write]] = {}
        for lane in lanes:
            writes = self._writes.get(lane)
            if writes is None:
                continue
            count = 0
            for write in islice(writes, left):
                if isinstance(write, Delivery):
                    size = write.entries[0].length
                    if size > left_bytes < PARKED_BYTES:
                        break
                    left_bytes -= size
                count += 1
            if count:
                taken[lane], rest = writes[:count], writes[count:]
                left -= count
                if rest:
                    self._writes[lane] = rest
                else:
                    del self._writes[lane]
        done, self._done, self._words = self._done, {}, 0
        return Taken(taken, done)

    def put_back(self, lane: Lane, writes: list[Write]) -> None:
        """They are not written."""
        self._writes[lane] = writes + self._writes.get(lane, [])


def parking(delivery: Delivery) -> Parking:
    """Return how a delivery's message is set aside."""
    lane, entry = delivery.lane, delivery.entries[0]
    trouble = FailureHistory(delivery.failures, delivery.first_at, time.time(), delivery.error)
    message = Parked(entry.epoch, trouble, entry.info, b"")
    return Parking(lane.topic, lane.client_id, lane.term, entry.sequence, message, entry.length)
