"""Rounds: what the lanes of a member have for the store together, in one round trip.

Theory of operation. A member may hold 100,000 lanes, and each acknowledgement moves a position. One
command per acknowledgement would cost the store more than the delivery; so ``durable.rounds``
collects for a moment what has happened, and this module makes of it a batch of commands and reads
the replies. The commands of a batch are carried out in their order, other members' commands may
come between them, and the connection may end in the middle. So each prefix of a batch must leave
the store in a state that a new owner of the lane can go on from:

1. *Failures* first: what failed attempts left behind, and which messages are done with after a
   failure. A new owner that finds them too early retries with the right delay.
2. *Parkings*: a message is set aside before the position may pass it. In the opposite order a
   crash between the two would lose the message.
3. *Positions*, and with them what is done beyond each.
4. *Lanes given up*, with their last positions. Nothing of a lane may follow, since another member
   may hold it from here on. The event that tells of them follows, so that a member that hears it
   finds them free.
5. *Reads* of logs, and the events for callers that wait. They change nothing.

Every command that writes is fenced: it carries the member and the TERM, and the script does nothing
where the lane's record says otherwise. A command that the store refuses, or that is fenced, costs
the lanes that it is about and no others, which is why each command is kept with its lanes.

Rules: pure; no command is sent here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import structlog

from gearhorn.errors import StoreError
from gearhorn.messages.events import Released, encode_event
from gearhorn.messages.logs import Parked, parked_head
from gearhorn.store.connection import Command, Connection
from gearhorn.store.log import Entry, entries_of, read_command

log = structlog.get_logger(__name__)

PIECE = 500  # lanes in one command: a few milliseconds of the store
RANGES = 2000  # done beyond their positions, in one command, or those of one lane

# How far a lane is: client_id, TERM, position, the epoch of the message there ("" where the
# position has not moved), the ranges done beyond the position that are new (first, last, epoch),
# None where nothing is done beyond it and nothing was, and how many messages have expired, and were
# passed by for newer ones, under that TERM, 0 where the store knows (``COUNTERS``). A plain tuple,
# since one is made for each acknowledgement.
PositionWrite = tuple[str, int, int, str, Sequence[tuple[int, int, str]] | None, int, int]
COUNTERS = "expired", "skipped"  # keys: what the last two count
Pair = tuple[str, str]  # topic, client_id
# The lanes that a command is about: their topic, and for each of them what begins with its
# client_id. Pairs are made of it only where something went wrong.
_About = tuple[str, Sequence[PositionWrite] | Sequence[tuple[str]]]
_NO_LANE: _About = "", ()


class Parking(NamedTuple):
    """A message to set aside. Its payload is in the store already, in the log or among those that
    were put back, and is copied there: it does not travel."""

    topic: str
    client_id: str
    term: int  # under which the member holds the lane
    sequence: int
    message: Parked  # without its payload
    size: int  # of the payload, in bytes


FailureKind = Literal["fail", "clear", "redriven", "late", "lapsed"]


class FailureWrite(NamedTuple):
    """What is known of messages of one lane.

    ``kind`` is "fail" (keep ``body``, a ``FailureHistory`` as JSON), "clear" (forget it: they are
    done with), "redriven" (they were put back and are done with now), "late" (a receiver
    acknowledged them after they were parked) or "lapsed" (they expired while a publisher waited).
    """

    topic: str
    client_id: str
    term: int
    kind: FailureKind
    sequences: Sequence[int]
    body: bytes = b""


class Wanted(NamedTuple):
    """A part of a log to read: from the sequence ``first`` on, up to ``limit`` messages and up to
    ``size`` bytes, but one message at least."""

    topic: str
    first: int
    limit: int
    size: int


class Round(NamedTuple):
    """What the lanes of a member have for the store together."""

    positions: Mapping[str, Sequence[PositionWrite]]  # by topic
    parkings: Sequence[Parking]
    notes: Sequence[FailureWrite]
    wanted: Sequence[Wanted]
    done: Mapping[str, Sequence[bytes]]  # by process that waits: lines of ``encode_done``
    # by topic, and whether the lanes are quiet: no receiver can have a job of a former owner
    released: Mapping[tuple[str, bool], Sequence[PositionWrite]]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write and nothing to read."""
        return not any(self)


