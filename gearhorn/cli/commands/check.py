"""``gearhorn check``: one thing, for a monitoring system.

Rules: exit codes are those of Nagios: 0 ok, 1 warning, 2 critical, 3 unknown. One line says what is
wrong, with the figures behind a bar.
"""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import click

from gearhorn.aio import Message, Subscriber
from gearhorn.cli.commands.explain import explained
from gearhorn.cli.commands.servers import Cluster, ask_cluster
from gearhorn.cli.commands.settings import (
    Settings,
    client_argument,
    topic_argument,
    wait,
    with_settings,
)
from gearhorn.cli.commands.values import Number
from gearhorn.errors import GearhornError
from gearhorn.messages.codec import encode

OK, WARNING, CRITICAL, UNKNOWN = range(4)
_WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


class Figure(NamedTuple):
    """One figure with its bounds; ``is_least``: it is wrong below them, not above."""

    name: str
    value: float
    warn: float | None = None
    crit: float | None = None
    is_least: bool = False

    @property
    def level(self) -> int:
        """How bad it is: the critical bound is asked first, and each bound belongs to what it
        bounds (at 100, ``--lag-warn 100`` warns)."""
        for bound, level in ((self.crit, CRITICAL), (self.warn, WARNING)):
            if bound is not None:
                if self.value < bound if self.is_least else self.value >= bound:
                    return level
        return OK

    def __str__(self) -> str:
        bounds = ";".join(
            "" if bound is None else f"{bound:g}{':' if self.is_least else ''}"
            for bound in (self.warn, self.crit)
        )
        return f"{self.name}={self.value:g};{bounds}".rstrip(";")


def _report(form: str, subject: str, figures: list[Figure], level: int = OK) -> int:
    """Write what was found; return the exit code, which is that of the worst figure.

    The line for Nagios has the figures twice: for people before the bar, and behind it as
    ``NAME=VALUE;WARN;CRIT``, which monitoring systems draw.
    """
    level = max([level, *(figure.level for figure in figures)])
    if form == "json":
        values = {figure.name: figure.value for figure in figures}
        click.echo(encode({"level": _WORDS[level], "subject": subject, "figures": values}))
    elif form == "prometheus":
        label = subject.replace("\\", "\\\\").replace('"', '\\"')
        for figure in figures:
            name = figure.name.replace(" ", "_")
            click.echo(f'gearhorn_check_{name}{{subject="{label}"}} {figure.value:g}')
    else:
        said = ", ".join(f"{figure.value:g} {figure.name}" for figure in figures)
        bounds = " ".join(map(str, figures))
        click.echo(f"GEARHORN {_WORDS[level]} - {subject}: {said} | {bounds}")
    return level


def _failed(form: str, why: str) -> int:
    """Write that nothing could be measured; return the exit code."""
    if form == "json":
        click.echo(encode({"level": _WORDS[CRITICAL], "error": why}))
    elif form == "prometheus":
        click.echo(f"gearhorn: {why}", err=True)
    else:
        click.echo(f"GEARHORN CRITICAL - {why}".replace("|", "/"))
    return CRITICAL


def checking(function: Callable[..., int]) -> Callable[..., Any]:
    """Give a check its options, and make errors CRITICAL: a cluster that cannot be asked is not
    well."""

    @functools.wraps(function)
    def check(settings: Settings, form: str | None, **values: Any) -> int:
        chosen = form or ("json" if settings.is_json else "nagios")
        try:
            return function(settings, chosen, **values)
        except GearhornError as error:
            return _failed(chosen, str(error))

    forms = click.Choice(["nagios", "prometheus", "json"])
    return click.option("--format", "form", type=forms)(with_settings(check))


