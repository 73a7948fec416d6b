"""Lines of the result: figures of several rounds, set against the ceiling and a target."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

RATE, TIME, SIZE = "per second", "seconds", "bytes"


@dataclass(frozen=True, slots=True)
class Target:
    """What the issue asks: ``measured`` at least or at most ``bound``, in ``unit``."""

    measured: float
    bound: float
    unit: str
    at_least: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the target is met, without any allowance."""
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g} {self.unit}".rstrip()


@dataclass(slots=True)
class Line:
    """One line. ``kind`` is RATE, TIME or SIZE; rounds are in its unit.

    ``ceilings`` are copies/s of the first line, one per round. A rate's ratio is to those; a
    time's is how many copies the ceiling takes meanwhile.
    """

    section: str
    name: str
    kind: str
    rounds: list[float] = field(default_factory=list)
    ceilings: list[float] = field(default_factory=list)
    busy: list[Mapping[str, float]] = field(default_factory=list)
    target: Target | None = None
    note: str = ""

    def add(
        self,
        value: float,
        ceiling: float | None = None,
        busy: Mapping[str, float] | None = None,
    ) -> None:
        """Add a round."""
        self.rounds.append(value)
        if ceiling is not None:
            self.ceilings.append(ceiling)
        if busy is not None:
            self.busy.append(busy)

    @property
    def value(self) -> float | None:
        """The median of the rounds."""
        return median(self.rounds) if self.rounds else None

    @property
    def ratio(self) -> float | None:
        """The median of every round's ratio to the ceiling of that round."""
        if not self.ceilings:
            return None
        pairs = zip(self.rounds, self.ceilings, strict=True)
        return median(v * c if self.kind == TIME else v / c for v, c in pairs)

    @property
    def shares(self) -> dict[str, float]:
        """The median share of a core of each process that was looked at."""
        shares = defaultdict(list)
        for one in self.busy:
            for name, share in one.items():
                shares[name].append(share)
        return {name: median(values) for name, values in shares.items()}

    def aim(self, bound: float) -> None:
        """Set the target of a rate: a ratio to the ceiling."""
        if self.ratio is not None:
            self.target = Target(self.ratio, bound, "of line 1", at_least=True)

    def data(self) -> dict[str, Any]:
        """The line as JSON."""
        target = self.target and {
            "asked": str(self.target),
            "measured": self.target.measured,
            "ok": self.target.is_met,
        }
        return {
            "section": self.section,
            "name": self.name,
            "unit": self.kind,
            "median": self.value,
            "min": min(self.rounds, default=None),
            "max": max(self.rounds, default=None),
            "ratio_to_line_1": self.ratio,
            "target": target,
            "rounds": self.rounds,
            "line_1_in_the_same_rounds": self.ceilings,
            "busy": self.shares,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure: rounds, and ``amount`` of everything that is counted in a round.

    ``versions`` takes those that only a running program tells.
    """

    rounds: int
    amount: float
    versions: dict[str, str] = field(default_factory=dict)

    def count(self, full: int) -> int:
        """How many instead of ``full``, at least one."""
        return max(1, round(full * self.amount))


def percentile(values: list[float], percent: int) -> float:
    """The value that ``percent`` per cent do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
