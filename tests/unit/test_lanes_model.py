"""What a durable subscription promises, whatever happens; and that the model which says so finds
faults in the code that it drives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from support.delivery_model import Promise, PromiseOfLatest
from support.planted import FAULTS, planted

from gearhorn.messages.subscriptions import DurableOptions

STEPS = 30
# the same examples every time, as a failure elsewhere is to say something of what was changed there
Promise.TestCase.settings = settings(
    max_examples=100, stateful_step_count=STEPS, deadline=None, derandomize=True
)
TestPromise: Any = Promise.TestCase


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str) -> None:
    found = settings(
        max_examples=2000,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        print_blob=False,
        phases=[Phase.generate],  # the first example will do: none has to be the simplest
        suppress_health_check=list(HealthCheck),
    )
    model = PromiseOfLatest if name.startswith("latest") else Promise
    with planted(name), pytest.raises(AssertionError):
        run_state_machine_as_test(model, settings=found)


USUAL: dict[str, Any] = {
    **{"published": [], "ends": [], "taken": 0, "which": 0, "accident": "", "accepted": 9},
    **{"seconds": 0, "expires_s": 0, "is_watched": True},
}


def go_through(options: list[DurableOptions], *steps: dict[str, Any]) -> None:
    """Take these steps; what they do not name is as usual."""
    state = Promise()
    try:
        state.begin(options=options)
        for step in steps:
            state.go_on(**USUAL | step)
    finally:
        state.teardown()


def acknowledge_in_a_round() -> None:
    """A receiver acknowledges the first of two messages after its time, while a round is under way
    that has the second one in memory."""
    go_through(
        [
            DurableOptions(timeout=10.0, max_attempts=0, latest="k"),
            DurableOptions(timeout=10.0, max_attempts=0, in_flight=4),  # reads ahead
        ],
        {"taken": 4},
        {"published": [False], "value": "b"},
        {"accident": "slow", "seconds": 11, "is_watched": False},
        {"ends": [True]},
    )


def lose_a_lane_behind_which_the_newest_is_done() -> None:
    """Behind a message of another value the newer one of two is acknowledged, and another member
    takes the lane before the position has moved over the older one."""
    go_through(
        [DurableOptions(timeout=10.0, latest="k", in_flight=2), DurableOptions(timeout=10.0)],
        {"taken": 4},
        {"ends": [True]},
        {"published": [False], "value": "b"},
        {"published": [False, False], "value": "a", "taken": 4},
        {"taken": 4, "ends": [True], "which": 2},
        {"accident": "steal", "seconds": 11},
    )


@pytest.mark.parametrize(
    ("name", "happens", "text"),
    [
        ("latest: begun early", acknowledge_in_a_round, "is not done"),
        (
            "latest: a new owner",
            lose_a_lane_behind_which_the_newest_is_done,
            "something newer was sent before",
        ),
    ],
)
def test_a_rare_fault_is_found_where_it_shows(
    name: str, happens: Callable[[], None], text: str
) -> None:
    happens()
    with planted(name), pytest.raises(AssertionError, match=text):
        happens()