def bounds(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add ``--NAME-warn`` and ``--NAME-crit`` for each name."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            for kind in ("warn", "crit"):
                function = click.option(f"--{name}-{kind}", type=Number())(function)
        return function

    return add


@click.group("check")
def check_command() -> None:
    """Check something, for a monitoring system: exit codes are those of Nagios."""


@check_command.command("cluster")
@click.option("--members-min", type=int, default=1, help="So many workers are expected.")
@checking
def cluster_command(settings: Settings, form: str, members_min: int) -> int:
    """Workers and their job servers."""

    found = wait(_cluster(settings))
    isolated = sum(member["state"] in ("isolated", "unknown") for member in found.members)
    figures = [
        Figure("members", len(found.members), None, members_min, is_least=True),
        Figure("isolated", isolated, 1),
        Figure("job servers down", len(found.unreachable), 1),
    ]
    return _report(form, "cluster", figures)


async def _cluster(settings: Settings) -> Cluster:
    async with settings.admin() as admin:
        return await ask_cluster(admin, settings.tls)


@check_command.command("member")
@click.argument("name")
@checking
def member_command(settings: Settings, form: str, name: str) -> int:
    """One worker, by its id or by its host."""

    async def run() -> list[dict[str, Any]]:
        async with settings.admin() as admin:
            return await admin.members()

    found = [one for one in wait(run()) if name in (one["member"], one.get("host"))]
    alive = sum(one["state"] in ("clustered", "solitary") for one in found)
    errors = sum(one.get("errors", 0) for one in found)
    return _report(form, name, [Figure("alive", alive, None, 1, True), Figure("errors", errors)])


@check_command.command("topic")
@topic_argument
@bounds("lag", "backlog", "parked", "drops")
@checking
def topic_command(settings: Settings, form: str, topic: str, **given: Any) -> int:
    """All subscriptions of a topic together."""

    async def run() -> dict[str, Any]:
        async with settings.admin() as admin:
            return await admin.describe(topic)

    subscriptions = wait(run()).get("subscriptions", {}).values()
    durables = [one["durable"] for one in subscriptions if one.get("durable")]
    values = {
        "lag": max((durable["lag"] for durable in durables), default=0),
        "backlog": sum(one.get("backlog") or 0 for one in subscriptions),
        "parked": sum(durable["parked"] for durable in durables),
        "drops": sum(one["drops"] for one in subscriptions),
    }
    return _report(form, topic, _bounded(values, given))


def _bounded(values: dict[str, float], given: dict[str, Any]) -> list[Figure]:
    return [
        Figure(name, value, given.get(f"{name}_warn"), given.get(f"{name}_crit"))
        for name, value in values.items()
    ]


@check_command.command("subscription")
@topic_argument
@client_argument
@bounds("lag", "backlog", "parked", "drops")
@click.option("--receivers-min", type=int, help="So many receivers are expected.")
@checking
def subscription_command(
    settings: Settings,
    form: str,
    *,
    topic: str,
    client: str,
    receivers_min: int | None,
    **given: Any,
) -> int:
    """One subscription: its receivers, and what waits for it."""
    found = wait(explained(settings, topic))
    subscription = found.described.get("subscriptions", {}).get(client)
    if subscription is None:
        return _failed(form, f"{topic}/{client} is not subscribed")
    durable = subscription.get("durable") or {}
    values = {
        "lag": durable.get("lag", 0),
        "backlog": subscription.get("backlog") or 0,
        "parked": durable.get("parked", 0),
        "drops": subscription["drops"],
    }
    [row] = [row for row in found.document["subscriptions"] if row["client"] == client]
    receivers = row["receivers"] or 0
    figures = [
        Figure("receivers", receivers, None, receivers_min, is_least=True),
        *_bounded(values, given),
    ]
    return _report(form, f"{topic}/{client}", figures)


@check_command.command("queue")
@click.argument("queue")
@bounds("waiting")
@click.option("--receivers-min", type=int, help="So many receivers are expected.")
@checking
def queue_command(
    settings: Settings, form: str, queue: str, receivers_min: int | None, **given: Any
) -> int:
    """One Gearman function, on all job servers together."""
    asked = wait(_cluster(settings)).servers.values()
    rows = [answer.queues[queue] for answer in asked if queue in answer.queues]
    figures = [
        Figure("receivers", sum(row.receivers for row in rows), None, receivers_min, True),
        *_bounded({"waiting": sum(row.total - row.running for row in rows)}, given),
    ]
    return _report(form, queue, figures)


@check_command.command("canary")
@topic_argument
@bounds("seconds")
@checking
def canary_command(settings: Settings, form: str, topic: str, **given: Any) -> int:
    """Publish a message on TOPIC to a subscriber of this process, and time it."""

    async def run() -> float:
        word = secrets.token_hex(8)
        name = f"canary-{word}"
        subscriber = Subscriber(name, *settings.servers, tls=settings.tls, grace=1.0)
        took: list[float] = []

        @subscriber.on(topic, ttl=60)
        async def came(message: Message) -> None:
            if message.text == word:
                took.append(time.monotonic())

        async with settings.publisher() as publisher:
            await subscriber.start()
            try:
                everyone = await _others(settings, topic, name)
                began_s = time.monotonic()
                await publisher.deliver(topic, word, timeout=settings.timeout, exclude=everyone)
                return took[0] - began_s
            finally:
                await subscriber.stop(unsubscribe=True)

    seconds = wait(run())
    return _report(form, f"canary {topic}", _bounded({"seconds": seconds}, given))


async def _others(settings: Settings, topic: str, name: str) -> list[str]:
    """Return everyone else who is subscribed: the canary is for nobody but itself."""
    async with settings.admin() as admin:
        described = await admin.describe(topic)
    return [client for client in described.get("subscriptions", {}) if client != name]
