"""Pruning: forgets log entries that nobody needs any more, whenever a log is due.

Law: one task on the event loop; members take turns by what the store says is due (PROTOCOL §6).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import structlog

from gearhorn.errors import StoreError
from gearhorn.store.log import Log

INTERVAL_S = 1.0
AGAIN_S = 0.02  # when something was pruned there may be more

log = structlog.get_logger(__name__)


async def prune(store: Log, clock_ms: Callable[[], int]) -> None:
    """Prune for ever."""
    while True:
        try:
            count = await store.prune(clock_ms())
        except StoreError as error:
            log.debug("logs are not pruned", error=str(error))
            count = -1
        await asyncio.sleep(AGAIN_S if count > 0 else INTERVAL_S * random.uniform(0.9, 1.1))
