"""What a durable subscription promises, whatever happens; and that the model which says so finds
faults in the code that it drives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from support.delivery_model import Promise
from support.planted import FAULTS, planted

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
    with planted(name), pytest.raises(AssertionError):
        run_state_machine_as_test(Promise, settings=found)
