"""Contexts: the addresses of several clusters, each under a name.

They are kept in ``~/.config/gearhorn/contexts.toml`` (``$XDG_CONFIG_HOME`` is heeded), one table
for each context, and ``current`` names the one that is used where none is named.

Rules: a file that others may read is refused where it names a key.
"""

from __future__ import annotations

import json
import os
import stat
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

NOTHING = "-"  # the name of no context


class ContextError(Exception):
    """The contexts cannot be read, or there is none of a name."""


@dataclass(frozen=True)
class Context:
    """One cluster. ``confirm``: what destroys something always asks."""

    name: str = "gearhorn"
    servers: tuple[str, ...] = ()
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    confirm: bool = False


def path() -> Path:
    """Return where contexts are kept."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "gearhorn" / "contexts.toml"


def read_all() -> tuple[str | None, dict[str, Context]]:
    """Return the name of the current context, and all of them; raises ``ContextError``."""
    file = path()
    try:
        values = tomllib.loads(file.read_text())
        mode = file.stat().st_mode
    except FileNotFoundError:
        return None, {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ContextError(f"{file}: {error}") from None
    current = values.pop("current", None)
    contexts = {name: _context(file, name, table) for name, table in values.items()}
    has_key = any(context.tls_key for context in contexts.values())
    if has_key and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ContextError(f"{file} names a key and others may read it: chmod 600 {file}")
    return current, contexts


def _context(file: Path, name: str, table: Any) -> Context:
    known = {field.name for field in fields(Context)} - {"name"}
    if not isinstance(table, dict) or set(table) - known:
        raise ContextError(f"{file}: {name}: expected {', '.join(sorted(known))}")
    servers = table.get("servers", [])
    if not isinstance(servers, list) or not all(isinstance(one, str) for one in servers):
        raise ContextError(f"{file}: {name}.servers: expected an array of HOST:PORT")
    return Context(name=name, **{**table, "servers": tuple(servers)})


def read_context(name: str | None) -> Context:
    """Return the context of a name, or the current one; raises ``ContextError``.

    "-" is no context at all: the environment, and this host. A current context that was removed by
    hand is none either, while one that is named must be there.
    """
    if name == NOTHING:
        return Context()
    current, contexts = read_all()
    wanted = name or current
    if wanted is None or (name is None and wanted not in contexts):
        return Context()
    if wanted not in contexts:
        names = ", ".join(sorted(contexts)) or "none yet"
        raise ContextError(f"context {wanted} is not known; there are: {names}")
    return contexts[wanted]


def write_all(current: str | None, contexts: dict[str, Context]) -> None:
    """Keep the contexts, readable by their owner only; raises ``OSError``.

    The file is written beside the old one and put in its place, so that a full disk leaves the old
    one whole.
    """
    lines = [] if current is None else [f"current = {json.dumps(current)}", ""]
    for context in contexts.values():
        lines.append(f"[{json.dumps(context.name)}]")
        for field in fields(Context):
            value = getattr(context, field.name)
            if field.name != "name" and value not in (None, (), False):
                lines.append(f"{field.name} = {json.dumps(value)}")
        lines.append("")
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.unlink(missing_ok=True)  # a former one may be readable by others
    fresh.touch(mode=0o600)
    fresh.write_text("\n".join(lines))
    fresh.replace(file)
