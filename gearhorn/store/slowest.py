"""Up to where every durable subscription of a topic has done with its log, where there are many.

Rules: positions are read in pages, since reading 100,000 at once holds the store for 30 ms. They
only rise, and a lane that is made begins with the log's next message as a rule. So what was read
stays true until one begins before that, or the log begins another epoch: then it has another mark.
A script compares the marks before it believes a reading.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from gearhorn.store.connection import READ_TIMEOUT_S, Connection

PAGE = 1000  # lanes in one page: half a millisecond of the store, one of the event loop


class Slowest(NamedTuple):
    """Every subscription has done with the log up to ``position``, while the mark stands."""

    mark: str = ""  # "EPOCH JOINED" of the log; of no log where nothing was read
    position: int = 0


async def read_slowest(connection: Connection, topic: str) -> Slowest:
    """Read the positions of a topic's durable subscriptions. Raises ``StoreError``."""
    key = connection.key("lanes", topic)
    place = ("HMGET", connection.key("log", topic), "epoch", "joined", "last")
    [(epoch, joined, last)] = await connection.pipeline([place])
    position, cursor = int(last or 0), 0
    while True:
        scan = "HSCAN", key, cursor, "COUNT", PAGE
        [(following, found)] = await connection.pipeline([scan], READ_TIMEOUT_S)
        records = found[1::2]
        position = min([position, *(int(one.rpartition(b" ")[2]) for one in records)])
        cursor = int(following)
        if not cursor:
            return Slowest(f"{(epoch or b'').decode()} {int(joined or 0)}", position)
        await asyncio.sleep(0)
