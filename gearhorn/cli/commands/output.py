"""Output: tables for people, tab-separated lines for scripts, and JSON.

Theory of operation. The same rows go to three kinds of readers. People see a table that fits their
terminal; what does not fit is cut, with an ellipsis. Programs that read lines get all of it: a tab
between columns, and tabs and newlines in values as ``\\t`` and ``\\n``, so that ``cut`` and ``awk``
work. Programs that read JSON get what the worker said, whole, whose keys are those of
docs/protocol.rst; the rows are made of it for the others.

Rules: at a terminal tables are aligned, coloured and cut to its width; elsewhere they are
tab-separated with a header line, and never cut. ``--json`` is one document.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gearhorn.cli.commands.settings import Settings
from gearhorn.cli.commands.values import clean
from gearhorn.messages.codec import encode


class Column(NamedTuple):
    """A column: the key of a row that it shows, whether it is a number, and whether a value that
    is not zero is worth an alarm."""

    key: str
    is_number: bool = False
    is_alarm: bool = False

    @property
    def title(self) -> str:
        """What stands above it."""
        return self.key.replace("_", " ").upper()


def show(
    settings: Settings,
    columns: Sequence[Column],
    rows: Iterable[Mapping[str, Any]],
    document: Any = None,
) -> None:
    """Write a table.

    Arguments:
        settings: say how.
        columns: all that there are; ``--columns`` chooses of them.
        rows: by the columns' keys.
        document: what ``--json`` writes instead of the rows.

    Raises ``click.UsageError`` for a column that there is not.
    """
    rows = list(rows)
    if settings.is_json:
        write_json(rows if document is None else document)
        return
    chosen = _chosen(settings, columns)
    if not sys.stdout.isatty():
        click.echo("\t".join(column.key for column in chosen))
        for row in rows:
            click.echo("\t".join(_plain(row.get(column.key)) for column in chosen))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in chosen:
        table.add_column(
            column.title,
            justify="right" if column.is_number else "left",
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in rows:
        table.add_row(*(_cell(column, row.get(column.key)) for column in chosen))
    console(settings).print(table)


def _chosen(settings: Settings, columns: Sequence[Column]) -> Sequence[Column]:
    if not settings.columns:
        return columns
    known = {column.key: column for column in columns}
    unknown = [name for name in settings.columns if name not in known]
    if unknown:
        raise click.UsageError(f"no column {unknown[0]}; there are: {', '.join(known)}")
    return [known[name] for name in settings.columns]


def console(settings: Settings) -> Console:
    """Return the terminal as tables are written to it. ``NO_COLOR`` is heeded by rich itself."""
    return Console(no_color=settings.is_plain or None, highlight=False, soft_wrap=False)


def write_json(document: Any) -> None:
    """Write one JSON document, or one line of a stream."""
    click.echo(encode(document))


def _plain(value: Any) -> str:
    """Return a value for a tab-separated line, which it must not break."""
    text = "" if value is None else f"{value:.15g}" if isinstance(value, float) else str(value)
    return clean(text.replace("\\", "\\\\"))


def _cell(column: Column, value: Any) -> Text:
    text = _plain(value)
    style = "red" if column.is_alarm and value not in (None, 0, "", "0") else ""
    return Text(text, style=style)


def moment(at: float | None) -> str:
    """Return Unix time as people read it."""
    return "" if not at else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def duration(seconds: float) -> str:
    """Return seconds as people say them."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
