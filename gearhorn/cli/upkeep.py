"""Upkeep: what the command does to a store instead of serving, ``--migrate`` and ``--check``.

Both are for an operator, who reads what they print: so a line says what was found and what to do
about it, and the exit code says the same to a script.

Rules: what was found is printed on standard output, why nothing could be done on standard error. A
signal ends either; a migration that was cut short is begun again (``store.migration``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import click

from gearhorn.config import Config
from gearhorn.errors import StartError, StoreError
from gearhorn.store.census import Census
from gearhorn.store.connection import Connection
from gearhorn.store.migration import migrate

SHOWN = 100  # topics whose counters are wrong; the others are counted


async def migrate_store(config: Config, stop: asyncio.Event) -> int:
    """Make the present layout of keys; return the exit code."""
    return await _do(config, stop, _migrate)


async def check_store(config: Config, stop: asyncio.Event) -> int:
    """Compare all counters with what they count; return the exit code, 1 where one is wrong."""
    return await _do(config, stop, _check)


async def _migrate(connection: Connection) -> int:
    """Migrate, and tell how far it is; raises ``StartError`` and ``StoreError``."""
    count = await migrate(connection, lambda done: click.echo(f"{done} topics so far"))
    click.echo(f"The store has this release's layout; {count} topics were counted.")
    return 0


async def _check(connection: Connection) -> int:
    """Print the topics whose counters are wrong; raises ``StartError`` and ``StoreError``."""
    await connection.check()
    wrong = 0
    async for found in Census(connection).differences():
        wrong += 1
        if wrong <= SHOWN:  # a fault that concerns all topics would fill the screen
            click.echo(f"{found.topic}: kept {found.kept}, counted {found.counted}")
    if wrong:
        click.echo(f"The counters of {wrong} topics are wrong; --migrate counts them anew.")
        return 1
    click.echo("Every counter is what a full count gives.")
    return 0


async def _do(
    config: Config, stop: asyncio.Event, work: Callable[[Connection], Coroutine[Any, Any, int]]
) -> int:
    """Do ``work`` with a connection to the store unless ``stop`` comes first; return the exit code.

    A URL that is none is a wrong option: 2. What the store refuses, or that it does not answer: 1.
    """
    try:
        connection = Connection(config.redis, config.namespace, config.store_connections)
    except StartError as error:
        click.echo(f"Error: {error}", err=True)
        return 2
    try:
        return await _unless(stop, work(connection))
    except (StartError, StoreError) as error:
        click.echo(f"Error: {error}", err=True)
        return 1
    finally:
        await connection.close()


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, int]) -> int:
    """Return what ``work`` returns; 1 where ``stop`` is set before. Raises what it raises."""
    # as ``Broker`` does: a signal sets ``stop``, and the work's own end is waited for
    working = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([working, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if working.done():
        return working.result()
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working
    click.echo("Stopped before it was done; begin again.", err=True)
    return 1
