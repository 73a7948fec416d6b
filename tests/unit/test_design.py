"""docs/design.rst names files that are there, and a test for every kind of fault."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "design.rst").read_text()
KINDS = TEXT.partition(":name: kinds")[2].partition("\n\n\n")[0].partition("\nWhat is bounded")[0]
ROWS = re.split(r"^    \* - ", KINDS, flags=re.M)[2:]
FILE = re.compile(r"``([\w/]+\.(?:py|lua))``")


def cells(row: str) -> list[str]:
    return [" ".join(cell.split()) for cell in re.split(r"^      - ", row, flags=re.M)]


def test_the_table_has_every_kind() -> None:
    assert len(ROWS) == 12


@pytest.mark.parametrize("row", ROWS, ids=lambda row: cells(row)[0])
def test_every_kind_of_fault_has_a_mechanism_and_a_test_that_are_there(row: str) -> None:
    _, mechanism, shown = cells(row)
    named = FILE.findall(mechanism)
    for name in named:
        assert (ROOT / "gearhorn" / name).exists(), f"{name} is not there"
    tests = FILE.findall(shown)
    assert tests, "nothing shows it"
    for name in tests:
        text = (ROOT / "tests" / name).read_text()
        assert re.search("def test_|TestCase", text), f"{name} has no test"
