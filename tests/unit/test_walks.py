"""The five walks of docs/design.rst lead through files that are there, from one to the next."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMITS = {
    "A background fan-out": 10,
    "A foreground fan-out": 12,
    "A subscribe": 16,
    "A durable publish and its delivery": 16,
    "A member's death": 12,
}
_STEP = re.compile(r"^(\d+)\. ``(gearhorn/[a-z_/]+\.py)`` (.+)$", re.MULTILINE)


def walks() -> dict[str, list[tuple[int, str, str]]]:
    """Return the steps of each walk: number, file, what happens there."""
    text = (ROOT / "docs" / "design.rst").read_text()
    section = re.search(r"^Five walks\n=+\n(.+?)^[^\n]+\n=+\n", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    parts = re.split(r"^([^\n]+)\n-+\n", section[1], flags=re.MULTILINE)[1:]
    return {
        title: [(int(number), file, what) for number, file, what in _STEP.findall(body)]
        for title, body in zip(parts[::2], parts[1::2], strict=True)
    }


def imports(file: str) -> set[str]:
    """Return the files of the package that a file imports from."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            found |= {name.replace(".", "/") + ".py" for name in names}
    return {name for name in found if (ROOT / name).exists()}


def protocols(file: str) -> set[str]:
    """Return the protocols that a file defines."""
    return {
        node.name
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.ClassDef) and "Protocol" in ast.unparse(node)
    }


def test_there_are_five() -> None:
    assert list(walks()) == list(LIMITS)


@pytest.mark.parametrize("title", LIMITS)
def test_a_walk_is_short_and_each_of_its_files_is_there(title: str) -> None:
    steps = walks()[title]
    assert [number for number, _, _ in steps] == list(range(1, len(steps) + 1))
    assert 5 < len(steps) <= LIMITS[title]
    files = [file for _, file, _ in steps]
    assert len(set(files)) == len(files)
    assert [file for file in files if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("title", LIMITS)
def test_each_step_is_reached_from_one_before_it(title: str) -> None:
    """Who is on the way imports the next one, or is imported by it and calls it by a protocol or
    by what it was given: then both are named in one import."""
    files = [file for _, file, _ in walks()[title]]
    for at, file in enumerate(files[1:], 1):
        before = files[:at]
        is_imported = any(file in imports(former) for former in before)
        calls_back = any(former in imports(file) for former in before)
        assert is_imported or calls_back, f"{file} is reached from none of {before}"


@pytest.mark.parametrize("title", LIMITS)
def test_a_protocol_that_a_step_names_is_defined_on_the_way(title: str) -> None:
    steps = walks()[title]
    files = [file for _, file, _ in steps]
    for _, _, what in steps:
        if named := re.match(r"\(``(\w+)``\)", what):
            assert any(named[1] in protocols(file) for file in files), named[1]
