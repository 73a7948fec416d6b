"""The change queue: requests for changes on their way to the store.

Rules: runs on the event loop. What this member ends by itself (subscriptions whose time is over, or
whose queue is full) waits in the same line as what is asked of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal

from gearhorn.errors import RequestError
from gearhorn.members.change_requests import Request
from gearhorn.names import queue_of
from gearhorn.store.subscriptions import Change


class ChangeQueue:
    """Requests that are not worked on yet, in the order they came.

    Its length is not bounded here: each request but those of this member's own is a job in the hand
    of a worker, which takes no more than it may have in hand.
    """

    def __init__(self) -> None:
        self._waiting: list[Request] = []
        self._came = asyncio.Event()

    def put(self, *requests: Request) -> None:
        """Add requests."""
        self._waiting += requests
        self._came.set()

    async def take(self, limit: int) -> list[Request]:
        """Return the first requests, ``limit`` at most, once there is one.

        They are the caller's from then on: it answers them, or has them refused.
        """
        await self._came.wait()
        taken, self._waiting = self._waiting[:limit], self._waiting[limit:]
        if not self._waiting:
            self._came.clear()
        return taken

    def refuse(self, error: RequestError) -> None:
        """Refuse every request that waits; what comes later waits again."""
        waiting, self._waiting = self._waiting, []
        self._came.clear()
        for request in waiting:
            request.fail(error)

    def expire(self, pairs: Sequence[tuple[str, str]]) -> None:
        """End subscriptions, of (topic, client_id), whose time is over."""
        for topic, client_id in pairs:
            self._end("expire", topic, client_id, 0)

    def overflow(self, topic: str, client_id: str, seen: int) -> None:
        """End a subscription whose queue is full, unless it was subscribed again after version
        ``seen``: that of the list whose copy was refused."""
        self._end("overflow", topic, client_id, seen)

    def _end(
        self, kind: Literal["expire", "overflow"], topic: str, client_id: str, seen: int
    ) -> None:
        change = Change(kind, topic, client_id, queue_of(topic, client_id), seen=seen)
        self.put(Request(None, change))
