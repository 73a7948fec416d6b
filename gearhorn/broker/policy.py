"""Policy: what the store is set to, and an error in the log while it may evict gearhorn's keys.

Rules: one task on the event loop. A store that may evict is refused at the start. If its policy
changes later, the worker logs an error every minute and keeps serving: stopping would lose what
still works.
"""

from __future__ import annotations

import asyncio

import structlog

from gearhorn.errors import StoreError
from gearhorn.messages.peers import StoreState
from gearhorn.store.connection import Connection

CHECK_S = 2.0  # between two checks
REPEAT_S = 60.0  # between two complaints

log = structlog.get_logger(__name__)


class StorePolicy:
    """Asks the store now and then how well it keeps what it is given.

    Arguments:
        store: is asked; while it is away, nothing is logged here.
        check_s: seconds between two checks.

    Attributes:
        state: what it said last, None: nothing yet.
    """

    def __init__(self, store: Connection, check_s: float = CHECK_S) -> None:
        self.state: StoreState | None = None
        self._store = store
        self._check_s = check_s
        self._logged_s = float("-inf")

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            try:
                self.state = await self._store.state()
            except StoreError:
                pass  # the parts that need the store log that it is away
            else:
                self._judge(self.state.evicts)
            await asyncio.sleep(self._check_s)

    def _judge(self, policy: str | None) -> None:
        """Log a policy that evicts, every ``REPEAT_S``, and once that it does so no more."""
        at_s = asyncio.get_running_loop().time()
        if policy is None:
            if self._logged_s > float("-inf"):
                self._logged_s = float("-inf")
                log.info("the store keeps its keys again")
        elif at_s - self._logged_s > REPEAT_S:
            self._logged_s = at_s
            log.error("the store forgets keys when its memory is full", policy=policy)
