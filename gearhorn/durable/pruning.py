"""Pruning: forgets log entries that nobody needs any more, whenever a log is due, and what tells
repeats of those who ask no more.

Rules: one task on the event loop; members take turns by what the store says is due.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import structlog

from gearhorn.errors import StoreError
from gearhorn.store.asked import Askers
from gearhorn.store.log import Log

LONGEST_S = 1.0  # logs may become due earlier meanwhile
SHORTEST_S = 0.02

log = structlog.get_logger(__name__)


async def prune(store: Log, askers: Askers, clock_ms: Callable[[], int]) -> None:
    """Prune for ever."""
    while True:
        wait_s = LONGEST_S
        try:
            due_ms = await store.prune(clock_ms())
            if due_ms is not None:
                wait_s = (due_ms - clock_ms()) / 1000
            await askers.prune(clock_ms())
        except StoreError as error:
            log.debug("nothing is pruned", error=str(error))
        await asyncio.sleep(min(max(wait_s, SHORTEST_S), LONGEST_S) * random.uniform(0.9, 1.0))
