"""A change is drained by the member that this worker is when it is written."""

from __future__ import annotations

from gearhorn.members.change_requests import Request
from gearhorn.store.subscriptions import Change


def test_a_drain_is_done_under_the_id_that_the_worker_has_by_then() -> None:
    request = Request(None, Change("unsubscribe", "t", "c", b"t_c", drainer="former"))
    name = request.change.request
    request.drain_as("present")
    assert request.change.drainer == "present"
    assert request.change.request == name, "the store knows it by that"


def test_what_is_not_drained_stays_so() -> None:
    request = Request(None, Change("unsubscribe", "t", "c", b"t_c"))
    request.drain_as("present")
    assert not request.change.drainer
