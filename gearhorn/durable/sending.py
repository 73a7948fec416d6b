"""Sending: what lanes may send now, handed to the job servers together.

Rules: runs on the event loop, in one go. A lane sends what its order allows (``Lane.sendable``),
unless the job servers have enough to take already (``Shipping.is_full``); one that was held up is
worked off again when they have taken it. What one lane sends is bounded by what it has read.
"""

from __future__ import annotations

from gearhorn.durable.lanes import Delivery, Lane
from gearhorn.durable.outcomes import Outcomes


class Sending:
    """Sends for one lane after the other.

    Arguments:
        outcomes: ships deliveries, and knows which have expired.
    """

    def __init__(self, outcomes: Outcomes) -> None:
        self._outcomes = outcomes
        self._expiring: list[Delivery] = []  # that were added, of lanes with messages that expire

    def add(self, lane: Lane) -> None:
        """Have sent with the next ``ship`` what a lane may send; a job server must be up."""
        if lane.expired.is_possible:
            self._add_expiring(lane)
            return
        shipping = self._outcomes.shipping
        if shipping.is_full:
            self._outcomes.hold_up(lane)
            return
        for delivery in lane.sendable():
            if not delivery.is_bare:
                shipping.add(delivery)

    def _add_expiring(self, lane: Lane) -> None:
        """The same for a lane with messages that expire: the round has taken its time, so they are
        looked at once more."""
        shipping, expiry = self._outcomes.shipping, self._outcomes.expiry
        expiry.sweep(lane)
        if shipping.is_full:
            self._outcomes.hold_up(lane)
            return
        for delivery in lane.sendable():
            if not (delivery.is_bare or expiry.is_over(delivery)):
                shipping.add(delivery)
                self._expiring.append(delivery)

    def ship(self, at_s: float) -> None:
        """Hand over what was added; ``at_s`` is when it counts as sent."""
        self._outcomes.shipping.ship(at_s)
        if self._expiring:
            expiring, self._expiring = self._expiring, []
            self._outcomes.watch(expiring)
