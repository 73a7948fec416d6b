"""``gearhorn-worker``: options, environment and file into a ``Config``, and the process around it.

Rules: the command line wins over ``GEARHORN_...``, which wins over the TOML file of ``--config``.
A wrong value says what was expected and what it got, and the exit code is 2.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import structlog

import gearhorn
from gearhorn.broker.broker import Broker
from gearhorn.cli.logs import LEVELS, open_standard_streams, set_up_logs
from gearhorn.config import (
    DEFAULT_REDIS,
    LEAST_STORE_CONNECTIONS,
    Config,
    parse_seconds,
    parse_server,
    parse_size,
)
from gearhorn.errors import BadName, StartError
from gearhorn.gearman.server import Server
from gearhorn.names import check_name
from gearhorn.standalone.servers import Standalone, StandaloneError
from gearhorn.standalone.servers import start as start_standalone

_DEFAULTS = Config()
_ENDINGS = (signal.SIGTERM, signal.SIGINT)
_came: list[int] = []  # signals to end that came before the worker serves

log = structlog.get_logger(__name__)


class _Parsed(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on
    """A value that a function of ``config`` reads; its ``ValueError`` is shown."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):  # a default, which needs no reading
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _parse_function(text: str) -> str:
    try:
        check_name("it", text)
    except (BadName, UnicodeEncodeError) as error:
        raise ValueError(f"expected a function name, got {text!r}: {error}") from None
    return text


def _parse_namespace(text: str) -> str:
    if not text or not text.isprintable() or set(text) & set("{} "):
        raise ValueError(f"expected a word without braces or spaces, got {text!r}")
    return text


_SERVER = _Parsed("server", parse_server)
_SIZE = _Parsed("size", parse_size)
_FUNCTION = _Parsed("function name", _parse_function)
_NAMESPACE = _Parsed("namespace", _parse_namespace)
_LEASE = _Parsed("seconds", partial(parse_seconds, minimum=0.5, limit=3600))
_STALE = _Parsed("seconds", partial(parse_seconds, minimum=0, limit=86400 * 365))
_INTERVAL = _Parsed("seconds", partial(parse_seconds, minimum=0.1, limit=3600))
_COUNT = click.IntRange(min=1)
_CONNECTIONS = click.IntRange(min=LEAST_STORE_CONNECTIONS, max=10_000)
_SECRET = {"redis"}  # whose value no text shows
_NOT_IN_FILE = {"config", "help", "version"}
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Make the file's values the defaults of every other parameter."""
    if path is None:
        return
    try:
        values = tomllib.loads(path.read_bytes().decode())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise click.BadParameter(f"{path}: {error}", ctx, param) from None
    known = {one.name: one for one in ctx.command.params if one.name not in _NOT_IN_FILE}
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
    """Return a value of the file as it would stand on the command line; ``ValueError`` tells
    which type was expected."""
    if param.nargs == -1:
        words = value.split() if isinstance(value, str) else value
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            return words
        raise ValueError(f"expected a string or an array of strings, got {value!r}")
    if isinstance(value, str):
        return value
    if isinstance(param, click.Option) and param.is_flag:
        if isinstance(value, bool):
            return str(value)
        raise ValueError(f"expected a boolean, got {value!r}")
    if param.type in (_SIZE, _COUNT, _CONNECTIONS):
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        raise ValueError(f"expected an integer, got {value!r}")
    if param.type in (_LEASE, _STALE, _INTERVAL):
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        raise ValueError(f"expected a number, got {value!r}")
    if param.name in _SECRET:
        raise ValueError(f"expected a string, got {type(value).__name__}")
    raise ValueError(f"expected a string, got {value!r}")


