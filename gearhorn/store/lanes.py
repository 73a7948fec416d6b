"""Lanes in the store: the positions of durable subscriptions, and which member delivers for each.

Theory of operation. A lane is what the store knows of one durable subscription: which member
delivers for it, under which TERM, and up to where it has done with its topic's log. Two members may
each believe that they hold a lane, for a moment: one whose lease has lapsed without its noticing,
and the one that took over. So taking a lane gives it a new TERM, in the same script that checks
that the former owner is no member any more, and every later write of the former owner names its old
TERM and does nothing. What a new owner has to know stands in several keys beside the record (failed
attempts, what is parked, put back, or done beyond the position). It is read *after* the lane is
taken: from then on no other member changes it, but for a redrive or a purge, which move a message
from one key to another. Those keys are read in an order in which a message that moves is found at
least once.

Taking and reading are two steps, and not one script, because there may be much to read: a million
parked messages. A member that dies between the two leaves a lane that another one takes.

Rules: one round trip for any number of lanes of any number of topics; a lane that holds much is
read page by page. A position is written only by the member that holds the lane under its present
TERM. Every method raises ``StoreError``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import structlog

from gearhorn.errors import StoreError, StoreRefused, StoreReplaced
from gearhorn.messages.events import Leaving, MembersChanged, encode_event
from gearhorn.messages.logs import FailureHistory, decode_history
from gearhorn.messages.subscriptions import DurableOptions, decode_options
from gearhorn.store.connection import READ_TIMEOUT_S, Command, Connection
from gearhorn.store.inherited import FIRST, Found, Sequences, range_of, read_long
from gearhorn.store.parked import ParkedMessages
from gearhorn.store.pipelined import PipelinedConnection
from gearhorn.store.rounds import COUNTERS, PIECE, Commands, PositionWrite, Round, RoundReply

log = structlog.get_logger(__name__)

PAGE = 100  # topics or lanes read in one round trip: a few milliseconds of the loop
SCANNED = 200  # lanes of one topic read in one go, where it has many
_BEGINNING = "LIMIT", 0, FIRST


class LaneRecord(NamedTuple):
    """A lane as the store knows it. ``owner`` is a member, "-" (released), "?" (released while a
    receiver might have a job) or "pull" (nothing is delivered: the subscription is read from)."""

    owner: str
    term: int  # 0 where no member has held it since it was made, or turned from or to "pull"
    position: int  # the sequence up to which the log is done with


class LaneCounts(NamedTuple):
    """What is counted of a lane: messages that are parked, the failure history of those that fail
    now, by sequence, messages that expired before they were begun, and those that ``latest`` passed
    by."""

    parked: int
    failures: dict[int, FailureHistory]
    expired: int
    skipped: int


class Acquired(NamedTuple):
    """A lane that this member holds now, and what it finds there.

    The position says what is done with. The rest are exceptions to it: messages up to it that are
    to be delivered all the same (put back), messages beyond it that are not (parked or done), and
    messages that have failed before and are retried with a delay.
    """

    client_id: str
    term: int  # under which everything about the lane is written from now on
    position: int
    former: str  # its owner before, as in a record: a member, "-" or "?"
    troubles: dict[int, FailureHistory]  # by sequence, of messages that are still to be delivered
    parked: Sequence[Sequences]  # beyond the position: parked, and put back. The log passes these
    redrives: Sequences  # all that were put back; their payloads are with the parked messages
    seen_redrive: int = 0  # the number of the last redrive that is among ``redrives`` for certain
    ahead: Sequence[tuple[int, int]] = ()  # the ranges done beyond the position
    ahead_top: int = 0  # the highest sequence of any range kept, also where the position is past it
    epoch: str = ""  # of the log; another one where the topic's log was made anew


# topic, client_id, TERM, position, the former owner, the log's epoch
_Taken = tuple[str, str, int, int, bytes, bytes]


# Lanes by topic and client_id: their records, their options, whether they take envelopes.
LanesOfTopics = dict[str, dict[str, tuple[LaneRecord, DurableOptions, bool]]]


class Lanes(ParkedMessages):
    """The lanes of one namespace, and their parked messages.

    Rounds go over a pipelined connection of their own, in order; all the rest over the pool.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._line = PipelinedConnection(connection)

    async def close(self) -> None:
        """Write no more rounds, and have the store forget the requests of this process."""
        await self._line.close()
        await self._asked.close()

    async def topics(self, after: str | None = None) -> list[str]:
        """Return the next ``PAGE`` topics that have lanes, in order, behind the topic ``after``
        (None: from the beginning). Fewer than that are the last ones. Raises ``StoreError``."""
        first = "-" if after is None else f"({after}"
        key = self._connection.key("durable")
        [found] = await self._connection.pipeline(
            [("ZRANGEBYLEX", key, first, "+", "LIMIT", 0, PAGE)]
        )
        return [name.decode() for name in found]

    async def page(self, cursors: Mapping[str, int]) -> tuple[LanesOfTopics, dict[str, int]]:
        """Return a part of the lanes of each topic, and the cursors of the topics that have more.

        ``cursors`` are by topic, 0 for the beginning. A lane that is there from a topic's first
        part to its last is in at least one of them. Raises ``StoreError``.
        """
        key = self._connection.key
        scans: list[Command] = [
            ("HSCAN", key("lanes", topic), cursor, "COUNT", SCANNED)
            for topic, cursor in cursors.items()
        ]
        records: dict[str, dict[bytes, bytes]] = {}
        more = {}
        replies = await self._connection.pipeline(scans, READ_TIMEOUT_S)
        for topic, (cursor, found) in zip(cursors, replies, strict=True):
            records[topic] = dict(zip(found[::2], found[1::2], strict=True))
            if int(cursor):
                more[topic] = int(cursor)
        return await self._with_options(records), more

    async def find(self, wanted: Mapping[str, Collection[str]]) -> LanesOfTopics:
        """Return the lanes of these client_ids, by topic, as far as they exist.

        Raises ``StoreError``.
        """
        commands: list[Command] = [
            ("HMGET", self._connection.key("lanes", topic), *clients)
            for topic, clients in wanted.items()
        ]
        replies = await self._connection.pipeline(commands)
        records = {}
        for (topic, clients), found in zip(wanted.items(), replies, strict=True):
            pairs = zip((client.encode() for client in clients), found, strict=True)
            records[topic] = {client: record for client, record in pairs if record}
        return await self._with_options(records)

    async def _with_options(self, records: Mapping[str, Mapping[bytes, bytes]]) -> LanesOfTopics:
        """Return the lanes of these records by topic and client_id.

        Records and options are read one after the other, so a subscription may have changed between
        the two. An event tells the reader of such a change, and the lane is read again; until then
        unreadable or missing options count as the defaults. The loop has a turn after ``SCANNED``
        lanes, since decoding takes longer than reading.
        """
        commands: list[Command] = [
            ("HMGET", self._connection.key("options", topic), *lanes)
            for topic, lanes in records.items()
            if lanes
        ]
        replies = iter(await self._connection.pipeline(commands) if commands else ())
        found: LanesOfTopics = {}
        count = 0  # lanes in this turn of the loop
        for topic, of_topic in records.items():
            found[topic] = lanes = {}
            if not of_topic:
                continue
            count += len(of_topic)
            if count > SCANNED:
                count = len(of_topic)
                await asyncio.sleep(0)
            for (client, record), options in zip(of_topic.items(), next(replies), strict=True):
                own = decode_options(options or b"{}")
                durable = own.durable or DurableOptions()
                lanes[client.decode()] = (record_of(record), durable, own.envelope)
        return found

    async def acquire(
        self, member: str, wanted: Mapping[str, Sequence[str]]
    ) -> tuple[dict[str, list[Acquired]], set[str]]:
        """Take lanes; return those taken by topic, and topics with lanes that other members hold or
        that the store refuses.

        The order is what makes it safe: the scripts take the lanes first, and what the lanes hold
        is read then, when no other member writes it. Lanes are taken in pieces, so that no script
        holds the store up. A piece that the store refuses (a key of another type, perhaps) costs
        its topic a later try, and no other topic anything. Reading follows ``PAGE`` lanes at a
        time; where it fails as a whole the lanes stay taken, and the caller takes them again under
        a higher TERM.

        Arguments:
            member: the taker; without a lease the script gives it none.
            wanted: client_ids by topic.

        Raises ``StoreError`` where the store does not answer.
        """
        connection = self._connection
        key = connection.key
        pieces = [
            (topic, clients[at : at + PIECE])
            for topic, clients in wanted.items()
            for at in range(0, len(clients), PIECE)
        ]
        commands = []
        for topic, clients in pieces:
            keys = [key("lanes", topic), key("members"), key("term"), key("log", topic)]
            commands.append(connection.script("acquire", keys, member, *clients))
        taken: list[_Taken] = []
        left = set()
        for (topic, clients), reply in zip(pieces, await connection.each(commands), strict=True):
            if isinstance(reply, StoreError):
                log.error("the store refuses lanes", topic=topic, error=str(reply))
                left.add(topic)
                continue
            for client_id, lane in zip(clients, reply, strict=True):
                if lane and lane[0]:
                    taken.append((topic, client_id, *lane))
                elif lane:
                    left.add(topic)
        acquired: dict[str, list[Acquired]] = {}
        for at in range(0, len(taken), PAGE):
            left |= await self._add_contents(taken[at : at + PAGE], acquired)
        return acquired, left

    async def _add_contents(
        self, taken: Sequence[_Taken], acquired: dict[str, list[Acquired]]
    ) -> set[str]:
        """Add what lanes that were taken hold; return topics with lanes that cannot be read now.

        The beginning of each is read for all of them together; where there is more, that lane is
        read by itself. The count of redrives is read before the redrives, so that one that comes
        between is found twice rather than never, and what is parked before what was put back, since
        messages move in that direction. What is of no use any more is deleted last, when it is
        known which lanes could be read.
        """
        connection = self._connection
        key = connection.key
        commands: list[Command] = [("GET", key("redrives"))]
        for topic, client_id, _, position, *_ in taken:
            pair = f"{topic}\0{client_id}"
            commands += [
                ("HGETALL", key("trouble", pair)),
                ("ZRANGEBYSCORE", key("order", pair), f"({position}", "+inf", *_BEGINNING),
                ("ZRANGEBYSCORE", key("redrive", pair), "-inf", "+inf", *_BEGINNING),
                ("ZRANGEBYSCORE", key("ahead", pair), f"({position}", "+inf", *_BEGINNING),
                ("ZRANGE", key("ahead", pair), -1, -1),
            ]
        count, *found = await connection.each(commands, READ_TIMEOUT_S)
        dead: list[Command] = []
        left = set()
        for at, lane in enumerate(taken):
            topic, client_id, *_ = lane
            parts = found[5 * at : 5 * at + 5]
            try:
                whole = await self._whole(lane, parts, int(count or 0))
            except StoreRefused as error:
                text = str(error)
                log.error("the store refuses a lane", topic=topic, client=client_id, error=text)
                left.add(topic)
                continue
            found_lane, over = _acquired(lane, parts, whole)
            await asyncio.sleep(0)
            if over:
                dead.append(("HDEL", key("trouble", f"{topic}\0{client_id}"), *over))
            acquired.setdefault(topic, []).append(found_lane)
        if dead:
            await connection.each(dead)
        return left

    async def _whole(self, lane: _Taken, parts: Sequence[Any], count: int) -> Found:
        """Return what is there of a lane whose beginning was read.

        ``parts`` are the replies to its commands, ``count`` the redrives there had been before. A
        lane with as many as were asked for is read again from its beginning, page by page: the
        parts are of another moment, and pieces of two moments do not add up.

        Raises ``StoreRefused`` where the store refuses a part of it.
        """
        for part in parts:
            if isinstance(part, StoreError):
                raise part
        _, order, redrives, ahead, _ = parts
        if max(map(len, (order, redrives, ahead))) == FIRST:
            topic, client_id, _, position, *_ = lane
            return await read_long(self._connection, f"{topic}\0{client_id}", position)
        return Found(
            Sequences(map(int, order)),
            Sequences(map(int, redrives)),
            sorted(map(range_of, ahead)),
            count,
        )

    async def release(
        self, member: str, lanes: Mapping[tuple[str, bool], Sequence[PositionWrite]]
    ) -> None:
        """Give up lanes that this member does not deliver for any more, with their last positions,
        and publish that.

        Lanes are by topic, and by whether they are quiet: no receiver can have a job of a former
        owner. The next owner of one that is not has to find that out first.
        Raises ``StoreError`` as ``round``.
        """
        await self.round(member, Round({}, [], [], [], {}, lanes))

    async def round(self, member: str, work: Round, run_id: str | None = None) -> RoundReply:
        """Carry out a round in one round trip; several may be under way.

        Arguments:
            member: holds the lanes that the round is about.
            work: the round.
            run_id: the run of the store's server under which the lanes were taken, None for any.
                What a lane knows of its log is nothing in another run: the store may have lost the
                end of the log, and the numbers come again.

        Raises ``StoreReplaced`` if the server is in another run: nothing was carried out.
        Raises ``StoreUnanswered`` if it is not known what was, and ``StoreError`` if nothing was.
        """
        commands = Commands(self._connection, member, work)

        def commands_to(run: str) -> Sequence[Command]:
            """Return the commands; raises ``StoreReplaced``."""
            if run_id is not None and run != run_id:
                raise StoreReplaced("the store is in another run than the lanes")
            return commands.commands

        try:
            return commands.reply(await self._line.ask_server(commands_to, READ_TIMEOUT_S))
        except StoreReplaced:
            await self._line.close()  # this connection may be the one to the former server
            raise

    async def records(self, topic: str, clients: Sequence[str]) -> dict[str, LaneRecord]:
        """Return the records of those of a topic's subscriptions that are durable, by client_id.

        Raises ``StoreError``.
        """
        [found] = await self._connection.pipeline(
            [("HMGET", self._connection.key("lanes", topic), *clients)]
        )
        return {
            client: record_of(record)
            for client, record in zip(clients, found, strict=True)
            if record is not None
        }

    async def positions(self, topic: str, cursor: int = 0) -> tuple[dict[str, int], int]:
        """Return a part of the positions of a topic's durable subscriptions, and the cursor of the
        next part, 0 where there is none.

        ``cursor`` is 0 for the first part. A subscription that is there from the first part to the
        last is in at least one of them. Raises ``StoreError``.
        """
        scan = "HSCAN", self._connection.key("lanes", topic), cursor, "COUNT", SCANNED
        [(following, found)] = await self._connection.pipeline([scan], READ_TIMEOUT_S)
        records = zip(found[::2], found[1::2], strict=True)
        return {client.decode(): record_of(record).position for client, record in records}, int(
            following
        )

    async def counts(self, pairs: Sequence[tuple[str, str]]) -> list[LaneCounts]:
        """Return what is counted of each (topic, client_id). Raises ``StoreError``."""
        key = self._connection.key
        commands: list[Command] = []
        for topic, client_id in pairs:
            pair = f"{topic}\0{client_id}"
            commands += ("ZCARD", key("order", pair)), ("HGETALL", key("trouble", pair))
            commands += (("HGET", key(name, topic), client_id) for name in COUNTERS)
        replies = iter(await self._connection.pipeline(commands))
        return [
            LaneCounts(
                parked,
                {int(n): decode_history(body) for n, body in next(replies).items()},
                *(_total_of(next(replies)) for _ in COUNTERS),
            )
            for parked in replies
        ]

    async def tell(self, event: Leaving | MembersChanged) -> None:
        """Publish an event for every member, once; raises ``StoreError``. It may be lost
        (``messages.events``), so nothing is repeated."""
        channel = self._connection.channel("events")
        await self._connection.pipeline([("PUBLISH", channel, encode_event(event))])


