"""Entries: log messages in memory, once for all lanes that deliver them.

What was read in one go is also forgotten in one go, the oldest read first. That costs one step a
read instead of one an entry, which a cache of single entries would need to keep their order.
An entry that two reads brought belongs to the later one, so that it stays as long as that does.

Rules: a bounded cache on the event loop; what is not there is read again. Forgetting a topic costs
what is kept of it, however much is kept of others. One read always stays, whatever its size: the
round that brought it delivers from it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from gearhorn.store.log import Entry

KEPT_BYTES = 32 * 1024 * 1024  # in all, payloads and what entries take besides
ENTRY_BYTES = 600  # that an entry takes besides its payload, as measured


class _Read:
    """What was read of a topic in one go; ``size`` in bytes."""

    __slots__ = ("entries", "size", "topic")

    def __init__(self, topic: str, entries: list[Entry], size: int) -> None:
        self.topic = topic
        self.entries = entries
        self.size = size


class _Topic:
    """What is kept of one topic: entries by sequence, and the reads that they are of."""

    __slots__ = ("known", "reads")

    def __init__(self) -> None:
        self.known: dict[int, Entry] = {}
        self.reads: dict[_Read, None] = {}


class Entries:
    """The entries that were read last. ``limit`` is in bytes.

    Lanes walk through a log one behind another. So forgetting the oldest read hits those that lag
    most, and these read parts of their own anyhow.
    """

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self._limit = limit
        self._size = 0  # of every read in bytes, also where an entry is of two
        self._topics: dict[str, _Topic] = {}
        self._reads: OrderedDict[_Read, None] = OrderedDict()  # the oldest first

    def add(self, topic: str, entries: Sequence[Entry]) -> None:
        """Keep entries that follow each other, and forget those that were read longest ago."""
        if not entries:
            return
        size = sum(entry.size + ENTRY_BYTES for entry in entries)
        kept = self._topics.get(topic)
        if kept is None:
            kept = self._topics[topic] = _Topic()
        known = kept.known
        for entry in entries:
            known[entry.sequence] = entry
        read = _Read(topic, list(entries), size)
        self._reads[read] = kept.reads[read] = None
        self._size += size
        while self._size > self._limit and len(self._reads) > 1:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        """Forget what one read brought, except what a later one brought again."""
        read, _ = self._reads.popitem(last=False)
        self._size -= read.size
        kept = self._topics[read.topic]
        del kept.reads[read]
        if not kept.reads:
            del self._topics[read.topic]
            return
        known = kept.known
        for entry in read.entries:
            if known.get(entry.sequence) is entry:  # and not read again since
                del known[entry.sequence]

    def run(self, topic: str, first: int, count: int, size: int = KEPT_BYTES) -> list[Entry]:
        """Return up to ``count`` entries that follow each other from ``first`` on, of up to
        ``size`` bytes together, but one at least. None are returned only where the first is not in
        memory: what is behind a missing entry must not be delivered before it."""
        kept = self._topics.get(topic)
        if kept is None:
            return []
        known = kept.known
        if count == 1:  # as for most lanes: in_flight is 1 unless it is given
            entry = known.get(first)
            return [] if entry is None else [entry]
        found: list[Entry] = []
        for sequence in range(first, first + count):
            entry = known.get(sequence)
            if entry is None:
                break
            size -= entry.size
            if size < 0 and found:
                break
            found.append(entry)
        return found

    def drop(self, topic: str, sequences: Iterable[int]) -> None:
        """Return these entries no more. The memory is free when the read is forgotten that brought
        them."""
        kept = self._topics.get(topic)
        if kept is not None:
            for sequence in sequences:
                kept.known.pop(sequence, None)

    def forget(self, topic: str) -> None:
        """Forget a topic's entries: its log is another one."""
        kept = self._topics.pop(topic, None)
        if kept is not None:
            for read in kept.reads:
                del self._reads[read]
                self._size -= read.size

    def clear(self) -> None:
        """Forget everything."""
        self._topics.clear()
        self._reads.clear()
        self._size = 0
