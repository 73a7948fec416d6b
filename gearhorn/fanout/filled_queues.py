"""Filled queues: which topics have jobs that wait, and where no receiver is registered for them.

Theory of operation. The job servers know queues, and a queue's name does not tell where its topic
ends. So every pair of topic and client_id that could make the name of a queue with jobs is looked
up in the store, and the one that is subscribed has it. That takes a moment with 100,000 queues that
have jobs. So the answer is kept: within ``RECENT_S`` it is given again, and after that as well
while the next one is made, up to ``OLD_S``. Where no summary is asked for, no server is.

Rules: runs on the event loop, which has its turn after every ``CHUNK`` queues. A server that cannot
be asked is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from heapq import merge
from itertools import islice
from typing import NamedTuple

import structlog

from gearhorn.errors import StoreError
from gearhorn.gearman.job_servers import JobServers
from gearhorn.names import splits_of
from gearhorn.store.summaries import StoredSummaries
from gearhorn.tasks import Tasks
from gearhorn.timing import now_s

RECENT_S = 10.0
OLD_S = 20.0
SORTED = 2_000  # topics that are put in order in one turn of the loop: 2 ms
CHUNK = 500  # queues that are looked up in one round trip: 3 ms of the loop

log = structlog.get_logger(__name__)


class Filled(NamedTuple):
    """What waits, of a moment. ``is_known``: some job server could be asked."""

    is_known: bool
    topics: Mapping[str, tuple[int, int]]  # topic -> jobs, and queues without a receiver
    order: Sequence[tuple[int, str]]  # minus the jobs, topic: the most first


class FilledQueues:
    """Knows what waits for each topic.

    Arguments:
        job_servers: which are asked.
        store: says which pair has a queue.
    """

    def __init__(self, job_servers: JobServers, store: StoredSummaries) -> None:
        self._job_servers = job_servers
        self._store = store
        self._tasks = Tasks()
        self._filled = Filled(False, {}, ())
        self._at_s = float("-inf")
        self._asking = asyncio.Lock()
        self._renewal: asyncio.Task[None] | None = None

    async def recent(self) -> Filled:
        """Return what waits, at most ``OLD_S`` old; raises ``StoreError``."""
        age_s = now_s() - self._at_s
        if age_s > OLD_S:
            async with self._asking:
                if now_s() - self._at_s > OLD_S:
                    await self._read()
        elif age_s > RECENT_S and (self._renewal is None or self._renewal.done()):
            self._renewal = self._tasks.spawn(self._renew(), "filled queues")
        return self._filled

    async def _renew(self) -> None:
        """Read while the former answer is still given."""
        async with self._asking:
            try:
                await self._read()
            except StoreError as error:
                log.debug("filled queues are not looked up", error=str(error))

    async def _read(self) -> None:
        """Ask every server, and look its queues up; raises ``StoreError``."""
        topics: dict[str, tuple[int, int]] = {}
        is_known = False
        for client, admin in zip(self._job_servers.clients, self._job_servers.admins, strict=True):
            if not client.is_up:
                continue
            try:
                queues = iter((await admin.filled()).items())
            except OSError as error:
                log.warning("backlog is unknown", server=str(client.server), error=str(error))
                continue
            is_known = True
            while chunk := list(islice(queues, CHUNK)):
                await self._add(chunk, topics)
        self._filled, self._at_s = Filled(is_known, topics, await _order(topics)), now_s()

    async def _add(
        self, chunk: list[tuple[bytes, tuple[int, int]]], topics: dict[str, tuple[int, int]]
    ) -> None:
        """Add the jobs of some queues to those of their topics."""
        pairs: list[tuple[str, str]] = []
        counts: list[tuple[int, int]] = []
        for queue, count in chunk:
            for pair in _pairs_of(queue):
                pairs.append(pair)
                counts.append(count)
        for at in range(0, len(pairs), CHUNK):
            part = pairs[at : at + CHUNK]
            found = await self._store.existing(part)
            for pair, (jobs, serving), is_one in zip(
                part, counts[at : at + CHUNK], found, strict=True
            ):
                if is_one:
                    total, missing = topics.get(pair[0], (0, 0))
                    topics[pair[0]] = total + jobs, missing + (not serving)


async def _order(topics: Mapping[str, tuple[int, int]]) -> list[tuple[int, str]]:
    """Return minus the jobs of each topic, with its name, in order. To sort 100,000 at once would
    hold the loop for 80 ms, so pieces are sorted and then merged."""
    pieces = []
    items = iter(topics.items())
    while piece := list(islice(items, SORTED)):
        pieces.append(sorted((-jobs, topic) for topic, (jobs, _) in piece))
        await asyncio.sleep(0)
    order: list[tuple[int, str]] = []
    merged = merge(*pieces)
    while part := list(islice(merged, SORTED)):
        order += part
        await asyncio.sleep(0)
    return order


def _pairs_of(queue: bytes) -> list[tuple[str, str]]:
    """Return the pairs that could make a queue's name."""
    try:
        return list(splits_of(queue))
    except UnicodeDecodeError:
        return []
