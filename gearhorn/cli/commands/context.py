"""``gearhorn context``: keeps the addresses of several clusters; ``contexts`` says where.

Rules: a file that cannot be read is a usage error, and stays as it is.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from gearhorn.cli.commands.contexts import (
    NOTHING,
    Context,
    ContextError,
    path,
    read_all,
    read_context,
    write_all,
)
from gearhorn.cli.commands.output import Column, show
from gearhorn.cli.commands.settings import Settings, context_argument, with_settings


@click.group("context", context_settings={"help_option_names": ["-h", "--help"]})
def context_command() -> None:
    """Keep the addresses of several clusters: `gearhorn -c NAME ...`."""


def _all() -> tuple[str | None, dict[str, Context]]:
    """Return what is kept; raises ``click.UsageError`` where that cannot be read."""
    try:
        return read_all()
    except ContextError as error:
        raise click.UsageError(str(error)) from None


def _known(contexts: dict[str, Context], name: str) -> None:
    if name not in contexts:
        names = ", ".join(contexts) or "none yet"
        raise click.UsageError(f"context {name} is not known; there are: {names}")


def _row(context: Context, current: str | None) -> dict[str, Any]:
    return asdict(context) | {"is_current": context.name == current}


@context_command.command("ls")
@with_settings
def _ls(settings: Settings) -> None:
    """List the contexts; the current one has a star."""
    current, contexts = _all()
    found = [_row(context, current) for context in contexts.values()]
    rows = [
        {**row, "current": "*" if row["is_current"] else "", "servers": " ".join(row["servers"])}
        for row in found
    ]
    show(settings, [Column("current"), Column("name"), Column("servers")], rows, found)


@context_command.command("add")
@click.argument("name")
@click.argument("servers", nargs=-1, required=True)
@click.option("--tls-ca")
@click.option("--tls-cert")
@click.option("--tls-key")
@click.option("--confirm", is_flag=True, help="What destroys something always asks.")
def _add(name: str, **values: Any) -> None:
    """Keep a cluster's job servers under a name; the first one becomes the current one."""
    current, contexts = _all()
    if name == NOTHING or not name.isprintable() or not name:
        raise click.UsageError(f"a context cannot be called {name!r}")
    contexts[name] = Context(name=name, **values)
    write_all(current or name, contexts)


@context_command.command("use")
@context_argument
def _use(name: str) -> None:
    """Use a context where none is named; - is none."""
    _, contexts = _all()
    if name != NOTHING:
        _known(contexts, name)
    write_all(None if name == NOTHING else name, contexts)


@context_command.command(NOTHING)
def _none() -> None:
    """Use no context: the same as `use -`."""
    write_all(None, _all()[1])


@context_command.command("show")
@click.argument("name", required=False)
@with_settings
def _show(settings: Settings, name: str | None) -> None:
    """Show a context, or the current one."""
    try:
        context = read_context(name)
    except ContextError as error:
        raise click.UsageError(str(error)) from None
    found = {key: value for key, value in asdict(context).items() if value not in (None, (), False)}
    rows = [
        {"key": key, "value": " ".join(value) if isinstance(value, tuple) else value}
        for key, value in found.items()
    ]
    show(settings, [Column("key"), Column("value")], rows, found)


@context_command.command("rm")
@context_argument
def _rm(name: str) -> None:
    """Forget a context."""
    current, contexts = _all()
    _known(contexts, name)
    del contexts[name]
    write_all(None if current == name else current, contexts)


@context_command.command("edit")
def _edit() -> None:
    """Open the file in an editor."""
    path().parent.mkdir(parents=True, exist_ok=True)
    path().touch(mode=0o600)
    click.edit(filename=str(path()))
    path().chmod(0o600)  # an editor may have written another file in its place
    _all()
