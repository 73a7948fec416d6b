"""Listing: subscriptions page by page, in the order of lists and client_ids, to be described.

``describe_fanout`` is answered with pages (docs/protocol.rst, "describe_fanout"): the caller names
the pair where the last page ended. A page fills with one topic of a hundred thousand subscriptions
or with a hundred thousand topics of one each, and its cost must be that of the page in both cases.
So topics are read a hundred at a time, together, with as many client_ids as each had a moment ago;
what a topic has beyond that, since it grew or is long, is read by itself.

Rules: the work and the memory of a page are those of the subscriptions on it, whatever there is
besides; every command is about ``PAGE`` of them at most. A page is not one transaction: what is
subscribed throughout is on exactly one page (see ``subscriptions``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gearhorn.messages.subscriptions import SubscriptionOptions, decode_options
from gearhorn.names import is_pattern
from gearhorn.store.connection import Command, Connection
from gearhorn.store.subscriptions import PAGE

TOGETHER = 100  # topics that are read in one round trip
# Of a page, as the length of its JSON is estimated. A reply has 16 MiB at most; the rest is for the
# members, the logs of topics, and the estimate's error.
PAGE_BYTES = 14 * 1024 * 1024
_DESCRIBED_BYTES = 768  # of a described subscription besides its names, with all its options


class Stored(NamedTuple):
    """A subscription as the store holds it; ``drops`` are the copies that found its queue full."""

    client_id: str
    options: SubscriptionOptions
    drops: int


class _Page:
    """What was found so far.

    ``room`` counts the subscriptions that may still be added. It becomes 0 when ``limit`` is
    reached, or the bytes that a reply may have; at least one subscription is on every page, so that
    a caller that follows the cursors comes to the end.
    """

    def __init__(self, limit: int) -> None:
        self.topics: list[tuple[str, list[Stored]]] = []
        self.room = limit
        self._bytes = PAGE_BYTES

    def add(self, topic: str, found: Sequence[Stored]) -> None:
        """Add a topic's next subscriptions, as many as there is room for."""
        for stored in found:
            if not self.room:
                return
            # a client_id is there twice, with its queue's name; a quote or backslash is two bytes
            self._bytes -= _DESCRIBED_BYTES + 2 * len(topic) + 4 * len(stored.client_id.encode())
            if self._bytes < 0 and self.topics:
                self.room = 0
                return
            if not self.topics or self.topics[-1][0] != topic:
                self.topics.append((topic, []))
            self.topics[-1][1].append(stored)
            self.room -= 1


class Listing:
    """The subscriptions of one namespace, page by page."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def page(
        self, topic: str | None, after: tuple[str, str] | None, limit: int
    ) -> tuple[list[tuple[str, list[Stored]]], bool]:
        """Return a page of subscriptions by topic, and whether more may follow.

        Arguments:
            topic: the name of the list whose subscriptions are wanted, None for those of all
                patterns, and then of all topics.
            after: the pair (name, client_id) behind which the page begins, None for the beginning.
            limit: how many subscriptions at most. Fewer are returned where their description would
                be longer than a reply may be.

        Raises ``StoreError``.
        """
        page = _Page(limit)
        if after is not None and topic in (None, after[0]):
            await self._fill(page, after[0], after[1].encode())
        elif topic is not None:
            await self._fill(page, topic, b"")
        if topic is None:
            behind = "" if after is None else after[0]
            if not behind or is_pattern(behind):
                await self._add_lists(page, "patterns", behind)
                behind = ""
            await self._add_lists(page, "topics", behind)
        return page.topics, not page.room

    async def _fill(self, page: _Page, topic: str, after: bytes) -> None:
        """Add what follows a client_id of one topic (all of it, where ``after`` is empty)."""
        while page.room:
            limit = min(page.room, PAGE)
            [found] = await self._stored([(topic, after, limit)])
            page.add(topic, found)
            if len(found) < limit:
                return
            after = found[-1].client_id.encode()

    async def _add_lists(self, page: _Page, index: str, behind: str) -> None:
        """Add the subscriptions of the topics, or patterns, behind ``behind`` (of all, where it is
        empty), in order.

        The sizes of a hundred topics are asked for first. Then topics are read together for as
        long as they have no more than a page between them, so that neither the reply nor the
        script's time grows with the number of topics.
        """
        key = self._connection.key
        while page.room:
            count = min(TOGETHER, page.room)
            first = f"({behind}" if behind else "-"
            [found] = await self._connection.read(
                [("ZRANGEBYLEX", key(index), first, "+", "LIMIT", 0, count)]
            )
            names = [name.decode() for name in found]
            if not names:
                return
            counts = await self._connection.read(
                [("ZCARD", key("clients", name)) for name in names]
            )
            wanted: list[tuple[str, int]] = []
            for name, size in zip(names, counts, strict=True):
                if sum(count for _, count in wanted) + size > min(PAGE, page.room):
                    await self._add_whole(page, wanted)
                    wanted = []
                if not page.room:
                    return
                wanted.append((name, size))
            await self._add_whole(page, wanted)
            if len(names) < count:
                return
            behind = names[-1]

    async def _add_whole(self, page: _Page, wanted: Sequence[tuple[str, int]]) -> None:
        """Add topics, each with the number of subscriptions that it had a moment ago. One more is
        asked for of each: where it comes, the topic has grown, and its rest is read by itself."""
        asked = [(topic, b"", min(count + 1, PAGE, page.room)) for topic, count in wanted]
        if not asked:
            return
        for (topic, _, limit), found in zip(asked, await self._stored(asked), strict=True):
            page.add(topic, found)
            if len(found) == limit:
                await self._fill(page, topic, found[-1].client_id.encode())

    async def _stored(self, wanted: Sequence[tuple[str, bytes, int]]) -> list[list[Stored]]:
        """Return the next subscriptions of each (topic, client_id, how many at most), behind the
        client_id or from the beginning where it is empty.

        Client_ids and options are of one moment, as ``page.lua`` reads them. The drop counters are
        read afterwards, in a second round trip: they inform, and may be of a moment later.
        """
        key = self._connection.key
        pages = await self._connection.read(
            [
                self._connection.script(
                    "page",
                    [key(name, topic) for name in ("clients", "options", "log")],
                    *(b"(" + after if after else b"-", limit),
                )
                for topic, after, limit in wanted
            ]
        )
        commands: list[Command] = [
            ("HMGET", key("drops", topic), *clients)
            for (topic, _, _), (clients, _, _) in zip(wanted, pages, strict=True)
            if clients
        ]
        counts = iter(await self._connection.read(commands) if commands else ())
        return [
            _stored(clients, bodies, next(counts)) if clients else []
            for clients, _, bodies in pages
        ]


def _stored(
    clients: Sequence[bytes], bodies: Sequence[bytes | None], counts: Sequence[bytes | None]
) -> list[Stored]:
    """Return subscriptions as the store gave them. ``bodies`` are their options as JSON, empty
    where no subscription of the topic has any; ``counts`` are their drops."""
    return [
        Stored(client.decode(), decode_options(body or b"{}"), int(drops or 0))
        for client, body, drops in zip(
            clients, bodies or [None] * len(clients), counts, strict=True
        )
    ]