@click.command(
    context_settings={
        "auto_envvar_prefix": "GEARHORN",
        "help_option_names": ["-h", "--help"],
        "show_default": True,
    }
)
@click.argument(
    "servers", metavar="[HOST[:PORT]]...", type=_SERVER, nargs=-1, envvar="GEARHORN_SERVERS"
)
@click.option(
    "--config",
    type=_FILE,
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    help="TOML file; its keys are the options' names, and `servers`.",
)
@click.option(
    "--redis", metavar="URL", default=DEFAULT_REDIS, help="redis://, rediss:// or unix://"
)
@click.option(
    "--store-connections",
    type=_CONNECTIONS,
    default=_DEFAULTS.store_connections,
    help="Connections to the store at most; what needs one queues.",
)
@click.option(
    "--namespace",
    type=_NAMESPACE,
    default=_DEFAULTS.namespace,
    help="Keeps clusters that share one Redis apart.",
)
@click.option("--standalone", is_flag=True, help="Bring a job server and a store along.")
@click.option(
    "--data",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="With --standalone: keep the store's data here between runs.",
)
@click.option("--ssl-ca", type=_FILE, help="Speak TLS to the job servers; verified with this CA.")
@click.option("--ssl-cert", type=_FILE, help="This worker's certificate, if they ask for one.")
@click.option("--ssl-key", type=_FILE, help="Its key.")
@click.option("--fanout-function", type=_FUNCTION, default=_DEFAULTS.fanout_function)
@click.option("--subscribe-function", type=_FUNCTION, default=_DEFAULTS.subscribe_function)
@click.option("--register-function", type=_FUNCTION, default=_DEFAULTS.register_function)
@click.option("--unsubscribe-function", type=_FUNCTION, default=_DEFAULTS.unsubscribe_function)
@click.option("--describe-function", type=_FUNCTION, default=_DEFAULTS.describe_function)
@click.option("--retain-function", type=_FUNCTION, default=_DEFAULTS.retain_function)
@click.option("--fetch-function", type=_FUNCTION, default=_DEFAULTS.fetch_function)
@click.option("--parked-function", type=_FUNCTION, default=_DEFAULTS.parked_function)
@click.option(
    "--max-payload", type=_SIZE, default=_DEFAULTS.max_payload, help="Bytes in one payload."
)
@click.option(
    "--max-fanout-bytes",
    type=_SIZE,
    default=_DEFAULTS.max_fanout_bytes,
    help="Payload times copies; and what waiting foreground fan-outs hold.",
)
@click.option(
    "--max-foreground",
    type=_COUNT,
    default=_DEFAULTS.max_foreground,
    help="Foreground fan-outs that may wait for receivers.",
)
@click.option(
    "--max-backlog",
    type=_COUNT,
    default=_DEFAULTS.max_backlog,
    help="Copies that may wait on a queue, unless its subscription says otherwise.",
)
@click.option(
    "--max-cached",
    type=_COUNT,
    default=_DEFAULTS.max_cached,
    help="Subscriptions kept in memory.",
)
@click.option(
    "--lease",
    type=_LEASE,
    default=_DEFAULTS.lease,
    metavar="SECONDS",
    help="How long a dead worker can hold up a change of a subscription.",
)
@click.option(
    "--serve-stale",
    type=_STALE,
    default=_DEFAULTS.serve_stale,
    metavar="SECONDS",
    help="Go on with lists that may be old so long after the store is lost.",
)
@click.option(
    "--gossip-interval",
    type=_INTERVAL,
    default=_DEFAULTS.gossip_interval,
    metavar="SECONDS",
    help="Between two messages of one worker on its state; longer with many workers.",
)
@click.option("--log-format", type=click.Choice(["logfmt", "json"]), default="logfmt")
@click.option("--log-level", type=click.Choice(list(LEVELS)), default="info")
@click.version_option(
    gearhorn.__version__, message="gearhorn %(version)s", allow_from_autoenv=False
)
def main(
    servers: tuple[tuple[str, int], ...],
    standalone: bool,
    data: Path | None,
    log_format: str,
    log_level: str,
    **options: Any,
) -> None:
    """Copy every fanout job to each subscriber's queue, beside a Gearman job server.

    Every option is also an environment variable (GEARHORN_MAX_PAYLOAD, GEARHORN_SERVERS ...) and
    a key of the file given with --config. Servers default to localhost:4730.
    """
    writer = set_up_logs(log_format, log_level)
    click.get_current_context().call_on_close(writer.flush)
    names = [value for key, value in options.items() if key.endswith("_function")]
    if len(set(names)) < len(names):
        raise click.UsageError(f"expected different function names, got {', '.join(names)}")
    if standalone and (servers or options["redis"] != DEFAULT_REDIS):
        own = "--standalone brings its own job server and store"
        raise click.UsageError(f"{own}: leave out servers and --redis")
    if data is not None and not standalone:
        raise click.UsageError("--data needs --standalone")
    if len(set(servers)) < len(servers):
        raise click.UsageError("expected different servers, got one twice")
    config = Config(**{f.name: options[f.name] for f in fields(Config) if f.name in options})
    if servers:
        config = replace(config, servers=servers)
    with _standalone(data) if standalone else contextlib.nullcontext() as brought:
        if brought is not None:
            config = replace(config, servers=(parse_server(brought.gearman),), redis=brought.redis)
            _introduce(brought)
        code = _run(config)
    sys.exit(code)


