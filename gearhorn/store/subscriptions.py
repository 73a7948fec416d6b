"""Subscriptions in the store: which client_ids are subscribed to what, and how that changes.

Theory of operation. A topic may have a million subscriptions, and one command that returns them all
would hold the store, the connection and the reader's event loop for a second. So a topic's
client_ids are a sorted set whose scores are all 0, which is read in pages, in the order of their
bytes: each page asks for what follows the last client_id of the page before. The pages are not one
transaction, and the list changes meanwhile. What a read returns is right all the same:

* A client_id that is subscribed throughout the read is returned exactly once: its place in the
  order never changes, and pages neither overlap nor leave gaps.
* One that is subscribed or unsubscribed during the read may be returned or not. Its topic changed
  then, and the reader learns of that by message, by its next lease renewal or by the end of its
  lease; the directory lets such a read serve only fan-outs that asked before, and drops it.
* The client_ids of a page, their options and whether the topic has a log are of one moment: a
  script reads them. Otherwise a durable subscription that ends meanwhile would be seen without its
  options, as a direct one, and its receivers would get a bare copy, which they never asked for. One
  that turns durable during the read gets a copy, or the log's message, or both.

Rules: every command takes a bounded time; one round trip for any number of changes, or for the
beginnings of any number of lists; nothing here scans all topics.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from gearhorn.errors import StoreError
from gearhorn.messages.subscriptions import SubscriptionOptions, decode_options
from gearhorn.names import is_pattern, splits_of
from gearhorn.store.asked import Asked
from gearhorn.store.connection import Command, Connection
from gearhorn.store.log import fresh_epoch
from gearhorn.store.members import Member, members_of

FIRST = 100  # client_ids of a list that are read together with those of other topics
PAGE = 2_000  # of a longer list, at a time: 1 to 2 ms of the store's time, and of the reader's
MAX_VERSION = 2**53  # higher than any
_BEYOND_LOG, _TOO_MANY_PATTERNS = -1, -2  # as ``change.lua`` refuses; -3 is an earlier release
WITHDRAW_S = 1.0  # other changes wait meanwhile, and are answered within 2 s


class Change(NamedTuple):
    """A change of one pair: subscribed, unsubscribed, ended because its time is over or its queue
    is full; or of a topic's retention."""

    kind: Literal["subscribe", "unsubscribe", "expire", "overflow", "retain"]
    topic: str
    client_id: str  # "" of a retention, like ``queue``
    queue: bytes  # the name that topic and client_id make together
    options: bytes = b"{}"  # those that were given, as JSON
    # The member that empties the queue if the pair existed, or if no pair owns the queue. All other
    # changes that concern that queue name are held off until ``drained``. "" is none.
    drainer: str = ""
    start: bytes = b""  # where a durable subscription begins that is new, as JSON
    seen: int = 0  # of an overflow: a version; what was subscribed after it is spared
    # The id under which the store remembers what became of the change, so that it can be applied
    # again without being written twice. "" is none.
    request: str = ""
    is_pause: bool = False  # whether its lane is to deliver nothing from then on


class Applied(NamedTuple):
    """What became of a change: a new ``version``, or the reason why it was not written. Where there
    is neither, the queue is being drained, or the pair is not the one that was to be ended."""

    version: int  # after the change; 0 where it was not written
    existed: bool  # whether the pair was subscribed before
    owner: tuple[str, str] | None = None  # another pair, which owns the queue's name
    last: int | None = None  # the log's last sequence: the subscription would start beyond it
    is_durable: bool = False  # whether lanes or the log are concerned
    parked: int | None = None  # messages discarded with the durability that it ended
    error: StoreError | None = None  # the store refused this one
    is_draining: bool = False  # whether the caller is to drain the queue
    is_full: bool = False  # there are as many patterns as may be
    ignorant: str = ""  # a member whose release knows no patterns: none may be made


class Listed(NamedTuple):
    """A part of a topic's list."""

    clients: list[bytes]  # client_ids, in the order of their bytes
    options: Mapping[bytes, SubscriptionOptions]  # of those that have any
    has_log: bool  # whether the topic has a log: messages are appended before they are copied
    more: bool = False  # whether more of the list may follow
    version: int = 0  # the store's, before this part was read: later changes may be missing
    patterned: bytes = (
        b""  # what stood for the set of patterns then (``patterns``); empty: no pattern
    )


