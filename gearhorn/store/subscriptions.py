"""Subscriptions in the store: who is subscribed to what, and how that changes.

Law: one round trip for any number of changes or topics; nothing here scans all topics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from gearhorn.errors import StoreError
from gearhorn.messages import SubscriptionOptions, decode_options
from gearhorn.names import splits_of
from gearhorn.store.connection import CHANGE, READ_TIMEOUT_S, REMOVE, Command, Connection
from gearhorn.store.members import Member, members_of


class Change(NamedTuple):
    """A change of one pair: subscribed, unsubscribed, or ended because its time is over.

    ``options`` is JSON, of those that were given. ``drainer`` is the member that will empty the
    queue if the pair existed; subscriptions of that queue name are held off until ``drained``."""

    kind: Literal["subscribe", "unsubscribe", "expire"]
    topic: str
    client_id: str
    queue: bytes
    options: bytes = b"{}"
    drainer: str = ""


class Applied(NamedTuple):
    """What became of a change: a new ``version``, or the ``owner`` of the queue's name; neither
    where the queue is being drained, or the pair's time is not over."""

    version: int
    existed: bool  # whether the pair was subscribed before
    was_limited: bool = False  # whether it had a backlog limit that ends or may change
    owner: tuple[str, str] | None = None
    error: StoreError | None = None  # the store refused this one


class Stored(NamedTuple):
    """A subscription as the store holds it."""

    client_id: str
    options: SubscriptionOptions
    drops: int


class Subscriptions:
    """The subscriptions of one namespace."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def apply(
        self, changes: Sequence[Change], clock_ms: int
    ) -> tuple[list[Applied], list[Member]]:
        """Write changes; return what became of each, and the members as of just after.

        ``clock_ms`` is the caller's reading of the members' clock.
        Raises ``StoreError``; then any of the changes may or may not have been written.
        """
        rivals = [
            [pair for pair in splits_of(one.queue) if pair != (one.topic, one.client_id)]
            if one.kind == "subscribe"
            else []
            for one in changes
        ]
        commands = [
            self._command(change, others, clock_ms)
            for change, others in zip(changes, rivals, strict=True)
        ]
        read_members = ("HGETALL", self._connection.key("members"))
        *replies, members = await self._connection.each([*commands, read_members])
        if isinstance(members, StoreError):
            raise members
        applied = [_applied(*pair) for pair in zip(replies, rivals, strict=True)]
        return applied, members_of(members)

    def _command(self, change: Change, rivals: list[tuple[str, str]], clock_ms: int) -> Command:
        key = self._connection.key
        shared = ("version", "changes", "floor", "topics", "clock", "expiries", "draining")
        keys = [
            *(key(name, change.topic) for name in ("clients", "options", "drops")),
            *(key(name) for name in (*shared, "members")),
            *(key("clients", topic) for topic, _ in rivals),
        ]
        given = change.options if change.kind == "subscribe" else change.drainer
        arguments = [
            *(change.kind, change.topic, change.client_id, change.queue, given, clock_ms),
            *(client_id for _, client_id in rivals),
        ]
        return ("EVALSHA", CHANGE, len(keys), *keys, *arguments)

    async def drained(self, queue: bytes, drainer: str) -> None:
        """Let a queue be subscribed again; raises ``StoreError``."""
        key = self._connection.key("draining")
        await self._connection.pipeline([("EVALSHA", REMOVE, 1, key, queue, drainer)])

    async def read(
        self, topics: Sequence[str]
    ) -> list[tuple[list[bytes], Mapping[bytes, SubscriptionOptions]]]:
        """Return, per topic, its client_ids and the options of those that have any.

        Raises ``StoreError``.
        """
        key = self._connection.key
        commands: list[Command] = []
        for topic in topics:
            commands.append(("SMEMBERS", key("clients", topic)))
            commands.append(("HGETALL", key("options", topic)))
        replies = iter(await self._connection.pipeline(commands, READ_TIMEOUT_S, atomic=True))
        return [
            (list(clients), {c: decode_options(body) for c, body in next(replies).items()})
            for clients in replies
        ]

    async def page(
        self, topic: str | None, after: tuple[str, str] | None, limit: int
    ) -> list[tuple[str, list[Stored]]]:
        """Return up to ``limit`` subscriptions in the order of topics and client_ids, of one
        topic or of all, from behind the pair ``after``.

        Raises ``StoreError``.
        """
        key = self._connection.key
        if topic is None:
            first = f"[{after[0]}" if after else "-"
            [found] = await self._connection.pipeline(
                [("ZRANGEBYLEX", key("topics"), first, "+", "LIMIT", 0, limit + 1)]
            )
            topics = [name.decode() for name in found]
        else:
            topics = [topic]
        counts = await self._connection.pipeline(
            [("SCARD", key("clients", name)) for name in topics]
        )
        pages = []
        for name, count in zip(topics, counts, strict=True):
            if limit <= 0:
                break
            if not count:
                continue
            clients, options, drops = await self._connection.pipeline(
                [
                    ("SMEMBERS", key("clients", name)),
                    ("HGETALL", key("options", name)),
                    ("HGETALL", key("drops", name)),
                ],
                READ_TIMEOUT_S,
            )
            behind = after[1].encode() if after and after[0] == name else b""
            chosen = sorted(client for client in clients if client > behind)[:limit]
            limit -= len(chosen)
            stored = [
                Stored(
                    client.decode(),
                    decode_options(options.get(client, b"{}")),
                    int(drops.get(client, 0)),
                )
                for client in chosen
            ]
            if stored:
                pages.append((name, stored))
        return pages

    async def count_drops(self, drops: Mapping[tuple[str, str], int]) -> None:
        """Add to the drop counters of (topic, client_id) pairs; raises ``StoreError``."""
        await self._connection.pipeline(
            [
                ("HINCRBY", self._connection.key("drops", topic), client_id, count)
                for (topic, client_id), count in drops.items()
            ]
        )


def _applied(reply: Any, rivals: list[tuple[str, str]]) -> Applied:
    """Read what the script returns."""
    if isinstance(reply, StoreError):
        return Applied(0, False, error=reply)
    version, found, former = reply
    if not version:
        return Applied(0, False, owner=rivals[found - 1] if found else None)
    return Applied(version, bool(found), bool(former and decode_options(former).max_backlog))
