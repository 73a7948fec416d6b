"""What comments and docstrings refer to is there: documents, and sections by their titles."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TITLE = re.compile(r"^(.+)\n(?:=+|-+|~+)$", re.M)
REFERENCES_TO = (  # both orders: document before title, and title before document
    re.compile(r'(?P<document>docs/\w+\.rst), "(?P<title>[^"]+)"'),
    re.compile(r'"(?P<title>[^"]+)" in (?P<document>docs/\w+\.rst)'),
)
SOURCES = sorted([*ROOT.glob("gearhorn/**/*.py"), *ROOT.glob("gearhorn/**/*.lua")])


def plain(text: str) -> str:
    """Return ``text`` on one line, without comment marks and markup."""
    return " ".join(re.sub(r"^\s*(?:#|--)", " ", text, flags=re.M).replace("``", "").split())


def titles(document: str) -> set[str]:
    return {plain(title) for title in TITLE.findall((ROOT / document).read_text())}


REFERENCES = sorted(
    {
        (str(path.relative_to(ROOT)), found["document"], found["title"])
        for path in SOURCES
        for reference in REFERENCES_TO
        for found in reference.finditer(plain(path.read_text()))
    }
)


def test_there_are_references() -> None:
    assert len(REFERENCES) > 10


@pytest.mark.parametrize(("source", "document", "title"), REFERENCES)
def test_a_section_that_is_named_is_there(source: str, document: str, title: str) -> None:
    assert title in titles(document), f"{source} names a section that {document} does not have"
