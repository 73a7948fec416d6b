"""Merged lists: a topic's own subscriptions, and those of the patterns that match it.

Theory of operation. A pattern may match 100,000 topics, and its subscriptions would be there
100,000 times if each topic's list had a copy of them. So the lists of patterns are lists of their
own, which many topics' lists share, and a merged list says in which of its *parts* an index lies:
first the topic's own, then those of the patterns. What fan-outs ask of a list is asked of the part,
with the index that the queue has there; so what a part remembers (how it is spread over the job
servers, the heads of its packets) serves every topic that it matches.

Subscriptions by pattern always take envelopes. So all that stands behind the topic's own part ends
alike, and the copies for one server leave as two blocks at most, however many parts there are.

Rules: pure, as far as the parts are. Nothing changes once it is made. A merged list of very many
queues, or of many parts, counts as long, so that its copies are made in portions.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import overload

from gearhorn.fanout.copies import Block, Share, Subscribers
from gearhorn.fanout.packed import LONG, AllBut, Packed
from gearhorn.gearman.job_servers import JobServers
from gearhorn.messages.fanout import Fanout
from gearhorn.names import queue_of

MANY = 100  # parts of a list whose copies are not made in one turn of the loop: 1 ms


class Joined(Sequence[bytes]):
    """The queues of several lists, one behind the other.

    Arguments:
        parts: the queues of each; none is empty but the first.
    """

    __slots__ = ("_ends", "_parts")

    def __init__(self, parts: Sequence[Sequence[bytes]]) -> None:
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        number, at = self.place(index % len(self))
        return self._parts[number][at]

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            yield from part

    def start(self, number: int) -> int:
        """Return the index of the first queue of a part."""
        return self._ends[number - 1] if number else 0

    def place(self, index: int) -> tuple[int, int]:
        """Return the number of the part that an index lies in, and the index there."""
        number = bisect_right(self._ends, index)
        return number, index - self.start(number)


class Merged(Subscribers):
    """A topic's list that has parts.

    Arguments:
        own: the topic's own subscriptions, possibly none.
        patterns: the lists of the patterns that match the topic, one at least, none of them empty.
    """

    __slots__ = ("_joined", "_own", "parts")

    def __init__(self, own: Subscribers, patterns: Sequence[Subscribers]) -> None:
        self.parts = (own, *patterns)
        self._joined = Joined([part.queues for part in self.parts])
        super().__init__(
            own.topic,
            self._joined,
            enveloped=own.enveloped,
            durable=own.durable,
            has_log=own.has_log,
            version=own.version,
        )
        self._own = own
        is_large = len(self._joined) > LONG or len(self.parts) > MANY
        self.is_long = is_large or any(part.is_long for part in self.parts)

    @property
    def own(self) -> Subscribers:
        """The topic's own subscriptions."""
        return self._own

    @property
    def weight(self) -> int:
        """What the list takes of the room of cached ones: its own subscriptions, and a place for
        each part, which is cached on its own."""
        return self._own.weight + len(self.parts) - 1

    def part_of(self, index: int) -> tuple[Subscribers, int]:
        """Return the list that the store has a queue in, and the queue's index there."""
        number, at = self._joined.place(index)
        return self.parts[number], at

    def overflow_of(self, index: int) -> str | None:
        """Return what happens at the limit of a queue, None where it is ``drop_new``."""
        part, at = self.part_of(index)
        return part.overflow_of(at)

    def limit(self, index: int) -> int:
        """Return the limit that a subscription has of its own, or 0."""
        part, at = self.part_of(index)
        return part.limit(at)

    def lowest_limit(self, above: int = 0) -> int:
        """Return the lowest limit over ``above`` that a subscription has of its own; 2**31 where
        none has."""
        return min(part.lowest_limit(above) for part in self.parts)

    def index_of(self, queue: bytes) -> int | None:
        """Return where a queue is in the list; None where it is not."""
        for number, part in enumerate(self.parts):
            if queue.startswith(queue_of(part.topic, "")):
                at = part.index_of(queue)
                if at is not None:
                    return self._joined.start(number) + at
        return None

    def client_id(self, index: int) -> str:
        """Return the client_id behind a queue."""
        part, at = self.part_of(index)
        return part.client_id(at)

    def client_ids(self, start: int, end: int) -> list[str]:
        """Return the client_ids behind the queues from ``start`` to before ``end``."""
        names: list[str] = []
        for part, first, stop in self._within(start, min(end, len(self._joined))):
            names += part.client_ids(first, stop)
        return names

    def _within(self, start: int, end: int) -> Iterator[tuple[Subscribers, int, int]]:
        """Yield the parts between two indexes, each with where that begins and ends in it."""
        while start < end:
            number, at = self._joined.place(start)
            part = self.parts[number]
            stop = min(len(part.queues), at + end - start)
            yield part, at, stop
            start += stop - at

    def chosen(self, exclude: frozenset[str]) -> Sequence[int]:
        """Return the indexes that ``exclude`` leaves, in ascending order."""
        gone: list[int] = []
        start = 0
        for part in self.parts:
            gone += [start + index for index in _excluded(part, exclude)]
            start += len(part.queues)
        left = AllBut(start, gone)
        return left if self.is_long else list(left)

    def only_share(self, job_servers: JobServers) -> Share | None:
        """Return None: some copies are envelopes."""
        return None

    def blocks(
        self,
        job_servers: JobServers,
        message: Fanout,
        *,
        foreground: bool,
        unique: bytes,
        at: float,
        indexes: Sequence[int] | None = None,
        tails: dict[bool, bytes] | None = None,
    ) -> list[Block]:
        """Return the copies of a message: see ``Subscribers.blocks``. Those of all parts that go to
        one server and end alike are one block."""
        wanted = range(len(self._joined)) if indexes is None else indexes
        tails = {} if tails is None else tails
        blocks: dict[tuple[int, int], tuple[bytes, list[int], list[bytes]]] = {}
        for part, start, own in self._split(wanted):
            for block in part.blocks(
                job_servers,
                message,
                foreground=foreground,
                unique=unique,
                at=at,
                indexes=own,
                tails=tails,
            ):
                key = block.place, id(block.tail)
                _, places, heads = blocks.setdefault(key, (block.tail, [], []))
                those = range(len(part.queues)) if block.indexes is None else block.indexes
                places += [start + index for index in those]
                heads += block.heads
        return [
            Block(place, places, heads, tail)
            for (place, _), (tail, places, heads) in blocks.items()
        ]

    def _split(
        self, indexes: Sequence[int]
    ) -> Iterator[tuple[Subscribers, int, Sequence[int] | None]]:
        """Yield the parts that ascending indexes lie in: the part, where it begins, and the indexes
        in it (None: all of it, which it has ready)."""
        done = 0
        while done < len(indexes):
            number, _ = self._joined.place(indexes[done])
            part, start = self.parts[number], self._joined.start(number)
            size = len(part.queues)
            till = bisect_left(indexes, start + size, done)
            if till - done == size:
                yield part, start, None
            else:
                yield part, start, [index - start for index in indexes[done:till]]
            done = till


def _excluded(part: Subscribers, exclude: frozenset[str]) -> list[int]:
    """Return the indexes of those in one part that are excluded, in the way that costs less: by
    their names, or by going through the part."""
    queues = part.queues
    if isinstance(queues, Packed) and len(exclude) < len(queues):
        found = (queues.find(client_id.encode()) for client_id in exclude)
        return [index for index in found if index is not None]
    return [
        index
        for index, client_id in enumerate(part.client_ids(0, len(queues)))
        if client_id in exclude
    ]
