"""docs/gearmand.rst names tests and modules that are there, for each of its facts."""

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


def facts() -> list[str]:
    """Return the entries of the document, each from its asterisk to the next or to a heading."""
    entries = re.findall(r"^\* .*?(?=^\* |^[^\s*]|\Z)", TEXT, re.M | re.S)
    return [" ".join(entry.split()) for entry in entries]


def test_there_are_facts() -> None:
    assert len(facts()) > 35


@pytest.mark.parametrize("fact", facts())
def test_a_fact_names_what_holds_it_or_how_it_was_seen(fact: str) -> None:
    assert "Test: ``tests/" in fact or "Observed: " in fact, fact


@pytest.mark.parametrize(("path", "name"), TESTS)
def test_a_test_that_is_named_is_there(path: str, name: str) -> None:
    assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.M)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_that_is_named_is_there(module: str) -> None:
    assert (ROOT / "gearhorn" / module).exists()
