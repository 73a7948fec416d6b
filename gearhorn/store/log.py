"""Logs in the store: the kept messages of durable topics.

Rules: one round trip for any number of messages, unless that would hold the store for long; every
method raises ``StoreError``. An append is carried out once, however often it is asked for, and
never before the one of the same topic that was asked for before it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import structlog

from gearhorn.errors import StoreError, StoreNoWrites, StoreRefused
from gearhorn.messages.logs import Info, Logged, decode_info
from gearhorn.store.asked import Asked
from gearhorn.store.connection import READ_TIMEOUT_S, WRITE_TIMEOUT_S, Command, Connection
from gearhorn.store.pipelined import PipelinedConnection
from gearhorn.store.slowest import Slowest, read_slowest

FETCH_BYTES = 8 * 1024 * 1024  # in one reply
READ_ENTRIES = 1000  # read in one go: a few milliseconds of the store's time and of the loop's
PRUNED = 10_000  # entries in one go: 2 ms of the store's time
STEPS = 100  # of pruning after one reading of many lanes; then other logs have their turn
READINGS = 5  # of many lanes for one purge, while lanes are made
DUE = 100  # logs that one member prunes at a time
TROUBLED_MS = 60_000  # until a log that could not be pruned is tried again
SLOWEST_BYTES_S = 1024 * 1024  # what a store that is slow takes of appends in a second

_MORE, _READ_LANES = 1, 2  # what ``fetch.lua`` has left to do
_UNREAD = -2  # ``prune.lua``: the lanes are to be read first

log = structlog.get_logger(__name__)


def fresh_epoch() -> str:
    """Return the name of a log's new life."""
    return secrets.token_hex(8)


# A message to append: what tells a repeated one or nothing, its info, its payload.
Item = tuple[str, bytes, bytes]


class Entry:
    """One message of a log."""

    __slots__ = ("_bare", "epoch", "info", "length", "name", "payload", "sequence")

    def __init__(self, sequence: int, epoch: str, info: Info, payload: bytes) -> None:
        self.sequence = sequence
        self.name = b"%s:%d:" % (epoch[:8].encode(), sequence)  # what unique ids begin with
        self.epoch = epoch
        self.info = info
        self.payload = payload
        self.length = len(payload)
        self._bare: Entry | None = None

    def bare(self) -> Entry:
        """Return what is needed of a message that is under way: all but payload and exclusions."""
        if self._bare is not None:
            return self._bare  # made for another lane
        entry = Entry.__new__(Entry)
        entry.sequence, entry.name, entry.epoch = self.sequence, self.name, self.epoch
        info = self.info
        entry.info = Info(info.at, info.unique, (), info.waiter) if info.exclude else info
        entry.payload, entry.length = b"", self.length
        entry._bare, self._bare = None, entry
        return entry

    @property
    def size(self) -> int:
        """What it counts where bytes are bounded: its payload, its unique id, its exclusions."""
        info = self.info
        return len(self.payload) + len(info.unique or "") + sum(map(len, info.exclude))


class Place(NamedTuple):
    """Where a log stands. ``what`` is "ok" or what was refused (see ``fetch.lua``)."""

    what: str
    epoch: str
    first: int
    last: int
    position: int  # of the subscription that was asked for


class Append(NamedTuple):
    """Messages for one topic, as one request to the store."""

    number: int
    before: int  # the request that must have been carried out before it, or 0
    items: Sequence[Item]


class Undone(StoreError):
    """An append was not carried out, and never will be."""


# What became of an append: where its messages stand, None where the topic has no log.
Appended = list[Logged] | StoreError | None


