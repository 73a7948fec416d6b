"""Logs in the store: the kept messages of durable topics.

Law: one round trip for any number of messages; every method raises ``StoreError``.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gearhorn.errors import StoreError
from gearhorn.messages import Logged
from gearhorn.messages.durable import Info, decode_info
from gearhorn.store.connection import READ_TIMEOUT_S, WRITE_TIMEOUT_S, Command, Connection
from gearhorn.store.line import Line

FETCH_BYTES = 8 * 1024 * 1024  # PROTOCOL §6
PRUNED = 10_000  # entries in one go: 2 ms of the store's time
DUE = 100  # logs that one member prunes at a time


def fresh_epoch() -> str:
    """Return the name of a log's new life."""
    return secrets.token_hex(8)


# A message to append: what tells a repeated one or nothing, its info, its payload.
Item = tuple[str, bytes, bytes]


class Entry:
    """One message of a log."""

    __slots__ = ("epoch", "info", "name", "payload", "sequence")

    def __init__(self, sequence: int, epoch: str, info: Info, payload: bytes) -> None:
        self.sequence = sequence
        self.name = b"%s:%d:" % (epoch[:8].encode(), sequence)  # what unique ids begin with
        self.epoch = epoch
        self.info = info
        self.payload = payload


class Place(NamedTuple):
    """Where a log stands. ``what`` is "ok" or what was refused (see ``fetch.lua``)."""

    what: str
    epoch: str
    first: int
    last: int
    position: int  # of the subscription that was asked for


def read_command(connection: Connection, topic: str, first: int, count: int, size: int) -> Command:
    """Return the command that reads a part of a log (see ``read.lua``)."""
    return connection.script("read", [connection.key("messages", topic)], first, count, size)


def entries_of(reply: Sequence[Any]) -> tuple[list[Entry], bool]:
    """Return what ``read_command`` was answered, and whether the log ends there."""
    is_end, *found = reply
    entries = [
        Entry(sequence, header.partition(b" ")[0].decode(), decode_info(info), payload)
        for sequence, header, info, payload in found
    ]
    return entries, bool(is_end)


class Log:
    """The logs of one namespace."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._line = Line(connection, is_strict=True)

    async def close(self) -> None:
        """Append nothing more."""
        await self._line.close()

    def mend(self) -> None:
        """Go on appending after a ``StoreError``: whoever was appending knows of it."""
        self._line.mend()

    async def append(
        self, topics: Mapping[str, Sequence[Item]], clock_ms: int
    ) -> dict[str, list[Logged] | StoreError | None]:
        """Append messages; return where they stand, None for a topic without a log, and the
        ``StoreError`` for one that the store refused. Calls are carried out in their order, and
        one that fails takes those behind it along, until ``mend``.

        ``clock_ms`` is the caller's reading of the members' clock.
        """
        key = self._connection.key
        shared = [key("clock"), key("due")]
        commands = []
        for topic, items in topics.items():
            own = [key(name, topic) for name in ("log", "messages", "logged", "places")]
            arguments = [part for item in items for part in item]
            events = self._connection.channel("events")
            commands.append(
                self._connection.script(
                    "append", [*own, *shared], topic, clock_ms, fresh_epoch(), events, *arguments
                )
            )
        replies = await self._line.ask(commands, WRITE_TIMEOUT_S)
        return {
            topic: reply if isinstance(reply, StoreError) else _logged(reply)
            for topic, reply in zip(topics, replies, strict=True)
        }

    async def read(self, topic: str, first: int, count: int) -> list[Entry]:
        """Return up to ``count`` entries from ``first`` on, 8 MiB of payloads but at least one."""
        command = read_command(self._connection, topic, first, count, FETCH_BYTES)
        [reply] = await self._connection.pipeline([command], READ_TIMEOUT_S)
        return entries_of(reply)[0]

    async def fetch(
        self, topic: str, client_id: str, epoch: str, ack: int | None, purge: int | None
    ) -> Place | None:
        """Acknowledge and purge as asked, and return where the log stands; None: there is none."""
        key = self._connection.key
        keys = [key(name, topic) for name in ("log", "messages", "lanes")]
        arguments = ["" if one is None else one for one in (ack, purge)]
        command = self._connection.script("fetch", keys, client_id, epoch, *arguments)
        [reply] = await self._connection.pipeline([command])
        if not reply:
            return None
        what, found, first, last, position = reply
        return Place(what.decode(), found.decode(), first, last, position)

    async def prune(self, clock_ms: int) -> int | None:
        """Prune logs that are due; return the reading of the clock at which the next one is, None
        where none is."""
        key = self._connection.key
        due, following = await self._connection.pipeline(
            [
                ("ZRANGEBYSCORE", key("due"), "-inf", clock_ms, "LIMIT", 0, DUE),
                ("ZRANGEBYSCORE", key("due"), clock_ms, "(+inf", "WITHSCORES", "LIMIT", 0, 1),
            ]
        )
        if not due:
            return int(following[0][1]) if following else None
        commands = []
        for name in due:
            topic = name.decode()
            own = ("log", "messages", "lanes", "logged", "places")
            keys = [*(key(one, topic) for one in own), key("clock"), key("due")]
            commands.append(self._connection.script("prune", keys, topic, clock_ms, PRUNED))
        await self._connection.pipeline(commands, READ_TIMEOUT_S)
        return clock_ms  # there may be more

    async def describe(self, topics: Sequence[str]) -> list[dict[str, str] | None]:
        """Return the fields of each topic's log (see ``log.lua``); None: there is none."""
        commands = [("HGETALL", self._connection.key("log", topic)) for topic in topics]
        replies = await self._connection.pipeline(commands)
        return [
            {name.decode(): value.decode() for name, value in reply.items()} or None
            for reply in replies
        ]


def _logged(reply: Sequence[Any] | None) -> list[Logged] | None:
    if not reply:
        return None
    epoch = reply[0].decode()
    logged = []
    for one in reply[1:]:
        if isinstance(one, int):
            logged.append(Logged(one, epoch, False))
        else:
            sequence, former = one.decode().split()
            logged.append(Logged(int(sequence), former, True))
    return logged
