"""Logs in the store: the kept messages of durable topics.

Theory of operation. A publisher is told that a message is kept when the store has appended it. When
the reply to an append is lost, the append may have been carried out or not, or may still be on its
way to the store. Asking again could log the message twice, and giving up could log it after the
publisher was told that it failed. So each append has a number (``Asked``), under which the script
keeps what became of it:

* ``fates`` asks for the same numbers again, as ``void``. The script returns the kept reply of an
  append that was carried out; any other is marked as given up, and does nothing if it comes later.
* While the fate of an append is not known, the next one of the same topic names its number. The
  script carries the next one out only if the former was. So messages of one topic are logged in the
  order in which they were taken, although batches may fail.

The connection is *strict* for the same reason: after a failure it refuses everything until
``mend``, so that nothing overtakes what has to be asked again.

Rules: one round trip for any number of messages, unless that would hold the store for long. Every
method raises ``StoreError``.
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
from gearhorn.store.pruned_logs import PrunedLogs
from gearhorn.store.slowest import Slowest, read_slowest

FETCH_BYTES = 8 * 1024 * 1024  # of payloads in one reply
READ_ENTRIES = 1000  # read in one go: a few milliseconds of the store's time and of the loop's
READINGS = 5  # of many lanes for one purge, while lanes are made
SLOWEST_BYTES_S = 1024 * 1024  # what a store that is slow takes of appends in a second

_MORE, _READ_LANES = 1, 2  # what ``fetch.lua`` has left to do

log = structlog.get_logger(__name__)


def fresh_epoch() -> str:
    """Return a name for an epoch: 16 random hexadecimal digits. A script that begins an epoch is
    given one, since a server has the same random numbers in each run of a script."""
    return secrets.token_hex(8)


# A message to append: its dedup key ("" for none), its ``Info`` as JSON, its payload.
Item = tuple[str, bytes, bytes]


class Entry:
    """One message of a log.

    Arguments:
        sequence: its number in the log.
        epoch: the life of the log in which it was appended.
        info: what the log holds besides its payload.
        payload: its bytes, empty once they are not needed any more.
        size: what payload and info count where bytes are bounded; None where both are whole.
        name: what the unique ids of its deliveries begin with, where that is made already.

    ``is_plain`` says that it is for every subscription, whenever its turn comes.
    """

    __slots__ = ("_bare", "epoch", "info", "is_plain", "name", "payload", "sequence", "size")

    def __init__(
        self,
        sequence: int,
        epoch: str,
        info: Info,
        payload: bytes,
        size: int | None = None,
        name: bytes = b"",
    ) -> None:
        # positional: one is made for each message that is read, and one more without its payload
        self.sequence = sequence
        self.name = name or b"%s:%d:" % (epoch[:8].encode(), sequence)  # unique ids begin with it
        self.epoch = epoch
        self.info = info
        self.payload = payload
        if info.exclude or info.unique or info.headers or info.expires_ms:
            self.size = len(payload) + info.size if size is None else size
            self.is_plain = not (info.exclude or info.expires_ms)
        else:  # as nearly always
            self.size = len(payload) if size is None else size
            self.is_plain = True
        self._bare: Entry | None = None  # the same without its payload, once it was asked for

    def bare(self) -> Entry:
        """Return what is needed of a message that is under way: all but payload and exclusions."""
        if self._bare is None:  # else it was made for another lane
            info, size = self.info, self.size
            if info.exclude:
                info = info.without_exclude()
                size = len(self.payload) + info.size
            self._bare = Entry(self.sequence, self.epoch, info, b"", size, self.name)
        return self._bare

    @property
    def length(self) -> int:
        """Of the payload in bytes, also where it is not needed any more."""
        return self.size - self.info.size


class Place(NamedTuple):
    """Where a log stands, as ``fetch.lua`` returns it."""

    what: str  # "ok", or what was refused: "epoch", "client", "pull", "ack" or "purge"
    epoch: str
    first: int  # the lowest sequence that is still there
    last: int  # the highest sequence that was given; first - 1 where the log is empty
    position: int  # of the subscription that was asked for, 0 where none was
    paused_ms: int = 0  # when a pause of one with ``pull`` ends, as ``DurableOptions`` has it


class Append(NamedTuple):
    """Messages for one topic, as one request to the store."""

    number: int  # of the request
    before: int  # the request that must have been carried out before it, or 0
    items: Sequence[Item]


class Undone(StoreError):
    """An append was not carried out, and never will be, even if it comes to the store later. Its
    messages may be appended again, under a new number."""


# What became of an append: where its messages stand, None where the topic has no log.
Appended = list[Logged] | StoreError | None


def read_command(
    connection: Connection, topic: str, first: int, *, limit: int, size: int
) -> Command:
    """Return the command that reads a part of a log (see ``read.lua``).

    Arguments:
        connection: knows the names of keys.
        topic: whose log.
        first: the first sequence to read.
        limit: how many messages at most.
        size: how many bytes at most; one message comes whatever its size.
    """
    keys = [connection.key(name, topic) for name in ("messages", "marks", "log")]
    return connection.script("read", keys, first, limit, size)


def entries_of(reply: Sequence[Any]) -> tuple[list[Entry], bool]:
    """Return the messages in a reply to ``read_command``, and whether the log ends there."""
    is_end, *found = reply
    entries = []
    for sequence, header, info, payload in found:
        epoch = header.partition(b" ")[0]
        name = b"%b:%d:" % (epoch[:8], sequence)
        entries.append(Entry(sequence, epoch.decode(), decode_info(info), payload, None, name))
    return entries, bool(is_end)


class Log(PrunedLogs):
    """The logs of one namespace. Appends go over a strict pipelined connection of their own, all
    the rest over the pool."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._line = PipelinedConnection(connection, is_strict=True)
        self._asked = Asked(connection)
        self._open: dict[str, int] = {}  # by topic the last append of which nothing is known yet
        self._unanswered = 0  # bytes

    async def close(self) -> None:
        """Append nothing more; appends under way fail with ``StoreUnanswered``."""
        await self._line.close()
        await self._asked.close()

    def mend(self) -> None:
        """Append again after a ``StoreError``, once the caller knows what failed with it."""
        self._line.mend()

    def number(self, topics: Mapping[str, Sequence[Item]]) -> dict[str, Append]:
        """Return the requests that append these messages, by topic.

        The caller writes them (``append``) in the order in which they were numbered. From here on
        until the fate of such a request is known, the topic's next request names it.
        """
        appends = {}
        for topic, items in topics.items():
            append = Append(self._asked.next(), self._open.get(topic, 0), items)
            self._open[topic] = append.number
            appends[topic] = append
        return appends

    async def append(
        self, appends: Mapping[str, Append], clock_ms: int, patience: float = 1.0
    ) -> dict[str, Appended]:
        """Append messages; return by topic where they stand, or the ``StoreError`` of an append
        that the store refused.

        Calls are carried out in their order. One that fails takes those behind it along, until
        ``mend``.

        Arguments:
            appends: by topic, as ``number`` returned them.
            clock_ms: the caller's reading of the members' clock.
            patience: how many times the usual time the store has: a second and a half, and a
                second more for each MiB that is unanswered.

        Raises ``StoreUnanswered`` where it is not known what was carried out (``fates`` tells),
        and ``StoreError`` where nothing was.
        """
        at = clock_ms, fresh_epoch()
        messages = {
            topic: [part for item in append.items for part in item]
            for topic, append in appends.items()
        }
        size = sum(sum(map(len, parts)) for parts in messages.values())

        def commands_to(run_id: str) -> list[Command]:
            """Return the commands for the server that gets them: under another run id than the
            log's, the script begins a new epoch."""
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
        """Return what became of appends by topic, ``Undone`` for each that was not carried out. It
        never will be, even if it is still on its way to the store.

        Call it after ``append`` raised ``StoreUnanswered``, and ``mend``. May be called again.
        Raises ``StoreError``; then nothing new is known.
        """
        commands = [
            self._command(topic, append, (0, ""), "void") for topic, append in appends.items()
        ]
        replies = await self._line.ask(commands, READ_TIMEOUT_S)
        return self._appended(appends, replies, (Undone,))

    def _command(
        self, topic: str, append: Append, at: tuple[int, str], before: int | str, *more: Any
    ) -> Command:
        """Return the command of an append; ``at`` is the clock, and the epoch should a new one
        begin, ``more`` the server's run id and the messages."""
        key = self._connection.key
        own = [key(name, topic) for name in ("log", "messages", "marks", "logged", "places")]
        keys = [*own, key("clock"), key("due"), *self._asked.keys, key("most", "lag")]
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
        final: tuple[type[StoreError], ...],
    ) -> dict[str, Appended]:
        """Return what became of each append. Errors that are ``final`` say that it was not carried
        out and will not be: the next append of the topic need not name it."""
        found: dict[str, Appended] = {}
        for (topic, append), reply in zip(appends.items(), replies, strict=True):
            outcome = reply if isinstance(reply, StoreError) else _logged(reply)
            is_final = not isinstance(outcome, StoreError) or isinstance(outcome, final)
            if is_final and self._open.get(topic) == append.number:
                del self._open[topic]
            found[topic] = outcome
        return found

    async def read(
        self, topic: str, first: int, count: int, size: int = FETCH_BYTES
    ) -> list[Entry]:
        """Return up to ``count`` messages from the sequence ``first`` on, of up to ``size`` bytes
        together; the first one comes whatever its size. Where ``first`` is gone, the log's first.

        It is read in pieces of ``READ_ENTRIES``, with a turn of the loop between them. The script
        returns one message at least. So a further piece that is over what is left of ``size`` is
        one large message; it is left for the next call. Raises ``StoreError``.
        """
        entries: list[Entry] = []
        while True:
            limit = min(count - len(entries), READ_ENTRIES)
            command = read_command(self._connection, topic, first, limit=limit, size=size)
            [reply] = await self._connection.pipeline([command], READ_TIMEOUT_S)
            found, is_end = entries_of(reply)
            taken = sum(entry.size for entry in found)
            if entries and taken > size:
                return entries
            entries += found
            size -= taken
            if is_end or size < 0 or len(found) < limit or len(entries) >= count:
                return entries
            first = entries[-1].sequence + 1
            await asyncio.sleep(0)

    async def fetch(
        self, topic: str, client_id: str, *, epoch: str, ack: int | None, purge: int | None
    ) -> Place | None:
        """Acknowledge and purge as asked, and return where the log stands; None: there is no log.

        All of it is checked before anything is done (``fetch.lua``), so a refusal changes nothing.
        A long purge takes several scripts; each is given the same arguments, and the
        acknowledgement moves the position once, since a position does not go back. Where a log has
        many lanes, their positions are read before; lanes that are made all the time make readings
        void, so after ``READINGS`` of them the purge ends where it is.

        Arguments:
            topic: whose log.
            client_id: a durable subscription whose position is wanted, or "".
            epoch: the epoch that the caller knows; in another one nothing is changed. "" is any.
            ack: the position to move a subscription with ``pull`` to, or None.
            purge: the sequence up to which to forget what all have done with, or None.

        Raises ``StoreError``; a part may have been done then, and asking again does no harm.
        """
        key = self._connection.key
        own = ("log", "messages", "marks", "lanes", "drops", "options", "spread", "crowd")
        keys = [*(key(name, topic) for name in own), key("most", "lag"), key("most", "drops")]
        arguments = ["" if sequence is None else sequence for sequence in (ack, purge)]
        slowest, readings = Slowest(), 0
        while True:
            asked = (client_id, epoch, *arguments, topic, *slowest)
            command = self._connection.script("fetch", keys, *asked)
            [reply] = await self._connection.pipeline([command])
            if not reply:
                return None
            what, found, first, last, position, missed, is_more, paused_ms = reply
            if missed:
                text = "messages missed: dropped by the log"
                log.warning(text, topic=topic, client=client_id, count=missed)
            if is_more == _READ_LANES and readings < READINGS:
                slowest = await read_slowest(self._connection, topic)
                readings += 1
            elif is_more != _MORE:
                return Place(what.decode(), found.decode(), first, last, position, paused_ms)

    async def describe(self, topics: Sequence[str]) -> list[dict[str, str] | None]:
        """Return the fields of each topic's log (see ``log.lua``); None: there is none. Raises
        ``StoreError``."""
        commands = [("HGETALL", self._connection.key("log", topic)) for topic in topics]
        replies = await self._connection.pipeline(commands)
        return [
            {name.decode(): value.decode() for name, value in reply.items()} or None
            for reply in replies
        ]


def _logged(reply: Any) -> list[Logged] | Undone | None:
    """Return what became of one append, from what ``append.lua`` returns: a number for a message
    that was logged, a text for one that had been logged before, perhaps under another epoch."""
    if not reply:
        return None
    if reply == b"void":
        return Undone("it was given up, or what came before it was not carried out")
    epoch = reply[0].decode()
    logged = []
    for place in reply[1:]:
        if isinstance(place, int):
            logged.append(Logged(place, epoch, False))
        else:
            sequence, former = place.decode().split()
            logged.append(Logged(int(sequence), former, True))
    return logged
