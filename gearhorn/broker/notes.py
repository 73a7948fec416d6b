"""Notes: what lanes have for the store besides their positions, collected for the next round.

Law: runs on the event loop. What a round could not write is put back, so that nothing is lost.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from gearhorn.broker.lanes import Delivery, Lane, LaneState
from gearhorn.messages.codec import encode
from gearhorn.messages.durable import Parked, Trouble
from gearhorn.store.lanes import Note, Parking


class Taken(NamedTuple):
    """What one round writes."""

    parked: list[Delivery]
    notes: list[Note]
    done: Mapping[str, list[bytes]]

    @property
    def parkings(self) -> Sequence[Parking]:
        """The messages to set aside, of lanes that are still ours."""
        return [_parking(one) for one in self.parked if one.lane.state is not LaneState.CLOSED]


class Notes:
    """Collects."""

    def __init__(self) -> None:
        self._parked: list[Delivery] = []
        self._notes: list[Note] = []
        self._done: defaultdict[str, list[bytes]] = defaultdict(list)  # by process that waits

    def park(self, one: Delivery) -> None:
        """A message is to be set aside."""
        self._parked.append(one)

    def fail(self, one: Delivery, trouble: Trouble) -> None:
        """An attempt failed: keep what it left behind."""
        body = encode(trouble)
        for entry in one.entries:
            self._add(one.lane, "fail", entry.sequence, body)

    def finish(self, one: Delivery, is_parked: bool) -> None:
        """A delivery is done."""
        lane = one.lane
        for entry in one.entries:
            if not (one.failures or one.is_redriven or entry.info.waiter):
                continue  # as nearly always
            if one.failures and not is_parked:
                self._add(lane, "clear", entry.sequence)
            if one.is_redriven and not is_parked:
                self._add(lane, "redriven", entry.sequence)
            if entry.info.waiter:
                error = one.error.replace("\n", " ").replace("\0", " ") if is_parked else ""
                words = f"{lane.topic}\0{lane.client_id}\0{entry.sequence}\0{error}"
                self._done[entry.info.waiter].append(words.encode())

    def forget(self, lane: Lane, sequences: Sequence[int]) -> None:
        """Messages that had failed are gone from the log."""
        for sequence in sequences:
            self._add(lane, "clear", sequence)

    def _add(
        self,
        lane: Lane,
        kind: Literal["fail", "clear", "redriven"],
        sequence: int,
        body: bytes = b"",
    ) -> None:
        self._notes.append(Note(lane.topic, lane.client_id, lane.term, kind, sequence, body))

    def take(self) -> Taken:
        """Return what has come, for one round."""
        taken = Taken(self._parked, self._notes, self._done)
        self._parked, self._notes = [], []
        self._done = defaultdict(list)
        return taken

    def put_back(self, taken: Taken) -> None:
        """The round failed."""
        self._parked[:0] = taken.parked
        self._notes[:0] = taken.notes
        for process, words in taken.done.items():
            self._done[process][:0] = words


def _parking(one: Delivery) -> Parking:
    lane, entry = one.lane, one.entries[0]
    trouble = Trouble(one.failures, one.first_at, time.time(), one.error)
    message = Parked(entry.epoch, trouble, entry.info, entry.payload)
    return Parking(lane.topic, lane.client_id, lane.term, entry.sequence, message)
