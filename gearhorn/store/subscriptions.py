"""Subscriptions in the store: who is subscribed to what, and how that changes.

Law: one round trip for any number of changes or topics; nothing here scans all topics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from gearhorn.errors import StoreError
from gearhorn.messages import SubscriptionOptions, decode_options
from gearhorn.names import splits_of
from gearhorn.store.connection import CHANGE, READ_TIMEOUT_S, Command, Connection


class Change(NamedTuple):
    """A subscribe or unsubscribe of one pair; ``options`` is JSON, of those that were given."""

    kind: Literal["subscribe", "unsubscribe"]
    topic: str
    client_id: str
    queue: bytes
    options: bytes = b"{}"


class Applied(NamedTuple):
    """What became of a change: a new ``version``, or the ``owner`` of the queue's name."""

    version: int
    existed: bool  # whether the pair was subscribed before
    was_limited: bool = False  # whether it had a backlog limit that ends or may change
    owner: tuple[str, str] | None = None
    error: StoreError | None = None  # the store refused this one


class Subscriptions:
    """The subscriptions of one namespace."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def apply(self, changes: Sequence[Change]) -> tuple[list[Applied], frozenset[str]]:
        """Write changes; return what became of each, and the members as of just after.

        Raises ``StoreError``; then any of the changes may or may not have been written.
        """
        rivals = [
            [pair for pair in splits_of(one.queue) if pair != (one.topic, one.client_id)]
            if one.kind == "subscribe"
            else []
            for one in changes
        ]
        commands = [self._command(*pair) for pair in zip(changes, rivals, strict=True)]
        *replies, members = await self._connection.each(
            [*commands, ("SMEMBERS", self._connection.key("members"))]
        )
        if isinstance(members, StoreError):
            raise members
        applied = [_applied(*pair) for pair in zip(replies, rivals, strict=True)]
        return applied, frozenset(member.decode() for member in members)

    def _command(self, change: Change, rivals: list[tuple[str, str]]) -> Command:
        key = self._connection.key
        keys = [
            key("clients", change.topic),
            key("options", change.topic),
            key("drops", change.topic),
            key("version"),
            *(key("clients", topic) for topic, _ in rivals),
        ]
        arguments = [change.kind, change.client_id, change.options, *(c for _, c in rivals)]
        return ("EVALSHA", CHANGE, len(keys), *keys, *arguments)

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
        return Applied(0, False, owner=rivals[found - 1])
    return Applied(version, bool(found), bool(former and decode_options(former).max_backlog))
