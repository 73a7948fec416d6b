"""Values of options that several subcommands have.

Rules: pure. A wrong value is ``click.UsageError``, and says what was expected.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import click


class Rate(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """So many a second: ``100`` or ``100/s``."""

    name = "rate"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number; fails for what is none, or is not above 0."""
        try:
            rate = float(str(value).removesuffix("/s"))
        except ValueError:
            rate = 0.0
        if not 0 < rate < math.inf:
            self.fail(f"expected a number above 0, such as 100 or 100/s, got {value!r}", param, ctx)
        return rate


class Number(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A finite number; JSON has no others, and a wait for one would not end.

    Arguments:
        above: it is above this, None: any.
        or_zero: 0 will do besides.
    """

    name = "number"

    def __init__(self, above: float | None = None, or_zero: bool = False) -> None:
        self._above = above
        self._or_zero = or_zero

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number; fails for what is none, or is out of range."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        is_above = self._above is None or number > self._above
        if not math.isfinite(number) or not (is_above or (self._or_zero and not number)):
            within = "" if self._above is None else f" above {self._above:g}"
            within += ", or 0" if self._or_zero else ""
            self.fail(f"expected a number{within}, got {value!r}", param, ctx)
        return number


SECONDS = Number(above=0)


def headers_of(texts: Iterable[str]) -> dict[str, str] | None:
    """Return the headers of ``--header NAME:VALUE``, None where there are none; raises
    ``click.UsageError``."""
    headers = {}
    for text in texts:
        name, separator, value = text.partition(":")
        if not separator:
            raise click.UsageError(f"--header: expected NAME:VALUE, got {text!r}")
        headers[name.strip()] = value.strip()
    return headers or None


def quorum_of(text: str | None) -> int | str | None:
    """Return ``--quorum`` as requests have it: a number, or a part such as "50%"."""
    return int(text) if text is not None and text.isdigit() else text


# what would move a terminal's cursor, change its colours, or break a line: ESC and its like
_CONTROLS = {number: f"\\x{number:02x}" for number in (*range(0x20), *range(0x7F, 0xA0))}
_CONTROLS |= {ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r"}


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number and what it is of: "1 message", "2 messages". ``many`` is the plural where
    that is not ``one`` and an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def clean(text: str) -> str:
    """Return text of others, such as a payload, as it may stand on a line at a terminal."""
    return text.translate(_CONTROLS)
