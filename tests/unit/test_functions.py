"""Which part handles the jobs of which function, and on which kind of connection."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gearhorn.broker.functions import Functions
from gearhorn.config import Config

NAMES = ("fanout", "subscribe", "register", "unsubscribe", "describe", "retain", "fetch", "parked")
CONFIG = Config(servers=(("a", 1),), **{f"{name}_function": f"my_{name}" for name in NAMES})  # type: ignore[arg-type]
HANDLERS = {
    "fanout": ("fanouts", "fanouts.handle"),
    "subscribe": ("changes", "changes.subscribe"),
    "register": ("changes", "changes.subscribe"),
    "unsubscribe": ("changes", "changes.unsubscribe"),
    "describe": ("changes", "descriptions.handle"),
    "retain": ("changes", "changes.retain"),
    "fetch": ("readings", "fetching.handle"),
    "parked": ("readings", "parked.handle"),
}


class FakeIntake:
    """Notes what is served."""

    fanouts, changes, readings = "fanouts", "changes", "readings"

    def __init__(self) -> None:
        self.served: dict[bytes, tuple[str, Any]] = {}
        self.longest: dict[str, int] = {}

    def serve(
        self, kind: str, functions: list[bytes], handler: Any, *, request_bytes: int, in_hand: int
    ) -> None:
        self.served |= dict.fromkeys(functions, (kind, handler))
        self.longest[kind] = request_bytes
        assert in_hand > 0


def served() -> tuple[FakeIntake, list[str]]:
    intake, called = FakeIntake(), list[str]()

    def part(name: str, *methods: str) -> Any:
        calls = {
            method: lambda _, text=f"{name}.{method}": called.append(text) for method in methods
        }
        return SimpleNamespace(**calls)

    Functions(CONFIG).serve(
        intake,  # type: ignore[arg-type]
        fanouts=part("fanouts", "handle"),
        changes=part("changes", "subscribe", "unsubscribe", "retain"),
        descriptions=part("descriptions", "handle"),
        fetching=part("fetching", "handle"),
        parked=part("parked", "handle"),
    )
    return intake, called


@pytest.mark.parametrize("name", NAMES)
def test_a_job_goes_to_the_part_that_handles_its_function(name: str) -> None:
    intake, called = served()
    function = f"my_{name}".encode()
    kind, handler = intake.served[function]
    handler(SimpleNamespace(function=function))
    assert (kind, *called) == HANDLERS[name]


def test_every_function_that_is_served_is_reserved() -> None:
    intake, _ = served()
    assert Functions(CONFIG).all == set(intake.served) == {f"my_{n}".encode() for n in NAMES}


def test_a_fanout_may_be_as_long_as_an_escaped_payload() -> None:
    intake, _ = served()
    assert intake.longest["fanouts"] >= 6 * CONFIG.max_payload
    assert intake.longest["changes"] == intake.longest["readings"] < CONFIG.max_payload
