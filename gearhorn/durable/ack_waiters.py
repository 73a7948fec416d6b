"""Ack waiters: foreground fan-outs that wait until durable receivers have done with their message.

Theory of operation. The member that delivers tells the process that waits, on a channel of its own
(``hear``). Such an event may be lost, and a message that was published twice has a waiter that the
delivering member does not know of. So the positions of lanes are polled too: a lane whose position
is at a message or behind it has done with it.

The difficulty is the cost. A topic may have ten thousand lanes and as many messages waited for, and
comparing each with each would take minutes. So a poll compares in two ways:

* A message that is new is compared with every position once: it is ``fresh`` until the next poll
  begins, ``due`` in the one after it, and ``compared`` when that has ended.
* For messages that were compared, only positions that have moved since the last poll tell more: a
  lane that went from 3 to 7 has done with those of 4 to 7, which bisection finds.

A position alone does not say that a receiver has had the message. The message may be parked, or
have expired; the log's caps may have taken it before it was delivered; and the subscription may
have ended and been made anew, behind the message. So the store is asked of each that a position
has passed (``Lanes.passed``). What may have ended since the wait began proves nothing. (This member
knows every end up to the version that it knew then, and no fan-out holds a list from before.)

Nor does a sequence alone say which message is meant: where a log was made anew, or the store lost
its end, numbers come again under another epoch. So each message is waited for under its epoch too.

Why fresh messages wait for one poll: the delivering member nearly always tells within that time,
and then they cost nothing.

Rules: runs on the event loop. What a poll finds is asked for and told in portions, so that the loop
has its turns. A poll that fails is repeated whole, from the positions of the one before.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol

import structlog

from gearhorn.errors import StoreError
from gearhorn.messages.events import Done, decode_done
from gearhorn.messages.logs import Logged
from gearhorn.store.lanes import Lanes
from gearhorn.store.parked import Passed
from gearhorn.timing import now_s

POLL_S = 0.5  # between two polls, or
POLL_DUTY = 10  # so many times as long as the last one took
PORTION = 1000  # receivers asked for and told in one go
_PARKED = "too many attempts"  # where the member that parked the message did not tell why

log = structlog.get_logger(__name__)


class Waiter(Protocol):
    """A fan-out that waits for durable receivers."""

    def done(self, client_id: str, error: str, is_expired: bool) -> None:
        """A receiver has done with the message; ``error`` is why it was parked, or nothing.
        ``is_expired``: it does not get the message, which expired before it was begun."""

    def missing(self) -> Sequence[str]:
        """Return the durable client_ids that are waited for."""

    def misses(self, client_id: str) -> bool:
        """Return whether a durable receiver is waited for."""


class Knowing(Protocol):
    """Knows what has ended."""

    @property
    def known(self) -> int:
        """The version up to which every end is known here, and what held a list of before is
        sent."""


# With the version that was known when its wait began, and the epoch of its message
_Entry = tuple[Waiter, int, str]


class _Topic:
    """The messages of one topic that are waited for."""

    __slots__ = ("compared", "due", "fresh", "positions", "waiters")

    def __init__(self) -> None:
        self.waiters: dict[int, list[_Entry]] = {}
        self.fresh: set[int] = set()  # waited for since the last poll began
        self.due: set[int] = set()  # for the next poll to compare with every position
        self.compared: set[int] = set()  # of which only positions that move tell more
        self.positions: dict[str, int] = {}  # at the last poll, by client_id

    def begin_poll(self) -> tuple[list[int], list[int]]:
        """Return the messages to compare with what has moved, and with every position."""
        waiters = self.waiters
        self.compared &= waiters.keys()
        due = sorted(self.due & waiters.keys())
        self.fresh, self.due = set(), self.due | self.fresh
        return sorted(self.compared), due

    def end_poll(self, due: Sequence[int], positions: dict[str, int]) -> None:
        """Every position was compared."""
        self.positions = positions
        self.compared.update(sequence for sequence in due if sequence not in self.fresh)
        self.due.difference_update(due)
        self.due &= self.waiters.keys()


class AckWaiters:
    """The fan-outs that wait, by topic and sequence; a ``ChannelListener``.

    ``store`` has the positions, and says what they prove; ``membership`` knows what has ended.
    """

    def __init__(self, store: Lanes, membership: Knowing) -> None:
        self._store = store
        self._membership = membership
        self._topics: dict[str, _Topic] = {}

    def add(self, topic: str, logged: Logged, waiter: Waiter) -> None:
        """Have ``waiter`` told what becomes of a message."""
        sequence = logged.sequence
        waited = self._topics.get(topic)
        if waited is None:
            waited = self._topics[topic] = _Topic()
        entry = waiter, self._membership.known, logged.epoch
        waited.waiters.setdefault(sequence, []).append(entry)
        waited.fresh.add(sequence)
        waited.compared.discard(sequence)  # the waiter was not told of what moved before

    def remove(self, topic: str, sequence: int, waiter: Waiter) -> None:
        """Tell it no more; without effect where it does not wait."""
        waited = self._topics.get(topic)
        entries = waited.waiters.get(sequence, []) if waited is not None else []
        rest = [entry for entry in entries if entry[0] is not waiter]
        if waited is not None and len(rest) < len(entries):
            waited.waiters[sequence] = rest
            if not rest:
                del waited.waiters[sequence]
                waited.fresh.discard(sequence)
                if not waited.waiters:
                    del self._topics[topic]

    def hear(self, text: bytes) -> None:
        """Take what members tell of messages that are done with."""
        for done in decode_done(text):
            self._tell(done)

    def missed(self) -> None:
        """Do nothing: positions are polled all the time."""

    def _waiters(self, topic: str, sequence: int) -> Sequence[_Entry]:
        waited = self._topics.get(topic)
        return tuple(waited.waiters.get(sequence, ())) if waited is not None else ()

    def _tell(self, done: Done) -> None:
        for waiter, _, epoch in self._waiters(done.topic, done.sequence):
            if done.epoch in (epoch, ""):
                waiter.done(done.client_id, done.error, done.is_expired)

    def _tell_passed(self, topic: str, sequence: int, client_id: str, passed: Passed) -> None:
        """Tell what a position that has passed a message proves, and to whom it does."""
        if passed.is_capped and not (passed.is_parked or passed.is_expired):
            return
        for waiter, known, epoch in self._waiters(topic, sequence):
            if passed.ended <= known and passed.epoch in (epoch, ""):
                error = _PARKED if passed.is_parked else ""
                waiter.done(client_id, error, passed.is_expired and not passed.is_parked)

    async def run(self) -> None:
        """Poll the positions of topics that are waited for, without end."""
        wait_s = POLL_S
        while True:
            await asyncio.sleep(wait_s)
            began_s = now_s()
            await self.poll()
            wait_s = max(POLL_S, POLL_DUTY * (now_s() - began_s))

    async def poll(self) -> None:
        """Poll once, for messages that were waited for at the last poll."""
        for topic, waited in list(self._topics.items()):
            moving, due = waited.begin_poll()
            if moving or due:
                try:
                    waited.end_poll(due, await self._compare(topic, waited, moving, due))
                except StoreError as error:
                    log.debug("positions are not known", error=str(error))

    async def _compare(
        self, topic: str, waited: _Topic, moving: Sequence[int], due: Sequence[int]
    ) -> dict[str, int]:
        """Tell waiters which receivers have done with what; return the positions.

        Arguments:
            moving: messages to compare with positions that have moved, in ascending order.
            due: messages to compare with every position.
        """
        # Positions first, since they come page by page: a lane that is made meanwhile is found by
        # the next poll. Then the new messages, each of which needs every position.
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
            for waiter, *_ in self._waiters(topic, sequence):
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
                if any(waiter.misses(client_id) for waiter, *_ in self._waiters(topic, sequence))
            ]
            if missed:
                found = await self._store.passed(topic, missed)
                for (client_id, sequence), passed in zip(missed, found, strict=True):
                    self._tell_passed(topic, sequence, client_id, passed)
            await asyncio.sleep(0)
        done.clear()
