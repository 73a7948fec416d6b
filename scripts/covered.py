"""Which branches the tests take, folder by folder, and the floors: after ``coverage run``.

``scripts/test --coverage`` calls it. A worker that a test kills takes what it has measured with it,
so what runs only after such a death counts for less than is tested.
"""

from __future__ import annotations

import ast
import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import coverage

ROOT = Path(__file__).resolve().parents[1]
ALL = 92.0  # percent of the lines and branches of the package
PURE = 98.0  # percent of those of each pure module


def main() -> int:
    """Print the figures; 1 if one of them is below its floor."""
    measured = summaries()
    folders: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, summary in measured.items():
        folders[str(Path(name).parent)].append(summary)
    for folder, parts in sorted(folders.items()):
        print(f"{percent(parts):6.1f} %  {folder}/")
    total = percent(list(measured.values()))
    print(f"{total:6.1f} %  in all; at least {ALL:.0f} %")
    print(f"Pure modules; at least {PURE:.0f} % each:")
    is_low = total < ALL
    for name in pure_modules():
        found = percent([measured[name]]) if name in measured else 0.0
        print(f"{found:6.1f} %  {name}{'  TOO LOW' if found < PURE else ''}")
        is_low = is_low or found < PURE
    return int(is_low)


def summaries() -> dict[str, dict[str, Any]]:
    """The counts of each file, by its path from the root of the checkout."""
    data = coverage.Coverage()
    data.load()
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        data.json_report(outfile=str(report))
        files = json.loads(report.read_text())["files"]
    return {name: entry["summary"] for name, entry in files.items()}


def percent(parts: list[dict[str, Any]]) -> float:
    """How much of what can be taken was taken: lines and branches together."""
    taken = sum(part["covered_lines"] + part["covered_branches"] for part in parts)
    there = sum(part["num_statements"] + part["num_branches"] for part in parts)
    return 100.0 * taken / there if there else 100.0


def pure_modules() -> list[str]:
    """The modules whose docstring says under "Rules" that they are pure."""
    found = []
    for path in sorted((ROOT / "gearhorn").rglob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if "\nRules: pure" in text:
            found.append(str(path.relative_to(ROOT)))
    return found


if __name__ == "__main__":
    sys.exit(main())