def _total_of(counter: bytes | None) -> int:
    """Read the first of "TOTAL TERM COUNT" (see ``advance.lua``)."""
    return int(counter.partition(b" ")[0]) if counter else 0


def record_of(record: bytes) -> LaneRecord:
    """Read "OWNER TERM POSITION"."""
    owner, term, position = record.split()
    return LaneRecord(owner.decode(), int(term), int(position))


def _acquired(lane: _Taken, parts: Sequence[Any], whole: Found) -> tuple[Acquired, list[int]]:
    """Return a lane that was taken, and messages whose failed attempts are of no use any more:
    those up to the position, which are done with, unless they were put back."""
    _, client_id, term, position, former, epoch = lane
    troubles, *_, top = parts
    redrives = whole.redrives
    failed = {int(n): decode_history(body) for n, body in troubles.items()}
    over = [n for n in failed if n <= position and not redrives.has(n)]
    for sequence in over:
        del failed[sequence]
    acquired = Acquired(
        client_id,
        term,
        position,
        former.decode(),
        failed,
        [found for found in (whole.order, redrives.behind(position)) if found],
        redrives,
        whole.seen_redrive,
        whole.ahead,
        max((range_of(text)[1] for text in top), default=0),
        epoch.decode(),
    )
    return acquired, over
