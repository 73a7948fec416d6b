"""Quiet: finds out that no receiver works any more for who delivered before.

Rules: runs on the event loop. A lane that was taken over waits until its queue runs no job, at most
its time-out. Every job server is asked that answers, also one whose links to this member are down:
its receivers may well be at work. One that does not answer is waited for as long as its link counts
as up.
"""

from __future__ import annotations

import asyncio

import structlog

from gearhorn.durable.deliverer import Deliverer
from gearhorn.durable.lanes import Lane
from gearhorn.durable.states import LaneState
from gearhorn.gearman.job_servers import JobServers
from gearhorn.timing import now_s

QUIET_S = 0.1  # between two looks at queues that a former owner used
QUIET_MOST_S = 1.0
STATUS_S = 0.5  # for the answer of one server

log = structlog.get_logger(__name__)


class Quiet:
    """Opens lanes that were taken over."""

    def __init__(self, deliverer: Deliverer, job_servers: JobServers) -> None:
        self._deliverer = deliverer
        self._job_servers = job_servers

    async def run(self) -> None:
        """Open lanes whose former owner's jobs no receiver has any more, without end."""
        wait_s = QUIET_S
        while True:
            await asyncio.sleep(wait_s)
            lanes = self._settling()
            if not lanes:
                wait_s = QUIET_S
                continue
            wait_s = min(wait_s * 1.5, QUIET_MOST_S)
            places = range(len(self._job_servers.admins))
            found = await asyncio.gather(*map(self._running, places))
            # a lane that was taken meanwhile is looked at the next time
            running: set[bytes] = set().union(*(queues for queues in found if queues is not None))
            is_known = any(queues is not None for queues in found) and not any(
                queues is None and client.is_up
                for queues, client in zip(found, self._job_servers.clients, strict=True)
            )
            at_s = now_s()
            for lane in lanes:
                if (is_known and lane.queue not in running) or at_s >= lane.wait_until_s:
                    self._deliverer.quiet(lane)

    def _settling(self) -> list[Lane]:
        busy = self._deliverer.held.busy
        return [lane for lane in busy if lane.state is LaneState.TAKING_OVER]

    async def _running(self, place: int) -> set[bytes] | None:
        """Return the queues of a server whose jobs receivers have; None where it does not say."""
        try:
            async with asyncio.timeout(STATUS_S):  # it may be frozen
                return set(await self._job_servers.admins[place].running())
        except OSError as error:
            log.debug("status is unknown", error=str(error) or type(error).__name__)
            return None
