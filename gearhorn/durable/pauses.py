"""Pauses: the lanes that this member would deliver for if they were not paused.

A paused lane has no owner, like one that is read from: nothing of it is in memory, and whatever
comes for its topic costs it nothing. When the pause was given an end, the lane has to be taken
then. The member that should own it does so (``ownership.owner_of``): it keeps the end here, and has
the lane compared again when that has come. Where the members change, each compares every lane, and
finds the end of a pause in the subscription's options; so does a member that was started again.

Rules: pure. The earliest end costs no search; ends that were replaced go with the others when they
would be more than half.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from gearhorn.timing import MembersClock

SPARE = 100  # replaced ends that are kept before the heap is made anew
SHORTEST_S = 0.01  # to wait: the clock is read in whole milliseconds, and may fall behind


class Pauses:
    """The ends of pauses, by topic and client_id.

    Arguments:
        clock: the members', by which pauses end.
    """

    def __init__(self, clock: MembersClock) -> None:
        self._clock = clock
        self._ends: dict[tuple[str, str], int] = {}
        self._heap: list[tuple[int, str, str]] = []

    def keep(self, topic: str, client_id: str, end_ms: int) -> None:
        """A lane that this member should own is paused until the clock reads ``end_ms``; below 0
        it does not end by itself."""
        if end_ms < 0:
            self.forget(topic, client_id)
        elif self._ends.get((topic, client_id)) != end_ms:
            self._ends[topic, client_id] = end_ms
            heappush(self._heap, (end_ms, topic, client_id))
            if len(self._heap) > 2 * len(self._ends) + SPARE:
                self._heap = [(end, *pair) for pair, end in self._ends.items()]
                heapify(self._heap)

    def forget(self, topic: str, client_id: str) -> None:
        """A lane is not paused, or is not this member's to take."""
        self._ends.pop((topic, client_id), None)

    def take_due(self) -> list[tuple[str, str]]:
        """Return the lanes whose pauses are over, by topic and client_id, each once."""
        due = []
        while self._heap and self._heap[0][0] <= self._clock.clock_ms:
            end_ms, *names = heappop(self._heap)
            pair = names[0], names[1]
            if self._ends.get(pair) == end_ms:
                del self._ends[pair]
                due.append(pair)
        return due

    @property
    def wait_s(self) -> float | None:
        """In how many seconds a pause may be over; None where there is none."""
        while self._heap and self._ends.get(self._heap[0][1:]) != self._heap[0][0]:
            heappop(self._heap)
        if not self._heap:
            return None
        return max((self._heap[0][0] - self._clock.clock_ms) / 1000, SHORTEST_S)
