"""Copies: from a message and a topic's subscribers to the bytes for each job server.

Theory of operation. The packets of one message's copies differ in their heads only: packet type,
length, queue and unique id's place. The *tail*, unique id and payload, is the same for all, or the
same for all that take envelopes. So a ``Block`` is a list of heads and one tail, and the client
joins them when it writes. A payload of 8 MiB is in memory once, whatever the number of copies.

Which server carries a queue follows from the digests of both ("Several job servers" in
docs/protocol.rst), and the heads of a list depend on the payload's length only. So both are kept
with the list: a topic that is published to often, with payloads of one length, costs no digest and
no head for each copy. What is kept holds for one session of the job servers, by its number.

Of a long list (``packed.LONG``) heads would take a hundred bytes for each of a million queues. They
are made portion by portion and not kept; which server carries which queue is kept page by page, in
two bytes each.

Rules: pure, but for what it remembers of a list, which is derived and replaceable.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import count
from types import MappingProxyType
from typing import NamedTuple

from gearhorn.fanout.packed import AllBut, OwnLimits, Packed, Text
from gearhorn.gearman import packets
from gearhorn.gearman.job_servers import JobServers
from gearhorn.messages.fanout import Fanout, envelope
from gearhorn.names import client_of, queue_of

_births = count()  # numbers lists in the order in which they were made, of all topics
_HEX = 40  # digits of a SHA-256 for a longer unique id: docs/protocol.rst, "Unique ids"


def mark() -> int:
    """Return a number that is higher than ``born`` of every list there is, and lower than that of
    every list to come."""
    return next(_births)


class Block(NamedTuple):
    """Copies for one server, as its client writes them.

    ``place`` is the server's among ``JobServers.clients``, ``indexes`` are those of the copies'
    queues in the list (None: all of them), and each head is followed by the tail.
    """

    place: int
    indexes: Sequence[int] | None
    heads: Sequence[bytes]
    tail: bytes


class Share:
    """The queues of a list that one server carries, plain or enveloped.

    Arguments:
        place: which server, among ``JobServers.clients``.
        indexes: of the queues in the list; None: all of it.
        queues: their names, without the ``prefix`` that all of them have.
        enveloped: whether their copies are envelopes.
    """

    __slots__ = (
        "_heads", "_kind", "_prefix", "_tail_bytes", "enveloped", "indexes", "place", "queues",
    )  # fmt: skip

    def __init__(
        self,
        place: int,
        indexes: Sequence[int] | None,
        queues: list[bytes],
        *,
        enveloped: bool,
        prefix: bytes = b"",
    ) -> None:
        self.place = place
        self.indexes = indexes
        self.queues = queues
        self.enveloped = enveloped
        self._prefix = prefix
        self._kind = self._tail_bytes = 0
        self._heads: list[bytes] = []

    def heads(self, kind: int, tail_bytes: int) -> list[bytes]:
        """Return the heads for packets of one type and length of tail; the last ones are kept.

        Arguments:
            kind: the packet's number, by foreground and priority (``packets.SUBMIT``).
            tail_bytes: how many bytes follow each head. A head has the length of its packet.
        """
        if tail_bytes != self._tail_bytes or kind != self._kind:
            self._heads = packets.heads(self.queues, kind, tail_bytes, self._prefix)
            self._kind, self._tail_bytes = kind, tail_bytes
        return self._heads


NO_LIMIT = 2**31  # more than any limit
_NO_ROUTES: list[array[int] | None] = []  # of lists that are not spread yet; never written to


class Subscribers:
    """One topic's list as it was read, which never changes.

    Arguments:
        topic: the topic.
        queues: of the direct subscriptions; a long list (``is_long``) is packed.
        enveloped: queues from this index on take envelopes.
        limits: (index, max_backlog) of queues with a limit of their own, in ascending order.
        overflow: what happens at the limit, by index, where that is not ``drop_new``.
        durable: client_ids that get no copies, but what the topic's log keeps for them.
        has_log: whether messages are logged before they are copied.
        version: the store's before the list was read.

    ``born`` is higher than that of every list that was made before: a drain waits for what lists
    up to some number have sent (``mark``), whichever topics they are of.
    """

    __slots__ = (
        "_allowance", "_lowest", "_only", "_places", "_routes", "_session", "_shares", "born",
        "durable", "enveloped", "has_log", "is_long", "limits", "overflow", "queues", "topic",
        "version",
    )  # fmt: skip

    def __init__(
        self,
        topic: str,
        queues: Sequence[bytes],
        *,
        enveloped: int,
        limits: Sequence[tuple[int, int]] = (),
        overflow: Mapping[int, str] = MappingProxyType({}),
        durable: Sequence[str] = (),
        has_log: bool = False,
        version: int = 0,
    ) -> None:
        self.topic = topic
        self.version = version
        self.queues = queues
        self.is_long = isinstance(queues, Packed)
        self.enveloped = enveloped
        self.limits = limits
        self.overflow = overflow
        self.durable = durable
        self.has_log = has_log
        self._allowance = 0  # fan-outs left before the backlog of the queues is read
        self.born = next(_births)
        # Most lists never need these, and there may be 100,000 of them: they are made when they do.
        self._lowest: dict[int, int] | None = None
        self._places: dict[bytes, int | None] | None = None  # of queues that were asked for
        self._session = -1
        self._shares: list[Share] = []
        self._only: Share | None = None
        # of a long list, per page: the places of the servers that carry it
        self._routes = _NO_ROUTES

    @property
    def own(self) -> Subscribers:
        """The topic's own subscriptions, of a list that has others besides (``Merged``)."""
        return self

    @property
    def weight(self) -> int:
        """What the list takes of the room of cached ones, in subscriptions."""
        return len(self.queues) + len(self.durable)

    def part_of(self, index: int) -> tuple[Subscribers, int]:
        """Return the list that the store has a queue in, and the queue's index there."""
        return self, index

    def overflow_of(self, index: int) -> str | None:
        """Return what happens at the limit of a queue, None where it is ``drop_new``."""
        return self.overflow.get(index)

    def allow(self, fanouts: int) -> None:
        """Let the list carry so many fan-outs before the backlog of its queues is read: what
        ``Backlog.allowance`` says."""
        self._allowance = fanouts

    def carries(self) -> bool:
        """Count a fan-out; return whether it is one more than was allowed."""
        self._allowance -= 1
        return self._allowance < 0

    def lowest_limit(self, above: int = 0) -> int:
        """Return the lowest limit over ``above`` that a subscription has of its own; 2**31 where
        none has."""
        if not self.limits:
            return NO_LIMIT
        if self._lowest is None:
            own = self.limits
            self._lowest = dict(own.lowest) if isinstance(own, OwnLimits) else {}
        if above not in self._lowest:
            limits = (limit for _, limit in self.limits if limit > above)
            self._lowest[above] = min(limits, default=NO_LIMIT)
        return self._lowest[above]

    def limits_between(self, start: int, end: int) -> Sequence[tuple[int, int]]:
        """Return (index, max_backlog) of the queues from ``start`` to before ``end`` that have a
        limit of their own."""
        return self.limits[bisect_left(self.limits, (start,)) : bisect_left(self.limits, (end,))]

    def limit(self, index: int) -> int:
        """Return the limit that a subscription has of its own, or 0."""
        own = self.limits_between(index, index + 1)
        return own[0][1] if own else 0

    def index_of(self, queue: bytes) -> int | None:
        """Return where a queue is in the list; None where it is not. Few are asked for: 0.1 ms at
        ``LONG`` queues, once for each."""
        if isinstance(self.queues, Packed):
            prefix = self.queues.prefix
            return self.queues.find(queue[len(prefix) :]) if queue.startswith(prefix) else None
        if self._places is None:
            self._places = {}
        if queue not in self._places:
            try:
                self._places[queue] = self.queues.index(queue)
            except ValueError:
                self._places[queue] = None
        return self._places[queue]

    def client_id(self, index: int) -> str:
        """Return the client_id behind a queue."""
        return client_of(self.topic, self.queues[index])

    def client_ids(self, start: int, end: int) -> list[str]:
        """Return the client_ids behind the queues from ``start`` to before ``end``."""
        queues = self.queues
        if isinstance(queues, Packed):
            return [name.decode() for name in queues.clients(range(start, min(end, len(queues))))]
        at = len(queue_of(self.topic, ""))
        return [queue[at:].decode() for queue in queues[start:end]]

    def chosen(self, exclude: frozenset[str]) -> Sequence[int]:
        """Return the indexes that ``exclude`` leaves, in ascending order."""
        if isinstance(self.queues, Packed):
            return AllBut.named(self.queues, exclude)
        gone = {queue_of(self.topic, client_id) for client_id in exclude}
        return [index for index, queue in enumerate(self.queues) if queue not in gone]

    def receivers(self, exclude: frozenset[str]) -> Sequence[str]:
        """Return the durable client_ids that ``exclude`` leaves."""
        if not exclude or not self.durable:
            return self.durable
        if isinstance(self.durable, Text):
            return self.durable.without(exclude)
        return tuple(client_id for client_id in self.durable if client_id not in exclude)

    def shares(self, job_servers: JobServers) -> list[Share]:
        """Return how a list that is not long is spread over the servers that are up, of which
        there is at least one. It is spread once in each session of the job servers."""
        if self._session != job_servers.sessions:
            self._session = job_servers.sessions
            self._shares = self._spread(job_servers, range(len(self.queues)))
            is_single = len(self._shares) == 1 and not self._shares[0].enveloped
            self._only = self._shares[0] if is_single else None
        return self._shares

    def only_share(self, job_servers: JobServers) -> Share | None:
        """Return the share that is all of the list, if a server that is up carries all of it and
        no subscription asks for envelopes."""
        if self._session != job_servers.sessions:
            if self.is_long or not job_servers.is_up:
                return None
            self.shares(job_servers)
        return self._only

    def _spread(self, job_servers: JobServers, indexes: Sequence[int]) -> list[Share]:
        """Spread some of the queues of a list that is not long, in order.

        There is one share for each server and kind, plain before enveloped: copies of one block
        have one tail. A server that carries the whole list shares the list's own ``queues``.
        """
        shares: list[Share] = []
        queues = self.queues
        assert isinstance(queues, list)
        kinds = (
            ([index for index in indexes if index < self.enveloped], False),
            ([index for index in indexes if index >= self.enveloped], True),
        )
        for kind, enveloped in kinds:
            for place, part in (
                job_servers.partition([queues[index] for index in kind]).items() if kind else ()
            ):
                if len(part) == len(queues):
                    shares.append(Share(place, None, queues, enveloped=enveloped))
                else:
                    own = [kind[at] for at in part]
                    names = [queues[index] for index in own]
                    shares.append(Share(place, own, names, enveloped=enveloped))
        return shares

    def _spread_pages(
        self, job_servers: JobServers, queues: Packed, indexes: Sequence[int]
    ) -> list[Share]:
        """Spread some of the queues of a long list, in order.

        The shares are those of a portion, made anew for each: names without the prefix that all
        have, which the heads add.
        """
        places = self._carriers(job_servers, queues, indexes)
        split = bisect_left(indexes, self.enveloped)
        shares: list[Share] = []
        for enveloped, part, own in (
            (False, indexes[:split], places[:split]),
            (True, indexes[split:], places[split:]),
        ):
            for place in sorted(set(own)):
                mine = part
                if own.count(place) < len(own):
                    mine = array("I", (at for at, by in zip(part, own, strict=True) if by == place))
                clients = queues.clients(mine)
                share = Share(place, mine, clients, enveloped=enveloped, prefix=queues.prefix)
                shares.append(share)
        return shares

    def _carriers(
        self, job_servers: JobServers, queues: Packed, indexes: Sequence[int]
    ) -> array[int]:
        """Return, per index, the place of the server that carries the queue.

        A page is routed whole when one of its queues is asked for: portions go through the pages
        in order, so each page costs its digests once in a session.
        """
        if job_servers.only is not None:
            return array("H", [job_servers.only]) * len(indexes)
        if self._session != job_servers.sessions:
            self._session = job_servers.sessions
            self._routes = [None] * queues.page_count
        places = array("H")
        at, end = 0, len(indexes)
        while at < end:
            page = queues.page_of(indexes[at])
            start, clients, route = queues.start_of(page), queues.page(page), self._routes[page]
            if route is None:
                prefix = queues.prefix
                route = array("H", [job_servers.route(prefix + client) for client in clients])
                self._routes[page] = route
            till = bisect_left(indexes, start + len(clients), at)
            places.extend([route[index - start] for index in indexes[at:till]])
            at = till
        return places

    def blocks(
        self,
        job_servers: JobServers,
        message: Fanout,
        *,
        foreground: bool,
        unique: bytes,
        at: float,
        indexes: Sequence[int] | None = None,
        tails: dict[bool, bytes] | None = None,
    ) -> list[Block]:
        """Return the copies of a message, by the server that each goes to, in the list's order.

        Arguments:
            job_servers: of which at least one is up.
            message: what is copied.
            foreground: whether receivers answer to the submitter.
            unique: the copies' Gearman unique id.
            at: Unix time in seconds, for envelopes.
            indexes: of the queues, in ascending order; None: all of the list.
            tails: what enveloped copies and others end with, as far as they were made before. What
                is made now is added: copies that are sent one by one have the payload once.

        A tail is made when a share needs it: a list without envelopes never pays for one.
        """
        if isinstance(self.queues, Packed):
            chosen = range(len(self.queues)) if indexes is None else indexes
            shares = self._spread_pages(job_servers, self.queues, chosen)
        elif indexes is None:
            shares = self.shares(job_servers)
        else:
            shares = self._spread(job_servers, indexes)
        kind = packets.SUBMIT[foreground][message.priority]
        tails = {} if tails is None else tails
        blocks = []
        for share in shares:
            tail = tails.get(share.enveloped)
            if tail is None:
                tail = tails[share.enveloped] = _tail(message, unique, at, share.enveloped)
            blocks.append(Block(share.place, share.indexes, share.heads(kind, len(tail)), tail))
        return blocks


