"""Drains: queues of subscriptions that ended are emptied.

Rules: runs on the event loop. The script that ended the subscription has marked the queue in the
store, so that nobody subscribes it meanwhile. The mark belongs to the request, and goes when the
request is done with, however that came about: also where the queue was not emptied, or nobody waits
for the answer any more. It goes with the member, too. So nothing is discarded but under the lease
of the member that set it: what waits on the queue afterwards may be a later subscription's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from gearhorn.errors import StoreError
from gearhorn.gearman.drain import Drained
from gearhorn.members.membership import Membership
from gearhorn.store.subscriptions import Change, Subscriptions
from gearhorn.tasks import Tasks
from gearhorn.timing import Backoff

AT_ONCE = 16  # bounds the connections that drains open
UNMARK_S = 1.0  # a reply waits so long for the store to take its mark away

log = structlog.get_logger(__name__)


class Drains:
    """``empty`` empties a queue as long as what it is given besides returns true; ``over`` is told
    of each queue whose mark is gone."""

    def __init__(
        self,
        subscriptions: Subscriptions,
        empty: Callable[[bytes, Callable[[], bool]], Awaitable[Drained]],
        over: Callable[[bytes], None],
        membership: Membership,
    ) -> None:
        self._subscriptions = subscriptions
        self._empty = empty
        self._over = over
        self._membership = membership
        self._places = asyncio.Semaphore(AT_ONCE)
        self._tasks = Tasks()

    async def run(self, change: Change) -> Drained:
        """Empty the queue of a change that ended its pair, and take its mark away."""
        queue = change.queue.decode()
        try:
            async with self._places:
                is_marked = partial(self._membership.holds, change.drainer)
                drained = await self._empty(change.queue, is_marked)
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
        backoff = Backoff(0.05, 1.0)
        while change.drainer == self._membership.id:
            try:
                await self._subscriptions.drained(change.queue, change.drainer, change.request)
                break
            except StoreError:
                await asyncio.sleep(backoff.next_s())
        self._over(change.queue)
