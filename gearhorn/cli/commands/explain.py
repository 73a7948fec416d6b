"""``gearhorn explain`` and ``trace``: who would get a message, and what became of one.

Rules: nothing is published, and nothing is changed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import click

from gearhorn.aio import Message
from gearhorn.cli.commands.output import Column, moment, show
from gearhorn.cli.commands.parked import find_parked
from gearhorn.cli.commands.servers import Cluster, Queue, ask_cluster, carrier_of
from gearhorn.cli.commands.settings import Settings, topic_argument, wait, with_settings
from gearhorn.cli.commands.topics import kind_of
from gearhorn.cli.commands.values import counted
from gearhorn.client.payloads import data_of
from gearhorn.errors import Unknown

_WHO = [
    Column("client"),
    Column("kind"),
    Column("queue"),
    Column("job_server"),
    Column("waiting"),
    Column("receivers", is_number=True),
    Column("note"),
]
_BECAME = [Column("client"), Column("state"), Column("attempts", is_number=True), Column("note")]


@click.command("explain")
@topic_argument
@click.argument("payload", required=False)
@with_settings
def explain_command(settings: Settings, topic: str, payload: str | None) -> int:
    """Tell who would get a message on TOPIC, through which queue and job server, and whether any
    receiver is there. Exit code 3: a subscription has no receiver, or a queue is full."""
    found = wait(explained(settings, topic)).document
    rows = found["subscriptions"]
    if not settings.is_json:
        copies = sum(row["kind"] == "direct" for row in rows)
        logged = ", logged once" if found["has_log"] else ""
        size = f", {len(payload.encode()):,} bytes each" if payload else ""
        to_whom = (
            f"{counted(copies, 'copy', 'copies')}{logged}, {counted(len(rows), 'subscription')}"
        )
        settings.say(f"{topic}: {to_whom}{size}")
    show(settings, _WHO, rows, found)
    return 3 if any(row["note"] for row in rows) else 0


class Explained(NamedTuple):
    """Who would get a message, as ``--json`` shows it; and the topic as the workers describe it."""

    document: dict[str, Any]
    described: dict[str, Any]


async def explained(settings: Settings, topic: str) -> Explained:
    """Return who would get a message, and what is wrong with each of them.

    The workers tell the subscriptions and the names of their job servers; which server carries a
    queue follows from these names alone, and what waits there, and who receives, its own ``status``
    says. A server that cannot be reached from here carries nothing here: it may be up for the
    workers all the same, so it is named under ``unreachable``.
    """
    async with settings.admin() as admin:
        described = await admin.describe(topic)
        cluster = await ask_cluster(admin, settings.tls)
    rows = [
        _who(client, subscription, cluster)
        for client, subscription in sorted(described.get("subscriptions", {}).items())
    ]
    document = {
        "topic": topic,
        "has_log": bool(described.get("log")),
        "subscriptions": rows,
        "unreachable": cluster.unreachable,
    }
    return Explained(document, described)


def _who(client: str, subscription: dict[str, Any], cluster: Cluster) -> dict[str, Any]:
    """Return one subscription, with what would become of a message."""
    durable = subscription.get("durable") or {}
    queue = subscription["queue"]
    carrier = carrier_of(queue, cluster.up)
    queues = cluster.servers[carrier].queues if carrier else {}
    at_carrier = queues.get(queue, Queue(0, 0, 0))
    kind = kind_of(durable)
    limit = subscription["max_backlog"]
    waiting = f"{at_carrier.total} of {limit}" if kind == "direct" else f"{durable['lag']} due"
    return {
        "client": client,
        "kind": kind,
        "queue": queue,
        "job_server": carrier,
        "waiting": waiting,
        "receivers": None if kind == "pull" else at_carrier.receivers,
        "note": _note(kind, durable=durable, carrier=carrier, queue=at_carrier, limit=limit),
    }


def _note(kind: str, *, durable: dict[str, Any], carrier: str, queue: Queue, limit: int) -> str:
    """Return what is wrong with a subscription, and what to do."""
    if durable.get("paused"):
        return "paused: gearhorn resume"
    if kind == "pull":
        return ""
    if not carrier:
        return "no job server answers"
    if not queue.receivers:
        return "no receiver: start one, or pause or unsubscribe it"
    if kind == "direct" and queue.total >= limit:
        return "full: copies are dropped"
    return ""


@click.command("trace")
@topic_argument
@click.argument("sequence", type=click.IntRange(min=1))
@with_settings
def trace_command(settings: Settings, topic: str, sequence: int) -> None:
    """Tell what became of one logged message of TOPIC at each durable subscription."""
    found = wait(traced(settings, topic, sequence))
    if not settings.is_json:
        message = found["message"]
        settings.say(
            f"{topic} {sequence} (epoch {message['epoch'][:8]}), {message['bytes']} bytes, "
            f"{moment(message['at'])}, unique {message['unique'] or '-'}"
        )
    show(settings, _BECAME, found["subscriptions"], found)


async def traced(settings: Settings, topic: str, sequence: int) -> dict[str, Any]:
    """Return a message and what became of it.

    A position says that everything up to it is done; what was done beyond it, while an older
    message fails, is not told apart from what waits. Raises ``Unknown`` where the log has it no
    more and no subscription has parked it."""
    async with settings.admin() as admin, settings.log(topic) as log:
        batch = await log.read(sequence - 1, limit=1)
        message = next(
            (one for one in batch.messages if one.position and one.position.sequence == sequence),
            None,
        )
        described = await admin.describe(topic)
        rows = []
        for client, subscription in sorted(described.get("subscriptions", {}).items()):
            durable = subscription.get("durable")
            if durable:
                parked = await find_parked(admin, topic, client, sequence)
                rows.append(_became(topic, client, durable, sequence=sequence, parked=parked))
    found = [row["parked"] for row in rows if row["parked"]]
    if message is None and not found:
        raise Unknown(
            f"{topic} has no message {sequence}: its log has {batch.first} to {batch.last}"
        )
    return {
        "message": _document(message) if message else _of_parked(found[0]),
        "subscriptions": rows,
    }


def _document(message: Message) -> dict[str, Any]:
    assert message.position is not None
    return {
        "epoch": message.position.epoch,
        "bytes": len(message.data),
        "at": message.at,
        "unique": message.unique,
        "headers": dict(message.headers),
    }


def _of_parked(parked: dict[str, Any]) -> dict[str, Any]:
    return {
        "epoch": parked["epoch"],
        "bytes": len(data_of(parked)),
        "at": parked["first_at"],
        "unique": parked.get("unique"),
        "headers": parked.get("headers", {}),
    }


def _became(
    topic: str,
    client: str,
    durable: dict[str, Any],
    *,
    sequence: int,
    parked: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return what became of a message at one subscription, and what to do about it."""
    row: dict[str, Any] = {"client": client, "attempts": None, "note": "", "parked": parked}
    position = durable["position"]
    if parked is not None:
        redrive = f"gearhorn parked redrive {topic} {client}"
        note = f"{parked['error']} (at {moment(parked['at'])}): {redrive}"
        return row | {"state": "parked", "attempts": parked["attempts"], "note": note}
    if position >= sequence:
        return row | {"state": "done"}
    if durable.get("pull"):
        return row | {"state": "waiting", "note": "to be fetched"}
    if sequence <= position + durable["in_flight"]:
        attempts = durable["attempts"]
        state = "failing" if attempts else "in flight"
        return row | {"state": state, "attempts": attempts or None}
    return row | {"state": "waiting", "note": f"behind {sequence - position - 1}"}
