"""``gearhorn subscribe`` and the others that change a subscription or a topic's retention."""

from __future__ import annotations

import json
from typing import Any

import click

from gearhorn.cli.commands.settings import (
    Settings,
    client_argument,
    topic_argument,
    wait,
    with_settings,
)
from gearhorn.cli.commands.values import SECONDS, Number
from gearhorn.messages.codec import encode


def _say(settings: Settings, reply: dict[str, Any], text: str) -> None:
    if settings.is_json:
        click.echo(encode(reply))
    elif not settings.is_quiet:
        click.echo(text)


def durable_of(text: str | None) -> dict[str, Any] | None:
    """Return the options of ``--durable``; raises ``click.UsageError`` where they are none."""
    if text is None:
        return None
    try:
        options = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"--durable: {error}") from None
    if not isinstance(options, dict):
        raise click.UsageError(f"--durable: expected a JSON object, got {text}")
    return options


@click.command("subscribe")
@topic_argument
@client_argument
@click.option("--ttl", type=SECONDS, metavar="SECONDS", help="It ends unless it is made again.")
@click.option("--max-backlog", type=int, help="So many copies may wait.")
@click.option("--overflow", type=click.Choice(["drop_new", "drop_old", "unsubscribe"]))
@click.option("--envelope/--no-envelope", default=None, help="Copies carry topic, time and id.")
@click.option("--durable", is_flag=False, flag_value="{}", metavar="[JSON]", help="With options.")
@click.option("--direct", is_flag=True, help="Not durable any more.")
@click.option("--pattern", is_flag=True, default=None, help="TOPIC is a pattern.")
@with_settings
def subscribe_command(settings: Settings, topic: str, client: str, **options: Any) -> None:
    """Subscribe CLIENT to TOPIC, or change the options that are given."""
    durable = False if options["direct"] else durable_of(options["durable"])

    async def run() -> dict[str, Any]:
        async with settings.admin() as admin:
            return await admin.ask(
                admin.functions.subscribe,
                topic=topic,
                client_id=client,
                durable=durable,
                **{key: options[key] for key in ("ttl", "max_backlog", "overflow", "envelope")},
                pattern=options["pattern"],
            )

    reply = wait(run())
    _say(settings, reply, f"{client} gets the messages of {topic} on queue {reply['queue']}")


@click.command("unsubscribe")
@topic_argument
@client_argument
@click.option("--drain", is_flag=True, help="Also discard what waits on its queue.")
@click.option("--pattern", is_flag=True, help="TOPIC is a pattern.")
@with_settings
def unsubscribe_command(
    settings: Settings, *, topic: str, client: str, drain: bool, pattern: bool
) -> int:
    """End the subscription of CLIENT to TOPIC."""
    return _unsubscribe(settings, topic, client, drain=drain, pattern=pattern)


@click.command("drain")
@topic_argument
@client_argument
@click.option("--pattern", is_flag=True, help="TOPIC is a pattern.")
@with_settings
def drain_command(settings: Settings, topic: str, client: str, pattern: bool) -> int:
    """End the subscription of CLIENT to TOPIC and discard what waits on its queue."""
    return _unsubscribe(settings, topic, client, drain=True, pattern=pattern)


def _unsubscribe(settings: Settings, topic: str, client: str, *, drain: bool, pattern: bool) -> int:
    """End a subscription; return the exit code: 3 where a job server was not drained."""
    if drain:
        settings.confirm(f"discard what waits for {topic}/{client}")

    async def run() -> dict[str, Any]:
        async with settings.admin() as admin:
            return await admin.unsubscribe(topic, client, drain=drain, pattern=pattern)

    reply = wait(run())
    drained = f", {reply['drained']} discarded" if "drained" in reply else ""
    _say(settings, reply, f"{client} is not subscribed to {topic}{drained}")
    for server in reply.get("undrained", ()):
        click.echo(f"gearhorn: {server} was not drained: ask again once it is back", err=True)
    return 3 if reply.get("undrained") else 0


@click.command("pause")
@topic_argument
@client_argument
@click.option("--for", "seconds", type=SECONDS, metavar="SECONDS", help="It ends by itself then.")
@with_settings
def pause_command(settings: Settings, topic: str, client: str, seconds: float | None) -> None:
    """Deliver nothing to the durable CLIENT of TOPIC until `gearhorn resume`."""

    async def run() -> None:
        async with settings.admin() as admin:
            await admin.pause(topic, client, seconds)

    wait(run())
    until = "" if seconds is None else f" for {seconds:g} s"
    _say(settings, {"paused": True}, f"{topic}/{client} is paused{until}")


@click.command("resume")
@topic_argument
@client_argument
@with_settings
def resume_command(settings: Settings, topic: str, client: str) -> None:
    """Deliver to the durable CLIENT of TOPIC again."""

    async def run() -> None:
        async with settings.admin() as admin:
            await admin.resume(topic, client)

    wait(run())
    _say(settings, {"paused": False}, f"{topic}/{client} is delivered to")


@click.command("retain")
@topic_argument
@click.option("--max-age", type=Number(above=0, or_zero=True), metavar="SECONDS")
@click.option("--max-messages", type=int)
@click.option("--max-bytes", type=int)
@click.option("--show", "is_shown", is_flag=True, help="Change nothing.")
@with_settings
def retain_command(settings: Settings, topic: str, is_shown: bool, **given: Any) -> None:
    """Keep the messages of TOPIC, with or without subscribers, within these bounds.

    A bound of 0 returns to the default.
    """
    bounds = {key: value or None for key, value in given.items() if value is not None}

    async def run() -> dict[str, Any]:
        async with settings.admin() as admin:
            if bounds and not is_shown:
                await admin.retain(topic, **bounds)
            return dict((await admin.describe(topic)).get("log") or {})

    log = wait(run())
    text = ", ".join(f"{key} {log[key]:.15g}" for key in given if key in log)
    _say(settings, log, f"{topic}: {text or 'no log'}")
