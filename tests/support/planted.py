"""Faults in the code that delivers, each of which the model of deliveries has to find."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

from gearhorn.durable.expiry import Expiry
from gearhorn.durable.lanes import Delivery, Lane
from gearhorn.durable.latest import Latest
from gearhorn.durable.latest_lanes import LatestLane
from gearhorn.durable.outcomes import Outcomes
from gearhorn.durable.pending_writes import PendingWrites
from gearhorn.durable.retries import Retries
from gearhorn.durable.rounds import Rounds
from gearhorn.durable.shipping import Shipment
from gearhorn.durable.states import Event, State


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


def lanes_count_without_keeping_it(
    self: Lane, first: int, last: int, epoch: str, may_join: bool = True
) -> None:
    """What expired behind a delivery is counted, and not kept as done beyond the position."""


def writes_forget_what_expired(self: PendingWrites, lane: Lane, left: Any) -> None:
    """Who waits is not told of what was passed over, and its attempts stay."""


def latest_lanes_forget_what_is_older(self: LatestLane, value: Any) -> None:
    """What is newer takes the place of nothing."""


def latest_lanes_count_at_once(self: LatestLane, before: Any, count: int) -> None:
    """What is passed by is counted before the position moves over it."""
    self.skipped += count


def latest_lanes_try_again(self: Latest, lane: LatestLane) -> bool:
    """What fails is tried again behind what is newer."""
    lane.outdated.clear()
    return False


def latest_lanes_forget_what_was_done(self: LatestLane, info: Any, clock_ms: int) -> None:
    """What a former owner has delivered is not held against what is older."""


def latest_lanes_pass_by_the_newest(self: LatestLane, entry: Any, now_s: float, ms: int) -> bool:
    """What is newer is passed by for what is there."""
    value = self._value_of(entry.info)
    older = self._current.get(value)
    is_resting = LATEST_ADDS(self, entry, now_s, ms)
    if older is None or older.state is not State.READY:
        return is_resting
    newer = self._current.pop(value)
    self.give_way(newer)
    self._current[value] = older
    return False


def latest_lanes_send_two_of_a_value(self: LatestLane) -> set[Any]:
    """A newer message does not wait for an older one that is under way."""
    return set()


def latest_lanes_begin_before_it_is_told(
    self: LatestLane, delivery: Any, is_parked: bool = False
) -> None:
    """What is next is begun before the store has what was acknowledged."""
    LATEST_DONE(self, delivery, is_parked)
    self._is_told = True


RETRIES_REST = Retries.rest
ROUNDS_TAKE_REPLY = Rounds._take_reply
WRITES_FINISH = PendingWrites.finish
LATEST_ADDS = LatestLane._add_candidate
LATEST_DONE = LatestLane.done

FAULTS: dict[str, tuple[type, str, Any]] = {
    "retries: no rest": (Retries, "rest", retries_forget_to_rest),
    "rounds: a lost lane": (Rounds, "_take_reply", rounds_forget_who_lost),
    "rounds: nothing put back": (Rounds, "_put_back", rounds_forget_what_failed),
    "outcomes: the same TERM": (Outcomes, "_lose", outcomes_go_on_after_a_loss),
    "outcomes: late receivers": (Outcomes, "_unpark", outcomes_forget_late_receivers),
    "writes: out of order": (PendingWrites, "put_back", writes_out_of_order),
    "writes: no clearing": (PendingWrites, "finish", writes_forget_that_it_failed),
    "expiry: sent all the same": (Expiry, "is_over", expiry_overlooks_what_is_over),
    "expiry: counted twice": (Lane, "_count_beyond", lanes_count_without_keeping_it),
    "latest: everything is sent": (LatestLane, "_outdate", latest_lanes_forget_what_is_older),
    "latest: counted twice": (LatestLane, "_count", latest_lanes_count_at_once),
    "latest: tried again": (Latest, "_pass_by", latest_lanes_try_again),
    "latest: the newest": (LatestLane, "_add_candidate", latest_lanes_pass_by_the_newest),
    "latest: two at once": (LatestLane, "_busy_values", latest_lanes_send_two_of_a_value),
    "expiry: not told": (PendingWrites, "pass_over", writes_forget_what_expired),
}

RARE: dict[str, tuple[type, str, Any]] = {  # random steps seldom come to where these show
    "latest: a new owner": (LatestLane, "_heed_done", latest_lanes_forget_what_was_done),
    "latest: begun early": (LatestLane, "done", latest_lanes_begin_before_it_is_told),
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Have one of the faults."""
    owner, method, fault = (FAULTS | RARE)[name]
    with mock.patch.object(owner, method, fault):
        yield
