"""Options that every subcommand has, before its name or after it, and what follows from them.

Theory of operation. People type ``gearhorn -c production topics`` and ``gearhorn topics -c
production``, and both must work: so the group and every subcommand have these options. What was
given is kept in click's ``meta``, which the group and its subcommand share, and ``Settings`` are
made of it when the subcommand is called.

Rules: what was given nearest to the end counts. Nothing is connected here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from gearhorn.aio import TLS, Admin, Log, Publisher
from gearhorn.cli.commands.contexts import Context, ContextError, read_all, read_context
from gearhorn.cli.commands.values import SECONDS
from gearhorn.client.connected import Connected
from gearhorn.errors import GearhornError

COMPLETION_S = 1.0  # that a completion may take
PAGE = 1000  # names that a completion offers at most

R = TypeVar("R")
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class Settings:
    """What the common options come to.

    Arguments:
        values: the options that were given, by name.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values
        try:
            self.context: Context = read_context(values.get("context"))
        except ContextError as error:
            raise click.UsageError(str(error)) from None
        self.timeout: float = values.get("timeout") or 30.0
        self.is_json: bool = bool(values.get("is_json"))
        self.is_quiet: bool = bool(values.get("quiet"))
        self.columns: list[str] = [
            name for name in (values.get("columns") or "").split(",") if name
        ]
        self.is_plain: bool = bool(values.get("no_color"))

    @property
    def servers(self) -> tuple[str, ...]:
        """The job servers that were named; none: the library's own."""
        return tuple(self._values.get("server") or self.context.servers)

    @property
    def tls(self) -> TLS | None:
        """How connections are made."""
        ca, cert, key = (
            self._values.get(f"tls_{name}") or getattr(self.context, f"tls_{name}")
            for name in ("ca", "cert", "key")
        )
        return TLS(ca, cert, key) if ca or cert else None

    @property
    def _connecting(self) -> dict[str, Any]:
        return {"tls": self.tls, "timeout": self.timeout}

    def publisher(self) -> Publisher:
        """Return what publishes."""
        return _made(Publisher, *self.servers, **self._connecting)

    def admin(self) -> Admin:
        """Return what administers."""
        return _made(Admin, *self.servers, **self._connecting)

    def log(self, topic: str) -> Log:
        """Return what reads the log of a topic."""
        return _made(Log, topic, *self.servers, **self._connecting)

    def say(self, text: str) -> None:
        """Say something besides the data, unless that is not wanted."""
        if not self.is_quiet:
            with contextlib.suppress(OSError):  # the work goes on where nothing reads this
                click.echo(text, err=True)

    @property
    def is_asking(self) -> bool:
        """Whether ``confirm`` asks, or refuses because there is no terminal to ask at."""
        is_always = self.context.confirm and sys.stdin.isatty()
        return is_always or not self._values.get("yes")

    def need_terminal(self, what: str) -> None:
        """Raise ``click.UsageError`` where ``confirm`` would have no terminal to ask at."""
        if self.is_asking and not sys.stdin.isatty():
            raise click.UsageError(f"{what}: this needs --yes where no terminal is there to ask")

    def confirm(self, what: str) -> None:
        """Ask before something is destroyed; raises ``click.Abort`` where the answer is no, and
        ``click.UsageError`` as ``need_terminal`` does.

        ``--yes`` answers, unless the context says that it is always asked (``confirm``): then it
        answers only where no terminal is.
        """
        if self.is_asking:
            self.need_terminal(what)
            click.confirm(f"{self.context.name}: {what}?", abort=True, err=True)


def _made(kind: Callable[..., R], *arguments: Any, **settings: Any) -> R:
    """Make something of the library; what is wrong with the options is a usage error."""
    try:
        return kind(*arguments, **settings)
    except (ValueError, OSError) as error:
        raise click.UsageError(str(error)) from None


def complete_contexts(ctx: click.Context, param: click.Parameter, text: str) -> list[str]:
    """Return the names of contexts that begin with a text."""
    try:
        return [name for name in read_all()[1] if name.startswith(text)]
    except ContextError:
        return []


