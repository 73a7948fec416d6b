"""Expiry: has nothing begun with a message whose time is over.

Theory of operation. A publisher may give a message an end (``expires``), as a reading of the
members' clock. Most messages that expire do so in the log, behind a lane that stands still; the
lane passes over them as it takes messages (``Lane.take``). The others have a delivery already, and
a delivery is in one of these places when its end comes:

* It is *ready*: it waits for its turn, or for a job server. It is looked at before it is sent
  (``sweep``), twice in each round, since a round takes time.
* It *rests* after a failed attempt. Its rest ends with its time (``rest_s``): with strict order the
  messages behind it would wait for an attempt that is never made.
* Its job is on the queue, and *no receiver has it*: the usual case of a receiver that is away. At
  the end its job server is asked (``watch``), and the job is withdrawn; what was withdrawn is
  ready. The job watcher asks again where no answer came.
* A receiver *has* it: it was begun, and goes on. If it fails, it rests until now.

A batch of which some messages have expired is split, and its other messages are sent one by one.

Rules: runs on the event loop. A lane that has never taken a message which expires is not looked at
(``Expired.is_possible``). See docs/protocol.rst, "Expiry".
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from math import inf

from gearhorn.durable.keeper import Keeper
from gearhorn.durable.lanes import Delivery, Lane
from gearhorn.durable.pending_writes import PendingWrites
from gearhorn.durable.shipping import Shipping
from gearhorn.durable.states import Event
from gearhorn.timing import MembersClock

MARGIN_S = 0.002  # the clock is read in whole milliseconds
SPREAD_S = 0.1  # 10,000 lanes whose receivers are away ask for one message's jobs within that time
SWEPT = 500  # deliveries in one go: 5 ms; the others are not sent, and wait for another round


class Expiry:
    """Has deliveries done whose messages expired before they were begun.

    Arguments:
        pending: is told what the store, and processes that wait, have to know.
        shipping: asks job servers for jobs, and hears no more of those that are over.
        keeper: works lanes off.
        clock: the members', by which messages expire.
    """

    def __init__(
        self, pending: PendingWrites, shipping: Shipping, keeper: Keeper, clock: MembersClock
    ) -> None:
        self._pending = pending
        self._shipping = shipping
        self._keeper = keeper
        self._clock = clock

    def is_over(self, delivery: Delivery) -> bool:
        """Whether a delivery has a message that has expired."""
        end_ms = delivery.lane.expired.is_possible and end_of(delivery)
        return bool(end_ms) and end_ms <= self._clock.clock_ms

    def left_s(self, delivery: Delivery, limit_s: float) -> float:
        """Return in how many seconds the first message of a delivery expires, or ``limit_s`` where
        that is less."""
        end_ms = end_of(delivery)
        if not end_ms:
            return limit_s
        return min(limit_s, max(0.0, (end_ms - self._clock.clock_ms) / 1000) + MARGIN_S)

    def ask_in_s(self, delivery: Delivery) -> float | None:
        """Return in how many seconds to ask whether a receiver has taken a delivery that was just
        sent; None where none of its messages expires."""
        if not end_of(delivery):
            return None
        return self.left_s(delivery, inf) + SPREAD_S * random.random()

    def passed(self, lane: Lane) -> None:
        """Messages that leave something expired before the lane took them."""
        self._pending.pass_over(lane, lane.expired.take_left())

    def sweep(self, lane: Lane) -> None:
        """Have those deliveries of a lane done that might be sent now, but have expired."""
        over = [delivery for delivery in lane.sendable() if self.is_over(delivery)]
        for delivery in over[:SWEPT]:
            deliveries: Iterable[Delivery] = [delivery]
            if len(delivery.entries) > 1:
                deliveries = lane.split(delivery)
            for single in deliveries:
                if self.is_over(single):
                    self._lapse(single)
        if over:
            self._keeper.touch(lane)  # there is room, more of them, or a batch to be read again

    def _lapse(self, delivery: Delivery) -> None:
        """Have a delivery of one message done. The position and the count go to the store together,
        and former receivers are not heard any more."""
        delivery.apply(Event.LAPSE)
        self._pending.finish(delivery, is_parked=False, is_expired=True)
        delivery.lane.expired.add(len(delivery.entries))
        delivery.lane.done(delivery)
        delivery.end()
        self._shipping.forget(delivery)


def end_of(delivery: Delivery) -> int:
    """Return when the first message of a delivery expires, on the members' clock in milliseconds; 0
    where none does."""
    ends = [entry.info.expires_ms for entry in delivery.entries if entry.info.expires_ms]
    return min(ends, default=0)
