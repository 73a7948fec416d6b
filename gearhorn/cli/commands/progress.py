"""Progress: how far a command is that takes long, on standard error.

Rules: only where standard error is a terminal, and not with ``--quiet``; at most five lines a
second, each over the one before.
"""

from __future__ import annotations

import sys
import time

import click

from gearhorn.cli.commands.settings import Settings

TOLD_S = 0.2  # between two lines
_BAR = 20  # characters


class Progress:
    """Says how many of something are done, and how fast.

    Arguments:
        settings: say whether it is wanted.
        what: is done, in the plural.
        total: how many there will be, None: not known.
    """

    def __init__(self, settings: Settings, what: str, total: int | None = None) -> None:
        self._is_shown = sys.stderr.isatty() and not settings.is_quiet
        self._what = what
        self._total = total
        self._began_s = self._told_s = time.monotonic()
        self._is_begun = False  # a line is there to be ended

    def tell(self, count: int) -> None:
        """So many are done."""
        now_s = time.monotonic()
        if self._is_shown and now_s - self._told_s >= TOLD_S:
            self._told_s = now_s
            self._is_begun = True
            self._write(count)

    def end(self, count: int) -> None:
        """All are done that will be. What was over at once is not told of."""
        if self._is_begun:
            self._write(count)
            click.echo(err=True)

    def _write(self, count: int) -> None:
        rate = count / max(time.monotonic() - self._began_s, 0.001)
        text = f"{count:,} {self._what}, {rate:,.0f}/s"
        if self._total:
            done = min(1.0, count / self._total)
            bar = "#" * round(done * _BAR)
            text = f"[{bar:<{_BAR}}] {done:4.0%} of {self._total:,} {self._what}, {rate:,.0f}/s"
        click.echo(f"\r{text}\x1b[K", err=True, nl=False)
