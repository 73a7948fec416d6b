"""Entries: log messages in memory, once for all lanes that deliver them.

Law: a bounded cache on the event loop; what is not there is read again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from gearhorn.store.log import Entry

KEPT_BYTES = 32 * 1024 * 1024
ENTRY_BYTES = 600  # that an entry takes besides its payload


class Entries:
    """The entries that were read last."""

    def __init__(self, most: int = KEPT_BYTES) -> None:
        self._most = most
        self._size = 0
        self._topics: dict[str, dict[int, Entry]] = {}
        self._reads: deque[tuple[str, list[Entry], int]] = deque()  # the oldest first

    def add(self, topic: str, entries: Sequence[Entry]) -> None:
        """Keep entries, and forget those that were read longest ago."""
        if not entries:
            return
        size = sum(len(entry.payload) + ENTRY_BYTES for entry in entries)
        known = self._topics.setdefault(topic, {})
        for entry in entries:
            known[entry.sequence] = entry
        self._reads.append((topic, list(entries), size))
        self._size += size
        while self._size > self._most and len(self._reads) > 1:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        topic, entries, size = self._reads.popleft()
        self._size -= size
        known = self._topics.get(topic, {})
        for entry in entries:
            if known.get(entry.sequence) is entry:  # and not read again since
                del known[entry.sequence]
        if not known:
            self._topics.pop(topic, None)

    def run(self, topic: str, first: int, count: int, size: int = KEPT_BYTES) -> list[Entry]:
        """Return up to ``count`` entries that follow each other from ``first`` on, of up to
        ``size`` bytes of payloads, but one at least."""
        known = self._topics.get(topic)
        if known is None:
            return []
        if count == 1:
            entry = known.get(first)
            return [] if entry is None else [entry]
        found: list[Entry] = []
        for sequence in range(first, first + count):
            entry = known.get(sequence)
            if entry is None:
                break
            size -= len(entry.payload)
            if size < 0 and found:
                break
            found.append(entry)
        return found

    def forget(self, topic: str) -> None:
        """Forget a topic's entries: its log is another one."""
        if self._topics.pop(topic, None) is not None:
            gone = sum(size for name, _, size in self._reads if name == topic)
            self._reads = deque(read for read in self._reads if read[0] != topic)
            self._size -= gone

    def clear(self) -> None:
        """Forget everything."""
        self._topics.clear()
        self._reads.clear()
        self._size = 0
