"""The result for people, a table, and for programs, JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.lines import RATE, SIZE, TIME, Line

NOTES = """\
Medians of {rounds} rounds; ceiling and gearhorn alternate round by round. Payloads are 100 bytes
unless a line says otherwise.
ratio   of a rate: to line 1 in the same round, to the same queues or else to 100 queues;
        of a time: how many copies line 1 sends meanwhile.
busy    share of a core that a process used meanwhile: one near 100 % is what bounds the line; where
        none is, it is the way there and back between them.
Line 1 and gearhorn have the same window of 256 copies and 1 MiB unanswered. The queues have no
receivers while copies are counted; afterwards they are drained, and have to hold exactly as many.
The stranger of line 2 has its own connection and receiver, and pauses 0 to 2 ms between jobs.
In lines 9, 10, 13 and 16 the ratio is to the section's first line in the same round."""


def show(
    lines: Sequence[Line],
    versions: Mapping[str, Any],
    rounds: int,
    neighbours: Mapping[str, float],
    console: Console,
) -> None:
    """Print the table."""
    table = Table(title="gearhorn against its ceiling", title_justify="left", highlight=False)
    table.add_column("")
    for name in ("median", "min - max", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("target", "", "busy, remarks"):
        table.add_column(name)
    section = None
    for line in lines:
        if line.section != section:
            section = line.section
            table.add_section()
            table.add_row(Text(section, style="bold"))
        table.add_row(*_cells(line))
    console.print(table)
    console.print(NOTES.format(rounds=rounds), highlight=False)
    used = ", ".join(f"{name} {cores:.1f}" for name, cores in neighbours.items())
    console.print(f"Cores that other programs used meanwhile: {used}.", highlight=False)
    known = [f"{name} {value or 'none'}" for name, value in versions.items()]
    console.print(" · ".join(known), highlight=False)
    targets = [(line, line.target) for line in lines if line.target]
    missed = [f"{line.section}: {line.name}" for line, target in targets if not target.is_met]
    console.print(f"{len(targets) - len(missed)} of {len(targets)} targets are met.")
    for name in missed:
        console.print(f"MISSED: {name}", style="red", highlight=False)


def _cells(line: Line) -> tuple[str | Text, ...]:
    if line.value is None:
        return (f"  {line.name}", "-", "-", "-", "", "", line.note)
    ratio = "-" if line.ratio is None else _ratio(line.ratio, line.kind)
    busy = ", ".join(f"{name} {share:.0%}" for name, share in line.shares.items())
    remarks = "; ".join(filter(None, (busy, line.note)))
    span = f"{_figure(min(line.rounds), line.kind)} - {_figure(max(line.rounds), line.kind)}"
    target, verdict = "", Text()
    if line.target:
        target = str(line.target)
        verdict = Text("ok", "green") if line.target.is_met else Text("MISSED", "bold red")
    return (
        f"  {line.name}", _figure(line.value, line.kind), span, ratio, target, verdict, remarks,
    )  # fmt: skip


def _figure(value: float, kind: str) -> str:
    if kind == RATE:
        return f"{value:,.0f}"
    if kind == SIZE:
        return f"{value:,.0f} B"
    return f"{value * 1000:.2f} ms"


def _ratio(ratio: float, kind: str) -> str:
    return f"{ratio:,.0f} copies" if kind == TIME else f"{ratio:.3f}"


def write(
    path: Path, lines: Sequence[Line], versions: Mapping[str, Any], **settings: object
) -> None:
    """Write JSON; directories are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "versions": versions,
        "settings": settings,
        "lines": [line.data() for line in lines],
        "targets_missed": [
            f"{line.section} {line.name}"
            for line in lines
            if line.target and not line.target.is_met
        ],
    }
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