class RoundReply(NamedTuple):
    """What became of a round."""

    fenced: set[Pair]  # lanes that the member has lost
    refused: dict[Pair, StoreError]  # lanes of which something was not written
    gone: set[tuple[str, str, int]]  # messages that could not be set aside: they are no more
    entries: list[tuple[list[Entry], bool] | StoreError]  # as wanted, and whether the log ends


class Commands:
    """The commands of one round, each with the lanes that it is about.

    They are made in the order that the head of this module gives. ``reply`` reads the answers by
    their places in it: failures, parkings, positions and lanes given up, the event, reads, events.
    """

    def __init__(self, connection: Connection, member: str, work: Round) -> None:
        self._connection = connection
        self._member = member
        self._work = work
        self.commands: list[Command] = []
        self._about: list[_About] = []
        for note in work.notes:
            self._add(self._note(note), (note.topic, [(note.client_id,)]))
        for parking in work.parkings:
            self._add(self._park(parking), (parking.topic, [(parking.client_id,)]))
        for topic, writes in work.positions.items():
            self._write_positions(member, topic, writes)
        for (topic, is_quiet), writes in work.released.items():
            self._write_positions("-" if is_quiet else "?", topic, writes)
        for topic in {topic for topic, _ in work.released}:
            self._add(
                ("PUBLISH", connection.channel("events"), encode_event(Released(topic))), _NO_LANE
            )
        self._reads = len(self.commands)
        for wanted in work.wanted:
            self._add(
                read_command(
                    connection,
                    wanted.topic,
                    wanted.first,
                    limit=wanted.limit,
                    size=wanted.size,
                ),
                _NO_LANE,
            )
        for process, lines in work.done.items():
            self._add(("PUBLISH", connection.channel("done", process), b"\n".join(lines)), _NO_LANE)

    def reply(self, replies: Sequence[Any]) -> RoundReply:
        """Return what became of the commands.

        A refusal concerns every lane of its command. What was fenced is told in two ways: failures
        and parkings are about one lane, and say 0; positions are about many, and list the lanes
        that were not moved.

        Arguments:
            replies: one for each command, a ``StoreError`` where the store refused it.
        """
        reply = RoundReply(set(), {}, set(), [])
        notes = len(self._work.notes)
        for at, ((topic, writes), answer) in enumerate(zip(self._about, replies, strict=True)):
            if isinstance(answer, StoreError):
                reply.refused.update({(topic, write[0]): answer for write in writes})
            elif at < notes + len(self._work.parkings):
                if answer == 0:
                    reply.fenced.update((topic, write[0]) for write in writes)
                elif at >= notes:
                    self._parked(self._work.parkings[at - notes], answer, reply)
            elif writes:
                reply.fenced.update((topic, client.decode()) for client in answer)
        reads = replies[self._reads : self._reads + len(self._work.wanted)]
        reply.entries.extend(
            read if isinstance(read, StoreError) else entries_of(read) for read in reads
        )
        return reply

    def _parked(self, parking: Parking, answer: int, reply: RoundReply) -> None:
        """Take what ``park.lua`` returned: -1, or 1 and 1 for each parked message it dropped."""
        if answer < 0:
            reply.gone.add((parking.topic, parking.client_id, parking.sequence))
        elif answer > 1:
            log.warning(
                "parked messages dropped: too many",
                topic=parking.topic,
                client=parking.client_id,
                count=answer - 1,
            )

    def _add(self, command: Command, about: _About) -> None:
        """Add a command and the lanes that its refusal would concern."""
        self.commands.append(command)
        self._about.append(about)

    def _keys(self, topic: str, client_id: str, *names: str) -> Iterator[str]:
        """Return the names of keys of one lane."""
        return (self._connection.key(name, f"{topic}\0{client_id}") for name in names)

    def _note(self, note: FailureWrite) -> Command:
        """Return the command that writes what is known of messages (see ``note.lua``)."""
        key, pair = self._connection.key, (note.topic, note.client_id)
        names = ("trouble", "redrive", "parked", "order", "ahead")
        keys = [key("lanes", note.topic), *self._keys(*pair, *names), key("redriven")]
        keys += self._keys(*pair, "lapsed")
        keys.append(key("most", "parked"))
        rest = note.client_id, self._member, note.term, note.kind, note.topic, note.body
        return self._connection.script("note", keys, *rest, *note.sequences)

    def _park(self, parking: Parking) -> Command:
        """Return the command that sets a message aside (see ``park.lua``)."""
        topic, client_id, term, sequence, message, size = parking
        key, pair = self._connection.key, (topic, client_id)
        names = ("order", "parked", "trouble", "redrive")
        keys = [key("lanes", topic), *self._keys(*pair, *names)]
        keys += (key(name, topic) for name in ("log", "drops", "messages"))
        keys += key("redriven"), *self._keys(*pair, "ahead")
        keys += key("most", "parked"), key("most", "drops")
        rest = self._member, term, sequence, topic, parked_head(message), size
        return self._connection.script("park", keys, client_id, *rest)

    def _write_positions(self, holder: str, topic: str, writes: Sequence[PositionWrite]) -> None:
        """Add the commands that move positions; ``holder`` holds the lanes afterwards."""
        for piece in _pieces(writes):
            self._add(
                position_command(
                    self._connection,
                    member=self._member,
                    holder=holder,
                    topic=topic,
                    writes=piece,
                ),
                (topic, piece),
            )


