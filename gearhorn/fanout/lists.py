"""Lists: from a topic's subscriptions in the store to the subscribers that copies are made for.

Theory of operation. The beginnings of the lists that are asked for together are read together, in
one round trip; most lists end there. The rest of a longer one is read on its own, page by page, so
that a long or slow list delays no other. Only ``LONG_READS`` of these are read at a time, so that
they leave the store's connections to the others.

A list is built in three kinds, plain, enveloped and durable, since copies of the first two have
different payloads and the third gets none. What some subscriptions have besides is kept by index.
A list that turns out to be long stays packed as it came (``packed``); a short one becomes plain
Python lists, which are quicker to use.

Rules: runs on the event loop, and each page gives it a turn. What is read is no snapshot;
``store.subscriptions`` says why that does no harm.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from gearhorn.fanout.backlog import Backlog
from gearhorn.fanout.copies import NO_LIMIT, Subscribers
from gearhorn.fanout.limits import EAGER_LIMIT, Limits
from gearhorn.fanout.packed import LONG, Overflows, OwnLimits, Packed, Packer, Text
from gearhorn.names import queue_of
from gearhorn.store.subscriptions import Listed, Subscriptions
from gearhorn.tasks import Tasks

TOGETHER = 64  # lists whose beginnings are read in one round trip
ROUNDS = 4  # such round trips at a time
LONG_READS = 2  # long lists at a time
STEP = 10_000  # simple steps between two turns of the loop
_ABOVE = (0, EAGER_LIMIT)  # limits above which the lowest one is asked for
_OVERFLOWS = ("drop_new", "drop_old", "unsubscribe")
_NO_OVERFLOW: Mapping[int, str] = MappingProxyType({})  # of most lists


class Lists:
    """Reads lists, and has the limits of their queues set before their first copy.

    Arguments:
        subscriptions: where they are in the store.
        limits: sets limits. It is told when a read begins, so that a change that overtakes the read
            is not undone by a limit of the former list.
        backlog: says how many fan-outs a new list may carry before its backlog is read.
    """

    def __init__(self, subscriptions: Subscriptions, limits: Limits, backlog: Backlog) -> None:
        self._subscriptions = subscriptions
        self._limits = limits
        self._backlog = backlog
        self._wanted: list[tuple[str, asyncio.Future[Listed]]] = []
        self._rounds = asyncio.Semaphore(ROUNDS)
        self._long_reads = asyncio.Semaphore(LONG_READS)
        self._tasks = Tasks()

    async def is_there(self) -> bool:
        """Return whether the store answers at all."""
        return await self._subscriptions.is_there()

    async def read(self, topic: str) -> Subscribers:
        """Return a list as it is in the store now, with its limits set.

        Raises ``StoreError``.
        """
        subscribers, _ = await self.read_with_word(topic)
        return subscribers

    async def read_with_word(self, topic: str) -> tuple[Subscribers, bytes]:
        """Return a list, and the store's word for the set of patterns from before it was read.

        The limits are prepared within ``reading``, which notes the changes that overtake the read.

        Raises ``StoreError``.
        """
        with self._limits.reading() as reading:
            subscribers, word = await self._read(topic)
            await self._limits.prepare([subscribers], reading)
        subscribers.allow(self._backlog.allowance(subscribers))
        return subscribers, word

    async def _read(self, topic: str) -> tuple[Subscribers, bytes]:
        """Read a list whole, page by page where it is longer than a beginning.

        Its version and its word are those of the first page: what changed while the others were
        read came after.
        """
        part = await self._beginning(topic)
        word = part.patterned
        builder = _Builder(topic, part.version)
        builder.add(part)
        if part.more:
            async with self._long_reads:
                rest = self._subscriptions.rest(topic, part.clients[-1])
                async for part in rest:  # has_log is that of the last part
                    builder.add(part)
        return await builder.subscribers(part.has_log), word

    async def _beginning(self, topic: str) -> Listed:
        """Return the first part of a list, read with those that are asked for in the same turn of
        the loop."""
        loop = asyncio.get_running_loop()
        if not self._wanted:
            loop.call_soon(self._ask)
        found: asyncio.Future[Listed] = loop.create_future()
        self._wanted.append((topic, found))
        return await found

    def _ask(self) -> None:
        """Begin to read what was asked for in this turn of the loop."""
        wanted, self._wanted = self._wanted, []
        for at in range(0, len(wanted), TOGETHER):
            self._tasks.spawn(self._read_beginnings(wanted[at : at + TOGETHER]), "lists")

    async def _read_beginnings(self, wanted: list[tuple[str, asyncio.Future[Listed]]]) -> None:
        """Read some beginnings in one round trip, and give each to its caller, or the error: that
        of its own list, or of the round trip."""
        parts: Sequence[Listed | Exception]
        async with self._rounds:
            try:
                parts = await self._subscriptions.read([topic for topic, _ in wanted])
            except Exception as error:  # for each caller, a bug too
                parts = [error] * len(wanted)
        for (_, found), part in zip(wanted, parts, strict=True):
            if found.done():
                continue  # its caller has gone
            if isinstance(part, Exception):
                found.set_exception(part)
            else:
                found.set_result(part)


class _Builder:
    """Takes a list part by part, in the order of client_ids.

    Arguments:
        topic: the list's.
        version: the store's before the first part was read.
    """

    def __init__(self, topic: str, version: int) -> None:
        self._topic = topic
        self._version = version
        self._plain = _Kind()
        self._enveloped = _Kind()
        self._durable = _Kind()

    def add(self, part: Listed) -> None:
        """Take the next part. Where no subscription in it has options, which is usual, all go to
        the plain kind in one piece."""
        options = part.options
        if not options:
            self._plain.add(part.clients)
            return
        for client in part.clients:
            own = options.get(client)
            if own is None:
                self._plain.add_single(client)
            elif own.durable:
                self._durable.add_single(client)
            else:
                kind = self._enveloped if own.envelope else self._plain
                kind.add_single(client, own.max_backlog or 0, _OVERFLOWS.index(own.overflow))
        for kind in (self._plain, self._enveloped, self._durable):
            kind.flush()

    async def subscribers(self, has_log: bool) -> Subscribers:
        """Return what came. Plain queues stand before enveloped ones, so the indexes of what the
        latter have besides are moved up by the number of the former (``join``); only then is it
        known whether the list is long, which decides in what form all of it is kept."""
        plain, enveloped, durable = self._plain, self._enveloped, self._durable
        for kind in (plain, enveloped, durable):
            kind.end()
        prefix = queue_of(self._topic, "")
        second = len(plain.pages)
        packed = Packed(
            prefix,
            plain.pages + enveloped.pages,
            plain.counts + enveloped.counts,
            second,
        )
        names = Text(Packed(b"", durable.pages, durable.counts, len(durable.pages)))
        await plain.join(enveloped)
        is_long = len(packed) > LONG
        limits = OwnLimits(plain.limited, plain.limits, plain.lowest)
        overflow = Overflows(plain.overflowing, plain.overflows, _OVERFLOWS)
        return Subscribers(
            self._topic,
            packed if is_long else list(packed),
            enveloped=len(packed) - enveloped.length,
            limits=limits if is_long else tuple(limits),
            overflow=(overflow if is_long else dict(overflow)) if overflow else _NO_OVERFLOW,
            durable=names if len(names) > LONG else tuple(names),
            has_log=has_log,
            version=self._version,
        )


class _Kind(Packer):
    """Those of a list that are treated alike, and the limits of some. Indexes count from 0 within
    the kind; ``join`` moves those of the second kind up."""

    def __init__(self) -> None:
        super().__init__()
        self._fresh: list[bytes] = []
        self.limited = array("I")  # indexes
        self.limits = array("I")
        self.lowest = dict.fromkeys(_ABOVE, NO_LIMIT)  # the lowest limit above these
        self.overflowing = array("I")  # indexes
        self.overflows = bytearray()

    def add_single(self, client: bytes, limit: int = 0, overflow: int = 0) -> None:
        """Add one client_id; a limit of 0 is none, an overflow of 0 the usual one."""
        at = self.length + len(self._fresh)
        self._fresh.append(client)
        if limit:
            self.limited.append(at)
            self.limits.append(limit)
            for above, lowest in self.lowest.items():
                if above < limit < lowest:
                    self.lowest[above] = limit
        if overflow:
            self.overflowing.append(at)
            self.overflows.append(overflow)

    def flush(self) -> None:
        """Pack those that were added one by one."""
        if self._fresh:
            self.add(self._fresh)
            self._fresh = []

    async def join(self, other: _Kind) -> None:
        """Take what some of another kind have besides; those come behind."""
        for own, others in ((self.limited, other.limited), (self.overflowing, other.overflowing)):
            for at in range(0, len(others), STEP):
                own.extend([index + self.length for index in others[at : at + STEP]])
                await asyncio.sleep(0)
        self.limits.extend(other.limits)
        for above, lowest in other.lowest.items():
            self.lowest[above] = min(lowest, self.lowest[above])
        self.overflows.extend(other.overflows)
