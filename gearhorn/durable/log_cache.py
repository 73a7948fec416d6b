"""Feed: what lanes deliver from: log messages in memory, and where each log ends.

Rules: runs on the event loop; reads nothing itself, but says what has to be read. What one round
reads, and what a lane takes at once, is bounded in bytes and in number, however many messages a
lane has room for: empty ones take time too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gearhorn.durable.delivery import LARGEST_BATCH
from gearhorn.durable.entries import Entries
from gearhorn.store.log import Entry
from gearhorn.store.rounds import Wanted

READS = 32  # parts of logs read in one round at most; fewer while they turn out to be large
FIRST_READS = 4
ROUND_BYTES = (
    8 * 1024 * 1024
)  # of payloads: a round that brings more halves what the next one reads
READ_ENTRIES = 64  # in one part at least; where lanes have room for more,
MOST_ENTRIES = 1000  # in one part at most, and
ROUND_ENTRIES = 2000  # in all parts of a round but the last: a few milliseconds of the loop
READ_BYTES = 256 * 1024
RUN_ENTRIES = LARGEST_BATCH  # that a lane takes at once, or
RUN_BYTES = 1024 * 1024  # so many bytes, or one message


class _Tail:
    """The end of a log as far as it is known."""

    __slots__ = ("heard", "is_known")

    def __init__(self) -> None:
        self.heard = 0  # the last sequence that somebody told of or that was read
        self.is_known = False  # whether nothing is behind it but what will be told of


class Plan(NamedTuple):
    """Parts of logs to read in one round; lanes that get nothing of them ask again."""

    reads: list[Wanted]
    tails: Mapping[str, tuple[_Tail, int]]  # and what was told of each topic's end before


class Found(NamedTuple):
    """What became of a plan."""

    gaps: list[
        tuple[str, int, int]
    ]  # topic, the first sequence that is gone, the first that is not
    news: set[str]  # topics whose logs turned out to be longer than anybody had told
    lost: list[str]  # topics whose logs do not have what somebody told of


class LogCache:
    """The logs that this member delivers from."""

    def __init__(self) -> None:
        self._entries = Entries()
        self._tails: dict[str, _Tail] = {}
        self._reads = FIRST_READS

    def follow(self, topic: str) -> None:
        """Deliver from a log; where it ends is not known."""
        self._tails.setdefault(topic, _Tail()).is_known = False

    def leave(self, topic: str) -> None:
        """Deliver from a log no more."""
        self._tails.pop(topic, None)
        self._entries.forget(topic)

    def forget(self, topic: str) -> None:
        """What was read of a log may not be what the store holds."""
        self._entries.forget(topic)
        if topic in self._tails:
            self._tails[topic] = _Tail()

    def hear(self, topic: str, last: int) -> bool:
        """Messages were logged up to this sequence; return whether that is news."""
        tail = self._tails.get(topic)
        if tail is None or last <= tail.heard:
            return False
        tail.heard = last
        return True

    def doubt(self) -> None:
        """Anything may have been logged."""
        for tail in self._tails.values():
            tail.is_known = False

    def clear(self) -> None:
        """Forget every message."""
        self._entries.clear()

    def is_at_end(self, topic: str, sequence: int) -> bool:
        """Whether nothing of this sequence or behind it is there."""
        tail = self._tails.get(topic)
        return tail is None or (tail.is_known and sequence > tail.heard)

    def run(self, topic: str, first: int, count: int) -> list[Entry]:
        """Return up to ``count`` messages that follow each other from ``first`` on, or fewer where
        these are many or large; none only where the first is not there."""
        return self._entries.run(topic, first, min(count, RUN_ENTRIES), RUN_BYTES)

    def plan(self, wanted: Mapping[str, Mapping[int, int]]) -> Plan:
        """Return what to read: ``wanted`` is by topic how many messages from which sequence on."""
        reads: list[Wanted] = []
        left = ROUND_ENTRIES
        for topic, firsts in wanted.items():
            end = 0
            for first in sorted(firsts):
                if first < end:
                    continue  # another lane's part brings it
                if len(reads) >= self._reads or left <= 0:
                    break
                most = min(max(READ_ENTRIES, firsts[first]), MOST_ENTRIES)
                left -= most
                reads.append(Wanted(topic, first, most, READ_BYTES))
                end = first + most
        found = ((topic, self._tails.get(topic)) for topic in wanted)
        tails = {topic: (tail, tail.heard) for topic, tail in found if tail is not None}
        return Plan(reads, tails)

    def take_in(self, plan: Plan, replies: Sequence[tuple[list[Entry], bool]]) -> Found:
        """Keep what was read, and note where logs end."""
        found = Found([], set(), [])
        size = sum(entry.length for entries, _ in replies for entry in entries)
        self._reads = (
            max(self._reads // 2, 1) if size > ROUND_BYTES else min(2 * self._reads, READS)
        )
        for wanted, (entries, is_end) in zip(plan.reads, replies, strict=True):
            tail = self._tails.get(wanted.topic)
            asked, heard = plan.tails.get(wanted.topic, (None, 0))
            if tail is None or tail is not asked:
                continue  # left, or forgotten, meanwhile
            self._entries.add(wanted.topic, entries)
            last = entries[-1].sequence if entries else wanted.first - 1
            if is_end:
                if not entries and heard >= wanted.first:
                    tail.heard = last
                    found.lost.append(wanted.topic)
                tail.is_known = True
            if last > tail.heard:
                tail.heard = last
                found.news.add(wanted.topic)  # the lanes that have not asked are to know it too
            if entries and entries[0].sequence > wanted.first:
                found.gaps.append((wanted.topic, wanted.first, entries[0].sequence))
        return found
