"""Policy: says loudly when the store was told to forget keys.

Rules: one task on the event loop. A store that may evict subscriptions is refused at the start; one
that is changed later is complained of for as long as it stays so, because leaving it would lose
what works today as well.
"""

from __future__ import annotations

import asyncio

import structlog

from gearhorn.errors import StoreError
from gearhorn.store.connection import Connection

LOOK_S = 5.0
REPEAT_S = 60.0  # between two complaints

log = structlog.get_logger(__name__)


async def watch_policy(store: Connection, look_s: float = LOOK_S) -> None:
    """Look at the store's maxmemory-policy now and then, for as long as the worker runs."""
    loop = asyncio.get_running_loop()
    said_s = float("-inf")
    while True:
        await asyncio.sleep(look_s)
        try:
            policy = await store.evicts()
        except StoreError:
            continue  # others say that the store is not there
        if policy is None:
            if said_s > float("-inf"):
                said_s = float("-inf")
                log.info("the store keeps its keys again")
        elif loop.time() - said_s > REPEAT_S:
            said_s = loop.time()
            log.error("the store forgets keys when its memory is full", policy=policy)
