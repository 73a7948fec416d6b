"""Up to where every durable subscription of a topic has done with its log, where there are many.

Theory of operation. A log is pruned, and purged, up to the lowest position of its lanes. Of few
lanes the script that prunes reads the positions itself, in the same atomic step. Reading 100,000
would hold the store for 30 ms, so of many they are read here before, page by page, and the script
is given the result. What makes a result that is not of one moment safe to use:

* Positions only rise. One that has moved since it was read makes the result too low, never too
  high.
* A lane that is made begins, as a rule, with the log's next message, behind everything read. One
  that begins before the log's last message raises the log's count ``joined``.
* In another epoch the numbers mean other messages.

So a reading carries the log's epoch and ``joined`` of before it began, as its *mark*, and a script
does nothing where the log has another mark by then: the positions are to be read again. An earlier
version counted every new lane; where subscriptions came faster than a reading took, the log was
never pruned.

Rules: one page is a round trip, and the event loop has a turn after each.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from gearhorn.store.connection import READ_TIMEOUT_S, Connection

PAGE = 1000  # lanes in one page: half a millisecond of the store, one of the event loop


class Slowest(NamedTuple):
    """Every subscription has done with the log up to ``position``, while the mark stands.

    The default is no reading. Scripts are given it first, and say whether they need one.
    """

    mark: str = ""  # "EPOCH JOINED" of the log; no log has the empty one
    position: int = 0


async def read_slowest(connection: Connection, topic: str) -> Slowest:
    """Read the positions of a topic's durable subscriptions.

    The log is read first: a lane that is made while positions are read changes the mark, so that
    the reading counts for nothing. In the opposite order it would have the new mark and miss the
    new lane. Where there are no lanes, everything up to the log's last message is done with.

    HSCAN returns each lane that is there throughout at least once; twice does no harm here.
    Raises ``StoreError``.
    """
    key = connection.key("lanes", topic)
    place = ("HMGET", connection.key("log", topic), "epoch", "joined", "last")
    [(epoch, joined, last)] = await connection.pipeline([place])
    position, cursor = int(last or 0), 0
    while True:
        scan = "HSCAN", key, cursor, "COUNT", PAGE
        [(following, found)] = await connection.pipeline([scan], READ_TIMEOUT_S)
        records = found[1::2]
        position = min([position, *(int(record.rpartition(b" ")[2]) for record in records)])
        cursor = int(following)
        if not cursor:
            return Slowest(f"{(epoch or b'').decode()} {int(joined or 0)}", position)
        await asyncio.sleep(0)
