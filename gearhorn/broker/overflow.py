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
        self._waiting: dict[bytes, deque[tuple[Held, int]]] = {}
        self._again: dict[bytes, list[tuple[Held, int]]] = {}  # sent, and refused once more
        self._tasks = Tasks()

    @property
    def is_idle(self) -> bool:
        """Whether no queue is known to be full."""
        return not self._waiting

    def holds(self, queue: bytes) -> bool:
        """Whether copies for a queue wait here."""
        return queue in self._waiting

    def add(self, held: Held, index: int) -> None:
        """Keep a copy, behind those that wait for the same queue."""
        queue = held.subscribers.queues[index]
        if queue in self._again:
            self._again[queue].append((held, index))
        elif queue in self._waiting:
            self._waiting[queue].append((held, index))
        else:
            self._waiting[queue] = deque([(held, index)])
            self._tasks.spawn(self._make_room(queue), "overflow")

    def keep(self, held: Held, index: int) -> None:
        """Keep a copy that nobody has tried to send."""
        self._waiting[held.subscribers.queues[index]].append((held, index))

    async def _make_room(self, queue: bytes) -> None:
        waiting = self._waiting[queue]
        await self._cluster.barrier()  # those that were refused after the first one are here too
        while waiting:
            batch = [waiting.popleft() for _ in range(min(len(waiting), BATCH))]
            gone = await self._trim(queue, len(batch))
            for held, index in batch[:gone]:
                self._dropped(held.subscribers, index)
            again = self._again[queue] = []
            for held, index in batch:
                held.send_held(index)
            await self._cluster.barrier()
            del self._again[queue]
            if not gone and len(again) == len(batch):  # nothing moves: the oldest of these goes
                held, index = again.pop(0)
                held.drop_held(index)
            waiting.extendleft(reversed(again))
        del self._waiting[queue]
