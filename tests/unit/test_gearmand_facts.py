"""docs/gearmand.rst names tests and modules that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "gearmand.rst").read_text()
TESTS = sorted(set(re.findall(r"``(tests/[\w/]+\.py)::(\w+)``", TEXT)))
MODULES = sorted(set(re.findall(r"``((?!tests/)\w+/\w+\.py)``", TEXT)))


def test_the_document_names_tests_and_modules() -> None:
    assert len(TESTS) > 20
    assert len(MODULES) > 10
    assert TEXT.count(".py::") == len(re.findall(r"``tests/[\w/]+\.py::\w+``", TEXT))


@pytest.mark.parametrize(("path", "name"), TESTS)
def test_a_test_that_is_named_is_there(path: str, name: str) -> None:
    assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.M)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_that_is_named_is_there(module: str) -> None:
    assert (ROOT / "gearhorn" / module).exists()
