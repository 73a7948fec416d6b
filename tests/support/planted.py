"""Faults in the code that delivers, each of which the model of deliveries has to find."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

from gearhorn.durable.expiry import Expiry
from gearhorn.durable.lanes import Delivery, Lane
from gearhorn.durable.outcomes import Outcomes
from gearhorn.durable.pending_writes import PendingWrites
from gearhorn.durable.retries import Retries
from gearhorn.durable.rounds import Rounds
from gearhorn.durable.shipping import Shipment
from gearhorn.durable.states import Event


def retries_forget_to_rest(self: Retries, deliveries: Sequence[Delivery], wait_s: float) -> None:
    """A failed message is tried again at once."""
    RETRIES_REST(self, deliveries, 0.0)


def rounds_forget_who_lost(
    self: Rounds, lanes: Iterable[Lane], taken: Any, written: Iterable[Any], reply: Any
) -> None:
    """What the store says of lanes that are another's is not heard."""
    ROUNDS_TAKE_REPLY(self, lanes, taken, written, reply._replace(fenced=set()))


def rounds_forget_what_failed(self: Rounds, lane: Lane, writes: list[Any]) -> None:
    """What a round could not write is not written by another."""


def outcomes_go_on_after_a_loss(
    self: Outcomes, delivery: Delivery, shipment: Shipment, index: int
) -> None:
    """A job whose server went away is sent again under the same TERM, with nobody asked."""
    if delivery.job == (shipment, index):
        delivery.unship(Event.LOSE)
        delivery.lane.keeper.touch(delivery.lane)


def outcomes_forget_late_receivers(self: Outcomes, delivery: Delivery) -> None:
    """Who acknowledges after its time is not heard where the message was set aside."""


def writes_out_of_order(self: PendingWrites, lane: Lane, writes: list[Any]) -> None:
    """What was not written is written after what came later."""
    self.lanes[lane] = self.lanes.get(lane, []) + writes


def writes_forget_that_it_failed(
    self: PendingWrites, delivery: Delivery, is_parked: bool, is_expired: bool = False
) -> None:
    """What failed attempts left behind stays when the message is done."""
    failures = delivery.failures
    with mock.patch.object(delivery, "failures", 0) if failures else mock.MagicMock():
        WRITES_FINISH(self, delivery, is_parked, is_expired)


def expiry_overlooks_what_is_over(self: Expiry, delivery: Delivery) -> bool:
    """What has expired is sent all the same."""
    return False


def lanes_count_without_keeping_it(self: Lane, first: int, last: int, epoch: str) -> None:
    """What expired behind a delivery is counted, and not kept as done beyond the position."""


def writes_forget_what_expired(self: PendingWrites, lane: Lane, left: Any) -> None:
    """Who waits is not told of what was passed over, and its attempts stay."""


RETRIES_REST = Retries.rest
ROUNDS_TAKE_REPLY = Rounds._take_reply
WRITES_FINISH = PendingWrites.finish

FAULTS: dict[str, tuple[type, str, Callable[..., Any]]] = {
    "retries: no rest": (Retries, "rest", retries_forget_to_rest),
    "rounds: a lost lane": (Rounds, "_take_reply", rounds_forget_who_lost),
    "rounds: nothing put back": (Rounds, "_put_back", rounds_forget_what_failed),
    "outcomes: the same TERM": (Outcomes, "_lose", outcomes_go_on_after_a_loss),
    "outcomes: late receivers": (Outcomes, "_unpark", outcomes_forget_late_receivers),
    "writes: out of order": (PendingWrites, "put_back", writes_out_of_order),
    "writes: no clearing": (PendingWrites, "finish", writes_forget_that_it_failed),
    "expiry: sent all the same": (Expiry, "is_over", expiry_overlooks_what_is_over),
    "expiry: counted twice": (Lane, "_count_beyond", lanes_count_without_keeping_it),
    "expiry: not told": (PendingWrites, "pass_over", writes_forget_what_expired),
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Have one of the faults."""
    owner, method, fault = FAULTS[name]
    with mock.patch.object(owner, method, fault):
        yield
