"""Redrives: notices that messages of lanes were put back.

Rules: runs on the event loop. The store keeps which subscriptions have messages that were put back,
and the number of the last redrive of each; a lane knows up to which one it has read. So the member
that holds the lane finds a redrive, whatever happened to the word of it, which only hastens the
look. Idle lanes cost nothing: what is asked for is what came after the last look.
"""

from __future__ import annotations

import asyncio

import structlog

from gearhorn.durable.deliverer import Deliverer
from gearhorn.errors import StoreError
from gearhorn.store.lanes import Lanes
from gearhorn.store.parked import REDRIVEN

LOOK_S = 2.0

log = structlog.get_logger(__name__)


class Redrives:
    """Closes lanes of which messages were put back; each is then taken anew with another TERM."""

    def __init__(self, store: Lanes, deliverer: Deliverer) -> None:
        self._store = store
        self._deliverer = deliverer
        self._seen = 0  # the number of the last redrive that was looked at
        self._told = asyncio.Event()

    def hear(self) -> None:
        """There was a redrive: look soon."""
        self._told.set()

    def opened(self, seen_redrive: int) -> None:
        """A lane was taken that has read up to a redrive: those after it are looked at again."""
        self._seen = min(self._seen, seen_redrive)

    async def run(self) -> None:
        """Look now and then, without end."""
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._told.wait()
            except TimeoutError:
                pass
            self._told.clear()
            if self._deliverer.count:
                try:
                    await self._look()
                except StoreError as error:
                    log.debug("redrives cannot be looked at", error=str(error))
                    await asyncio.sleep(LOOK_S / 4)

    async def _look(self) -> None:
        """Look at the redrives after the last look, page by page."""
        while True:
            asked = self._seen
            found = await self._store.redriven(asked)
            for topic, client_id, number in found:
                lane = self._deliverer.find(topic).get(client_id)
                if lane is not None and number > lane.seen_redrive:
                    self._deliverer.close(lane)
            if self._seen == asked and found:  # or a lane was taken meanwhile: from there again
                self._seen = found[-1][2]
            if len(found) < REDRIVEN and self._seen >= asked:
                return
