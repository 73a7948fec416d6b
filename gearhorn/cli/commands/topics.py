"""``gearhorn topics``, ``show`` and ``members``: what there is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from gearhorn.cli.commands.output import Column, duration, moment, show
from gearhorn.cli.commands.settings import (
    Settings,
    complete_clients,
    topic_argument,
    wait,
    with_settings,
)
from gearhorn.errors import Unknown

TOPICS = [
    Column("topic"),
    Column("subs", is_number=True),
    Column("durable", is_number=True),
    Column("log"),
    Column("lag", is_number=True),
    Column("backlog", is_number=True),
    Column("parked", is_number=True, is_alarm=True),
    Column("drops", is_number=True, is_alarm=True),
    Column("no_receiver", is_number=True, is_alarm=True),
]
_SUBSCRIPTIONS = [
    Column("client"),
    Column("kind"),
    Column("queue"),
    Column("backlog", is_number=True),
    Column("lag", is_number=True),
    Column("parked", is_number=True, is_alarm=True),
    Column("drops", is_number=True, is_alarm=True),
    Column("attempts", is_number=True, is_alarm=True),
    Column("member"),
]
MEMBERS = [
    Column("member"),
    Column("state"),
    Column("release"),
    Column("uptime"),
    Column("servers"),
    Column("subscriptions", is_number=True),
    Column("lanes", is_number=True),
    Column("in_flight", is_number=True),
    Column("fanouts", is_number=True),
    Column("copies", is_number=True),
    Column("errors", is_number=True, is_alarm=True),
]
_MOMENTS = ("backlog_at", "paused_until")  # Unix time
_SORTS = {"name": "topic", "lag": "lag", "parked": "parked", "backlog": "backlog", "drops": "drops"}


@click.command("topics")
@click.argument("pattern", required=False)
@click.option("--sort", type=click.Choice(list(_SORTS)), default="name")
@with_settings
def topics_command(settings: Settings, pattern: str | None, sort: str) -> None:
    """List topics, or those that match PATTERN, with their counts."""

    async def run() -> list[dict[str, Any]]:
        async with settings.admin() as admin:
            return await admin.topics(pattern, sort)

    found = wait(run())
    show(settings, TOPICS, [topic_row(topic) for topic in found], found)


def topic_row(topic: dict[str, Any]) -> dict[str, Any]:
    return {
        "topic": topic["topic"],
        "subs": topic["subscriptions"],
        "durable": topic.get("durable", 0),
        "log": _range(topic.get("log")),
        "lag": topic.get("lag_max", 0),
        "backlog": topic.get("backlog", 0),
        "parked": topic.get("parked", 0),
        "drops": topic.get("drops", 0),
        "no_receiver": topic.get("receivers_missing"),
    }


def _range(log: dict[str, Any] | None) -> str:
    return f"{log['first']}…{log['last']}" if log else ""


@click.command("show")
@topic_argument
@click.argument("client", required=False, shell_complete=complete_clients)
@with_settings
def show_command(settings: Settings, topic: str, client: str | None) -> None:
    """Show the subscriptions of TOPIC, or all that is known of one."""

    async def run() -> dict[str, Any]:
        async with settings.admin() as admin:
            return await admin.describe(topic)

    found = wait(run())
    subscriptions = found.get("subscriptions", {})
    if client is None:
        log = found.get("log")
        if log and not settings.is_json:
            settings.say(f"log {_range(log)}, epoch {log['epoch']}, {log['bytes']:,} bytes")
        rows = [subscription_row(name, one) for name, one in sorted(subscriptions.items())]
        show(settings, _SUBSCRIPTIONS, rows, found)
        return
    whole = {"client": client, **_subscription(subscriptions, topic, client)}
    rows = [{"key": key, "value": value} for key, value in _flat(whole)]
    show(settings, [Column("key"), Column("value")], rows, whole)


def _subscription(subscriptions: dict[str, Any], topic: str, client: str) -> dict[str, Any]:
    if client not in subscriptions:
        raise Unknown(f"{client} is not subscribed to {topic}")
    return dict(subscriptions[client])


def _flat(found: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in found.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{key}.")
        else:
            yield f"{prefix}{key}", moment(value) if key in _MOMENTS else value


def kind_of(durable: dict[str, Any]) -> str:
    """Return what a subscription with these durable options is called; empty: it has none."""
    return "direct" if not durable else "pull" if durable.get("pull") else "durable"


def subscription_row(client: str, subscription: dict[str, Any]) -> dict[str, Any]:
    """Return the row of one subscription."""
    durable = subscription.get("durable") or {}
    kind = kind_of(durable)
    return {
        "client": client,
        "kind": f"{kind}, paused" if durable.get("paused") else kind,
        "queue": subscription["queue"],
        "backlog": subscription.get("backlog"),
        "lag": durable.get("lag"),
        "parked": durable.get("parked"),
        "drops": subscription["drops"],
        "attempts": durable.get("attempts"),
        "member": durable.get("member"),
    }


@click.command("members")
@with_settings
def members_command(settings: Settings) -> None:
    """List the workers, as each said last."""

    async def run() -> list[dict[str, Any]]:
        async with settings.admin() as admin:
            return await admin.members()

    found = wait(run())
    show(settings, MEMBERS, [member_row(member) for member in found], found)


def member_row(member: dict[str, Any]) -> dict[str, Any]:
    """Return the row of one worker."""
    servers = " ".join(member.get("servers", ()))
    return {**member, "uptime": duration(member.get("uptime", 0)), "servers": servers}
