"""``scripts/performance``: writes the tables of docs/performance.rst from docs/performance.json.

What stands between the two marks of the document is replaced, the prose around them stays.
``tests/unit/test_performance.py`` holds both files equal.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "docs" / "performance.json"
DOCUMENT = ROOT / "docs" / "performance.rst"
IDLE = 0.2  # processors that other programs may use while a release is measured
BEGIN, END = ".. tables begin\n", ".. tables end\n"
# what takes part in a run, in the order in which it is named; the keys of "versions" in the result
PARTS = (
    ("gearhorn", "gearhorn"),
    ("commit", "commit"),
    ("Python", "python"),
    ("gearmand", "gearmand"),
    ("Redis", "redis-server"),
    ("NATS", "nats-server"),
    ("RabbitMQ", "RabbitMQ"),
    ("Celery", "celery"),
    ("kernel", "kernel"),
    ("processor", "cpu"),
    ("processors", "cpus"),
)


def tables(result: dict[str, Any]) -> str:
    """Return the generated part of the document: the machine, then one table for each section."""
    blocks = [_about(result)]
    sections: dict[str, list[dict[str, Any]]] = {}
    for line in result["lines"]:
        sections.setdefault(line["section"], []).append(line)
    for title, lines in sections.items():
        blocks.append(f"{title}\n{'-' * len(title)}\n\n{_table(lines)}")
    return "\n".join(blocks)


def replace(document: str, result: dict[str, Any]) -> str:
    """Return the document with its tables made anew; raises ``ValueError`` without its marks."""
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"expected {BEGIN.strip()!r} and {END.strip()!r} in {DOCUMENT.name}")
    return f"{head}{begin}\n{tables(result)}\n{end}{tail}"


def _about(result: dict[str, Any]) -> str:
    versions, settings = result["versions"], result["settings"]
    known = [f"{name} {versions[key]}" for name, key in PARTS if versions.get(key)]
    rounds = f"medians of {settings['rounds']} rounds"
    short = ", with a quarter of the messages (``--quick``)" if settings["quick"] else ""
    text = f"Measured on {str(versions['date'])[:10]}, {rounds}{short}: {', '.join(known)}."
    used = max(settings.get("neighbours_cores", {}).values(), default=0.0)
    text += f" Other programs used up to {used:.1f} processors meanwhile."
    if settings["quick"] or used > IDLE:
        text += " **Provisional**: a release is measured in full, on a machine that is idle."
    return f"{textwrap.fill(text, 100)}\n\n{_targets(result)}"


def _targets(result: dict[str, Any]) -> str:
    """Return how many of the project's own targets were met, and the names of the others."""
    count = sum(line["target"] is not None for line in result["lines"])
    missed = result["targets_missed"]
    text = f"{count - len(missed)} of {count} targets were met."
    if missed:
        text += f" Missed: {'; '.join(map(_plain, missed))}."
    return textwrap.fill(text, 100, break_on_hyphens=False) + "\n"


def _table(lines: list[dict[str, Any]]) -> str:
    rows = [["", "Median", "Range", "Of line 1", "Target", "Remarks"]]
    rows += [
        [
            _plain(line["name"]),
            _figure(line["median"], line["unit"]),
            _span(line),
            _ratio(line),
            _target(line),
            _plain(line["note"]),
        ]
        for line in lines
    ]
    text = ".. list-table::\n    :header-rows: 1\n\n"
    for row in rows:
        for position, cell in enumerate(row):
            mark = "    * - " if position == 0 else "      - "
            filled = textwrap.fill(
                cell, 100, initial_indent=mark, subsequent_indent=" " * 8, break_on_hyphens=False
            )
            text += (filled or mark).rstrip() + "\n"
    return text


def _plain(text: str) -> str:
    """Return text that reStructuredText takes as it is."""
    return "".join(f"\\{char}" if char in "\\*`_|" else char for char in text)


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return "not measured"
    match unit:
        case "per second":
            return f"{value:,.0f}/s"
        case "bytes":
            return f"{value:,.0f} B"
    return f"{value * 1000:,.2f} ms"


def _span(line: dict[str, Any]) -> str:
    if line["min"] is None:
        return ""
    return f"{_figure(line['min'], line['unit'])} to {_figure(line['max'], line['unit'])}"


def _ratio(line: dict[str, Any]) -> str:
    ratio = line["ratio_to_line_1"]
    if ratio is None:
        return ""
    return f"{ratio:,.0f} copies" if line["unit"] == "seconds" else f"{ratio:.0%}"


def _target(line: dict[str, Any]) -> str:
    target = line["target"]
    if target is None:
        return ""
    return f"{_plain(target['asked'])}: {'met' if target['ok'] else 'missed'}"


def main() -> None:
    """Rewrite the document."""
    result = json.loads(RESULT.read_text())
    DOCUMENT.write_text(replace(DOCUMENT.read_text(), result))


if __name__ == "__main__":
    main()
