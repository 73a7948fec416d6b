"""Overflow: room on full queues whose subscriptions would rather lose their oldest copies.

Law: runs on the event loop. While a queue is full, every copy that this member has for it waits
here, in order, so that none overtakes another (PROTOCOL §4, ``overflow``). gearmand counts running
jobs too, so where nothing waits on a full queue there is nothing old to drop, and the new copy is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from gearhorn.broker.copies import Subscribers
from gearhorn.gearman.cluster import Cluster
from gearhorn.tasks import Tasks

BATCH = 64  # copies that are made room for at a time


class Held(Protocol):
    """A fan-out that waits for room for some of its copies."""

    subscribers: Subscribers

    def send_held(self, index: int) -> None:
        """There is room: send the copy for a queue of the list."""

    def drop_held(self, index: int) -> None:
        """There is no room to be made: the copy is dropped."""


class Overflow:
    """What waits for room. ``trim`` discards so many of the oldest jobs of a queue and returns how
    many there were; ``dropped`` counts one of a queue of a list."""

    def __init__(
        self,
        cluster: Cluster,
        trim: Callable[[bytes, int], Awaitable[int]],
        dropped: Callable[[Subscribers, int], None],
    ) -> None:
        self._cluster = cluster
        self._trim = trim
        self._dropped = dropped
        self._waiting: dict[bytes, deque[tuple[Held, int]]] = {}  # not tried since
        # Refused of those that were on their way; a younger one that is accepted outdates them.
        self._refused: dict[bytes, list[tuple[Held, int]]] = {}
        self._tasks = Tasks()

    @property
    def is_idle(self) -> bool:
        """Whether no queue is known to be full."""
        return not self._waiting

    def holds(self, queue: bytes) -> bool:
        """Whether copies for a queue wait here."""
        return queue in self._waiting

    def refused(self, held: Held, index: int) -> None:
        """Keep a copy that its queue had no room for."""
        queue = held.subscribers.queues[index]
        if queue not in self._waiting:
            self._waiting[queue] = deque()
            self._refused[queue] = []
            self._tasks.spawn(self._make_room(queue), "overflow")
        self._refused[queue].append((held, index))

    def accepted(self, queue: bytes) -> None:
        """A copy was taken: older ones that were refused would come too late."""
        older = self._refused.get(queue)
        if older:
            self._refused[queue] = []
            for held, index in older:
                held.drop_held(index)

    def keep(self, held: Held, index: int) -> None:
        """Keep a copy that was not sent, because others wait for the same queue."""
        self._waiting[held.subscribers.queues[index]].append((held, index))

    async def _make_room(self, queue: bytes) -> None:
        waiting = self._waiting[queue]
        while True:
            await self._cluster.barrier()  # what was sent is answered
            waiting.extendleft(reversed(self._refused[queue]))
            self._refused[queue] = []
            if not waiting:
                break
            gone = await self._trim(queue, min(len(waiting), BATCH))
            count = min(max(gone, 1), len(waiting))
            batch = [waiting.popleft() for _ in range(count)]
            for held, index in batch[:gone]:
                self._dropped(held.subscribers, index)
            for held, index in batch:
                held.send_held(index)
            await self._cluster.barrier()
            if not gone and self._refused[queue]:  # all of them are running
                held, index = self._refused[queue].pop(0)
                held.drop_held(index)
        del self._waiting[queue], self._refused[queue]
