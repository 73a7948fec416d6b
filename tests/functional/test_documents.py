"""The documents: what they tell the reader to type does what they say, and pages are made of them.

One job server, one store and one worker serve all of it: those that the tutorial starts.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.documents import Reader, blocks_of
from support.examples import need
from support.servers import ROOT

DOCS = ROOT / "docs"
TUTORIAL = DOCS / "tutorial.rst"
MAKE_S = 120.0  # it takes five seconds of a core


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the job server is that the tutorial's first command starts."""
    start = blocks_of(TUTORIAL)[0]
    with Reader(tmp_path_factory.mktemp("trio")) as reader:
        reader.do(start)
        found = re.search(r"^job server (\S+) ", reader.shown_in(start.terminal), re.M)
        assert found
        yield found[1]


@pytest.fixture
def reader(address: str, tmp_path: Path) -> Iterator[Reader]:
    """Somebody who reads one document."""
    with Reader(tmp_path, address) as reader:
        yield reader


def test_the_tutorial_does_what_it_says(reader: Reader) -> None:
    need("php")
    reader.read(TUTORIAL, skipped=1)


def test_the_pages_are_made_without_a_warning(tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "manual.py"), "--offline", "--to", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=MAKE_S,
        check=False,
    )
    assert (made.stderr, made.returncode) == ("", 0)
    api = (tmp_path / "html" / "api.html").read_text()
    for name in ("gearhorn.Publisher.publish", "gearhorn.Subscriber.on", "gearhorn.Busy"):
        assert f'id="{name}"' in api
