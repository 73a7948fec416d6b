"""The files that docs/contributing.rst and docs/security.rst tell people to open are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMED = sorted(
    {
        path
        for document in ("contributing.rst", "security.rst")
        for path in re.findall(
            r"``((?:gearhorn|tests|scripts|docs)/[\w./]*)``", (ROOT / "docs" / document).read_text()
        )
    }
)


def test_files_are_named() -> None:
    assert len(NAMED) > 25


@pytest.mark.parametrize("path", NAMED)
def test_a_file_that_is_named_is_there(path: str) -> None:
    assert (ROOT / path).exists()


def test_every_script_is_named() -> None:
    text = (ROOT / "docs" / "contributing.rst").read_text() + (ROOT / "README.rst").read_text()
    scripts = [path for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix]
    assert [path.name for path in scripts if f"scripts/{path.name}" not in text] == []