def read_command(connection: Connection, topic: str, first: int, count: int, size: int) -> Command:
    """Return the command that reads a part of a log (see ``read.lua``)."""
    keys = [connection.key(name, topic) for name in ("messages", "marks", "log")]
    return connection.script("read", keys, first, count, size)


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
        self._line = PipelinedConnection(connection, is_strict=True)
        self._asked = Asked(connection)
        self._open: dict[str, int] = {}  # by topic the last append of which nothing is known yet
        self._unanswered = 0  # bytes

    async def close(self) -> None:
        """Append nothing more."""
        await self._line.close()
        await self._asked.close()

    def mend(self) -> None:
        """Go on appending after a ``StoreError``: whoever was appending knows of it."""
        self._line.mend()

    def number(self, topics: Mapping[str, Sequence[Item]]) -> dict[str, Append]:
        """Return the requests that append these messages, by topic; they are to be written in the
        order in which they were numbered."""
        appends = {}
        for topic, items in topics.items():
            append = Append(self._asked.next(), self._open.get(topic, 0), items)
            self._open[topic] = append.number
            appends[topic] = append
        return appends

    async def append(
        self, appends: Mapping[str, Append], clock_ms: int, patience: float = 1.0
    ) -> dict[str, Appended]:
        """Append messages; return by topic where they stand, or the ``StoreError`` of one that the
        store refused. Calls are carried out in their order, and one that fails takes those behind
        it along, until ``mend``. If this raises, ``fates`` tells what was carried out.

        ``clock_ms`` is the caller's reading of the members' clock. The store has a second and a
        half, and more for much (``patience`` times that).
        """
        at = clock_ms, fresh_epoch()
        messages = {
            topic: [part for item in append.items for part in item]
            for topic, append in appends.items()
        }
        size = sum(sum(map(len, parts)) for parts in messages.values())

        def commands_to(run_id: str) -> list[Command]:
            return [
                self._command(topic, append, at, append.before, run_id, *messages[topic])
                for topic, append in appends.items()
            ]

        self._unanswered += size
        timeout_s = WRITE_TIMEOUT_S + self._unanswered / SLOWEST_BYTES_S
        try:
            replies = await self._line.ask_server(commands_to, timeout_s * patience)
        finally:
            self._unanswered -= size
        return self._appended(appends, replies, (StoreRefused, StoreNoWrites))

    async def fates(self, appends: Mapping[str, Append]) -> dict[str, Appended]:
        """Return what became of appends, ``Undone`` for each that was not carried out: then it
        never will be, were it still on its way."""
        commands = [self._command(topic, one, (0, ""), "void") for topic, one in appends.items()]
        replies = await self._line.ask(commands, READ_TIMEOUT_S)
        return self._appended(appends, replies, (Undone,))

    def _command(
        self, topic: str, append: Append, at: tuple[int, str], before: int | str, *more: Any
    ) -> Command:
        """Return the command of an append; ``at`` is the clock, and the epoch should a new one
        begin, ``more`` the server's run id and the messages."""
        key = self._connection.key
        own = [key(name, topic) for name in ("log", "messages", "marks", "logged", "places")]
        keys = [*own, key("clock"), key("due"), *self._asked.keys]
        arguments = (
            topic,
            *at,
            self._connection.channel("events"),
            append.number,
            before,
            *more,
        )
        name = "void" if before == "void" else "append"
        return self._connection.script(name, keys, *arguments)

    def _appended(
        self,
        appends: Mapping[str, Append],
        replies: Sequence[Any],
        settling: tuple[type[StoreError], ...],
    ) -> dict[str, Appended]:
        """Return what became of each; an answer that settles it lets the next one go ahead."""
        found: dict[str, Appended] = {}
        for (topic, append), reply in zip(appends.items(), replies, strict=True):
            one = reply if isinstance(reply, StoreError) else _logged(reply)
            is_settled = not isinstance(one, StoreError) or isinstance(one, settling)
            if is_settled and self._open.get(topic) == append.number:
                del self._open[topic]
            found[topic] = one
        return found

    async def read(
        self, topic: str, first: int, count: int, size: int = FETCH_BYTES
    ) -> list[Entry]:
        """Return up to ``count`` entries from ``first`` on, of so many bytes but at least one."""
        entries: list[Entry] = []
        while True:
            most = min(count - len(entries), READ_ENTRIES)
            command = read_command(self._connection, topic, first, most, size)
            [reply] = await self._connection.pipeline([command], READ_TIMEOUT_S)
            found, is_end = entries_of(reply)
            taken = sum(one.size for one in found)
            if entries and taken > size:
                return entries  # a first one comes whatever its size
            entries += found
            size -= taken
            if is_end or size < 0 or len(found) < most or len(entries) >= count:
                return entries
            first = entries[-1].sequence + 1
            await asyncio.sleep(0)

    async def fetch(
        self, topic: str, client_id: str, epoch: str, ack: int | None, purge: int | None
    ) -> Place | None:
        """Acknowledge and purge as asked, and return where the log stands; None: there is none."""
        key = self._connection.key
        keys = [key(name, topic) for name in ("log", "messages", "marks", "lanes", "drops")]
        arguments = ["" if one is None else one for one in (ack, purge)]
        slowest, readings = Slowest(), 0
        while True:
            command = self._connection.script("fetch", keys, client_id, epoch, *arguments, *slowest)
            [reply] = await self._connection.pipeline([command])
            if not reply:
                return None
            what, found, first, last, position, missed, is_more = reply
            if missed:
                log.warning(
                    "messages missed: dropped by the log",
                    topic=topic,
                    client=client_id,
                    count=missed,
                )
            if is_more == _READ_LANES and readings < READINGS:
                slowest = await read_slowest(self._connection, topic)
                readings += 1
            elif is_more != _MORE:
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
            return _score_of(following)
        topics = [name.decode() for name in due]
        commands = [self._prune_command(topic, clock_ms, Slowest()) for topic in topics]
        replies = await self._connection.each(commands, READ_TIMEOUT_S)
        troubled = []
        for topic, reply in zip(topics, replies, strict=True):
            if isinstance(reply, StoreError):
                log.warning("a log cannot be pruned", topic=topic, error=str(reply))
                troubled.append(("ZADD", key("due"), "XX", clock_ms + TROUBLED_MS, topic))
            elif reply == _UNREAD:
                await self._prune_many(topic, clock_ms)
        if troubled:
            await self._connection.each(troubled)
        return clock_ms  # there may be more

    async def _prune_many(self, topic: str, clock_ms: int) -> None:
        """Prune a log with many lanes; where one is made meanwhile, it is due again soon."""
        slowest = await read_slowest(self._connection, topic)
        for _ in range(STEPS):
            command = self._prune_command(topic, clock_ms, slowest)
            [count] = await self._connection.pipeline([command], READ_TIMEOUT_S)
            if count <= 0:
                return

    def _prune_command(self, topic: str, clock_ms: int, slowest: Slowest) -> Command:
        key = self._connection.key
        own = ("log", "messages", "marks", "lanes", "logged", "places")
        keys = [*(key(one, topic) for one in own), key("clock"), key("due")]
        return self._connection.script("prune", keys, topic, clock_ms, PRUNED, *slowest)

    async def describe(self, topics: Sequence[str]) -> list[dict[str, str] | None]:
        """Return the fields of each topic's log (see ``log.lua``); None: there is none."""
        commands = [("HGETALL", self._connection.key("log", topic)) for topic in topics]
        replies = await self._connection.pipeline(commands)
        return [
            {name.decode(): value.decode() for name, value in reply.items()} or None
            for reply in replies
        ]


def _score_of(found: Sequence[Any]) -> int | None:
    """Return the score of the first of (member, score) pairs, as RESP2 and RESP3 give them."""
    if not found:
        return None
    first = found[0]
    return int(float(first[1] if isinstance(first, list | tuple) else found[1]))


def _logged(reply: Any) -> list[Logged] | Undone | None:
    if not reply:
        return None
    if reply == b"void":
        return Undone("it was given up, or what came before it was not carried out")
    epoch = reply[0].decode()
    logged = []
    for one in reply[1:]:
        if isinstance(one, int):
            logged.append(Logged(one, epoch, False))
        else:
            sequence, former = one.decode().split()
            logged.append(Logged(int(sequence), former, True))
    return logged
