"""``scripts/bench --against PATH``: this checkout beside another one, line by line.

Rules: each checkout is measured by its own scripts, in processes of their own, with the Python of
this one. Groups and rounds alternate, one round of the other checkout and one of this; a line's
ratio is made within each pair of rounds, of what both are to their ceilings where they have any.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.lines import RATE

Key = tuple[str, str]  # a line's section and name


class Figure(NamedTuple):
    """One round of one line; ``to_ceiling`` is what the round is compared by, ``cpu`` how much of a
    core the worker used for as much as it did in a second."""

    value: float
    to_ceiling: float
    cpu: float | None


class Pairs:
    """The rounds of every line that both checkouts have: of the other one, and of this one."""

    def __init__(self) -> None:
        self.pairs: dict[Key, list[tuple[Figure, Figure]]] = {}
        self._units: dict[Key, str] = {}

    def add(self, other: dict[str, Any], this: dict[str, Any]) -> None:
        """Take a round of both, as the JSON that ``report.write`` makes."""
        before, after = (_figures(result) for result in (other, this))
        self._units |= {(line["section"], line["name"]): line["unit"] for line in this["lines"]}
        for key in after:
            if key in before:
                self.pairs.setdefault(key, []).append((before[key], after[key]))

    def ratios(self, key: Key) -> list[float]:
        """Return how much better this checkout is, round by round: above 1 is faster or smaller."""
        return [
            after.to_ceiling / before.to_ceiling
            if self._units[key] == RATE
            else before.to_ceiling / after.to_ceiling
            for before, after in self.pairs[key]
        ]

    def cpu(self, key: Key) -> float | None:
        """Return the same of the worker's processor time; None where it is not told."""
        rounds = [
            before.cpu / after.cpu for before, after in self.pairs[key] if before.cpu and after.cpu
        ]
        return median(rounds) if rounds and self._units[key] == RATE else None

    def show(self, console: Console, path: Path) -> None:
        """Print the table."""
        table = Table(title=f"this checkout against {path}", title_justify="left")
        table.add_column("")
        for name in ("there", "here", "ratio", "min - max", "CPU", "rounds"):
            table.add_column(name, justify="right", no_wrap=True)
        for key, pairs in self.pairs.items():
            ratios, cpu = self.ratios(key), self.cpu(key)
            table.add_row(
                f"{key[0].partition(',')[0]}: {key[1]}",
                *(f"{median(pair[side].value for pair in pairs):,.4g}" for side in (0, 1)),
                f"{median(ratios):.3f}",
                f"{min(ratios):.2f} - {max(ratios):.2f}",
                "" if cpu is None else f"{cpu:.3f}",
                str(len(pairs)),
            )
        console.print(table)
        console.print(
            "Above 1 is better here: more in a second (ratio) or in a second of the worker's "
            "processor time (CPU), or less time or memory."
        )


def compare(path: Path, groups: Sequence[str], rounds: int, more: Sequence[str]) -> Pairs:
    """Measure both checkouts; ``more`` are options of both. What one of them cannot measure, such
    as a group that a former release does not have, is told and left out."""
    here = Path(__file__).resolve().parents[2]
    pairs = Pairs()
    for group in groups:
        try:
            for number in range(1, rounds + 1):
                print(f"{group}, round {number}", file=sys.stderr, flush=True)
                pairs.add(*(_measured(root.resolve(), group, more) for root in (path, here)))
        except RuntimeError as error:
            print(f"{group} is left out: {error}", file=sys.stderr, flush=True)
    return pairs


def _measured(root: Path, group: str, more: Sequence[str]) -> dict[str, Any]:
    """Return the result of one round of one group."""
    parts = (root / "scripts", root / "tests", root)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = ["--rounds", "1", "--only", group, "--json", str(result), *more]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", *command],
            cwd=root,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, parts))},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{root}: {group} ended with {done.returncode}: {done.stderr}")
        measured: dict[str, Any] = json.loads(result.read_text())
        return measured


def _figures(result: dict[str, Any]) -> dict[Key, Figure]:
    """Return the lines of one round that have a figure."""
    figures = {}
    for line in result["lines"]:
        value, worker = line["median"], line["busy"].get("worker")
        if value:
            cpu = worker / value if worker else None
            figures[line["section"], line["name"]] = Figure(
                value, line["ratio_to_line_1"] or value, cpu
            )
    return figures