def _tail(message: Fanout, unique: bytes, at: float, is_enveloped: bool) -> bytes:
    """Return what plain or enveloped copies end with: unique id, NUL and payload.

    ``unique`` "-" has gearmand itself coalesce by payload. That does not do for envelopes: two of
    one payload differ by their times, so they get the payload's digest as an id.
    """
    if not is_enveloped:
        return packets.tail(unique, message.payload)
    own = unique if unique != b"-" else _digest(message.payload)
    return packets.tail(own, envelope(message, at))


def unique_id(unique: str | None, payload: bytes, prefix: bytes | None) -> bytes:
    """Return the Gearman unique id of copies (docs/protocol.rst, "Unique ids").

    Arguments:
        unique: what the publisher gave; None: nothing, and there is no id. "-" stands for the
            payload.
        payload: the message's.
        prefix: None for background copies. Foreground ones begin with the member's own, at most
            20 bytes, because gearmand loses background jobs that share an id with a foreground one.

    An id that is too long, or has control characters, is replaced by its digest.
    """
    if unique is None:
        return b""
    if unique == "-":
        if prefix is None:
            return b"-"  # gearmand itself coalesces by payload
        return prefix + _digest(payload)
    whole = unique.encode()
    size = len(whole) + len(prefix or b"")
    if size > packets.MAX_UNIQUE_BYTES or any(byte < 0x20 or byte == 0x7F for byte in whole):
        whole = _digest(whole)
    return (prefix or b"") + whole


def _digest(data: bytes) -> bytes:
    return sha256(data).hexdigest()[:_HEX].encode()
