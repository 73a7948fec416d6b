"""``gearhorn-worker``: its options, and the process around the worker.

The order of a start: standard streams, signals, options, log, with ``--standalone`` the servers,
the event loop, the worker. Each is taken back in reverse, however the process ends. ``main`` can be
called by itself, as tests do; ``run`` is what the installed command and ``python -m`` call.

Rules: the command line wins over ``GEARHORN_...``, which wins over the TOML file of ``--config``.
Exit codes: 0 stopped as asked; 1 the worker cannot start, or a server of ``--standalone`` cannot; 2
a wrong option or file; 128 and the signal's number after a second signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click

import gearhorn
from gearhorn.broker.broker import Broker
from gearhorn.cli.logs import LEVELS, open_standard_streams, set_up_logs
from gearhorn.cli.options import (
    CONNECTIONS,
    COUNT,
    FILE,
    FUNCTION,
    INTERVAL,
    LEASE,
    NAMESPACE,
    SERVER,
    SIZE,
    STALE,
    read_config,
)
from gearhorn.cli.process import Stopping, heed_signals
from gearhorn.cli.upkeep import check_store, migrate_store
from gearhorn.config import DEFAULT_REDIS, Config, parse_server
from gearhorn.errors import StartError
from gearhorn.gearman.server import Server
from gearhorn.standalone.child import StandaloneError
from gearhorn.standalone.servers import Standalone
from gearhorn.standalone.servers import start as start_standalone

_DEFAULTS = Config()


# An option has the name of its field in ``Config``, and from that follow its environment variable
# (GEARHORN_NAME) and its key in the file. Defaults are those of ``Config``, which ``--help`` shows.
# A line of help says what it is for; docs/operations.rst says when to change it.
@click.command(
    context_settings={
        "auto_envvar_prefix": "GEARHORN",
        "help_option_names": ["-h", "--help"],
        "show_default": True,
    }
)
@click.argument(
    "servers", metavar="[HOST[:PORT]]...", type=SERVER, nargs=-1, envvar="GEARHORN_SERVERS"
)
@click.option(
    "--config",
    type=FILE,
    is_eager=True,
    expose_value=False,
    callback=read_config,
    help="TOML file; its keys are the options' names, and `servers`.",
)
# The store. Its URL may hold a password, so nothing shows the value.
@click.option(
    "--redis", metavar="URL", default=DEFAULT_REDIS, help="redis://, rediss:// or unix://"
)
@click.option(
    "--store-connections",
    type=CONNECTIONS,
    default=_DEFAULTS.store_connections,
    help="Connections to the store at most; what needs one queues.",
)
@click.option(
    "--namespace",
    type=NAMESPACE,
    default=_DEFAULTS.namespace,
    help="Keeps clusters that share one Redis apart.",
)
# Instead of servers and a store: see standalone.servers. Neither is a field of ``Config``.
@click.option("--standalone", is_flag=True, help="Bring a job server and a store along.")
@click.option(
    "--data",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="With --standalone: keep the store's data here between runs.",
)
# What is done to the store instead of serving: see ``cli.upkeep``.
@click.option("--migrate", is_flag=True, help="Make this release's layout of the store, and end.")
@click.option("--check", is_flag=True, help="Compare the store's counters with a count, and end.")
# TLS: see gearman.tls; the store has its own, by a URL that begins with rediss
@click.option("--ssl-ca", type=FILE, help="Speak TLS to the job servers; verified with this CA.")
@click.option("--ssl-cert", type=FILE, help="This worker's certificate, if they ask for one.")
@click.option("--ssl-key", type=FILE, help="Its key.")
# Names of the functions that the worker serves: others, to run two clusters on one job server.
@click.option("--fanout-function", type=FUNCTION, default=_DEFAULTS.fanout_function)
@click.option("--subscribe-function", type=FUNCTION, default=_DEFAULTS.subscribe_function)
@click.option("--register-function", type=FUNCTION, default=_DEFAULTS.register_function)
@click.option("--unsubscribe-function", type=FUNCTION, default=_DEFAULTS.unsubscribe_function)
@click.option("--describe-function", type=FUNCTION, default=_DEFAULTS.describe_function)
@click.option("--retain-function", type=FUNCTION, default=_DEFAULTS.retain_function)
@click.option("--fetch-function", type=FUNCTION, default=_DEFAULTS.fetch_function)
@click.option("--parked-function", type=FUNCTION, default=_DEFAULTS.parked_function)
# Bounds: what is beyond is refused with a code (docs/protocol.rst, "Requests, replies, errors").
@click.option(
    "--max-payload", type=SIZE, default=_DEFAULTS.max_payload, help="Bytes in one payload."
)
@click.option(
    "--max-fanout-bytes",
    type=SIZE,
    default=_DEFAULTS.max_fanout_bytes,
    help="Payload times copies; and what waiting foreground fan-outs hold.",
)
@click.option(
    "--max-foreground",
    type=COUNT,
    default=_DEFAULTS.max_foreground,
    help="Foreground fan-outs that may wait for receivers.",
)
@click.option(
    "--max-backlog",
    type=COUNT,
    default=_DEFAULTS.max_backlog,
    help="Copies that may wait on a queue, unless its subscription says otherwise.",
)
@click.option(
    "--max-cached",
    type=COUNT,
    default=_DEFAULTS.max_cached,
    help="Subscriptions kept in memory.",
)
# Times of the cluster: all members of a namespace should have the same.
@click.option(
    "--lease",
    type=LEASE,
    default=_DEFAULTS.lease,
    metavar="SECONDS",
    help="How long a dead worker can hold up a change of a subscription.",
)
@click.option(
    "--serve-stale",
    type=STALE,
    default=_DEFAULTS.serve_stale,
    metavar="SECONDS",
    help="Go on with lists that may be old so long after the store is lost.",
)
@click.option(
    "--gossip-interval",
    type=INTERVAL,
    default=_DEFAULTS.gossip_interval,
    metavar="SECONDS",
    help="Between two messages of one worker on its state; longer with many workers.",
)
# How the process logs: ``cli.logs`` alone knows.
@click.option("--log-format", type=click.Choice(["logfmt", "json"]), default="logfmt")
@click.option("--log-level", type=click.Choice(list(LEVELS)), default="info")
@click.version_option(
    gearhorn.__version__, message="gearhorn %(version)s", allow_from_autoenv=False
)
def main(
    *,
    servers: tuple[tuple[str, int], ...],
    standalone: bool,
    data: Path | None,
    migrate: bool,
    check: bool,
    log_format: str,
    log_level: str,
    **options: Any,
) -> None:
    """Copy every fanout job to each subscriber's queue, beside a Gearman job server.

    Every option is also an environment variable (GEARHORN_MAX_PAYLOAD, GEARHORN_SERVERS ...) and
    a key of the file given with --config. Servers default to localhost:4730.
    \f

    The text for ``--help`` ends above. click passes every option by keyword; those that are fields
    of ``Config`` come in ``options``, by the names of the fields.

    Arguments:
        servers: host and port of each job server; none means the default of ``Config``.
        standalone: bring servers along, whose addresses then replace those of ``Config``.
        data: where their store keeps its data; None: in memory.
        migrate: make the present layout of the store's keys instead of serving.
        check: compare the store's counters with a full count instead of serving.
        log_format: ``logfmt`` or ``json``.
        log_level: a key of ``LEVELS``.
        options: the fields of ``Config``, checked one by one.

    Ends with ``SystemExit``, whose code is in the rules above. Raises ``click.UsageError`` for
    options that do not go together, and ``click.ClickException`` where the servers cannot be
    started; click prints both.
    """
    # The log is first: whatever comes then may have something to report. It is written to its end
    # when click closes its context, behind everything that stands in a ``with`` here.
    writer = set_up_logs(log_format, log_level)
    click.get_current_context().call_on_close(writer.flush)
    _check_together(servers, standalone, data, options)
    config = Config(**{f.name: options[f.name] for f in fields(Config) if f.name in options})
    if servers:
        config = replace(config, servers=servers)
    if migrate and check:
        raise click.UsageError("--migrate counts everything anew: leave out --check")
    upkeep = migrate_store if migrate else check_store if check else None
    with _standalone(data) if standalone else contextlib.nullcontext() as brought:
        if brought is not None:
            config = replace(config, servers=(parse_server(brought.gearman),), redis=brought.redis)
            if upkeep is None:
                _introduce(brought)
        code = _run(config, upkeep or _serve)
    sys.exit(code)


def _check_together(
    servers: tuple[tuple[str, int], ...],
    standalone: bool,
    data: Path | None,
    options: dict[str, Any],
) -> None:
    """Refuse options that are right by themselves and wrong together: ``click.UsageError``.

    Two functions of one name would get each other's requests. A server that is named twice would
    carry twice its share of the queues, and a member would count its answers twice.
    """
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


def run() -> None:
    """The command as a process: like ``main``, but it always ends.

    A name look-up runs in a thread of the standard library, which Python waits for at its end; one
    that hangs would keep the process for minutes. So it ends with ``os._exit``, which waits for no
    thread and flushes nothing: both streams are flushed before, the log by ``main``.
    """
    open_standard_streams()
    heed_signals()
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _run(config: Config, serve: Callable[[Config, asyncio.Event], Coroutine[Any, Any, int]]) -> int:
    """Serve on an event loop of its own until a signal ends that; return the exit code.

    ``asyncio.run`` would cancel every task after a second signal, and wait for them; here the loop
    is left as it stands, since the process ends at once.
    """
    gc.collect()
    gc.freeze()  # modules stay for good: let no collection of garbage go through them again
    loop = asyncio.new_event_loop()
    stopping = Stopping(loop)
    serving = loop.create_task(serve(config, stopping.asked))
    try:
        return loop.run_until_complete(serving)
    except RuntimeError:  # the loop was stopped before the worker had finished
        if stopping.at_once is None:
            raise
        return 128 + stopping.at_once
    finally:
        loop.close()


@contextlib.contextmanager
def _standalone(data: Path | None) -> Iterator[Standalone]:
    """A job server and a store while the block runs; raises ``click.ClickException``, exit code 1,
    with the reason if they cannot be started."""
    try:
        brought = start_standalone(data)
    except StandaloneError as error:
        raise click.ClickException(str(error)) from None
    with brought:
        yield brought


def _introduce(brought: Standalone) -> None:
    """Print where the servers listen, and what to type next. It goes to standard output, with the
    address filled in, so that a line can be copied as it is."""
    server = Server(*parse_server(brought.gearman))
    at = f"-h {server.host} -p {server.port}"
    command = f"{_program()} -s {brought.gearman}"
    click.echo(
        f"""\
job server  {brought.gearman}  {brought.job_server}
store       {brought.redis}  {brought.store}

Try, in other terminals:

  {command} listen news
  {command} publish news hello

Any other Gearman client will do (the gearman command is in Debian's gearman-tools):

  gearman {at} -f subscribe_fanout '{{"topic": "news", "client_id": "alice"}}'
  gearman {at} -w -f news_alice
  gearman {at} -f fanout '{{"topic": "news", "payload": "hello", "background": true}}'
"""
    )


def _program() -> str:
    """Return how to call the command ``gearhorn`` from here: by its path where that is beside this
    program, as in a checkout."""
    beside = Path(sys.argv[0]).with_name("gearhorn")
    return os.path.relpath(beside) if beside.exists() else "gearhorn"


async def _serve(config: Config, stop: asyncio.Event) -> int:
    """Run the worker until ``stop`` is set; return the exit code.

    What is wrong with a value that only its part can judge (a store's URL, a certificate) ends the
    making of the broker, and is a wrong option: 2. What the store or the servers refuse ends its
    start: 1. What only has to be waited for is waited for, and is no ``StartError``.
    """
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