_OPTIONS = [
    click.option("-s", "--server", metavar="HOST[:PORT]", multiple=True, help="A job server."),
    click.option(
        *("-c", "--context"),
        metavar="NAME",
        envvar="GEARHORN_CONTEXT",
        shell_complete=complete_contexts,
        help="A cluster of `gearhorn context ls`; - is none.",
    ),
    click.option("--tls-ca", type=_FILE, help="Speak TLS to the job servers; verified with this."),
    click.option("--tls-cert", type=_FILE, help="A certificate to show them."),
    click.option("--tls-key", type=_FILE, help="Its key."),
    click.option("--timeout", type=SECONDS, metavar="SECONDS"),
    click.option("--json", "is_json", is_flag=True, default=None, help="One JSON document."),
    click.option("--columns", metavar="NAME,...", help="These columns only."),
    click.option("--no-color", is_flag=True, default=None),
    click.option("-q", "--quiet", is_flag=True, default=None, help="Say nothing but data."),
    click.option("-y", "--yes", is_flag=True, default=None, help="Do not ask."),
]
_NAMES = (
    "server", "context", "tls_ca", "tls_cert", "tls_key", "timeout", "is_json", "columns",
    "no_color", "quiet", "yes",
)  # fmt: skip


def common(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the common options; what was given is kept for ``with_settings``."""

    @functools.wraps(function)
    def take(*arguments: Any, **values: Any) -> Any:
        context = click.get_current_context()
        given = {name: values.pop(name) for name in _NAMES}
        kept = context.meta.setdefault("gearhorn.common", {})
        kept.update({name: value for name, value in given.items() if value not in (None, ())})
        return function(*arguments, **values)

    for option in reversed(_OPTIONS):
        take = option(take)
    return take


def with_settings(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the common options, and call it with ``Settings`` first."""

    @functools.wraps(function)
    def call(*arguments: Any, **values: Any) -> Any:
        kept = click.get_current_context().meta.get("gearhorn.common", {})
        return function(Settings(kept), *arguments, **values)

    return common(call)


def _described(ctx: click.Context, **request: Any) -> dict[str, Any]:
    """Return one page of a description, for a completion: nothing where it is not told in a moment.

    Common options may stand before the subcommand: those of the group count too.
    """

    async def run() -> dict[str, Any]:
        async with asyncio.timeout(COMPLETION_S), settings.admin() as admin:
            return await admin.ask(admin.functions.describe, limit=PAGE, **request)

    try:
        values: dict[str, Any] = {}
        for context in _from_root(ctx):
            values |= {name: context.params[name] for name in _NAMES if context.params.get(name)}
        settings = Settings(values | {"timeout": COMPLETION_S})
        return asyncio.run(run())
    except (GearhornError, click.ClickException, TimeoutError):
        return {}


def _from_root(ctx: click.Context) -> list[click.Context]:
    above = [] if ctx.parent is None else _from_root(ctx.parent)
    return [*above, ctx]


def _before(text: str) -> str:
    """Return a name right before those that begin with a text: where a page of them begins."""
    if not text or ord(text[-1]) <= 0x21:
        return ""
    letter = chr(ord(text[-1]) - 1)
    return "" if 0xD800 <= ord(letter) <= 0xDFFF else f"{text[:-1]}{letter}\U0010ffff"


def complete_topics(ctx: click.Context, param: click.Parameter, text: str) -> list[str]:
    """Return the topics that begin with a text: a page of them."""
    before = _before(text)
    cursor = f"name 0 {before}" if before else None
    found = _described(ctx, summary=True, cursor=cursor).get("topics", {})
    return [topic for topic in found if topic.startswith(text)]


def complete_clients(ctx: click.Context, param: click.Parameter, text: str) -> list[str]:
    """Return the clients of the topic before that begin with a text."""
    topic, before = ctx.params.get("topic") or "", _before(text)
    cursor = f"{topic} {before}" if before else None
    found = _described(ctx, topic=topic, cursor=cursor).get("topics", {}).get(topic, {})
    return [client for client in found.get("subscriptions", {}) if client.startswith(text)]


context_argument = click.argument("name", shell_complete=complete_contexts)
topic_argument = click.argument("topic", shell_complete=complete_topics)
client_argument = click.argument("client", shell_complete=complete_clients)


async def reach(connected: Connected, timeout_s: float) -> None:
    """Wait for a job server; raises ``NotConnected`` where none is up in time.

    For requests that last: they have the time of their receivers besides, and whether a job server
    is there at all shall be told sooner.
    """
    deadline_s = asyncio.get_running_loop().time() + timeout_s
    if not await connected.jobs.until_up(deadline_s):
        raise connected.jobs.not_connected()


def wait(work: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine to its end."""
    return asyncio.run(work)
