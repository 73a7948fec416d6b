"""Waiting: foreground fan-outs that wait until durable receivers have done with their message.

Rules: runs on the event loop. Whoever delivers tells the process that waits; since words may be
lost, and a repeated message had another waiter, positions are looked at now and then too. A look
costs what a topic's lanes are and what has moved, however many messages are waited for; what it
finds is told in portions.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol

import structlog

from gearhorn.errors import StoreError
from gearhorn.messages.events import decode_done
from gearhorn.store.lanes import Lanes
from gearhorn.timing import now_s

LOOK_S = 0.5  # between two looks, or
LOOK_DUTY = 10  # so many times as long as the last one took
PORTION = 1000  # receivers asked for and told in one go
_PARKED = "too many attempts"  # where whoever parked it did not tell

log = structlog.get_logger(__name__)


class Waiter(Protocol):
    """A fan-out that waits for durable receivers."""

    def done(self, client_id: str, error: str) -> None:
        """A receiver has done with the message; ``error`` is why it was parked, or nothing."""

    def missing(self) -> Sequence[str]:
        """Return the durable client_ids that are waited for."""

    def misses(self, client_id: str) -> bool:
        """Return whether a durable receiver is waited for."""


class _Topic:
    """The messages of one topic that are waited for."""

    __slots__ = ("due", "fresh", "looked", "positions", "waiters")

    def __init__(self) -> None:
        self.waiters: dict[int, list[Waiter]] = {}
        self.fresh: set[int] = set()  # waited for since the last look
        self.due: set[int] = set()  # for the next look to compare with every position
        self.looked: set[int] = set()  # of which positions that move alone tell more
        self.positions: dict[str, int] = {}  # at the last look

    def begin_look(self) -> tuple[list[int], list[int]]:
        """Return the messages to compare with what has moved, and with every position."""
        waiters = self.waiters
        self.looked &= waiters.keys()
        due = sorted(self.due & waiters.keys())
        self.fresh, self.due = set(), self.due | self.fresh
        return sorted(self.looked), due

    def end_look(self, due: Sequence[int], positions: dict[str, int]) -> None:
        """Every position was compared."""
        self.positions = positions
        self.looked.update(one for one in due if one not in self.fresh)
        self.due.difference_update(due)
        self.due &= self.waiters.keys()


class AckWaiters:
    """Who waits for what, by topic and sequence."""

    def __init__(self, store: Lanes) -> None:
        self._store = store
        self._topics: dict[str, _Topic] = {}

    def add(self, topic: str, sequence: int, waiter: Waiter) -> None:
        """Have ``waiter`` told."""
        waited = self._topics.get(topic)
        if waited is None:
            waited = self._topics[topic] = _Topic()
        waited.waiters.setdefault(sequence, []).append(waiter)
        waited.fresh.add(sequence)
        waited.looked.discard(sequence)  # it has not seen what moved before

    def remove(self, topic: str, sequence: int, waiter: Waiter) -> None:
        """Tell it no more; without effect where it does not wait."""
        waited = self._topics.get(topic)
        waiters = waited.waiters.get(sequence, []) if waited is not None else []
        if waited is not None and waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del waited.waiters[sequence]
                waited.fresh.discard(sequence)
                if not waited.waiters:
                    del self._topics[topic]

    def hear(self, text: bytes) -> None:
        """Take what members tell of messages that are done with."""
        for done in decode_done(text):
            self._tell(done.topic, done.sequence, done.client_id, done.error)

    def missed(self) -> None:
        """Do nothing: positions are looked at all the time."""

    def _waiters(self, topic: str, sequence: int) -> Sequence[Waiter]:
        waited = self._topics.get(topic)
        return tuple(waited.waiters.get(sequence, ())) if waited is not None else ()

    def _tell(self, topic: str, sequence: int, client_id: str, error: str) -> None:
        for waiter in self._waiters(topic, sequence):
            waiter.done(client_id, error)

    async def run(self) -> None:
        """Look at the positions of topics that are waited for, without end."""
        wait_s = LOOK_S
        while True:
            await asyncio.sleep(wait_s)
            began_s = now_s()
            await self.look()
            wait_s = max(LOOK_S, LOOK_DUTY * (now_s() - began_s))

    async def look(self) -> None:
        """Look once, at messages that were waited for at the last look."""
        for topic, waited in list(self._topics.items()):
            moving, due = waited.begin_look()
            if moving or due:
                try:
                    waited.end_look(due, await self._look(topic, waited, moving, due))
                except StoreError as error:
                    log.debug("positions are not known", error=str(error))

    async def _look(
        self, topic: str, waited: _Topic, moving: Sequence[int], due: Sequence[int]
    ) -> dict[str, int]:
        """Tell who has done with what; return the positions."""
        positions: dict[str, int] = {}
        done: list[tuple[str, int]] = []
        cursor = 0
        while True:
            page, cursor = await self._store.positions(topic, cursor)
            positions.update(page)
            for client_id, position in page.items():
                before = waited.positions.get(client_id, -1)
                if position > before:
                    first, end = bisect_right(moving, before), bisect_right(moving, position)
                    done += [(client_id, sequence) for sequence in moving[first:end]]
                    if len(done) >= PORTION:
                        await self._tell_done(topic, done)
            if not cursor:
                break
        for sequence in due:
            for waiter in self._waiters(topic, sequence):
                for client_id in waiter.missing():
                    if positions.get(client_id, -1) >= sequence:
                        done.append((client_id, sequence))
                await self._tell_done(topic, done)
            await asyncio.sleep(0)
        await self._tell_done(topic, done)
        return positions

    async def _tell_done(self, topic: str, done: list[tuple[str, int]]) -> None:
        """Tell of receivers that have done with messages, and forget them."""
        for at in range(0, len(done), PORTION):
            missed = [
                (client_id, sequence)
                for client_id, sequence in done[at : at + PORTION]
                if any(one.misses(client_id) for one in self._waiters(topic, sequence))
            ]
            if missed:
                parked = await self._store.are_parked(topic, missed)
                for (client_id, sequence), is_parked in zip(missed, parked, strict=True):
                    self._tell(topic, sequence, client_id, _PARKED if is_parked else "")
            await asyncio.sleep(0)
        done.clear()
