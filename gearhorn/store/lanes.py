"""Lanes in the store: the positions of durable subscriptions, and who delivers for each.

Law: one round trip for any number of lanes of any number of topics. A position is written by the
member that holds the lane under its present TERM, and by nobody else. Every method raises
``StoreError``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import structlog

from gearhorn.errors import BadRequest, StoreError, StoreNoWrites, StoreRefused
from gearhorn.messages import decode_options
from gearhorn.messages.durable import (
    DurableOptions,
    Parked,
    Trouble,
    decode_parked,
    decode_trouble,
    encode_parked,
)
from gearhorn.store.asked import Asked
from gearhorn.store.connection import READ_TIMEOUT_S, Command, Connection
from gearhorn.store.line import Line
from gearhorn.store.log import Entry, entries_of, read_command
from gearhorn.timing import Backoff

PAGE = 100  # topics or lanes read in one round trip: a few milliseconds of the loop
LISTED = 500  # parked messages read in one go
LISTED_BYTES = 8 * 1024 * 1024
MOVED = 1000  # parked messages put back or forgotten in one go: two milliseconds of the store
TRIES = 3  # to learn what became of such a request

log = structlog.get_logger(__name__)


class Held(NamedTuple):
    """A lane as the store knows it: ``owner`` is a member, "-", "?" or "pull"."""

    owner: str
    term: int
    position: int


class Acquired(NamedTuple):
    """A lane that this member holds now, and what it finds there."""

    client_id: str
    term: int
    position: int
    former: str  # who held it before, "-" where it was released
    troubles: dict[int, Trouble]
    parked: set[int]  # sequences past the position that are parked or were
    redrives: list[int]  # sequences that were put back


# How far a lane is: client_id, TERM, position, and the epoch of the message there. A plain tuple:
# one is made for every acknowledgement.
Settlement = tuple[str, int, int, str]


class Parking(NamedTuple):
    """A message to set aside."""

    topic: str
    client_id: str
    term: int
    sequence: int
    message: Parked


class Note(NamedTuple):
    """What failed attempts of a message left behind: to keep (``body``), to forget, or the message
    itself that was put back and is done with."""

    topic: str
    client_id: str
    term: int
    kind: Literal["fail", "clear", "redriven"]
    sequence: int
    body: bytes = b""


class Wanted(NamedTuple):
    """A part of a log to read."""

    topic: str
    first: int
    most: int
    size: int


class Round(NamedTuple):
    """What the lanes of a member have for the store together."""

    settlements: Mapping[str, Sequence[Settlement]]
    parkings: Sequence[Parking]
    notes: Sequence[Note]
    wanted: Sequence[Wanted]
    done: Mapping[str, Sequence[bytes]]  # by process that waits


class RoundReply(NamedTuple):
    """What became of a round."""

    fenced: set[tuple[str, str]]  # topic, client_id of lanes that the member has lost
    entries: list[tuple[list[Entry], bool]]  # as wanted, and whether the log ends there


class Lanes:
    """The lanes of one namespace."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._line = Line(connection)
        self._asked = Asked(connection)

    async def close(self) -> None:
        """Write no more rounds."""
        await self._line.close()
        await self._asked.close()

    async def topics(self, after: str | None = None) -> list[str]:
        """Return a page of the topics that have lanes."""
        first = "-" if after is None else f"({after}"
        key = self._connection.key("durable")
        [found] = await self._connection.pipeline(
            [("ZRANGEBYLEX", key, first, "+", "LIMIT", 0, PAGE)]
        )
        return [name.decode() for name in found]

    async def of(self, topics: Sequence[str]) -> list[dict[str, tuple[Held, DurableOptions, bool]]]:
        """Return, per topic, its lanes by client_id: who holds each, its options, and whether it
        takes envelopes."""
        key = self._connection.key
        commands: list[Command] = []
        for topic in topics:
            commands += ("HGETALL", key("lanes", topic)), ("HGETALL", key("options", topic))
        replies = iter(await self._connection.pipeline(commands, READ_TIMEOUT_S))
        found = []
        for records in replies:
            options = next(replies)
            lanes = {}
            for client, record in records.items():
                own = decode_options(options.get(client, b"{}"))
                durable = own.durable or DurableOptions()
                lanes[client.decode()] = (held_of(record), durable, own.envelope)
            found.append(lanes)
        return found

    async def acquire(
        self, member: str, wanted: Mapping[str, Sequence[str]]
    ) -> tuple[dict[str, list[Acquired]], set[str]]:
        """Take lanes, client_ids by topic; return those taken, and topics with lanes that others
        hold."""
        connection = self._connection
        key = connection.key
        commands = [
            connection.script(
                "acquire", [key("lanes", topic), key("members"), key("term")], member, *clients
            )
            for topic, clients in wanted.items()
        ]
        replies = await connection.pipeline(commands)
        taken: list[tuple[str, str, Any]] = []
        held_topics = set()
        for (topic, clients), reply in zip(wanted.items(), replies, strict=True):
            for client_id, one in zip(clients, reply, strict=True):
                if one and one[0]:
                    taken.append((topic, client_id, one))
                elif one:
                    held_topics.add(topic)
        acquired: dict[str, list[Acquired]] = {}
        dead: list[Command] = []
        for at in range(0, len(taken), PAGE):
            page = taken[at : at + PAGE]
            commands = []
            for topic, client_id, (_, position, _) in page:
                pair = f"{topic}\0{client_id}"
                commands += [
                    ("HGETALL", key("trouble", pair)),
                    ("ZRANGEBYSCORE", key("order", pair), f"({position}", "+inf"),
                    ("ZRANGE", key("redrive", pair), 0, -1),
                ]
            found = iter(await connection.pipeline(commands, READ_TIMEOUT_S))
            for (topic, client_id, (term, position, former)), troubles in zip(
                page, found, strict=False
            ):
                parked = {int(n) for n in next(found)}
                redrives = [int(n) for n in next(found)]
                failed = {int(n): decode_trouble(body) for n, body in troubles.items()}
                if over := [n for n in failed if n <= position and n not in redrives]:
                    dead.append(("HDEL", key("trouble", f"{topic}\0{client_id}"), *over))
                one = Acquired(
                    client_id,
                    term,
                    position,
                    former.decode(),
                    {n: trouble for n, trouble in failed.items() if n not in over},
                    parked.union(n for n in redrives if n > position),
                    redrives,
                )
                acquired.setdefault(topic, []).append(one)
        if dead:
            await connection.pipeline(dead)
        return acquired, held_topics

    async def release(
        self, member: str, lanes: Mapping[tuple[str, bool], list[Settlement]]
    ) -> None:
        """Give lanes up, with their last positions, and let everybody know. Lanes are by topic, and
        by whether no receiver can have a job of a former owner."""
        commands = [
            self._settle(member, "-" if is_settled else "?", topic, some)
            for (topic, is_settled), some in lanes.items()
        ]
        await self._connection.pipeline(commands)
        events = self._connection.channel("events")
        words = [("PUBLISH", events, f"released\0{topic}") for topic in {one for one, _ in lanes}]
        await self._connection.each(words)  # refused or not: others look now and then anyway

    def _settle(self, member: str, holder: str, topic: str, some: Iterable[Settlement]) -> Command:
        key = self._connection.key
        arguments = [part for one in some for part in one]
        keys = [key("lanes", topic), key("log", topic)]
        return self._connection.script("settle", keys, member, holder, *arguments)

    async def round(self, member: str, work: Round) -> RoundReply:
        """Carry out a round in one round trip; several may be under way."""
        connection = self._connection
        key = connection.key
        commands = [
            self._settle(member, member, topic, some) for topic, some in work.settlements.items()
        ]
        for one in work.parkings:
            pair = f"{one.topic}\0{one.client_id}"
            keys = [
                key("lanes", one.topic),
                *(key(name, pair) for name in ("order", "parked", "trouble", "redrive")),
                *(key(name, one.topic) for name in ("log", "drops")),
            ]
            body = encode_parked(one.message)
            commands.append(
                connection.script("park", keys, one.client_id, member, one.term, one.sequence, body)
            )
        for note in work.notes:
            pair = f"{note.topic}\0{note.client_id}"
            keys = [
                key("lanes", note.topic),
                *(key(name, pair) for name in ("trouble", "redrive", "parked")),
            ]
            rest = note.term, note.kind, note.sequence, note.body
            commands.append(connection.script("note", keys, note.client_id, member, *rest))
        reads = len(commands)
        commands += [read_command(connection, *wanted) for wanted in work.wanted]
        ends = len(commands)
        for process, words in work.done.items():
            commands.append(
                ("PUBLISH", self._connection.channel("done", process), b"\n".join(words))
            )
        replies = await self._line.ask(commands, READ_TIMEOUT_S)
        for reply in replies[:ends]:  # that words are refused costs nobody but who waits for them
            if isinstance(reply, StoreError):
                raise reply
        fenced = set()
        for topic, reply in zip(work.settlements, replies, strict=False):
            fenced |= {(topic, client.decode()) for client in reply}
        for one, reply in zip(work.parkings, replies[len(work.settlements) :], strict=False):
            if not reply:
                fenced.add((one.topic, one.client_id))
            elif reply > 1:
                log.warning(
                    "parked messages dropped: too many",
                    topic=one.topic,
                    client=one.client_id,
                    count=reply - 1,
                )
        return RoundReply(fenced, [entries_of(reply) for reply in replies[reads:ends]])

    async def parked(
        self, topic: str, client_id: str, sequences: Sequence[int]
    ) -> list[Parked | None]:
        """Return parked messages, or those that were put back."""
        if not sequences:
            return []
        name = self._connection.key("parked", f"{topic}\0{client_id}")
        [found] = await self._connection.pipeline([("HMGET", name, *sequences)], READ_TIMEOUT_S)
        return [decode_parked(body) if body else None for body in found]

    async def list_parked(
        self, topic: str, client_id: str, after: int, limit: int
    ) -> tuple[list[tuple[int, Parked]], bool] | None:
        """Return the oldest parked messages behind a sequence, as many as a script may read, and
        whether there are no more; None where there is no such durable subscription."""
        key = self._connection.key
        pair = f"{topic}\0{client_id}"
        keys = [key("lanes", topic), key("order", pair), key("parked", pair)]
        most = min(limit, LISTED)
        command = self._connection.script("list", keys, client_id, after, most, LISTED_BYTES)
        [reply] = await self._connection.pipeline([command], READ_TIMEOUT_S)
        if not reply:
            return None
        is_end, *found = reply
        return [(sequence, decode_parked(body)) for sequence, body in found if body], bool(is_end)

    async def take_parked(
        self, topic: str, client_id: str, how: str, limit: int | None
    ) -> int | None:
        """Put parked messages back ("redrive") or forget them ("purge"), the oldest first; return
        how many, None where there is no such durable subscription.

        Raises ``BadRequest`` where they would be put back for a subscription that is read from. If
        this raises ``StoreError``, some of them may have been taken."""
        key = self._connection.key
        order = key("order", f"{topic}\0{client_id}")
        [end] = await self._connection.pipeline(
            [("ZRANGE", order, *((-1, -1) if limit is None else (limit - 1, limit - 1)))]
        )
        last: int | str = int(end[0]) if end else "+inf"
        count = 0
        while limit is None or count < limit:
            most = MOVED if limit is None else min(MOVED, limit - count)
            taken = await self._take_some(topic, client_id, how, last, most)
            if taken is None:
                return None
            if taken < 0:
                raise BadRequest(
                    "action: nobody delivers for a subscription with pull; list and purge its "
                    "parked messages, or make it again without pull to redrive them"
                )
            count += taken
            if taken < most:
                break
        return count

    async def _take_some(
        self, topic: str, client_id: str, how: str, last: int | str, most: int
    ) -> int | None:
        """Do one part of ``take_parked``; where the answer is lost it is asked for again, and not
        done again."""
        key = self._connection.key
        pair = f"{topic}\0{client_id}"
        own = [key(name, pair) for name in ("order", "parked", "redrive")]
        keys = [key("lanes", topic), *own, self._asked.key]
        events = self._connection.channel("events")
        arguments = (client_id, how, last, most, events, topic, self._asked.next())
        command = self._connection.script("redrive", keys, *arguments)
        backoff = Backoff(0.05, 1.0)
        for attempt in range(1, TRIES + 1):
            try:
                [reply] = await self._connection.pipeline([command])
                return None if reply is None else int(reply)
            except (StoreRefused, StoreNoWrites):
                raise
            except StoreError:
                if attempt == TRIES:
                    raise
                await asyncio.sleep(backoff.next_s())
        raise AssertionError("unreachable")

    async def positions(self, topic: str) -> dict[str, Held]:
        """Return how far each durable subscription of a topic is."""
        [found] = await self._connection.pipeline(
            [("HGETALL", self._connection.key("lanes", topic))]
        )
        return {client.decode(): held_of(record) for client, record in found.items()}

    async def are_parked(self, topic: str, pairs: Sequence[tuple[str, int]]) -> list[bool]:
        """Return which messages (client_id, sequence) are parked."""
        key = self._connection.key
        commands = [("ZSCORE", key("order", f"{topic}\0{client}"), n) for client, n in pairs]
        return [one is not None for one in await self._connection.pipeline(commands)]

    async def counts(
        self, pairs: Sequence[tuple[str, str]]
    ) -> list[tuple[int, dict[int, Trouble]]]:
        """Return, for each (topic, client_id), how many messages are parked and which fail."""
        key = self._connection.key
        commands: list[Command] = []
        for topic, client_id in pairs:
            pair = f"{topic}\0{client_id}"
            commands += ("ZCARD", key("order", pair)), ("HGETALL", key("trouble", pair))
        replies = iter(await self._connection.pipeline(commands))
        return [
            (count, {int(n): decode_trouble(body) for n, body in next(replies).items()})
            for count in replies
        ]

    async def tell(self, event: str) -> None:
        """Tell every member what happened."""
        await self._connection.pipeline([("PUBLISH", self._connection.channel("events"), event)])


def held_of(record: bytes) -> Held:
    """Return what a lane's record says."""
    owner, term, position = record.split()
    return Held(owner.decode(), int(term), int(position))
