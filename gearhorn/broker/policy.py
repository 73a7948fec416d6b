"""Policy: logs an error while the store's ``maxmemory-policy`` lets it evict gearhorn's keys.

Rules: one task on the event loop. A store with such a policy is refused at the start. If the policy
changes later, the worker logs an error every minute and keeps serving: stopping would lose what
still works.
"""

from __future__ import annotations

import asyncio

import structlog

from gearhorn.errors import StoreError
from gearhorn.store.connection import Connection

CHECK_S = 5.0  # between two checks
REPEAT_S = 60.0  # between two complaints

log = structlog.get_logger(__name__)


async def watch_policy(store: Connection, check_s: float = CHECK_S) -> None:
    """Check the store's maxmemory-policy until cancelled.

    Arguments:
        store: asked for its policy; while it is away, nothing is logged here.
        check_s: seconds between two checks.
    """
    loop = asyncio.get_running_loop()
    logged_s = float("-inf")
    while True:
        await asyncio.sleep(check_s)
        try:
            policy = await store.evicts()
        except StoreError:
            continue  # the parts that need the store log that it is away
        if policy is None:
            if logged_s > float("-inf"):
                logged_s = float("-inf")
                log.info("the store keeps its keys again")
        elif loop.time() - logged_s > REPEAT_S:
            logged_s = loop.time()
            log.error("the store forgets keys when its memory is full", policy=policy)
