"""Retries: what comes after a failed attempt: a rest and another one, or parking.

Law: runs on the event loop. What an attempt left behind goes to the store with the next round, so
that it is counted whoever delivers the message next.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import structlog

from gearhorn.broker.lanes import Action, Delivery, Event, Lane, State, rest_s
from gearhorn.broker.notes import Notes
from gearhorn.broker.shipping import Shipping
from gearhorn.messages.durable import Trouble
from gearhorn.timing import now_s

log = structlog.get_logger(__name__)


class Retries:
    """``touch`` has a lane worked off soon, ``clock_ms`` reads the members' clock."""

    def __init__(
        self,
        shipping: Shipping,
        notes: Notes,
        touch: Callable[[Lane], None],
        clock_ms: Callable[[], int],
    ) -> None:
        self._shipping = shipping
        self._notes = notes
        self._touch = touch
        self._clock_ms = clock_ms

    def fail(self, one: Delivery, words: str, is_late: bool = False) -> None:
        """An attempt failed: the receiver said so, or (``is_late``) has had its time."""
        # a batch is first tried one by one
        if one.is_last and len(one.entries) == 1:
            event = Event.EXPIRE_LAST if is_late else Event.GIVE_UP
        else:
            event = Event.EXPIRE if is_late else Event.FAIL
        lane, job = one.lane, one.job
        actions = one.apply(event)
        if not actions:
            return
        at = time.time()
        one.failures += 1
        one.first_at = one.first_at or at
        one.error = words
        one.job = None
        if Action.CANCEL in actions:
            one.former.append(job)
            self._shipping.withdraw([job], is_late=True)
        self._touch(lane)
        if Action.PARK in actions:
            log.warning(
                "message parked",
                topic=lane.topic,
                client=lane.client_id,
                sequence=one.sequence,
                attempts=one.failures,
                error=words,
            )
            self._notes.park(one)
            return
        wait_s = rest_s(one.failures - one.since, lane.options.max_backoff, random.random())
        due_ms = self._clock_ms() + int(wait_s * 1000)
        self._notes.fail(one, Trouble(one.failures, one.first_at, at, words, due_ms, one.since))
        for single in lane.split(one) if len(one.entries) > 1 else [one]:
            self.rest(single, wait_s)

    def rest(self, one: Delivery, wait_s: float) -> None:
        """Have a delivery that rests sent again after a while."""
        one.due_s = now_s() + wait_s
        asyncio.get_running_loop().call_later(wait_s, self._due, one, one.due_s)

    def _due(self, one: Delivery, due_s: float) -> None:
        if one.due_s == due_s and one.state is State.RESTING:
            one.apply(Event.DUE)
            self._touch(one.lane)
