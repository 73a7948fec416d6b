"""What scripts are made of: their texts are checked here, what they do in the contract suite."""

from __future__ import annotations

import re
from hashlib import sha1
from pathlib import Path

import pytest

from gearhorn.store import scripts
from gearhorn.store.scripts import SCRIPTS, SHA

FOLDER = Path(scripts.__file__).parent / "lua"
FILES = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.lua"))}
CALLED = re.compile(r"""redis\.p?call\(\s*'([A-Z]+)'""")
READING = {"EXISTS", "GET", "HEXISTS", "HGET", "HGETALL", "HLEN", "HMGET", "HSTRLEN", "HVALS"}
READING |= {"INFO", "TIME", "XRANGE", "ZCARD", "ZRANGE", "ZRANGEBYSCORE", "ZREVRANGEBYSCORE"}
READING |= {"ZSCORE", "ZRANGEBYLEX", "ZCOUNT", "ZRANK"}


def own_part(name: str) -> str:
    """Return what the script of this name adds to the shared files in front of it."""
    return max(
        (text for text in FILES.values() if SCRIPTS[name].endswith(text)), key=len, default=""
    )


def test_every_file_is_part_of_a_script() -> None:
    for name, text in FILES.items():
        assert any(text in script for script in SCRIPTS.values()), f"{name}.lua is not used"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_server_knows_a_script_by_its_digest(name: str) -> None:
    assert SHA[name] == sha1(SCRIPTS[name].encode()).hexdigest()


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_first_line_says_what_a_server_short_of_memory_may_do(name: str) -> None:
    first = SCRIPTS[name].partition("\n")[0]
    assert first in ("#!lua", "#!lua flags=allow-oom", "#!lua flags=no-writes")


@pytest.mark.parametrize("name", [name for name in SCRIPTS if "no-writes" in SCRIPTS[name][:40]])
def test_a_script_that_says_it_only_reads_calls_nothing_that_writes(name: str) -> None:
    called = set(CALLED.findall(own_part(name)))
    assert called
    assert called <= READING


@pytest.mark.parametrize("name", FILES)
def test_a_file_begins_with_what_it_is_for(name: str) -> None:
    lines = FILES[name].splitlines()
    header = "\n".join(lines[: next(n for n, line in enumerate(lines) if line[:2] != "--")])
    assert header.startswith("-- ")
    if "KEYS[" in FILES[name]:
        assert re.search(r"\bKEYS: 1 ", header), "the header numbers the keys"
        assert re.search(r"\bARGV: 1 ", header), "the header numbers the arguments"
        assert "\n-- Returns " in header, "the header says what comes back"
        assert "\n-- Atomic, because " in header, "the header says why no two commands will do"
    assert "\n-- Cost: " in header, "the header says how long the store is held up"
