"""Logs in the store, pruned: what every durable subscription has done with goes, and what is old.

Theory of operation. Each log has a reading of the members' clock at which it is due (``due``). Any
member may prune it then; the script (``prune.lua``) looks again whether it is due, and sets when it
is due next. So members share the work without talking, and what two of them do at once is done by
the first.

Rules: one round trip for up to ``DUE`` logs; a script forgets ``PRUNED`` entries at most. Every
method raises ``StoreError``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog

from gearhorn.errors import StoreError
from gearhorn.store.connection import READ_TIMEOUT_S, Command, Connection
from gearhorn.store.slowest import Slowest, read_slowest

PRUNED = 10_000  # entries in one go: 2 ms of the store's time
STEPS = 100  # of ``PRUNED`` entries, after one reading of many lanes; then other logs go on
DUE = 100  # logs that one member prunes at a time
TROUBLED_MS = 60_000  # until a log that could not be pruned is tried again

_UNREAD = -2  # ``prune.lua``: the lanes are to be read first

log = structlog.get_logger(__name__)


class PrunedLogs:
    """The logs of one namespace, as far as they are pruned.

    Arguments:
        connection: to the store.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def prune(self, clock_ms: int) -> int | None:
        """Prune logs that are due, up to ``DUE`` of them; return the reading of the clock at which
        the next one is due, None where none will be.

        Any member may call this at any time: the script checks again whether a log is due, so what
        two members do at once is done by the first. Up to ``DUE`` logs are pruned in one round
        trip; those with many lanes by themselves after it. A log that the store refuses is tried
        again a minute later, and does not hold the others up.

        ``clock_ms`` is the caller's reading of the members' clock. Raises ``StoreError``.
        """
        key = self._connection.key
        due, following = await self._connection.pipeline(
            [
                ("ZRANGEBYSCORE", key("due"), "-inf", clock_ms, "LIMIT", 0, DUE),
                ("ZRANGEBYSCORE", key("due"), clock_ms, "(+inf", "WITHSCORES", "LIMIT", 0, 1),
            ]
        )
        if not due:
            return _score_of(following)
        topics = [name.decode() for name in due]
        commands = [self._prune_command(topic, clock_ms, Slowest()) for topic in topics]
        replies = await self._connection.each(commands, READ_TIMEOUT_S)
        troubled = []
        for topic, reply in zip(topics, replies, strict=True):
            if isinstance(reply, StoreError):
                log.warning("a log cannot be pruned", topic=topic, error=str(reply))
                troubled.append(("ZADD", key("due"), "XX", clock_ms + TROUBLED_MS, topic))
            elif reply == _UNREAD:
                await self._prune_many(topic, clock_ms)
        if troubled:
            await self._connection.each(troubled)
        return clock_ms  # there may be more

    async def _prune_many(self, topic: str, clock_ms: int) -> None:
        """Prune a log with many lanes: their positions are read page by page first. Where a lane
        is made meanwhile the reading counts for nothing, and the log is due again soon."""
        slowest = await read_slowest(self._connection, topic)
        for _ in range(STEPS):
            command = self._prune_command(topic, clock_ms, slowest)
            [count] = await self._connection.pipeline([command], READ_TIMEOUT_S)
            if count <= 0:
                return

    def _prune_command(self, topic: str, clock_ms: int, slowest: Slowest) -> Command:
        """Return the command that prunes one log, up to ``PRUNED`` entries."""
        key = self._connection.key
        own = ("log", "messages", "marks", "lanes", "logged", "places")
        keys = [*(key(name, topic) for name in own), key("clock"), key("due")]
        return self._connection.script("prune", keys, topic, clock_ms, PRUNED, *slowest)


def _score_of(found: Sequence[Any]) -> int | None:
    """Return the score of the first of (member, score) pairs, as RESP2 and RESP3 give them."""
    if not found:
        return None
    first = found[0]
    return int(float(first[1] if isinstance(first, list | tuple) else found[1]))
