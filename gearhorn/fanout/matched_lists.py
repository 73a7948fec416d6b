"""Matched lists: a topic's list, with the subscriptions of the patterns that match it.

Theory of operation. The topic's own list is read as ever. With it comes the store's word for the
set of patterns; where there are none, that is all. Else the patterns that match are looked up, and
their lists taken from the directory, which caches them like those of topics: under the same lease,
dropped by the same changes, read again in the same way. So a list of parts is as fresh as its
parts, and each part was right at some moment since the read began.

A change of a pattern that comes in between ends this read, since the topic matches: see
``Directory.drop_matching``. It serves those who asked before, and is not kept.

Rules: runs on the event loop, which has its turn after every ``AT_ONCE`` patterns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from gearhorn.errors import RequestError, StoreRefused, Unavailable
from gearhorn.fanout.backlog import Backlog
from gearhorn.fanout.copies import Subscribers
from gearhorn.fanout.known_patterns import KnownPatterns
from gearhorn.fanout.lists import Lists
from gearhorn.fanout.merged import Merged
from gearhorn.names import is_pattern

STORE_SAYS = "the store: "  # in front of what a refusal quotes
AT_ONCE = 256  # lists of patterns that are asked for together


class Waiter(Protocol):
    """Who waits for a list: see ``directory.Waiter``."""

    def listed(self, subscribers: Subscribers) -> None:
        """The list is read."""

    def refused(self, error: RequestError) -> None:
        """The list cannot be had."""


class PatternLists(Protocol):
    """Where the lists of patterns are cached."""

    def get_pattern(self, name: str) -> Subscribers | None:
        """Return the cached list of a pattern if it may be used now."""

    def when_known(self, topic: str, waiter: Waiter) -> None:
        """Tell ``waiter`` once a list is read."""


class MatchedLists:
    """Reads topics' lists, and puts those of patterns to them.

    Arguments:
        lists: reads the lists of topics and those of patterns, each on its own.
        patterns: knows which patterns match a topic.
        backlog: says how many fan-outs a new list may carry before its backlog is read.
    """

    def __init__(self, lists: Lists, patterns: KnownPatterns, backlog: Backlog) -> None:
        self._lists = lists
        self._patterns = patterns
        self._backlog = backlog
        self._cached: PatternLists | None = None

    def attach(self, cached: PatternLists) -> None:
        """Say where lists are cached. Those have what is read here, so neither can be built first
        with the other."""
        self._cached = cached

    async def is_there(self) -> bool:
        """Return whether the store answers at all."""
        return await self._lists.is_there()

    async def read(self, topic: str) -> Subscribers:
        """Return the list of a topic, or of a pattern, as it is in the store now.

        Raises ``StoreError``; then the list has to be read again.
        """
        own, word = await self._lists.read_with_word(topic)
        if not word or is_pattern(topic):
            return own
        names = await self._patterns.matching(topic, word)
        parts = [part for part in await self._parts(names) if part.queues]
        if not parts:
            return own
        merged = Merged(own, parts)
        merged.allow(self._backlog.allowance(merged))
        return merged

    async def _parts(self, names: Sequence[str]) -> list[Subscribers]:
        """Return the lists of patterns, those that are cached and may be used as they are."""
        assert self._cached is not None
        found: list[Subscribers] = []
        for at in range(0, len(names), AT_ONCE):
            waited: list[asyncio.Future[Subscribers]] = []
            for name in names[at : at + AT_ONCE]:
                part = self._cached.get_pattern(name)
                if part is not None:
                    found.append(part)
                else:
                    waiter = _Wait()
                    self._cached.when_known(name, waiter)
                    waited.append(waiter.list)
            found += await asyncio.gather(*waited)
            if at:
                await asyncio.sleep(0)
        return found


class _Wait:
    """Waits for the list of one pattern."""

    def __init__(self) -> None:
        self.list: asyncio.Future[Subscribers] = asyncio.get_running_loop().create_future()

    def listed(self, subscribers: Subscribers) -> None:
        if not self.list.done():
            self.list.set_result(subscribers)

    def refused(self, error: RequestError) -> None:
        """The topic's list is refused with the pattern's, in the same words."""
        if not self.list.done():
            text = str(error.args[0]).removeprefix(STORE_SAYS) if error.args else ""
            is_store = isinstance(error, Unavailable)
            self.list.set_exception(StoreRefused(text) if is_store else error)
