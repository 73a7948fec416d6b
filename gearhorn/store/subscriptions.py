"""Subscriptions in the store: who is subscribed to what, and how that changes.

Law: one round trip for any number of changes or topics; nothing here scans all topics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from gearhorn.errors import StoreError
from gearhorn.messages import SubscriptionOptions, decode_options
from gearhorn.names import splits_of
from gearhorn.store.connection import READ_TIMEOUT_S, Command, Connection
from gearhorn.store.log import fresh_epoch
from gearhorn.store.members import Member, members_of

COUNTED_S = 86_400  # the number of a process's last drops is kept so long


class Change(NamedTuple):
    """A change of one pair: subscribed, unsubscribed, or ended because its time is over; or of a
    topic's retention.

    ``options`` is JSON, of those that were given. ``drainer`` is the member that will empty the
    queue if the pair existed; subscriptions of that queue name are held off until ``drained``."""

    kind: Literal["subscribe", "unsubscribe", "expire", "retain"]
    topic: str
    client_id: str
    queue: bytes
    options: bytes = b"{}"
    drainer: str = ""
    start: bytes = b""  # where a durable subscription begins that is new, as JSON


class Applied(NamedTuple):
    """What became of a change: a new ``version``, or the ``owner`` of the queue's name, or the
    log's ``last`` sequence where it would start beyond; none of them where the queue is being
    drained, or the pair's time is not over."""

    version: int
    existed: bool  # whether the pair was subscribed before
    was_limited: bool = False  # whether it had a backlog limit that ends or may change
    owner: tuple[str, str] | None = None
    last: int | None = None
    is_durable: bool = False  # whether lanes or the log are concerned
    parked: int | None = None  # messages discarded with the durability that it ended
    error: StoreError | None = None  # the store refused this one


class Stored(NamedTuple):
    """A subscription as the store holds it."""

    client_id: str
    options: SubscriptionOptions
    drops: int


class Listed(NamedTuple):
    """A topic's client_ids, the options of those that have any, and whether it has a log."""

    clients: list[bytes]
    options: Mapping[bytes, SubscriptionOptions]
    has_log: bool


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
        key, topic = self._connection.key, change.topic
        if change.kind == "retain":
            keys = [
                *(key(name, topic) for name in ("log", "messages", "lanes")),
                key("due"),
                *(key(name, topic) for name in ("logged", "places")),
                *(key(name) for name in ("version", "changes", "floor", "clock")),
                key("marks", topic),
            ]
            arguments = (topic, change.options, fresh_epoch(), clock_ms)
            return self._connection.script("retain", keys, *arguments)
        pair = f"{topic}\0{change.client_id}"
        shared = ("version", "changes", "floor", "topics", "clock", "expiries", "draining")
        keys = [
            *(key(name, topic) for name in ("clients", "options", "drops")),
            *(key(name) for name in (*shared, "members")),
            *(key(name, topic) for name in ("log", "messages", "lanes")),
            *(key(name) for name in ("durable", "due")),
            *(key(name, topic) for name in ("logged", "places")),
            *(key(name, pair) for name in ("order", "parked", "redrive", "trouble")),
            key("marks", topic),
            *(key("clients", rival) for rival, _ in rivals),
        ]
        given = change.options if change.kind == "subscribe" else change.drainer
        return self._connection.script(
            "change" if change.kind == "subscribe" else "end",
            keys,
            *(change.kind, topic, change.client_id, change.queue, given, clock_ms),
            *(change.start, fresh_epoch()),
            *(client_id for _, client_id in rivals),
        )

    async def drained(self, queue: bytes, drainer: str) -> None:
        """Let a queue be subscribed again; raises ``StoreError``."""
        key = self._connection.key("draining")
        await self._connection.pipeline([self._connection.script("remove", [key], queue, drainer)])

    async def read(self, topics: Sequence[str]) -> list[Listed]:
        """Return what there is of each topic; raises ``StoreError``."""
        key = self._connection.key
        commands: list[Command] = []
        for topic in topics:
            commands.append(("SMEMBERS", key("clients", topic)))
            commands.append(("HGETALL", key("options", topic)))
            commands.append(("EXISTS", key("log", topic)))
        replies = iter(await self._connection.read(commands))
        return [
            Listed(
                list(clients),
                {c: decode_options(body) for c, body in next(replies).items()},
                bool(next(replies)),
            )
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

    async def count_drops(
        self, process: str, number: int, drops: Mapping[tuple[str, str], int]
    ) -> None:
        """Add to the drop counters of those (topic, client_id) pairs that are subscribed, up to
        1,000 of them.

        Under one ``number`` of a ``process``, counted from 1 on, that is done once, however often
        it is asked for. Raises ``StoreError``.
        """
        key = self._connection.key
        topics: dict[str, list[str | int]] = {}
        for (topic, client_id), count in drops.items():
            topics.setdefault(topic, []).extend((client_id, count))
        keys = [key("counted", process)]
        arguments: list[str | int] = [number, COUNTED_S]
        for topic, counts in topics.items():
            keys += key("clients", topic), key("drops", topic)
            arguments += len(counts) // 2, *counts
        await self._connection.pipeline([self._connection.script("count", keys, *arguments)])


def _applied(reply: Any, rivals: list[tuple[str, str]]) -> Applied:
    """Read what the script returns."""
    if isinstance(reply, StoreError):
        return Applied(0, False, error=reply)
    if isinstance(reply, int):  # a topic's retention
        return Applied(reply, True, is_durable=True)
    version, found, former, *more = reply
    if not version:
        if found < 0:
            return Applied(0, False, last=int(former))
        return Applied(0, False, owner=rivals[found - 1] if found else None)
    is_durable, parked = more
    was_limited = bool(former and decode_options(former).max_backlog)
    return Applied(
        version,
        bool(found),
        was_limited,
        is_durable=bool(is_durable),
        parked=None if parked < 0 else parked,
    )
