"""Changed lanes: which lanes are to be compared with what the store has.

A thousand clients may subscribe to a topic of a hundred thousand in a minute. So single lanes are
told from whole topics, and these from everything: only what is named is read from the store.

Rules: pure, but for the event that wakes ``Ownership``. Several parts add to it; ``Ownership``
alone takes from it. What was added twice before it is taken is compared once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple


class Changed(NamedTuple):
    """Lanes to compare in one go."""

    topics: set[str]  # with all their lanes
    pairs: set[tuple[str, str]]  # single lanes, by topic and client_id
    is_all: bool  # every lane of every topic


class ChangedLanes:
    """Collects lanes that may have changed; at first, every lane may have."""

    def __init__(self) -> None:
        self.came = asyncio.Event()  # something is to be compared
        self._topics: set[str] = set()
        self._pairs: set[tuple[str, str]] = set()
        self._is_all = False
        self.add_all()

    def add(self, topic: str, client_id: str | None = None) -> None:
        """Have a topic's lanes compared, or the lane of one client_id; "" is every topic."""
        if not topic:
            self._is_all = True
        elif client_id:
            self._pairs.add((topic, client_id))
        else:
            self._topics.add(topic)
        self.came.set()

    def add_all(self) -> None:
        """Have every lane compared: members came or went, or anything may have happened."""
        self.add("")

    def take(self, topics: Iterable[str] = ()) -> Changed:
        """Return what is to be compared, and ``topics`` besides; nothing is left."""
        self.came.clear()
        changed = Changed(self._topics | set(topics), self._pairs, self._is_all)
        self._topics, self._pairs, self._is_all = set(), set(), False
        return changed

    def put_back(self, changed: Changed) -> None:
        """The comparison failed: have the same lanes compared with the next one."""
        self._topics |= changed.topics
        self._pairs |= changed.pairs
        self._is_all |= changed.is_all
        self.came.set()