class Subscriptions:
    """The subscriptions of one namespace: changes, lists, and counters of drops."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._asked = Asked(connection)

    async def close(self) -> None:
        """Count no drops any more, and have the store forget the numbers of those counted."""
        await self._asked.close()

    async def apply(
        self, changes: Sequence[Change], clock_ms: int
    ) -> tuple[list[Applied], list[Member]]:
        """Write changes; return what became of each, and the members as of just after.

        Each change is atomic by itself, and they are written in order. The members are read behind
        them in the same round trip: a member that is not among them joined after the changes, and
        reads its first lists with them. So these are all that have to be told.

        ``clock_ms`` is the caller's reading of the members' clock.
        Raises ``StoreError``; then any of the changes may or may not have been written.
        """
        commands = [self._command(change, clock_ms) for change in changes]
        read_members = ("HGETALL", self._connection.key("members"))
        *replies, members = await self._connection.each([*commands, read_members])
        if isinstance(members, StoreError):
            raise members
        applied = [_applied(*pair) for pair in zip(changes, replies, strict=True)]
        return applied, members_of(members)

    async def withdraw(self, changes: Sequence[Change], clock_ms: int) -> list[Applied | None]:
        """Return what became of changes whose replies were not heard. None: it was not written, and
        never will be, although it may still be on its way. Each has a ``request``.

        ``clock_ms`` is the caller's reading of the members' clock.
        Raises ``StoreError``; then nothing is known.
        """
        keys = [self._connection.key(name) for name in ("answers", "answered")]
        ids = [change.request for change in changes]
        command = self._connection.script("withdraw", keys, clock_ms, *ids)
        [replies] = await self._connection.pipeline([command], WITHDRAW_S)
        return [
            _applied(change, reply) if reply else None
            for change, reply in zip(changes, replies, strict=True)
        ]

    def _command(self, change: Change, clock_ms: int) -> Command:
        """Return the command that writes a change.

        The lists of keys and arguments are those at the head of ``retain.lua`` and ``change.lua``,
        which the scripts index by number; so they stand here in one place and in that order, and
        the keys of rival pairs last, since there may be any number of them. Which of the two names
        ``change.lua`` runs under decides what a store without memory refuses: subscriptions may not
        be made there, but ended.
        """
        key, topic = self._connection.key, change.topic
        answers = [key("answers"), key("answered")]
        if change.kind == "retain":
            keys = [
                *(key(name, topic) for name in ("log", "messages", "lanes")),
                key("due"),
                *(key(name, topic) for name in ("logged", "places")),
                *(key(name) for name in ("version", "changes", "floor", "clock")),
                key("marks", topic),
                *answers,
            ]
            arguments = (topic, change.options, fresh_epoch(), clock_ms, change.request)
            return self._connection.script("retain", keys, *arguments)
        pair = f"{topic}\0{change.client_id}"
        names = "patterns" if is_pattern(topic) else "topics"
        shared = ("version", "changes", "floor", names, "clock", "expiries", "draining")
        rivals = _rivals(change)
        keys = [
            *(key(name, topic) for name in ("clients", "options", "drops")),
            *(key(name) for name in (*shared, "members")),
            *(key(name, topic) for name in ("log", "messages", "lanes")),
            *(key(name) for name in ("durable", "due")),
            *(key(name, topic) for name in ("logged", "places")),
            *(key(name, pair) for name in ("order", "parked", "redrive", "trouble")),
            *(key("marks", topic), key("ahead", pair), key("redriven")),
            *answers,
            *(key("ended"), key("patterned"), key("schema")),
            *(key("expired", topic), key("lapsed", pair)),
            *(key("spread", topic), key("crowd", topic)),
            *(key("most", count) for count in ("lag", "parked", "drops")),
            key("paused", topic),
            key("skipped", topic),
            *(key("clients", rival) for rival, _ in rivals),
        ]
        given: bytes | str | int = change.drainer
        if change.kind == "subscribe":
            given = change.options
        elif change.kind == "overflow":
            given = change.seen
        return self._connection.script(
            "change" if change.kind == "subscribe" else "end",
            keys,
            *(change.kind, topic, change.client_id, change.queue, given, clock_ms),
            *(change.start, fresh_epoch(), change.request),
            *(client_id for _, client_id in rivals),
        )

    async def drained(self, queue: bytes, drainer: str, request: str = "") -> None:
        """Take the mark of a drain that is over away, so that changes of the queue are written
        again.

        ``drainer`` and ``request`` are those of the change that began the drain; the mark of
        another drain stays. Raises ``StoreError``.
        """
        key, mark = self._connection.key("draining"), f"{drainer} {request}"
        await self._connection.pipeline([self._connection.script("unmark", [key], queue, mark)])

    async def draining(self, queues: Sequence[bytes]) -> set[bytes]:
        """Return which of these queues a living member drains; raises ``StoreError``.

        A mark whose member is gone counts for nothing. Marks are read before the members: a drainer
        that is removed between the two, and its marks with it, counts as gone.
        """
        key = self._connection.key
        marks, members = await self._connection.pipeline(
            [("HMGET", key("draining"), *queues), ("HKEYS", key("members"))]
        )
        living = set(members)
        return {
            queue
            for queue, mark in zip(queues, marks, strict=True)
            if mark is not None and mark.partition(b" ")[0] in living
        }

    async def is_there(self) -> bool:
        """Return whether the store answers at all: a list that cannot be read is no outage."""
        return await self._connection.is_there()

    async def read(self, topics: Sequence[str]) -> list[Listed | StoreError]:
        """Return the beginning of each topic's list, or why the store does not give it.

        The beginnings of any number of lists are one round trip, with ``FIRST`` client_ids each:
        few topics have more, and ``rest`` reads on where one has.

        Raises ``StoreError`` where the store does not answer, or is no primary.
        """
        return await self._parts([(topic, b"-") for topic in topics], FIRST)

    async def rest(self, topic: str, after: bytes) -> AsyncIterator[Listed]:
        """Yield the rest of a topic's list, behind the client_id ``after``.

        Raises ``StoreError``; then the list has to be read again from its beginning.
        """
        more = True
        while more:
            [part] = await self._parts([(topic, b"(" + after)], PAGE)
            if isinstance(part, StoreError):
                raise part
            yield part
            more = part.more
            after = part.clients[-1] if part.clients else after

    async def _parts(
        self, wanted: Sequence[tuple[str, bytes]], limit: int
    ) -> list[Listed | StoreError]:
        """Read up to ``limit`` client_ids of each topic, from a lower bound in their order.

        The version is read in front of the lists: a change that comes between is in them and not
        counted by it, so the list is dropped once too often. In the opposite order a list without
        the change would count as having it.
        """
        key = self._connection.key
        commands: list[Command] = [("GET", key("version")), ("GET", key("patterned"))]
        for topic, first in wanted:
            keys = [key(name, topic) for name in ("clients", "options", "log")]
            commands.append(self._connection.script("page", keys, first, limit))
        version, patterned, *replies = await self._connection.read_each(commands)
        for word in (version, patterned):
            if isinstance(word, StoreError):
                raise word
        return [
            reply if isinstance(reply, StoreError) else _listed(reply, limit, version, patterned)
            for reply in replies
        ]

    def number_drops(self) -> int:
        """Return a number for drops that are to be counted together, once."""
        return self._asked.next()

    async def count_drops(
        self,
        number: int,
        drops: Mapping[tuple[str, str], int],
        versions: Mapping[tuple[str, str], int] = MappingProxyType({}),
    ) -> None:
        """Add to the drop counters of those (topic, client_id) pairs that are subscribed, up to
        1,000 of them.

        ``versions`` are those of the lists that the counts are of: a pair that has ended since, and
        was subscribed anew, gets nothing. A pair without one gets it in any case.

        Under one ``number`` that is done once, however often it is asked for. Raises
        ``StoreError``.
        """
        key = self._connection.key
        topics: dict[str, list[str | int]] = {}
        for (topic, client_id), count in drops.items():
            version = versions.get((topic, client_id), MAX_VERSION)
            topics.setdefault(topic, []).extend((client_id, count, version))
        keys = [*self._asked.keys, key("ended"), key("most", "drops")]
        arguments: list[str | int] = [number]
        for topic, counts in topics.items():
            keys += key("clients", topic), key("drops", topic)
            arguments += topic, len(counts) // 3, *counts
        await self._connection.pipeline([self._connection.script("count", keys, *arguments)])


def _listed(reply: Any, limit: int, version: bytes | None, patterned: bytes | None) -> Listed:
    """Return a part of a list from what ``page.lua`` returns. Most subscriptions of a topic have
    the same options, so each text is decoded once, and the decoded options are shared."""
    clients, has_log, bodies = reply
    known = {body: decode_options(body) for body in set(bodies) if body is not None}
    options = {
        client: known[body]
        for client, body in zip(clients, bodies or [None] * len(clients), strict=True)
        if body is not None
    }
    is_full = len(clients) == limit
    return Listed(clients, options, bool(has_log), is_full, int(version or 0), patterned or b"")


def _refused(why: int, what: int | bytes = 0) -> Applied:
    """Return what became of a change that the script refused for this reason."""
    if why == _BEYOND_LOG:
        return Applied(0, False, last=int(what))
    if why == _TOO_MANY_PATTERNS:
        return Applied(0, False, is_full=True)
    assert isinstance(what, bytes)
    return Applied(0, False, ignorant=what.decode())


def _rivals(change: Change) -> list[tuple[str, str]]:
    """Return the other pairs that make the queue name of a change, where its owner matters."""
    if change.kind != "subscribe" and not change.drainer:
        return []
    return [pair for pair in splits_of(change.queue) if pair != (change.topic, change.client_id)]


def _applied(change: Change, reply: Any) -> Applied:
    """Return what became of a change, from what ``change.lua`` or ``retain.lua`` returns."""
    if isinstance(reply, StoreError):
        return Applied(0, False, error=reply)
    if isinstance(reply, int):  # a topic's retention
        return Applied(reply, True, is_durable=True)
    version, found, *more = reply
    if not version:
        if found < 0:
            return _refused(found, *more)
        return Applied(0, False, owner=_rivals(change)[found - 1] if found else None)
    is_durable, parked, is_draining = more
    return Applied(
        version,
        bool(found),
        is_durable=bool(is_durable),
        parked=None if parked < 0 else parked,
        is_draining=bool(is_draining),
    )
