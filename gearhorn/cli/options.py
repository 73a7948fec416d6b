"""Values of options: read from the command line, the environment and the TOML file alike.

click reads the command line and the environment, where every value is text. So a value of the file
is turned into the text that would stand on the command line (``_as_text``), and takes the same way
from there: one check for each kind of value, wherever it comes from, and one way to say what is
wrong with it.

Rules: a wrong value says what was expected and what came instead, and ends the command with exit
code 2. What may hold a password is never shown.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from gearhorn.config import MIN_STORE_CONNECTIONS, parse_seconds, parse_server, parse_size
from gearhorn.errors import BadName
from gearhorn.names import check_name


class _Parsed(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on
    """A value that a function of ``config`` reads; its ``ValueError`` is shown.

    Arguments:
        name: what the help text calls such a value.
        parse: from the text to the value; raises ``ValueError`` with what was expected.
    """

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Called by click for each value, defaults included; ``fail`` ends the command."""
        if not isinstance(value, str):  # a default of ``Config``, which is a value already
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _parse_function(text: str) -> str:
    """Return the name of a Gearman function; it keeps the rules of topics (docs/protocol.rst,
    "Names"), since gearmand's text protocol escapes nothing. Raises ``ValueError``."""
    try:
        check_name("it", text)
    except (BadName, UnicodeEncodeError) as error:
        raise ValueError(f"expected a function name, got {text!r}: {error}") from None
    return text


def _parse_namespace(text: str) -> str:
    """Return a prefix of the store's keys; raises ``ValueError``.

    The keys begin with it in braces, which a Redis Cluster takes for the part that decides on the
    slot. So it must have none itself.
    """
    if not text or not text.isprintable() or set(text) & set("{} "):
        raise ValueError(f"expected a word without braces or spaces, got {text!r}")
    return text


# Types for click, one object each: ``_as_text`` tells by them what a value of the file has to be.
SERVER = _Parsed("server", parse_server)
SIZE = _Parsed("size", parse_size)
FUNCTION = _Parsed("function name", _parse_function)
NAMESPACE = _Parsed("namespace", _parse_namespace)
LEASE = _Parsed("seconds", partial(parse_seconds, minimum=0.5, limit=3600))
# a year: without a store, old lists may be used that long, and no longer
STALE = _Parsed("seconds", partial(parse_seconds, minimum=0, limit=86400 * 365))
INTERVAL = _Parsed("seconds", partial(parse_seconds, minimum=0.1, limit=3600))
COUNT = click.IntRange(min=1)
CONNECTIONS = click.IntRange(min=MIN_STORE_CONNECTIONS, max=10_000)
_SECRET = {"redis"}  # whose value no text shows: a URL may have a password in it
_NOT_IN_FILE = {"config", "help", "version"}  # they act at once, and have no value to keep
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Make the file's values the defaults of every other parameter.

    click calls it before it reads the others (``is_eager``), and takes a default where neither the
    command line nor the environment has a value: that is the order in which they win. A key is an
    option's name, with dashes or underscores, or ``servers``.

    Raises ``click.BadParameter`` where the file cannot be read or is no TOML, and for a key that is
    unknown or whose value is of the wrong type. A key that is no name is not repeated: it may be
    a URL that went to the wrong side of the equals sign.
    """
    if path is None:
        return
    try:
        values = tomllib.loads(path.read_bytes().decode())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise click.BadParameter(f"{path}: {error}", ctx, param) from None
    parameters = ctx.command.params
    known = {other.name: other for other in parameters if other.name not in _NOT_IN_FILE}
    defaults: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known:
            expected = ", ".join(sorted(known))
            came = repr(key) if name.isidentifier() else "a key that is none"
            raise click.BadParameter(f"{path}: expected one of {expected}, got {came}", ctx, param)
        try:
            defaults[name] = _as_text(known[name], value)
        except ValueError as error:
            raise click.BadParameter(f"{path}: {key}: {error}", ctx, param) from None
    ctx.default_map = defaults


def _as_text(param: click.Parameter, value: Any) -> str | list[str]:
    """Return a value of the file as it would stand on the command line.

    A string is accepted everywhere, so that ``max-payload = "8M"`` may be written; a TOML number or
    boolean only where the option takes such a value, since ``namespace = 1`` is more likely a
    mistake than a name. A boolean is an integer in Python, and is none here. Servers are an array,
    or one string as in the environment.

    Raises ``ValueError``, which tells which type was expected, and what came unless it is secret.
    """
    if param.nargs == -1:
        texts = value.split() if isinstance(value, str) else value
        if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
            return texts
        raise ValueError(f"expected a string or an array of strings, got {value!r}")
    if isinstance(value, str):
        return value
    if isinstance(param, click.Option) and param.is_flag:
        if isinstance(value, bool):
            return str(value)
        raise ValueError(f"expected a boolean, got {value!r}")
    if param.type in (SIZE, COUNT, CONNECTIONS):
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        raise ValueError(f"expected an integer, got {value!r}")
    if param.type in (LEASE, STALE, INTERVAL):
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        raise ValueError(f"expected a number, got {value!r}")
    if param.name in _SECRET:
        raise ValueError(f"expected a string, got {type(value).__name__}")
    raise ValueError(f"expected a string, got {value!r}")
