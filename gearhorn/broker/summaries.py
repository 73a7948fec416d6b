"""Summaries: pages of topics with their counts, in the order of a name or of a count.

Theory of operation. What is counted is kept as it changes (``store/lua/sums.lua``), and so is the
order by each count. A page in that order begins with the topics that have any, the most first, and
goes on with the others in the order of their names, which is the order of the store's set of all
topics. The place where a page ended is a topic and its count, so the next page begins there
although both may have changed: a topic that moves meanwhile may be missed or come twice.

With a pattern topics are read in that order until enough match. That is bounded: a page may have
few topics, or none, and a cursor that leads on.

Rules: one page costs what is on it and ``SCANNED`` names at most. The loop has its turn after each
round trip.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Iterable

from gearhorn.errors import Unknown
from gearhorn.fanout.filled_queues import Filled, FilledQueues
from gearhorn.fanout.known_patterns import KnownPatterns
from gearhorn.messages.describe import (
    Describe,
    Summaries,
    Summarized,
    SummaryCursor,
    log_of,
    summary_cursor,
)
from gearhorn.names import SEGMENT, SOME, TAIL, check_name, list_name
from gearhorn.patterns import Matcher
from gearhorn.store.summaries import NAMES, StoredSummaries

SCANNED = 10_000  # names in one page
STEP = 500  # topics between two turns of the loop
MOST = 10**15  # more than any count


class SummaryPages:
    """Answers ``describe_fanout`` with ``summary`` ("describe_fanout" in docs/protocol.rst).

    Arguments:
        store: has the counters, and the topics in their order.
        filled: knows what waits on queues.
        patterns: knows which of them match a topic.
    """

    def __init__(
        self, *, store: StoredSummaries, filled: FilledQueues, patterns: KnownPatterns
    ) -> None:
        self._store = store
        self._filled = filled
        self._patterns = patterns

    async def page(self, request: Describe) -> Summaries:
        """Return a page.

        Raises ``BadRequest``, ``BadName``, ``Unknown`` for a topic that is nothing, ``StoreError``.
        """
        filled = await self._filled.recent()
        if isinstance(request.topic, str):
            check_name("topic", request.topic)
            topics = await self._summarized([request.topic], filled)
            if not topics:
                raise Unknown(f"topic {request.topic} has neither subscriptions nor a log")
            return Summaries(topics, None)
        names, cursor = await self._names(request, filled)
        return Summaries(await self._summarized(names, filled), cursor and str(cursor))

    async def _names(
        self, request: Describe, filled: Filled
    ) -> tuple[list[str], SummaryCursor | None]:
        """Return the topics of a page, and where it ended; None: there are no more."""
        sort = request.sort if isinstance(request.sort, str) else "name"
        match = request.match if isinstance(request.match, str) else None
        among: Callable[[Iterable[str]], list[str]] | None = None
        if match is not None:
            among = Matcher([list_name(match, True)]).among
        prefix = _prefix_of(match or "") if sort == "name" else ""
        names: list[str] = []
        scanned = 0
        place = summary_cursor(request) or SummaryCursor(sort, MOST if sort != "name" else 0, "")
        size = min(NAMES, request.limit if among is None else NAMES)
        async for read, piece, following in self._pieces(place, size, filled, prefix):
            matching = [(count, name) for count, name in piece if not among or among([name])]
            # the cursor is the last topic that is on the page, or, where no more is looked at, the
            # last one that was looked at
            room = request.limit - len(names)
            names += [name for _, name in matching[:room]]
            scanned += read
            if len(matching) >= room and matching:
                return names, SummaryCursor(sort, *matching[room - 1])
            if scanned >= SCANNED:
                return names, following
        return names, None

    async def _pieces(
        self, place: SummaryCursor, size: int, filled: Filled, prefix: str
    ) -> AsyncIterator[tuple[int, list[tuple[int, str]], SummaryCursor]]:
        """Yield the (count, topic) behind a place, in pieces, each with the number of names that
        were read for it, and with where it ended.

        Arguments:
            place: to begin behind.
            size: of the pieces.
            filled: what waits, which is the order of backlogs.
            prefix: with which all names begin that are wanted, in the order of names.
        """
        sort, count, topic = place
        # those that have any, by their count: the order of a counter has no others
        while count:
            found = await self._most(sort, (count, topic), size, filled)
            if found:
                count, topic = found[-1]
                yield len(found), found, SummaryCursor(sort, count, topic)
            if len(found) < size:
                count, topic = 0, ""
        # those that have none, by name. A prefix without its last character is before all that
        # begin with it, and the store's bound is exclusive.
        while True:
            names = await self._store.names(max(topic, prefix[:-1]), size)
            if not names:
                return
            topic = names[-1]
            kept = [name for name in names if name.startswith(prefix)]
            yield (
                len(names),
                [(0, name) for name in await self._without(sort, kept, filled)],
                SummaryCursor(sort, 0, topic),
            )
            if len(names) < size or (prefix and not topic.startswith(prefix) and topic > prefix):
                return

    async def _most(
        self, sort: str, place: tuple[int, str], size: int, filled: Filled
    ) -> list[tuple[int, str]]:
        """Return the next (count, topic) of those that have any, behind a place."""
        if sort == "backlog":
            at = bisect_right(filled.order, (-place[0], place[1]))
            return [(-score, topic) for score, topic in filled.order[at : at + size]]
        return await self._store.most(sort, place, size)

    async def _without(self, sort: str, names: list[str], filled: Filled) -> list[str]:
        """Return those of some topics that have none of what is sorted by."""
        if sort == "name":
            return names
        if sort == "backlog":
            return [name for name in names if name not in filled.topics]
        flags = await self._store.has_none(sort, names)
        return [name for name, has_none in zip(names, flags, strict=True) if has_none]

    async def _summarized(self, names: list[str], filled: Filled) -> dict[str, Summarized]:
        """Return the counts of topics, in their order, without those that are gone."""
        counted = await self._store.read(names)
        patterns = await self._patterns.counts(names) if names else []
        topics: dict[str, Summarized] = {}
        for name, found, matching in zip(names, counted, patterns, strict=True):
            if not len(topics) % STEP:
                await asyncio.sleep(0)
            if not (found.subscriptions or found.log or matching):
                continue  # it has ended since its name was read
            jobs, missing = filled.topics.get(name, (0, 0))
            topics[name] = Summarized(
                subscriptions=found.subscriptions,
                durable=found.durable,
                patterns=matching,
                lag_max=found.lag,
                parked=found.parked,
                drops=found.drops,
                paused=found.paused,
                backlog=jobs if filled.is_known else None,
                receivers_missing=missing if filled.is_known else None,
                log=log_of(found.log) if found.log else None,
            )
        return topics


def _prefix_of(pattern: str) -> str:
    """Return what every topic begins with that a pattern matches."""
    segments = pattern.split(SEGMENT)
    for at, segment in enumerate(segments):
        if segment in (SOME, TAIL):
            return "".join(one + SEGMENT for one in segments[:at])
    return pattern
