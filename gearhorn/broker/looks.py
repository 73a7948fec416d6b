"""Looks: asks the job servers which deliveries receivers have taken, and which lanes are quiet.

Law: runs on the event loop. gearmand tells nobody that a receiver took a job or died on it; so
deliveries that are out for a while are asked for, one by one and seldom (GET_STATUS), and whether a
receiver died is read from the list of jobs, which costs gearmand more, at a hundredth of its time.
"""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import islice

import structlog

from gearhorn.broker.delivery import Deliverer
from gearhorn.broker.lanes import Delivery, Lane, LaneState, State
from gearhorn.gearman.cluster import Cluster
from gearhorn.timing import now_s

TICK_S = 0.25
LEAST_TICK_S = 0.02  # for lanes whose time-outs are short
PART = 10  # a receiver is noticed within so much of the time-out
LONGEST_LOOK_S = 5.0
LOOKS_PER_S = 1000
DEATHS_S = 2.0  # between two readings of the list of jobs
DUTY = 100  # which may take so much less of a job server's time than passes between them
QUIET_S = 0.1  # between two looks at queues that a former owner used
QUIET_MOST_S = 1.0
STATUS_S = 1.0

log = structlog.get_logger(__name__)


class Looks:
    """Looks after the deliveries of this member."""

    def __init__(self, deliverer: Deliverer, cluster: Cluster) -> None:
        self._deliverer = deliverer
        self._cluster = cluster
        self._scan: list[Lane] = []

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            tick_s = TICK_S
            for lane in islice(self._deliverer.busy, LOOKS_PER_S):
                tick_s = min(tick_s, max(LEAST_TICK_S, lane.options.timeout / PART))
            await asyncio.sleep(tick_s)
            self.look(now_s(), int(LOOKS_PER_S * tick_s))

    def look(self, at_s: float, most: int) -> None:
        """Ask for the deliveries that are due, ``most`` at once, and go on there the next time."""
        if not self._scan:
            self._scan = list(self._deliverer.busy)
        scan = self._scan
        while scan and most > 0:
            lane = scan.pop()
            is_closing = lane.state is LaneState.CLOSING
            if lane.state is not LaneState.OPEN and not is_closing:
                continue
            part_s = lane.options.timeout / PART
            for one in lane.window:
                if one.state is not State.SENT:
                    continue
                waited_s = at_s - one.sent_s
                if one.look_s == 0.0:
                    one.look_s = one.sent_s + min(part_s, 1.0)
                if at_s < one.look_s and not is_closing:
                    continue
                longest_s = min(LONGEST_LOOK_S, 2 * part_s)
                one.look_s = at_s + min(max(waited_s / 4, min(part_s, 1.0)), longest_s)
                self._ask(one)
                most -= 1

    def _ask(self, one: Delivery) -> None:
        job = one.job
        if job is None:
            return
        shipment, index = job
        client = self._cluster.clients[shipment.place]
        if client.connection is shipment.connection and index < len(shipment.handles or ()):
            client.look(shipment, index, partial(self._told, one, job))

    def _told(self, one: Delivery, job: object, is_known: bool, is_running: bool) -> None:
        if one.job is not job or one.state is not State.SENT:
            return
        if is_running:
            self._deliverer.taken(one)
        elif is_known:
            self._deliverer.waiting(one)
        else:
            self._deliverer.unknown(one)

    async def watch_deaths(self) -> None:
        """Find the jobs on which receivers died before anybody saw that they had them, for ever:
        their time runs too, or they would go from one receiver to the next without end."""
        wait_s = DEATHS_S
        while True:
            await asyncio.sleep(wait_s)
            wait_s = DEATHS_S
            at_s = now_s()
            suspects: dict[int, dict[bytes, Delivery]] = {}
            for lane in self._deliverer.busy:
                for one in lane.window:
                    if one.state is State.SENT and at_s - one.sent_s > DEATHS_S / 2:
                        job = one.job
                        shipment, at = job or (None, 0)
                        if shipment is not None and at < len(shipment.handles):
                            suspects.setdefault(shipment.place, {})[shipment.handles[at]] = one
            for place, deliveries in suspects.items():
                if not self._cluster.clients[place].is_up:
                    continue
                began_s = now_s()
                try:
                    returned = await self._cluster.admins[place].returned()
                except OSError as error:
                    log.debug("jobs are not listed", error=str(error) or type(error).__name__)
                    continue
                wait_s = max(wait_s, DUTY * (now_s() - began_s))
                for handle in returned & deliveries.keys():
                    self._deliverer.taken(deliveries[handle])

    async def watch_quiet(self) -> None:
        """Open lanes whose former owner's jobs no receiver has any more, for ever."""
        wait_s = QUIET_S
        while True:
            await asyncio.sleep(wait_s)
            lanes = [one for one in self._deliverer.busy if one.state is LaneState.SETTLING]
            if not lanes:
                wait_s = QUIET_S
                continue
            wait_s = min(wait_s * 1.5, QUIET_MOST_S)
            running: set[bytes] = set()
            answers = []
            for place, admin in enumerate(self._cluster.admins):
                if self._cluster.clients[place].is_up:
                    try:
                        async with asyncio.timeout(STATUS_S):  # it may be frozen
                            running |= (await admin.running()).keys()
                        answers.append(True)
                    except OSError as error:
                        answers.append(False)  # until its link counts as down, too
                        log.debug("status is unknown", error=str(error) or type(error).__name__)
            at_s = now_s()
            for lane in lanes:
                is_known = bool(answers) and all(answers)
                if (is_known and lane.queue not in running) or at_s >= lane.wait_until_s:
                    self._deliverer.quiet(lane)
