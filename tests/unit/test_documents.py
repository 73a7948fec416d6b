"""How a document is read by the test that types it: blocks, commands, and what is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.documents import Block, Typed, blocks_of, commands_of, pattern_of, plain, typed

DOCUMENT = """
Begin ::

    gearman -f one \\
        two

.. code-block:: python
    :name: host.py

    import gearhorn


    print(1)

Then:

.. code-block:: console
    :name: terminal-2-again

    $ python host.py
"""


def test_blocks_are_found_with_their_names(tmp_path: Path) -> None:
    document = tmp_path / "a.rst"
    document.write_text(DOCUMENT)
    file, command = blocks_of(document)
    assert file == Block("python", "host.py", "import gearhorn\n\n\nprint(1)\n")
    assert (file.is_file, file.terminal) == (True, "")
    assert (command.is_file, command.terminal) == (False, "2")
    assert commands_of(document, "gearman") == ["gearman -f one \\\n    two"]


def test_commands_have_what_they_show_and_what_is_pressed_before() -> None:
    code = "$ one\n> more\nshown\n> quoted\n^C\n$ two\n$ three\n^\\\n"
    assert list(typed(code)) == [
        Typed("", "one\nmore", "shown\n> quoted\n"),
        Typed("^C", "two", ""),
        Typed("", "three", ""),
        Typed("^\\", "", ""),
    ]


@pytest.mark.parametrize(
    ("expected", "shown", "is_shown"),
    [
        ("a  b\n", "a b\n", True),
        ("a b\n", "a c\n", False),
        ("a ... c\n", "a b (1) c\n", True),
        ("a ...\n", "a b\nc\n", False),
        ("a\n...\nc\n", "a\nb\nb\nc\n", True),
        ("12:00:00 x at 4730\n", "23:59:59 x at 21007\n", True),
        ("a+b\n", "aab\n", False),
    ],
)
def test_what_is_shown_is_what_was_expected(expected: str, shown: str, is_shown: bool) -> None:
    assert bool(pattern_of(expected).fullmatch(plain(shown))) is is_shown


def test_a_terminal_s_colours_and_widths_are_passed_over() -> None:
    assert plain("\x1b[1mA\x1b[0m   B\r\n\r\n  c\n") == "A B\nc\n"