def _pieces(writes: Sequence[PositionWrite]) -> Iterator[Sequence[PositionWrite]]:
    """Cut positions so that each piece holds the store for a moment only: ``PIECE`` lanes, or
    ``RANGES`` ranges done beyond them, but one lane at least."""
    first = ranges = 0
    for at, write in enumerate(writes):
        ahead = write[4]
        if ahead is not None:
            ranges += len(ahead)
        if at - first == PIECE or (at > first and ranges > RANGES):
            yield writes[first:at]
            first, ranges = at, len(ahead or ())
    yield writes[first:]


def position_command(
    connection: Connection, *, member: str, holder: str, topic: str, writes: Iterable[PositionWrite]
) -> Command:
    """Return the command that moves positions of lanes of one topic (see ``advance.lua``).

    Arguments:
        connection: knows the names of keys.
        member: must hold the lanes for their positions to move.
        holder: holds them afterwards: the member, "-" or "?" (see ``acquire.lua``).
        topic: the topic of all the lanes.
        writes: at most ``PIECE`` of them, so that the script is done in a few milliseconds.
    """
    key = connection.key
    keys = [key(name, topic) for name in ("lanes", "log", "spread", "crowd")]
    keys.append(key("most", "lag"))
    arguments: list[Any] = []
    counted: list[str] = []
    counters: dict[str, int] = {}  # the numbers of their keys, once a lane has counted
    for client_id, term, position, epoch, ahead, expired, skipped in writes:
        beyond = ""
        if expired or skipped:
            for name, count in zip(COUNTERS, (expired, skipped), strict=True):
                if count and name not in counters:
                    keys.append(key(name, topic))
                    counters[name] = len(keys)
                if count:
                    counted.append(f"{counters[name]} {len(arguments) // 5 + 1} {count}")
        if ahead is not None:
            keys.append(key("ahead", f"{topic}\0{client_id}"))
            ranges = (f" {first} {last} {under}" for first, last, under in ahead)
            beyond = f"{len(keys)}{''.join(ranges)}"
        arguments += client_id, term, position, epoch, beyond
    told = topic, " ".join(counted)
    return connection.script("advance", keys, member, holder, *told, *arguments)
