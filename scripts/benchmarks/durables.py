"""Lines 9 to 12: durable topics, each with a store that keeps an append-only file."""

from __future__ import annotations

from benchmarks import appending, deliveries, standing
from benchmarks.lines import Line, Plan


def measure(plan: Plan) -> list[Line]:
    """What is logged, what is delivered, what waits and what idles."""
    return [*appending.measure(plan), *deliveries.measure(plan), *standing.measure(plan)]
