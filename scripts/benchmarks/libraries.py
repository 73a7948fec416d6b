"""Lines 13 to 17: the Python library, both of its faces, beside raw sockets and its peers."""

from __future__ import annotations

from benchmarks import asking, publishing, receiving
from benchmarks.lines import Line, Plan


def measure(plan: Plan) -> list[Line]:
    """What a subscriber receives and weighs, what a publisher sends, and how long asking takes."""
    return [*receiving.measure(plan), *publishing.measure(plan), *asking.measure(plan)]
