"""The tables of docs/performance.rst are what docs/performance.json says."""

from __future__ import annotations

import json
from typing import Any

import performance
import pytest


def result(**line: Any) -> dict[str, Any]:
    """A result with one line."""
    plain = {"section": "1 Some", "name": "one*", "unit": "per second", "median": 1234.4}
    plain |= {"min": 1000.0, "max": 2000.0, "ratio_to_line_1": 0.955, "note": "", "target": None}
    return {
        "versions": {"date": "2026-01-02T03:04:05", "python": "3.11.2", "nats-server": None},
        "settings": {"rounds": 5, "quick": False, "neighbours_cores": {"fanout": 0.24}},
        "lines": [plain | line],
        "targets_missed": [],
    }


def test_the_document_has_the_figures_of_the_result() -> None:
    document = performance.DOCUMENT.read_text()
    measured = json.loads(performance.RESULT.read_text())
    assert document == performance.replace(document, measured), "run scripts/performance"


def test_a_table_has_the_figures_and_no_markup_of_a_name() -> None:
    text = performance.tables(result())
    assert "1 Some\n------\n" in text
    assert "    * - one\\*\n      - 1,234/s\n      - 1,000/s to 2,000/s\n      - 96%\n" in text
    assert text.startswith("Measured on 2026-01-02, medians of 5 rounds: Python 3.11.2. Other")
    assert "0 of 0 targets were met.\n" in text


def test_a_target_that_was_missed_is_named() -> None:
    run = result(target={"asked": "≥ 0.9 of line 1", "measured": 0.8, "ok": False})
    text = performance.tables(run | {"targets_missed": ["1 Some one*"]})
    assert "0 of 1 targets were met. Missed: 1 Some one\\*.\n" in text
    assert "      - ≥ 0.9 of line 1: missed\n" in text


def test_figures_of_a_machine_that_is_not_idle_are_provisional() -> None:
    run = result()
    idle = run | {"settings": run["settings"] | {"neighbours_cores": {"fanout": 0.1}}}
    assert "**Provisional**" in performance.tables(run)
    assert "**Provisional**" not in performance.tables(idle)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ({"unit": "seconds", "median": 0.0015, "ratio_to_line_1": 300.2}, "- 1.50 ms"),
        ({"unit": "seconds", "median": 0.0015, "ratio_to_line_1": 300.2}, "- 300 copies"),
        ({"unit": "bytes", "median": 1024}, "- 1,024 B"),
        ({"median": None, "min": None, "max": None, "ratio_to_line_1": None}, "- not measured\n"),
    ],
)
def test_a_figure_has_its_unit(line: dict[str, Any], shown: str) -> None:
    assert shown in performance.tables(result(**line))


def test_a_document_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="tables begin"):
        performance.replace("no marks", result())
