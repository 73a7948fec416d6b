"""Names of keys and channels, and the table that says what each holds."""

from __future__ import annotations

import re
from pathlib import Path

from gearhorn.store import keys
from gearhorn.store.keys import Keys, pair_of

SOURCES = sorted((Path(__file__).resolve().parents[2] / "gearhorn").rglob("*.py"))
NAMED = re.compile(r"""\bkey\("([a-z]+)"(?:, ("?\w+))?""")
TABLE = dict(re.findall(r"^``([a-z]+)(:\S+(?: NUL \w+)?)?``  ", keys.__doc__ or "", re.M))


def test_every_key_is_in_one_slot_of_a_cluster() -> None:
    names = Keys("somewhere", 0)
    assert names.key("version") == "{somewhere}:version"
    assert names.key("clients", "news") == "{somewhere}:clients:news"


def test_a_channel_says_which_database_it_belongs_to() -> None:
    assert Keys("somewhere", 0).channel("events") == "{somewhere}:events@0"
    assert Keys("somewhere", 7).channel("done", "host-1") == "{somewhere}:done:host-1@7"


def test_no_two_pairs_have_the_same_name() -> None:
    assert pair_of("a", "b:c") != pair_of("a:b", "c")
    assert pair_of("a", "b") == "a\0b"


def test_every_key_that_the_code_names_is_in_the_table() -> None:
    named = {match[1]: match[2] for path in SOURCES for match in NAMED.finditer(path.read_text())}
    assert len(named) > 15
    for name, of in named.items():
        assert name in TABLE, f"the table in keys has no {name}"
        assert bool(of) == bool(TABLE[name]), f"{name} is of one topic, or it is not"
