"""Lanes and log messages for tests without any server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gearhorn.durable.lanes import Delivery, Lane
from gearhorn.durable.states import Event, LaneEvent, State
from gearhorn.messages.logs import FailureHistory, Info
from gearhorn.messages.subscriptions import DurableOptions
from gearhorn.store.log import Entry

EPOCH = "0123456789abcdef"
CLIENT = "me"


def entry(sequence: int, *exclude: str, epoch: str = EPOCH, payload: bytes = b"") -> Entry:
    """A message of the log."""
    return Entry(sequence, epoch, Info(0.0, exclude=exclude), payload or b"%d" % sequence)


def entries(first: int, last: int) -> list[Entry]:
    """The messages from the first to the last."""
    return [entry(sequence) for sequence in range(first, last + 1)]


def trouble(attempts: int, due_ms: int = 0, since: int = 0) -> FailureHistory:
    """What failed attempts left behind."""
    return FailureHistory(attempts, 5.0, 6.0, "disk full", due_ms, since)


def settling(position: int = 0, **options: Any) -> Lane:
    """A lane that was just acquired."""
    return Lane("t", CLIENT, b"t_me", DurableOptions(**options), False, 1, position)


def lane(position: int = 0, **options: Any) -> Lane:
    """A lane that delivers."""
    one = settling(position, **options)
    one.apply(LaneEvent.RELEASED)
    return one


def send(lane: Lane) -> list[Delivery]:
    """Send what may be sent."""
    sent = list(lane.sendable())
    for number, one in enumerate(sent):
        one.ship(("shipment", number), 0.0)
    lane.end_round()
    return sent


def finish(one: Delivery) -> None:
    """A delivery that is on its way is acknowledged."""
    one.apply(Event.COMPLETE)
    assert one.state is State.DONE
    one.lane.done(one)


def span(lane: Lane) -> int:
    """How many deliveries a window holds, those that are done behind an older one too."""
    return lane.active + lane.beyond


def sequences(deliveries: Iterable[Delivery]) -> list[list[int]]:
    """The messages of each delivery."""
    return [[one.sequence for one in delivery.entries] for delivery in deliveries]
