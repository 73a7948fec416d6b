"""Parked messages in the store: those that were set aside for one subscription, and those that were
put back.

A message that failed too often is *parked*: it leaves the lane, and is kept until an operator puts
it back (``redrive``: it is delivered again) or forgets it (``purge``). There may be a million of
one subscription, so both go in pieces, the oldest first. A piece has a number under which the store
keeps what became of it (``Asked``): where its reply is lost, the same piece is asked for again, and
is not carried out twice. Without the number, a repetition would take the next thousand messages,
which the operator did not ask for.

A message is in one of two sets, the parked ones (``order``) or those put back (``redrive``), and
its bytes stay in one hash throughout (``parked``). So putting back a thousand messages moves a
thousand numbers, and not their payloads.

Rules: one round trip reads or moves a bounded number of messages and bytes. Every method raises
``StoreError``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from gearhorn.errors import BadRequest, StoreError, StoreNoWrites, StoreRefused
from gearhorn.messages.logs import Parked, decode_parked
from gearhorn.store.asked import Asked
from gearhorn.store.connection import READ_TIMEOUT_S, Command, Connection
from gearhorn.timing import Backoff

LISTED = 500  # parked messages read in one go
LISTED_BYTES = 8 * 1024 * 1024  # of them, as they are kept
MOVED = 1000  # parked messages put back or forgotten in one go: two milliseconds of the store
TRIES = 3  # to learn what became of such a request
REDRIVEN = 1000  # subscriptions in one page


class Passed(NamedTuple):
    """A message that the position of a durable subscription has passed. ``is_expired``: it was not
    begun any more. ``is_capped``: the log's caps took it, perhaps before it was delivered.
    ``ended``: the version at which the subscription, or its durability, last ended; a bound where
    that is forgotten. ``epoch``: the log's now; "" where this message was logged before that began,
    under which epoch is not kept."""

    is_parked: bool
    is_expired: bool
    is_capped: bool
    ended: int
    epoch: str


class ParkedMessages:
    """The parked messages of one namespace. ``Lanes`` is made of it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._asked = Asked(connection)

    async def redriven(self, after: int) -> list[tuple[str, str, int]]:
        """Return a page of (topic, client_id, number) of subscriptions that have messages put
        back, in the order of the last redrive of each, from beyond the redrive ``after``.

        Members ask for it every few seconds with the highest number that they know, so a redrive is
        found whether or not the event that told of it was heard. Raises ``StoreError``.
        """
        bounds = f"({after}", "+inf", "LIMIT", 0, REDRIVEN
        key = self._connection.key("redriven")
        [found] = await self._connection.pipeline([("ZRANGEBYSCORE", key, *bounds, "WITHSCORES")])
        redriven = []
        for pair, number in pairs_of(found):
            topic, _, client_id = pair.decode().partition("\0")
            redriven.append((topic, client_id, int(number)))
        return redriven

    async def put_back(
        self, wanted: Sequence[tuple[str, str, Sequence[int]]], limit: int
    ) -> list[list[Parked | None] | StoreError]:
        """Return messages that were put back, None for one that is gone.

        Their sizes are asked for first, so that no reply is much longer than ``limit``: of what is
        wanted, the first messages are read that are so many bytes together, but at least one. Then
        each lane's messages are read by one command, all in one round trip. A size
        that the store refuses counts as none, so that the reading finds the refusal.

        Arguments:
            wanted: (topic, client_id, sequences) of each lane.
            limit: in bytes.

        Returns a list for each lane, which may be shorter than was wanted, or the ``StoreError``
        with which the store refused it. Raises ``StoreError`` where it does not answer.
        """
        keys = [
            self._connection.key("parked", f"{topic}\0{client_id}")
            for topic, client_id, _ in wanted
        ]
        asked = [(at, n) for at, (_, _, sequences) in enumerate(wanted) for n in sequences]
        sizes = await self._connection.each([("HSTRLEN", keys[at], n) for at, n in asked])
        chosen: list[list[int]] = [[] for _ in wanted]
        total = 0
        for (at, sequence), size in zip(asked, sizes, strict=True):
            known = 0 if isinstance(size, StoreError) else size
            if total and total + known > limit:
                break
            total += max(known, 1)
            chosen[at].append(sequence)
        reads = [at for at, sequences in enumerate(chosen) if sequences]
        commands = [("HMGET", keys[at], *chosen[at]) for at in reads]
        replies = await self._connection.each(commands, READ_TIMEOUT_S) if commands else []
        found: list[list[Parked | None] | StoreError] = [[] for _ in wanted]
        for at, reply in zip(reads, replies, strict=True):
            found[at] = (
                reply
                if isinstance(reply, StoreError)
                else [decode_parked(body) if body else None for body in reply]
            )
        return found

    async def parked(
        self, topic: str, client_id: str, sequences: Sequence[int]
    ) -> list[Parked | None]:
        """Return messages that are parked or were put back, None for each other sequence.

        Raises ``StoreError``. The caller bounds how many it asks for, and with them the reply.
        """
        if not sequences:
            return []
        name = self._connection.key("parked", f"{topic}\0{client_id}")
        [found] = await self._connection.pipeline([("HMGET", name, *sequences)], READ_TIMEOUT_S)
        return [decode_parked(body) if body else None for body in found]

    async def list_parked(
        self, topic: str, client_id: str, after: int, limit: int
    ) -> tuple[list[tuple[int, Parked | None]], bool] | None:
        """Return the oldest parked messages behind the sequence ``after``, None for one that the
        store has lost, and whether there are no more; None where there is no such durable
        subscription.

        Up to ``limit`` are returned, and up to ``LISTED`` or ``LISTED_BYTES``, but at least one
        where there is one. Raises ``StoreError``.
        """
        key = self._connection.key
        pair = f"{topic}\0{client_id}"
        keys = [key("lanes", topic), key("order", pair), key("parked", pair)]
        limit = min(limit, LISTED)
        command = self._connection.script("list", keys, client_id, after, limit, LISTED_BYTES)
        [reply] = await self._connection.pipeline([command], READ_TIMEOUT_S)
        if not reply:
            return None
        is_end, *found = reply
        return [(n, decode_parked(body) if body else None) for n, body in found], bool(is_end)

    async def take_parked(
        self, topic: str, client_id: str, how: str, limit: int | None
    ) -> int | None:
        """Put parked messages back ("redrive") or forget them ("purge"), the oldest first; return
        how many, None where there is no such durable subscription.

        The last one to take is found first, and each piece begins behind the one before. Otherwise
        a message that is put back, fails and is parked again meanwhile would be taken again and
        again, and a redrive of a subscription whose receiver always fails would not end.

        Arguments:
            topic: the subscription's topic.
            client_id: the subscription.
            how: "redrive" or "purge".
            limit: how many at most; None is all that are parked now.

        Raises ``BadRequest`` where they would be put back for a subscription with ``pull``. If this
        raises ``StoreError``, some of them may have been taken.
        """
        key = self._connection.key
        order = key("order", f"{topic}\0{client_id}")
        [end] = await self._connection.pipeline(
            [("ZRANGE", order, *((-1, -1) if limit is None else (limit - 1, limit - 1)))]
        )
        last: int | str = int(end[0]) if end else "+inf"
        count = after = 0
        while limit is None or count < limit:
            piece = MOVED if limit is None else min(MOVED, limit - count)
            found = await self._take_piece(
                topic, client_id, how=how, after=after, last=last, limit=piece
            )
            if found is None:
                return None
            taken, *behind = found
            if taken < 0:
                raise BadRequest(
                    "action: a subscription with pull is not delivered to; list and purge its "
                    "parked messages, or make it again without pull to redrive them"
                )
            count += taken
            [after] = behind
            if taken < piece:
                break
        return count

    async def _take_piece(
        self, topic: str, client_id: str, *, how: str, after: int, last: int | str, limit: int
    ) -> list[int] | None:
        """Take a piece of what ``take_parked`` is to take, behind the sequence ``after`` and up to
        ``last``; return what ``redrive.lua`` returns.

        Where the reply is lost the piece is asked for again under its number, ``TRIES`` times in
        all. A refusal is final: asking again would be refused again. Raises ``StoreError``.
        """
        key = self._connection.key
        pair = f"{topic}\0{client_id}"
        own = [key(name, pair) for name in ("order", "parked", "redrive")]
        asked, askers = self._asked.keys
        keys = [key("lanes", topic), *own, asked]
        keys += key("redriven"), key("redrives"), key("ahead", pair), askers
        keys.append(key("most", "parked"))
        events = self._connection.channel("events")
        number = self._asked.next()
        arguments = (client_id, how, last, limit, events, topic, number, after)
        command = self._connection.script("redrive", keys, *arguments)
        backoff = Backoff(0.05, 1.0)
        for attempt in range(1, TRIES + 1):
            try:
                [reply] = await self._connection.pipeline([command])
                return None if reply is None else list(map(int, reply))
            except (StoreRefused, StoreNoWrites):
                raise
            except StoreError:
                if attempt == TRIES:
                    raise
                await asyncio.sleep(backoff.next_s())
        raise AssertionError("unreachable")

    async def passed(self, topic: str, messages: Sequence[tuple[str, int]]) -> list[Passed]:
        """Return what is known of messages, (client_id, sequence), of a topic that positions have
        passed. Raises ``StoreError``."""
        key = self._connection.key
        ended = key("ended")
        place = "HMGET", key("log", topic), "capped", "epoch", "base"
        commands: list[Command] = [place, ("ZSCORE", ended, "")]
        for client_id, sequence in messages:
            pair = f"{topic}\0{client_id}"
            commands += ("ZSCORE", key("order", pair), sequence), ("ZSCORE", ended, pair)
            commands.append(("ZSCORE", ended, f"{pair}\0"))
            commands.append(("ZSCORE", key("lapsed", pair), sequence))
        [capped, epoch, base], floor, *found = await self._connection.pipeline(commands)
        now = (epoch or b"-").decode()  # a log that has ended has none of these messages
        return [
            Passed(
                parked is not None,
                expired is not None,
                sequence <= int(capped or 0),
                max(int(float(version or 0)) for version in (floor, *versions)),
                now if sequence >= int(base or 0) else "",
            )
            for (_, sequence), parked, *versions, expired in zip(
                messages, found[::4], found[1::4], found[2::4], found[3::4], strict=True
            )
        ]


def pairs_of(found: Sequence[Any]) -> Iterator[tuple[bytes, float]]:
    """Yield members with their scores. RESP3 gives them in pairs, RESP2 and some scripts flat."""
    if found and isinstance(found[0], (list, tuple)):
        return ((member, float(score)) for member, score in found)
    return ((found[at], float(found[at + 1])) for at in range(0, len(found), 2))
