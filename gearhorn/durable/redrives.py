"""Redrives: notices that messages of lanes were put back.

The store numbers redrives, and keeps the last one of each subscription; a lane knows up to which
number it has read what was put back. So the member that holds the lane finds every redrive, even
where the event of it was lost: the event only makes the next poll come sooner. Idle lanes cost
nothing, since only what came after the last poll is asked for.

A lane with a newer redrive is closed, and taken anew with another TERM: messages that were put back
are older than the lane's position, and a lane reads them when it begins.

Rules: runs on the event loop. The number that was polled last goes back when a lane is taken that
has read less: another member may have held it at the time.
"""

from __future__ import annotations

import asyncio

import structlog

from gearhorn.durable.deliverer import Deliverer
from gearhorn.errors import StoreError
from gearhorn.store.lanes import Lanes
from gearhorn.store.parked import REDRIVEN

POLL_S = 2.0  # between two polls, unless an event comes

log = structlog.get_logger(__name__)


class Redrives:
    """Closes lanes of which messages were put back.

    Arguments:
        store: knows of redrives.
        deliverer: holds lanes.
    """

    def __init__(self, store: Lanes, deliverer: Deliverer) -> None:
        self._store = store
        self._deliverer = deliverer
        self._seen = 0  # the number of the last redrive that was polled
        self._told = asyncio.Event()

    def hear(self) -> None:
        """There was a redrive: poll soon."""
        self._told.set()

    def opened(self, seen_redrive: int) -> None:
        """A lane was taken that has read up to a redrive: poll those after it again."""
        self._seen = min(self._seen, seen_redrive)

    async def run(self) -> None:
        """Poll whenever lanes are held, without end."""
        while True:
            try:
                async with asyncio.timeout(POLL_S):
                    await self._told.wait()
            except TimeoutError:
                pass
            self._told.clear()
            if self._deliverer.count:
                try:
                    await self.poll()
                except StoreError as error:
                    log.debug("redrives cannot be read", error=str(error))
                    await asyncio.sleep(POLL_S / 4)

    async def poll(self) -> None:
        """Close lanes that were redriven since the last poll. Raises ``StoreError``."""
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
