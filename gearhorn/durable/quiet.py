"""Quiet: finds out when the receivers of a lane's former owner have done with their jobs.

A lane that was taken over must not send while a receiver still has a job of the former owner: the
receiver would get a message twice, or two at a time, though nothing has failed. So it waits until
its queue runs no job, and at most for its time-out, after which that receiver has lost its claim.

Every job server that answers is asked, also one whose links to this member are down: its receivers
may well be at work. One that does not answer while its link counts as up leaves the question open;
once the link counts as down, the others decide. Many lanes are taken over at once, when a member
dies, so each server is asked once for all of them, and ever less often while they wait.

Rules: runs on the event loop. A lane that was taken while the servers were asked waits for the next
poll: its queue may have run a job before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from gearhorn.durable.deliverer import Deliverer
from gearhorn.durable.lanes import Lane
from gearhorn.durable.states import LaneState
from gearhorn.gearman.job_servers import JobServers
from gearhorn.timing import now_s

QUIET_S = 0.1  # between two polls of the queues that former owners used, at first
LONGEST_QUIET_S = 1.0
STATUS_S = 0.5  # for the answer of one server

log = structlog.get_logger(__name__)


class Quiet:
    """Opens lanes that were taken over.

    Arguments:
        deliverer: holds the lanes, and opens them.
        job_servers: where their queues are.
    """

    def __init__(self, deliverer: Deliverer, job_servers: JobServers) -> None:
        self._deliverer = deliverer
        self._job_servers = job_servers

    async def run(self) -> None:
        """Open lanes whose former owner's jobs no receiver has any more, without end."""
        wait_s = QUIET_S
        while True:
            await asyncio.sleep(wait_s)
            lanes = self._taken_over()
            if lanes:
                wait_s = min(wait_s * 1.5, LONGEST_QUIET_S)
                await self._poll(lanes)
            else:
                wait_s = QUIET_S

    async def _poll(self, lanes: Sequence[Lane]) -> None:
        """Open those lanes whose queues run nothing, or whose time is over."""
        places = range(len(self._job_servers.admins))
        found = await asyncio.gather(*map(self._running, places))
        running: set[bytes] = set().union(*(queues for queues in found if queues is not None))
        is_open = any(
            queues is None and client.is_up
            for queues, client in zip(found, self._job_servers.clients, strict=True)
        )
        is_known = not is_open and any(queues is not None for queues in found)
        at_s = now_s()
        for lane in lanes:
            if (is_known and lane.queue not in running) or at_s >= lane.wait_until_s:
                self._deliverer.quiet(lane)

    def _taken_over(self) -> list[Lane]:
        """Return the lanes that wait."""
        busy = self._deliverer.held.busy
        return [lane for lane in busy if lane.state is LaneState.TAKING_OVER]

    async def _running(self, place: int) -> set[bytes] | None:
        """Return the queues of a server on which receivers have jobs; None where it does not
        answer in time, being frozen, say."""
        try:
            async with asyncio.timeout(STATUS_S):
                return set(await self._job_servers.admins[place].running())
        except OSError as error:
            log.debug("status is unknown", error=str(error) or type(error).__name__)
            return None
