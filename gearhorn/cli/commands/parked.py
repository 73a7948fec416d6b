"""``gearhorn parked``: messages that were set aside."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import click

from gearhorn.cli.commands.output import Column, moment, show, write_json
from gearhorn.cli.commands.progress import Progress
from gearhorn.cli.commands.settings import (
    PAGE,
    Settings,
    client_argument,
    complete_clients,
    complete_topics,
    topic_argument,
    wait,
    with_settings,
)
from gearhorn.cli.commands.values import Rate, clean, counted
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
        _overview(settings, None)


def _overview(settings: Settings, topic: str | None) -> None:
    """Show who has parked messages, of one topic or of all that have any."""

    async def run() -> list[dict[str, Any]]:
        async with settings.admin() as admin:
            names = [topic] if topic else [name async for name in _topics(admin)]
            return [row for name in names for row in await _counts(admin, name)]

    show(settings, _COUNTS, wait(run()))


async def find_parked(
    admin: Admin, topic: str, client: str, sequence: int
) -> dict[str, Any] | None:
    """Return one parked message as the worker tells it; None where it is not parked."""
    page = await admin.ask(
        admin.functions.parked,
        topic=topic,
        client_id=client,
        action="list",
        limit=1,
        after=max(0, sequence - 1),
    )
    return next((one for one in page["parked"] if one["sequence"] == sequence), None)


async def _topics(admin: Admin) -> AsyncIterator[str]:
    """Yield the topics that have parked messages, those with most first: so what has none, however
    many topics that are, is not read."""
    cursor = None
    while True:
        page = await admin.ask(
            admin.functions.describe, summary=True, sort="parked", limit=PAGE, cursor=cursor
        )
        for topic, found in page["topics"].items():
            if not found["parked"]:
                return
            yield topic
        cursor = page.get("cursor")
        if cursor is None:
            return


async def _counts(admin: Admin, topic: str) -> list[dict[str, Any]]:
    """Return who has parked messages of a topic, and how many."""
    found = (await admin.describe(topic)).get("subscriptions", {})
    counts = {name: (one.get("durable") or {}).get("parked", 0) for name, one in found.items()}
    return [
        {"topic": topic, "client": name, "parked": count}
        for name, count in sorted(counts.items())
        if count
    ]


@parked_command.command("list")
@click.argument("topic", required=False, shell_complete=complete_topics)
@click.argument("client", required=False, shell_complete=complete_clients)
@click.option("--limit", type=click.IntRange(min=1), default=100)
@click.option("--match", metavar="TEXT", help="Whose error or payload has this text.")
@with_settings
def list_command(
    settings: Settings, *, topic: str | None, client: str | None, limit: int, match: str | None
) -> None:
    """List the parked messages of CLIENT, the oldest first; without it, who has any."""
    if topic is None or client is None:
        _overview(settings, topic)
        return

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
            return await find_parked(admin, topic, client, sequence)

    found = wait(run())
    if found is None:
        click.echo(f"gearhorn: {topic}/{client} has no parked message {sequence}", err=True)
        return 1
    if settings.is_json:
        write_json(found)
        return 0
    for key in ("sequence", "epoch", "attempts", "error"):
        click.echo(f"{key}\t{clean(str(found[key]))}")
    click.echo(f"first failed\t{moment(found['first_at'])}\nparked\t{moment(found['at'])}")
    for name, value in found.get("headers", {}).items():
        click.echo(f"header {name}\t{clean(value)}")
    text = _text(found)
    is_terminal = sys.stdout.isatty()
    click.echo("\n" + ("\n".join(map(clean, text.split("\n"))) if is_terminal else text))
    return 0


@parked_command.command("redrive")
@topic_argument
@client_argument
@click.option("--limit", type=click.IntRange(min=1), help="The oldest only.")
@click.option("--rate", type=Rate(), metavar="N[/s]", help="N a second.")
@with_settings
def redrive_command(
    settings: Settings, *, topic: str, client: str, limit: int | None, rate: float | None
) -> None:
    """Deliver the parked messages of CLIENT again."""
    count = wait(_each(settings, "redrive", topic, client, limit=limit, rate=rate))
    if settings.is_json:
        write_json({"redriven": count})
    settings.say(f"{counted(count, 'message')} put back, to be delivered again")


@parked_command.command("purge")
@topic_argument
@client_argument
@click.option("--limit", type=click.IntRange(min=1), help="The oldest only.")
@with_settings
def purge_command(settings: Settings, topic: str, client: str, limit: int | None) -> None:
    """Forget the parked messages of CLIENT, for good."""
    if settings.is_asking:
        settings.need_terminal(f"purge parked messages of {topic}/{client}")

        async def count_them() -> int:
            async with settings.admin() as admin:
                counts = await _counts(admin, topic)
            return sum(row["parked"] for row in counts if row["client"] == client)

        how_many = wait(count_them())
        limited = how_many if limit is None else min(limit, how_many)
        settings.confirm(f"purge {limited} parked messages of {topic}/{client}")
    count = wait(_each(settings, "purge", topic, client, limit=limit, rate=None))
    if settings.is_json:
        write_json({"purged": count})
    settings.say(f"{counted(count, 'message')} forgotten")


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
        progress = Progress(settings, "messages", limit)
        while limit is None or done < limit:
            step = max(1, min(STEP, int(rate)))
            count = await act(
                admin, topic, client, step if limit is None else min(step, limit - done)
            )
            done += count
            if count < step:
                break
            progress.tell(done)
            await asyncio.sleep(max(0.0, began_s + done / rate - time.monotonic()))
        progress.end(done)
        return done
