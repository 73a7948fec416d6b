"""Retries: what comes after a failed attempt: a rest and another one, or parking.

The order of a lane is kept while a message rests: those behind it are sent as far as ``in_flight``
allows, and then wait for it (``Window.next_ready``). A batch that failed is split, and all its
messages rest as long as the batch would have.

An attempt that timed out is not quite over. gearmand cannot take a job from a receiver that works
on it, so that receiver may still acknowledge, and then the message is not tried again. Such jobs
are kept as *former* ones of the delivery, the newest ``FORMER`` of them.

Rules: runs on the event loop. What an attempt left behind goes to the store with the next round, so
that it counts whichever member delivers the message next. What waits for a time holds a delivery
only until its state changes. See docs/protocol.rst, "Deliveries".
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from gearhorn.durable.delivery import Timer, rest_s
from gearhorn.durable.expiry import Expiry
from gearhorn.durable.keeper import Keeper
from gearhorn.durable.lanes import Delivery, Lane
from gearhorn.durable.pending_writes import PendingWrites
from gearhorn.durable.shipping import Shipping
from gearhorn.durable.states import Action, Event, State
from gearhorn.messages.logs import FailureHistory
from gearhorn.timing import MembersClock, now_s

FORMER = 16  # attempts that timed out, of one delivery, whose receivers may still acknowledge

log = structlog.get_logger(__name__)


class Wait(Timer):
    """Has something done with deliveries after a while, except with those that change before.

    One timer serves all of them, since a batch of a thousand messages rests as one. A delivery
    knows its timer, and tells it of the first change of its state: so a timer for a day does not
    keep in memory what was done after a second.

    Arguments:
        deliveries: they wait for nothing else.
        wait_s: in seconds; what lies in the past is done with the next turn of the loop.
        due: is called with each delivery that is left then.
    """

    def __init__(
        self, deliveries: Sequence[Delivery], wait_s: float, due: Callable[[Delivery], None]
    ) -> None:
        self._deliveries = dict.fromkeys(deliveries)
        self._due = due
        self._handle = asyncio.get_running_loop().call_later(wait_s, self._fire)
        for delivery in deliveries:
            delivery.wait(self)

    def drop(self, delivery: Delivery) -> None:
        """Do nothing with a delivery any more, and hold it no longer."""
        self._deliveries.pop(delivery, None)
        if not self._deliveries:
            self._handle.cancel()  # asyncio lets go of what it calls at once

    def _fire(self) -> None:
        deliveries, self._deliveries = self._deliveries, {}
        for delivery in deliveries:
            self._due(delivery)


class Retries:
    """Has attempts that failed repeated, or their messages set aside.

    Arguments:
        shipping: takes jobs back whose time is over.
        pending: is told what the store has to know of each failure.
        keeper: works lanes off.
        clock: the members', by which the store keeps when a message is due.
        expiry: knows when a rest is of no use any more.
    """

    def __init__(
        self,
        shipping: Shipping,
        pending: PendingWrites,
        keeper: Keeper,
        clock: MembersClock,
        *,
        expiry: Expiry,
    ) -> None:
        self._expiry = expiry
        self._shipping = shipping
        self._pending = pending
        self._keeper = keeper
        self._clock = clock

    def fail(
        self,
        delivery: Delivery,
        text: str,
        *,
        is_late: bool = False,
        after_s: float | None = None,
        parks: bool = False,
    ) -> None:
        """An attempt failed. Without effect where its delivery has no job under way any more.

        Arguments:
            delivery: in its present attempt.
            text: the error, as it is kept and shown.
            is_late: the receiver has had its time; otherwise it said that it failed.
            after_s: seconds that the receiver asks to be left alone, instead of the usual rest.
            parks: the receiver asks to have the message set aside, attempts left or not.
        """
        # The table decides first, from the state in which the attempt failed. The failure is
        # counted before it is written down, and before a batch is split, since the single messages
        # go on with what was counted for it. A batch has no last attempt, nor is it set aside where
        # its receiver asks for that: which of its messages is meant shows when they are tried one
        # by one.
        if (parks or delivery.is_last) and len(delivery.entries) == 1:
            event = Event.EXPIRE_LAST if is_late else Event.GIVE_UP
        else:
            event = Event.EXPIRE if is_late else Event.FAIL
        lane, job = delivery.lane, delivery.job
        actions = delivery.apply(event)
        if not actions:
            return
        at = time.time()
        delivery.count_failure(text, at)
        if Action.CANCEL in actions:
            for old in delivery.keep_former(job, FORMER):
                self._shipping.drop(old)
            self._shipping.withdraw([job], is_late=True)
        self._keeper.touch(lane)
        if Action.PARK in actions:
            log.warning(
                "message parked",
                topic=lane.topic,
                client=lane.client_id,
                sequence=delivery.sequence,
                attempts=delivery.failures,
                error=text,
            )
            self._pending.park(delivery)
            return
        self._retry(delivery, self._wait_s(delivery, after_s), at)

    def _wait_s(self, delivery: Delivery, after_s: float | None) -> float:
        """Return how long a delivery rests now: as its receiver asked for, or as ever."""
        limit_s = delivery.lane.options.max_backoff
        if after_s is not None:
            return min(after_s, limit_s)
        return rest_s(delivery.failures - delivery.since, limit_s, random.random())

    def _retry(self, delivery: Delivery, wait_s: float, at: float) -> None:
        """Have a delivery that failed ``at`` that Unix time tried again after ``wait_s`` seconds,
        whichever member delivers then; a batch, message by message."""
        due_ms = self._clock.clock_ms + int(wait_s * 1000)
        trouble = FailureHistory(
            delivery.failures, delivery.first_at, at, delivery.error, due_ms, delivery.since
        )
        self._pending.fail(delivery, trouble)
        lane = delivery.lane
        self.rest(lane.split(delivery) if len(delivery.entries) > 1 else [delivery], wait_s)

    def rest(self, deliveries: Sequence[Delivery], wait_s: float) -> None:
        """Have deliveries of one lane that rest sent again after ``wait_s`` seconds. A message that
        expires sooner rests until then: those behind it would wait for nothing."""
        if not deliveries[0].lane.expired.is_possible:
            Wait(deliveries, wait_s, self._is_rested)
            return
        due_s = asyncio.get_running_loop().time() + wait_s
        for delivery in deliveries:
            left_s = self._expiry.left_s(delivery, wait_s)
            Wait([delivery], left_s, partial(self._may_be_over, due_s))

    def _may_be_over(self, due_s: float, delivery: Delivery) -> None:
        """A delivery has rested until its message was to expire, or until ``due_s`` on the loop's
        clock. Where the message has not, since the members' clock fell behind with a renewal, it
        rests on: it must not be tried again before its time."""
        left_s = due_s - asyncio.get_running_loop().time()
        if left_s > 0 and not self._expiry.is_over(delivery):
            self.rest([delivery], left_s)
        else:
            self._is_rested(delivery)

    def rest_until(self, delivery: Delivery) -> None:
        """Have a delivery that failed under a former owner sent again when it is due."""
        self.rest([delivery], delivery.due_s - now_s())

    def give_up_before(self, lane: Lane, first: int) -> list[int]:
        """The log begins with ``first`` now: what rests before that ends its rest, since those
        behind it would wait for nothing. Return these messages; once they are not in memory either,
        they are found to be gone when they are to be read again."""
        gone = []
        for delivery in lane.window:
            if not delivery.is_redriven:
                if delivery.sequence >= first:
                    break
                if delivery.state is State.RESTING:
                    gone.append(delivery.sequence)
                    self._is_rested(delivery)
        return gone

    def _is_rested(self, delivery: Delivery) -> None:
        """Its time is over: make it ready, which its lane's order may still hold up."""
        if delivery.state is State.RESTING:
            delivery.apply(Event.DUE)
            self._keeper.touch(delivery.lane)
