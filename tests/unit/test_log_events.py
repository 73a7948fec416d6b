"""The events that docs/operations.rst lists are those that the code logs at warning and above."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEVELS = {"warning", "error", "exception", "critical"}
SOURCES = [
    path
    for path in sorted((ROOT / "gearhorn").rglob("*.py"))
    # the embedded job server's lines come from gear, and the library's are an application's
    if path.parent.name not in ("standalone", "client")
]


def words(node: ast.expr) -> Iterator[str]:
    """The texts that the first argument of a logging call may be."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp(body=body, orelse=other):
            yield from words(body)
            yield from words(other)


def logged(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="log"), attr=level), args=[first, *_]
            ) if level in LEVELS:
                yield from words(first)


def listed() -> set[str]:
    """The events of the table."""
    text = (ROOT / "docs" / "operations.rst").read_text()
    table = text.partition("* - ``event``")[2].partition("\ngearmand\n====")[0]
    rows = re.findall(r"^    \* - (.*?)^      - (?:warning|error|critical)$", table, re.M | re.S)
    events = [event for row in rows for event in re.findall(r"``(.*?)``", row, re.S)]
    return {" ".join(event.split()) for event in events}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_event_worth_an_alarm_is_listed(path: Path) -> None:
    assert set(logged(path)) <= listed()


def test_no_event_is_listed_that_nothing_logs() -> None:
    texts = {
        text.value
        for path in SOURCES
        for text in ast.walk(ast.parse(path.read_text()))
        if isinstance(text, ast.Constant) and isinstance(text.value, str)
    }
    assert len(listed()) > 40
    assert listed() <= texts
