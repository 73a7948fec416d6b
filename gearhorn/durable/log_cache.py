"""The log cache: what lanes deliver from: log messages in memory, and where each log ends.

Theory of operation. Ten thousand lanes of one topic deliver the same messages. If each read its
own, the store would send every message ten thousand times; so what one lane has read is kept for a
while, and lanes of a topic that are nearly level read once for all of them. And a lane that has
everything must not ask the store every time it has room: the *tail* of a log says whether there
can be anything behind a sequence.

The invariant: where ``is_at_end`` says that nothing is there, an event (``hear``) or a read will
say otherwise once there is something. So a tail is known only after a read that reached the end,
and it is in doubt again whenever events may have been lost (``doubt``). An event that comes while
that read is under way raises ``last``, and the read cannot undo it, since it only ever raises
``last`` too. The one exception is a log that turns out shorter than was told before the read began:
the store has lost its end, and the topic is reported as ``lost``.

A plan remembers the tail that it was made with. Where the topic was left or forgotten meanwhile,
the tail is another object by then, and what was read is dropped: it may be of a former epoch.

Rules: runs on the event loop; reads nothing itself, but says what has to be read. What one round
reads, and what a lane takes at once, is bounded in bytes and in number, however many messages a
lane has room for: empty messages take time too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from gearhorn.durable.delivery import LARGEST_BATCH
from gearhorn.durable.entries import Entries
from gearhorn.store.log import Entry
from gearhorn.store.rounds import Wanted

READS = 32  # parts of logs read in one round at most; fewer while they turn out to be large
FIRST_READS = 4  # parts read in the first round
# of payloads: a round that brings more halves the number of parts that the next one reads
ROUND_BYTES = 8 * 1024 * 1024
READ_ENTRIES = 64  # in one part at least; where lanes have room for more,
MAX_ENTRIES = 1000  # in one part at most, and
ROUND_ENTRIES = 2000  # in all parts of a round but the last: a few milliseconds of the loop
READ_BYTES = 256 * 1024
RUN_ENTRIES = LARGEST_BATCH  # that a lane takes at once, or
RUN_BYTES = 1024 * 1024  # so many bytes, or one message


class _Tail:
    """The end of a log as far as it is known.

    ``last`` is the last sequence that was read or told of; ``is_known`` says whether nothing is
    behind it but what will be told of. ``first`` is where the log began when that was told last.
    ``epoch`` is the log's when a lane was taken last.
    """

    __slots__ = ("epoch", "first", "is_known", "last")

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.first = 0
        self.last = 0
        self.is_known = False

    def doubt(self) -> None:
        """Something may be behind the end without having been told of."""
        self.is_known = False

    def end(self) -> None:
        """A read reached the end: what comes behind it is told of from here on."""
        self.is_known = True

    def extend(self, last: int) -> bool:
        """There are messages up to ``last``; return whether that is news."""
        if last <= self.last:
            return False
        self.last = last
        return True

    def begin(self, first: int) -> bool:
        """Nothing is left before ``first``; return whether that is news."""
        if first <= self.first:
            return False
        self.first = first
        return True

    def cut(self, last: int) -> None:
        """The log ends at ``last``, before what was told of."""
        self.last = last


class Plan(NamedTuple):
    """Parts of logs to read in one round; lanes that get nothing of them ask again."""

    reads: list[Wanted]
    tails: Mapping[str, tuple[_Tail, int]]  # by topic, with its ``last`` when the plan was made


class Found(NamedTuple):
    """What became of a plan."""

    # topic, the first sequence that is gone, the first that is there, and the epoch of that
    gaps: list[tuple[str, int, int, str]]
    news: set[str]  # topics whose logs turned out to be longer than was told
    lost: list[str]  # topics whose logs lack what was told of


class LogCache:
    """The logs that this member delivers from."""

    def __init__(self) -> None:
        self._entries = Entries()
        self._tails: dict[str, _Tail] = {}
        self._reads = FIRST_READS

    def follow(self, topic: str, epoch: str) -> None:
        """Deliver from a log, for a lane that was just taken; where it ends is not known.

        Under another ``epoch`` than before it may be another log, which was made anew while a lane
        of the former one had not ended yet: what was read of that is forgotten.
        """
        tail = self._tails.get(topic)
        if tail is None or tail.epoch != epoch:
            self._entries.forget(topic)
            self._tails[topic] = _Tail(epoch)
        else:
            tail.doubt()

    def leave(self, topic: str) -> None:
        """Deliver from a log no more."""
        self._tails.pop(topic, None)
        self._entries.forget(topic)

    def forget(self, topic: str) -> None:
        """What was read of a log may not be what the store holds."""
        self._entries.forget(topic)
        tail = self._tails.get(topic)
        if tail is not None:
            self._tails[topic] = _Tail(tail.epoch)

    def hear(self, topic: str, last: int) -> bool:
        """Messages were logged up to this sequence; return whether that is news."""
        tail = self._tails.get(topic)
        return tail is not None and tail.extend(last)

    def begins(self, topic: str, first: int) -> bool:
        """A log has nothing before this sequence any more; return whether that is news."""
        tail = self._tails.get(topic)
        return tail is not None and tail.begin(first)

    def drop(self, topic: str, sequences: Iterable[int]) -> None:
        """The log does not have these messages any more, as was told: they are to be asked for."""
        self._entries.drop(topic, sequences)

    def doubt(self) -> None:
        """Anything may have been logged."""
        for tail in self._tails.values():
            tail.doubt()

    def clear(self) -> None:
        """Forget every message."""
        self._entries.clear()

    def is_at_end(self, topic: str, sequence: int) -> bool:
        """Whether nothing of this sequence or behind it is there."""
        tail = self._tails.get(topic)
        return tail is None or (tail.is_known and sequence > tail.last)

    def end_of(self, topic: str) -> int | None:
        """Return the last sequence that a log has; None where that is not known for certain."""
        tail = self._tails.get(topic)
        return tail.last if tail is not None and tail.is_known else None

    def run(self, topic: str, first: int, count: int) -> list[Entry]:
        """Return up to ``count`` messages that follow each other from ``first`` on, or fewer where
        these are many or large; none only where the first is not in memory."""
        count = min(count, RUN_ENTRIES)
        return self._entries.run(topic, first, count, RUN_BYTES)

    def plan(self, wanted: Mapping[str, Mapping[int, int]]) -> Plan:
        """Return what to read.

        Arguments:
            wanted: by topic and first sequence, for how many messages lanes have room.
        """
        reads: list[Wanted] = []
        left = ROUND_ENTRIES
        for topic, firsts in wanted.items():
            end = 0
            for first in sorted(firsts):
                if first < end:
                    continue  # another lane's part brings it
                if len(reads) >= self._reads or left <= 0:
                    break
                count = min(max(READ_ENTRIES, firsts[first]), MAX_ENTRIES)
                left -= count
                reads.append(Wanted(topic, first, count, READ_BYTES))
                end = first + count
        found = ((topic, self._tails.get(topic)) for topic in wanted)
        tails = {topic: (tail, tail.last) for topic, tail in found if tail is not None}
        return Plan(reads, tails)

    def take_in(self, plan: Plan, replies: Sequence[tuple[list[Entry], bool]]) -> Found:
        """Keep what was read, and note where logs end.

        Arguments:
            plan: what was to be read.
            replies: for each part of it, what was read and whether that reached the log's end.
        """
        found = Found([], set(), [])
        self._adapt(sum(entry.size for entries, _ in replies for entry in entries))
        for wanted, (entries, is_end) in zip(plan.reads, replies, strict=True):
            tail = self._tails.get(wanted.topic)
            planned, told = plan.tails.get(wanted.topic, (None, 0))
            if tail is None or tail is not planned:
                continue  # left, or forgotten, meanwhile
            self._entries.add(wanted.topic, entries)
            last = entries[-1].sequence if entries else wanted.first - 1
            if is_end:
                if not entries and told >= wanted.first:
                    tail.cut(last)
                    found.lost.append(wanted.topic)
                tail.end()
            if tail.extend(last):
                found.news.add(wanted.topic)  # the lanes that have not asked are to know it too
            if entries and entries[0].sequence > wanted.first:
                there = entries[0]
                found.gaps.append((wanted.topic, wanted.first, there.sequence, there.epoch))
        return found

    def _adapt(self, size: int) -> None:
        """Choose how many parts the next round reads, after one that brought ``size`` bytes."""
        if size > ROUND_BYTES:
            self._reads = max(self._reads // 2, 1)
        else:
            self._reads = min(2 * self._reads, READS)