def run() -> None:
    """The command as a process: like ``main``, but a name look-up that hangs in a thread of the
    standard library does not keep the process from ending."""
    open_standard_streams()
    _heed_signals()
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _heed_signals() -> None:
    """Until the worker serves, a signal ends the process as an exception does, so that what was
    begun is taken away; SIGHUP, which a terminal sends that is closed, never does.

    Python drops an exception that is raised in a destructor or in the callback of a weak reference
    (imports have many), so the signal is written down too: who comes to serve finds it there.
    """

    def end(number: int, _frame: object) -> None:
        _came.append(number)
        sys.exit(0)

    for number in _ENDINGS:
        signal.signal(number, end)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _run(config: Config) -> int:
    gc.collect()
    gc.freeze()  # what is there for good need not be looked at whenever garbage is collected
    loop = asyncio.new_event_loop()
    stopping = _Stopping(loop)
    serving = loop.create_task(_serve(config, stopping.asked))
    try:
        return loop.run_until_complete(serving)
    except RuntimeError:  # the loop was stopped before the worker had finished
        if stopping.at_once is None:
            raise
        return 128 + stopping.at_once
    finally:
        loop.close()


class _Stopping:
    """What signals do to a worker that serves: the first one asks it to stop, a second one stops
    it at once. SIGHUP has nothing to reload and does no harm."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.asked = asyncio.Event()
        self.at_once: int | None = None  # the signal that did not wait
        self._loop = loop
        for number in _ENDINGS:
            loop.add_signal_handler(number, self._end, number)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        if _came:
            self.asked.set()

    def _end(self, number: int) -> None:
        if not self.asked.is_set():
            self.asked.set()
            return
        log.warning("stopping at once; other members will be given what is in hand")
        self.at_once = number
        self._loop.stop()

    def _hang_up(self) -> None:
        log.info("SIGHUP: there is nothing to reload")


@contextlib.contextmanager
def _standalone(data: Path | None) -> Iterator[Standalone]:
    try:
        brought = start_standalone(data)
    except StandaloneError as error:
        raise click.ClickException(str(error)) from None
    with brought:
        yield brought


def _introduce(brought: Standalone) -> None:
    server = Server(*parse_server(brought.gearman))
    at = f"-h {server.host} -p {server.port}"
    click.echo(
        f"""\
job server  {brought.gearman}  {brought.job_server}
store       {brought.redis}  {brought.store}

Try, in other terminals (the gearman command is in Debian's gearman-tools):

  gearman {at} -f subscribe_fanout '{{"topic": "news", "client_id": "alice"}}'
  gearman {at} -w -f news_alice
  gearman {at} -f fanout '{{"topic": "news", "payload": "hello", "background": true}}'
"""
    )


async def _serve(config: Config, stop: asyncio.Event) -> int:
    """Run the worker until ``stop`` is set; return the exit code."""
    try:
        broker = Broker(config)
    except StartError as error:
        click.echo(f"Error: {error}", err=True)
        return 2
    try:
        await broker.run(stop)
    except StartError as error:
        click.echo(f"Error: {error}", err=True)
        return 1
    return 0


if __name__ == "__main__":
    run()
