"""Drains: queues of subscriptions that ended are emptied.

Rules: runs on the event loop. The script that ended the subscription has marked the queue in the
store, so that it is not subscribed meanwhile. The mark belongs to the request, and goes when the
request is done with, however that came about: also where the queue was not emptied, or the caller
has gone. It goes with the member, too. So nothing is discarded but under the lease
of the member that set it: what waits on the queue afterwards may be a later subscription's.
"""

from __future__ import annotations

import asyncio
from functools import partial

import structlog

from gearhorn.errors import StoreError
from gearhorn.gearman.drain import Drained, Drainer
from gearhorn.members.change_requests import Request
from gearhorn.members.held_off import HeldOff
from gearhorn.members.membership import Membership
from gearhorn.store.subscriptions import Change, Subscriptions
from gearhorn.tasks import Tasks
from gearhorn.timing import Backoff

AT_ONCE = 16  # bounds the connections that drains open
# A reply waits so long for the store to take its mark away, so that a caller which subscribes the
# queue anew after its answer need not wait.
UNMARK_S = 1.0

log = structlog.get_logger(__name__)


class Drains:
    """Empties queues, ``AT_ONCE`` at a time.

    Arguments:
        subscriptions: where the marks of drains stand.
        drainer: empties a queue on every job server.
        held_off: what waits for the end of a drain.
        membership: under whose lease alone anything is discarded.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        drainer: Drainer,
        held_off: HeldOff[Request],
        membership: Membership,
    ) -> None:
        self._subscriptions = subscriptions
        self._drainer = drainer
        self._held_off = held_off
        self._membership = membership
        self._places = asyncio.Semaphore(AT_ONCE)
        self._tasks = Tasks()

    async def run(self, change: Change) -> Drained:
        """Empty the queue of a change that ended its pair, and take its mark away.

        The reply does not wait for the mark for longer than ``UNMARK_S``: it goes in any case.
        Returns how many jobs were discarded, and the servers that were not reached. Raises what the
        drainer raises; the mark goes all the same.
        """
        queue = change.queue.decode()
        try:
            async with self._places:
                is_marked = partial(self._membership.holds, change.drainer)
                drained = await self._drainer.drain(change.queue, is_marked)
        finally:
            unmarked = self.unmark(change)
        log.info("drained", queue=queue, copies=drained.jobs)
        if drained.left:
            servers = " ".join(map(str, drained.left))
            log.warning("queue is not drained everywhere", queue=queue, servers=servers)
        await asyncio.wait([unmarked], timeout=UNMARK_S)
        return drained

    def unmark(self, change: Change) -> asyncio.Task[None]:
        """Begin to take the mark of a change away, for as long as it takes: it goes by itself
        when the member does whose mark it is."""
        return self._tasks.spawn(self._unmark(change), "end of a drain")

    async def _unmark(self, change: Change) -> None:
        """Take a mark away, tried again until the store has answered or this member has another
        id: the mark goes with the record of the former one then. Who waits is told either way."""
        backoff = Backoff(0.05, 1.0)
        while self._membership.id == change.drainer:
            try:
                await self._subscriptions.drained(change.queue, change.drainer, change.request)
                break
            except StoreError:
                await asyncio.sleep(backoff.next_s())
        self._held_off.release(change.queue)
