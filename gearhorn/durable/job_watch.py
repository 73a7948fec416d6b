"""The job watcher: asks the job servers which deliveries receivers have taken, or died on.

Theory of operation. A receiver has ``timeout`` seconds from when it takes a delivery, but gearmand
does not tell that it took a job, nor that it died on one (docs/gearmand.rst, "Status and admin
commands"). Two things are polled, and each may become expensive.

*Was a job taken?* A delivery that has been out for a while is asked for by itself (GET_STATUS), a
tenth of its time-out after it was sent, and then less and less often. Where more are due than may
be asked for one by one, the table of functions (``status``) says first on which queues a receiver
has any job: only those are asked for. So ten thousand lanes whose receivers are away cost one table
and no question. Deliveries of lanes that close come first, since another member waits for them.

*Did a receiver die on a job?* Then the job is back on its queue, and looks as if it had never been
taken. A receiver that dies on every job would get it for all time. The list of jobs says how often
each was given out; a job that was given out and waits counts as taken, so its time runs. That list
has every job of the server, so it is read only for deliveries that have waited long, and for
``1 / DUTY`` of the time.

Rules: runs on the event loop. A server that cannot be asked now is left for later: nothing follows
from no answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from itertools import islice

import structlog

from gearhorn.durable.deliverer import Deliverer
from gearhorn.durable.lanes import Delivery
from gearhorn.durable.shipping import Job
from gearhorn.durable.states import LaneState, State
from gearhorn.gearman.job_servers import JobServers
from gearhorn.timing import now_s

TICK_S = 0.25  # between two polls
SHORTEST_TICK_S = 0.02  # for lanes whose time-outs are short
LANES_TIMED = 1000  # lanes whose time-outs are read for that
PART = 10  # a receiver is noticed within a tenth of the time-out
LONGEST_ASK_S = 5.0  # between two questions for one delivery
ASKED_PER_S = 1000  # one by one; where more are due, the table of functions is read first
ASKED_AT_ONCE = 2000
TABLE_S = 1.0  # for the answer
TABLE_DUTY = 20  # a table takes at most a twentieth of a job server's time
DEATHS_S = 2.0  # between two readings of the list of jobs
LONGEST_DEATHS_S = 60.0  # between two for a delivery that has waited for long
DUTY = 300  # readings take at most a three-hundredth of a job server's time

log = structlog.get_logger(__name__)


class JobWatcher:
    """Finds out what receivers do with the deliveries of this member, and tells ``Outcomes``.

    Arguments:
        deliverer: holds the lanes, and has the outcomes of their jobs.
        job_servers: are asked, over the connections that submitted the jobs.
    """

    def __init__(self, deliverer: Deliverer, job_servers: JobServers) -> None:
        self._deliverer = deliverer
        self._job_servers = job_servers
        self._tables_s: dict[int, float] = {}  # when a server's table may be read again
        self._deaths_s: dict[Delivery, float] = {}  # when to read the list of jobs for it

    async def run(self) -> None:
        """Poll, without end. The time between two polls follows the shortest time-out of the lanes
        that are busy, as a time-out that begins late ends late."""
        while True:
            tick_s = TICK_S
            for lane in islice(self._deliverer.held.busy, LANES_TIMED):
                tick_s = min(tick_s, max(SHORTEST_TICK_S, lane.options.timeout / PART))
            await asyncio.sleep(tick_s)
            await self.poll(now_s(), int(ASKED_PER_S * tick_s))

    async def poll(self, at_s: float, limit: int) -> None:
        """Ask for the deliveries that are due at ``at_s``; where more than ``limit`` are, only for
        those of queues on which a receiver has a job. Each is put off when it is asked for, not
        when the answer comes, or one that never comes would have it asked for in every poll."""
        due = self._due(at_s)
        if len(due) > limit:
            due = await self._with_receivers(due, at_s)
        for delivery in due[:ASKED_AT_ONCE]:
            self._postpone(delivery, at_s)
            self._deliverer.outcomes.ask(delivery)

    def _due(self, at_s: float) -> list[Delivery]:
        """Return the deliveries that are due, urgent ones first."""
        urgent, others = [], []
        for lane in self._deliverer.held.busy:
            is_closing = lane.state is LaneState.CLOSING
            if not lane.under_way or not (is_closing or lane.state is LaneState.OPEN):
                continue
            is_urgent = is_closing or lane.expired.is_possible  # some of its deliveries may be
            for delivery in lane.window:
                if delivery.state is not State.SENT:
                    continue
                if is_urgent and self._is_urgent(delivery):
                    urgent.append(delivery)
                elif at_s >= (delivery.ask_s or delivery.sent_s + _first_s(delivery)):
                    others.append(delivery)
        return urgent + others

    def _is_urgent(self, delivery: Delivery) -> bool:
        """Whether a job that no receiver has taken is to be withdrawn: another member waits for the
        lane, or the message has expired."""
        is_closing = delivery.lane.state is LaneState.CLOSING
        return is_closing or self._deliverer.outcomes.expiry.is_over(delivery)

    async def _with_receivers(self, due: list[Delivery], at_s: float) -> list[Delivery]:
        """Return those whose queues receivers have jobs of, and urgent ones; the others are
        known not to be taken. Servers whose tables cannot be read now are left for later."""
        places: dict[int, list[Delivery]] = {}
        found = []
        for delivery in due:
            if self._is_urgent(delivery):
                found.append(delivery)
            elif delivery.job is not None:
                places.setdefault(delivery.job[0].place, []).append(delivery)
        for place, deliveries in places.items():
            running = await self._table(place, at_s)
            if running is None:
                continue
            for delivery in deliveries:
                if delivery.lane.queue in running:
                    found.append(delivery)
                elif delivery.state is State.SENT:
                    self._postpone(delivery, at_s)
        return [delivery for delivery in found if delivery.state is State.SENT]

    async def _table(self, place: int, at_s: float) -> Collection[bytes] | None:
        """Return the queues of a server on which receivers have jobs; None where the server is
        down, does not answer, or was asked a short while ago."""
        if at_s < self._tables_s.get(place, 0.0) or not self._job_servers.clients[place].is_up:
            return None
        began_s = now_s()
        try:
            async with asyncio.timeout(TABLE_S):
                running = await self._job_servers.admins[place].running()
        except OSError as error:
            log.debug("status is unknown", error=str(error) or type(error).__name__)
            self._tables_s[place] = now_s() + 1.0
            return None
        self._tables_s[place] = now_s() + TABLE_DUTY * (now_s() - began_s)
        return running

    def _postpone(self, delivery: Delivery, at_s: float) -> None:
        """Note when to ask for a delivery the next time: after a quarter of the time that it has
        been out, so that a receiver which takes it early is noticed early."""
        waited_s = at_s - delivery.sent_s
        longest_s = min(LONGEST_ASK_S, 2 * delivery.options.timeout / PART)
        delivery.ask_at(at_s + min(max(waited_s / 4, _first_s(delivery)), longest_s))

    async def watch_deaths(self) -> None:
        """Find the jobs on which receivers died before they were seen to have them, without end."""
        wait_s = DEATHS_S
        while True:
            await asyncio.sleep(wait_s)
            wait_s = await self.poll_deaths(now_s())

    async def poll_deaths(self, at_s: float) -> float:
        """Find jobs on which receivers died; return in how many seconds to do that again.

        Such a job was given out and waits, and nothing else is known of it. It counts as taken: its
        time runs, and where receivers go on dying, that time ends the attempt.
        """
        wait_s = DEATHS_S
        for place, suspects in self._suspects(at_s).items():
            if not self._job_servers.clients[place].is_up:
                continue
            began_s = now_s()
            try:
                returned = await self._job_servers.admins[place].returned()
            except OSError as error:
                log.debug("jobs are not listed", error=str(error) or type(error).__name__)
                continue
            wait_s = max(wait_s, DUTY * (now_s() - began_s))
            for handle in returned & suspects.keys():
                delivery, job = suspects[handle]
                if delivery.job is job:  # it may have ended meanwhile, or been sent anew
                    self._deliverer.outcomes.taken(delivery)
        return wait_s

    def _suspects(self, at_s: float) -> dict[int, dict[bytes, tuple[Delivery, Job]]]:
        """Return, by server and handle, deliveries on which receivers may have died, and the jobs
        that these are.

        The list of jobs is read for all of them or for none. It is read when one is due: each is
        due ever more seldom, so that deliveries which wait for receivers that are away for days do
        not have it read every two seconds. Deliveries that are over are forgotten with each call.
        """
        former, self._deaths_s = self._deaths_s, {}
        suspects: dict[int, dict[bytes, tuple[Delivery, Job]]] = {}
        is_due = False
        for lane in self._deliverer.held.busy:
            for delivery in lane.window if lane.under_way else ():
                waited_s = at_s - delivery.sent_s
                if delivery.state is not State.SENT or waited_s <= DEATHS_S / 2:
                    continue
                handle = self._deliverer.outcomes.shipping.handle_of(delivery.job)
                if handle:
                    suspects.setdefault(delivery.job[0].place, {})[handle] = delivery, delivery.job
                    self._deaths_s[delivery] = former.get(delivery, at_s)
                    is_due = is_due or at_s >= self._deaths_s[delivery]
        if not is_due:
            return {}
        for delivery in self._deaths_s:
            rest_s = min(max((at_s - delivery.sent_s) / 4, DEATHS_S), LONGEST_DEATHS_S)
            self._deaths_s[delivery] = at_s + rest_s
        return suspects


def _first_s(delivery: Delivery) -> float:
    """Return how many seconds after it was sent a delivery is asked for."""
    return min(delivery.options.timeout / PART, 1.0)
