"""Pruning: removes log entries that are needed no longer, and the records that tell repeated
requests of processes that have gone.

Rules: one loop on the event loop. Every member prunes: the store keeps when each log is due, and
puts that off as one of them prunes it, so that they share the work without talking. A random part
of the pause keeps members from asking in step.
"""

from __future__ import annotations

import asyncio
import random

import structlog

from gearhorn.errors import StoreError
from gearhorn.store.asked import Askers
from gearhorn.store.log import Log
from gearhorn.timing import MembersClock

LONGEST_S = 1.0  # between two rounds: a log may become due earlier than the store said
SHORTEST_S = 0.02  # even where more is due than one round prunes

log = structlog.get_logger(__name__)


class Pruner:
    """Prunes logs and records of requests.

    Arguments:
        logs: the logs of all topics.
        askers: the processes whose requests the store can tell from repeats.
        clock: what the store's due times are compared with.
    """

    def __init__(self, logs: Log, askers: Askers, clock: MembersClock) -> None:
        self._logs = logs
        self._askers = askers
        self._clock = clock

    async def run(self) -> None:
        """Prune whatever is due, without end."""
        while True:
            wait_s = await self._prune()
            longest_s = min(max(wait_s, SHORTEST_S), LONGEST_S)
            await asyncio.sleep(longest_s * random.uniform(0.9, 1.0))

    async def _prune(self) -> float:
        """Prune once; return in how many seconds the next log is due."""
        wait_s = LONGEST_S
        try:
            due_ms = await self._logs.prune(self._clock.clock_ms)
            if due_ms is not None:
                wait_s = (due_ms - self._clock.clock_ms) / 1000
            await self._askers.prune(self._clock.clock_ms)
        except StoreError as error:
            log.debug("nothing is pruned", error=str(error))
        return wait_s
