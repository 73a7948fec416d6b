"""What makes the documents' pages: links that lead nowhere are found, docstrings become links."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import manual
import pytest

APP: Any = None  # Sphinx, which is asked nothing


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a href="b.html#there">1</a> <a href="b.html#gone">2</a> <a href="gone.html">3</a>'
        '<a href="https://example.org/gone">4</a> <img src="gone.png"> <a href="#here" id="here">'
    )
    (tmp_path / "b.html").write_text('<p id="there"><a href="../a%20b/c.txt">')
    assert list(manual.broken(tmp_path)) == [
        "a.html: b.html#gone",
        "a.html: gone.html",
        "a.html: gone.png",
        "b.html: ../a%20b/c.txt",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('("Unique ids" in docs/protocol.rst)', "(:ref:`Unique ids <protocol:Unique ids>`)"),
        ('docs/protocol.rst,\n"The\nreply"', ":ref:`The reply <protocol:The reply>`"),
        ("``gearhorn.aio.Log.read``", ":py:obj:`gearhorn.aio.Log.read`"),
        ("``gearhorn.client``, ``Log``", "``gearhorn.client``, ``Log``"),
    ],
)
def test_what_a_docstring_names_is_linked(text: str, expected: str) -> None:
    lines = text.split("\n")
    manual.link_names(APP, "class", "gearhorn.Log", object, None, lines)
    assert "\n".join(lines) == expected


def test_a_blocking_method_iterates() -> None:
    def mended(name: str, given: str | None, returned: str | None) -> tuple[str | None, str | None]:
        return manual.mend_signature(APP, "method", name, object, None, given, returned)

    signature = ("(a: dict = <factory>)", "AsyncIterator[Message]")
    assert mended("gearhorn.Log.follow", *signature) == ("(a: dict = {})", "Iterator[Message]")
    assert mended("gearhorn.aio.Log.follow", *signature)[1] == "AsyncIterator[Message]"
    assert mended("gearhorn.Log.close", None, None) == (None, None)
