"""The rules of the house that can be measured: see scripts/figures and docs/design.rst."""

from __future__ import annotations

from pathlib import Path

import figures
import pytest

FOUND = figures.sources()
# What does not keep a rule yet. A number here only falls; a rule that is kept has none.
YET = {
    "positional": 1,
}
# Attributes that libraries document to be set by those who use them.
SET_BY_USERS = {
    "gearhorn/cli/logs.py": {"logging.root.handlers", "sys.stderr", "sys.stdout"},
    "gearhorn/cli/options.py": {"ctx.default_map"},
    "gearhorn/store/url.py": {"context.check_hostname", "context.verify_mode"},
}
# Commands consist of options, whose help counts, and of the layout of tables.
FLOORS = {"commands": 0.15}
EXPLAINED = 0.29  # of a folder's lines that are not blank are comments and docstrings, at least
FOLDERS = sorted({source.path.parent for source in FOUND})


def names(places: list[figures.Place]) -> list[str]:
    return [str(place) for place in places]


def own_writes() -> list[figures.Place]:
    """Return the writes to attributes of objects that are gearhorn's own."""
    places = figures.foreign_writes(FOUND)
    return [place for place in places if place.text not in SET_BY_USERS.get(place.source.name, ())]


def test_files_and_functions_are_short() -> None:
    allowed = {
        "gearhorn/broker/wiring.py": "one list of constructor calls, to be read from top to bottom",
    }
    places = [*figures.long_files(FOUND), *figures.long_functions(FOUND)]
    assert names([place for place in places if place.source.name not in allowed]) == []


@pytest.mark.parametrize(
    ("rule", "places"),
    [
        ("positional", figures.positional_functions(FOUND)),
        ("foreign", own_writes()),
        ("unnamed", figures.unnamed_errors(FOUND)),
        ("untested", figures.untested_files(FOUND)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_keep_a_rule_becomes_less(rule: str, places: list[figures.Place]) -> None:
    assert len(places) <= YET.get(rule, 0), "\n".join(names(places))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_each_folder_explains_itself(folder: Path) -> None:
    sources = [source for source in FOUND if source.path.parent == folder]
    explaining, lines = map(sum, zip(*map(figures.explaining_lines, sources), strict=True))
    assert explaining / lines >= FLOORS.get(folder.name, EXPLAINED)
