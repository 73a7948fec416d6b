"""``gearhorn parked``: messages that were set aside."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import click

from gearhorn.cli.commands.output import Column, moment, show, write_json
from gearhorn.cli.commands.settings import (
    Settings,
    client_argument,
    topic_argument,
    wait,
    with_settings,
)
from gearhorn.client.admin import Admin
from gearhorn.client.payloads import data_of

STEP = 100  # messages put back or forgotten in one request, where a rate is asked for
_COLUMNS = [
    Column("sequence", is_number=True),
    Column("parked_at"),
    Column("attempts", is_number=True),
    Column("error"),
    Column("payload"),
]
_COUNTS = [Column("topic"), Column("client"), Column("parked", is_number=True, is_alarm=True)]


@click.group("parked", invoke_without_command=True)
@click.pass_context
@with_settings
def parked_command(settings: Settings, ctx: click.Context) -> None:
    """Messages that were set aside; without a subcommand, who has any."""
    if ctx.invoked_subcommand is None:
        wait(_overview(settings))


async def _overview(settings: Settings) -> None:
    async with settings.admin() as admin:
        described = await admin.describe()
    rows = [
        {"topic": topic, "client": client, "parked": subscription["durable"]["parked"]}
        for topic, found in sorted(described.items())
        for client, subscription in sorted(found["subscriptions"].items())
        if subscription.get("durable", {}).get("parked")
    ]
    show(settings, _COUNTS, rows)


@parked_command.command("list")
@topic_argument
@client_argument
@click.option("--limit", type=click.IntRange(min=1), default=100)
@click.option("--match", metavar="TEXT", help="Whose error or payload has this text.")
@with_settings
def list_command(
    settings: Settings, *, topic: str, client: str, limit: int, match: str | None
) -> None:
    """List the parked messages of CLIENT, the oldest first."""

    async def run() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async with settings.admin() as admin:
            async for parked in admin.parked(topic, client):
                if match is None or match in parked["error"] or match in _text(parked):
                    found.append(parked)
                if len(found) == limit:
                    break
        return found

    found = wait(run())
    show(settings, _COLUMNS, [_row(parked) for parked in found], found)


def _text(parked: dict[str, Any]) -> str:
    return data_of(parked).decode(errors="replace")


def _row(parked: dict[str, Any]) -> dict[str, Any]:
    return parked | {"parked_at": moment(parked["at"]), "payload": _text(parked)[:200]}


@parked_command.command("show")
@topic_argument
@client_argument
@click.argument("sequence", type=int)
@with_settings
def show_command(settings: Settings, topic: str, client: str, sequence: int) -> int:
    """Show one parked message, payload and all."""

    async def run() -> dict[str, Any] | None:
        async with settings.admin() as admin:
            async for parked in admin.parked(topic, client):
                if parked["sequence"] == sequence:
                    return parked
        return None

    found = wait(run())
    if found is None:
        click.echo(f"gearhorn: {topic}/{client} has no parked message {sequence}", err=True)
        return 1
    if settings.is_json:
        write_json(found)
        return 0
    for key in ("sequence", "epoch", "attempts", "error"):
        click.echo(f"{key}\t{found[key]}")
    click.echo(f"first failed\t{moment(found['first_at'])}\nparked\t{moment(found['at'])}")
    for name, value in found.get("headers", {}).items():
        click.echo(f"header {name}\t{value}")
    click.echo(f"\n{_text(found)}")
    return 0


@parked_command.command("redrive")
@topic_argument
@client_argument
@click.option("--limit", type=click.IntRange(min=1), help="The oldest only.")
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), metavar="N", help="N a second."
)
@with_settings
def redrive_command(
    settings: Settings, *, topic: str, client: str, limit: int | None, rate: float | None
) -> None:
    """Deliver the parked messages of CLIENT again."""
    count = wait(_each(settings, "redrive", topic, client, limit=limit, rate=rate))
    settings.say(f"{count} messages are delivered again")


@parked_command.command("purge")
@topic_argument
@client_argument
@click.option("--limit", type=click.IntRange(min=1), help="The oldest only.")
@with_settings
def purge_command(settings: Settings, topic: str, client: str, limit: int | None) -> None:
    """Forget the parked messages of CLIENT, for good."""
    how_many = "all" if limit is None else f"the oldest {limit}"
    settings.confirm(f"purge {how_many} parked messages of {topic}/{client}")
    count = wait(_each(settings, "purge", topic, client, limit=limit, rate=None))
    settings.say(f"{count} messages are forgotten")


async def _each(
    settings: Settings,
    action: str,
    topic: str,
    client: str,
    *,
    limit: int | None,
    rate: float | None,
) -> int:
    """Put messages back, or forget them; return how many.

    With a rate, a step at a time, the oldest first: so a receiver that is just up again is not
    given everything at once. Each step is a request of its own; an interrupted one leaves the rest
    parked.
    """
    async with settings.admin() as admin:
        act = Admin.redrive if action == "redrive" else Admin.purge
        if rate is None:
            return await act(admin, topic, client, limit)
        done, began_s = 0, time.monotonic()
        while limit is None or done < limit:
            step = max(1, min(STEP, int(rate)))
            count = await act(
                admin, topic, client, step if limit is None else min(step, limit - done)
            )
            done += count
            if count < step:
                break
            settings.say(f"{done} messages")
            await asyncio.sleep(max(0.0, began_s + done / rate - time.monotonic()))
        return done
