"""Rounds: what the lanes of a member have for the store together, in one round trip.

Rules: pure but for ``RoundReply``'s decoding. Commands stand in an order in which none undoes
another: what is known of messages, messages set aside, positions, lanes given up, reads. A command
that the store refuses costs the lanes that it is about, and no others.
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

# How far a lane is: client_id, TERM, position, the epoch of the message there, and what is done
# beyond it and new (first, last, epoch), None where nothing is and was. A plain tuple: one is made
# for every acknowledgement.
PositionWrite = tuple[str, int, int, str, Sequence[tuple[int, int, str]] | None]
Pair = tuple[str, str]  # topic, client_id


class Parking(NamedTuple):
    """A message to set aside; its payload, of ``size`` bytes, is in the store already."""

    topic: str
    client_id: str
    term: int
    sequence: int
    message: Parked
    size: int


class FailureWrite(NamedTuple):
    """What is known of messages: failed attempts to keep (``body``) or to forget, that they were
    put back and are done with, or that a receiver acknowledged them after they were parked."""

    topic: str
    client_id: str
    term: int
    kind: Literal["fail", "clear", "redriven", "late"]
    sequences: Sequence[int]
    body: bytes = b""


class Wanted(NamedTuple):
    """A part of a log to read."""

    topic: str
    first: int
    most: int
    size: int


class Round(NamedTuple):
    """What the lanes of a member have for the store together."""

    positions: Mapping[str, Sequence[PositionWrite]]
    parkings: Sequence[Parking]
    notes: Sequence[FailureWrite]
    wanted: Sequence[Wanted]
    done: Mapping[str, Sequence[bytes]]  # by process that waits
    released: Mapping[
        tuple[str, bool], Sequence[PositionWrite]
    ]  # by topic, and whether no receiver
    # can have a job of a former owner

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to tell or ask."""
        return not any(self)


class RoundReply(NamedTuple):
    """What became of a round."""

    fenced: set[Pair]  # lanes that the member has lost
    refused: dict[Pair, StoreError]  # lanes of which something was not written
    gone: set[tuple[str, str, int]]  # messages that could not be set aside: they are no more
    entries: list[tuple[list[Entry], bool] | StoreError]  # as wanted, and whether the log ends


class Commands:
    """The commands of one round, each with the lanes that it is about."""

    def __init__(self, connection: Connection, member: str, work: Round) -> None:
        self._connection = connection
        self._member = member
        self._work = work
        self.commands: list[Command] = []
        self._about: list[Sequence[Pair]] = []
        for note in work.notes:
            self._add(self._note(note), [(note.topic, note.client_id)])
        for parking in work.parkings:
            self._add(self._park(parking), [(parking.topic, parking.client_id)])
        for topic, writes in work.positions.items():
            self._write_positions(member, topic, writes)
        for (topic, is_quiet), writes in work.released.items():
            self._write_positions("-" if is_quiet else "?", topic, writes)
        for topic in {topic for topic, _ in work.released}:
            self._add(("PUBLISH", connection.channel("events"), encode_event(Released(topic))), [])
        self._reads = len(self.commands)
        for wanted in work.wanted:
            self._add(read_command(connection, *wanted), [])
        for process, words in work.done.items():
            self._add(("PUBLISH", connection.channel("done", process), b"\n".join(words)), [])

    def reply(self, replies: Sequence[Any]) -> RoundReply:
        """Return what became of them."""
        reply = RoundReply(set(), {}, set(), [])
        notes = len(self._work.notes)
        for at, (about, answer) in enumerate(zip(self._about, replies, strict=True)):
            if isinstance(answer, StoreError):
                reply.refused.update(dict.fromkeys(about, answer))
            elif at < notes + len(self._work.parkings):
                if answer == 0:
                    reply.fenced.update(about)
                elif at >= notes:
                    self._parked(self._work.parkings[at - notes], answer, reply)
            elif about:
                reply.fenced.update((about[0][0], client.decode()) for client in answer)
        reads = replies[self._reads : self._reads + len(self._work.wanted)]
        reply.entries.extend(
            one if isinstance(one, StoreError) else entries_of(one) for one in reads
        )
        return reply

    def _parked(self, one: Parking, answer: int, reply: RoundReply) -> None:
        if answer < 0:
            reply.gone.add((one.topic, one.client_id, one.sequence))
        elif answer > 1:
            log.warning(
                "parked messages dropped: too many",
                topic=one.topic,
                client=one.client_id,
                count=answer - 1,
            )

    def _add(self, command: Command, about: Sequence[Pair]) -> None:
        self.commands.append(command)
        self._about.append(about)

    def _keys(self, topic: str, client_id: str, *names: str) -> Iterator[str]:
        return (self._connection.key(name, f"{topic}\0{client_id}") for name in names)

    def _note(self, note: FailureWrite) -> Command:
        key, pair = self._connection.key, (note.topic, note.client_id)
        names = ("trouble", "redrive", "parked", "order", "ahead")
        keys = [key("lanes", note.topic), *self._keys(*pair, *names), key("redriven")]
        rest = note.client_id, self._member, note.term, note.kind, note.topic, note.body
        return self._connection.script("note", keys, *rest, *note.sequences)

    def _park(self, one: Parking) -> Command:
        key, pair = self._connection.key, (one.topic, one.client_id)
        names = ("order", "parked", "trouble", "redrive")
        keys = [key("lanes", one.topic), *self._keys(*pair, *names)]
        keys += (key(name, one.topic) for name in ("log", "drops", "messages"))
        keys.append(key("redriven"))
        rest = self._member, one.term, one.sequence, one.topic, parked_head(one.message), one.size
        return self._connection.script("park", keys, one.client_id, *rest)

    def _write_positions(self, holder: str, topic: str, writes: Sequence[PositionWrite]) -> None:
        for piece in _pieces(writes):
            self._add(
                position_command(self._connection, self._member, holder, topic, piece),
                [(topic, client_id) for client_id, *_ in piece],
            )


def _pieces(some: Sequence[PositionWrite]) -> Iterator[Sequence[PositionWrite]]:
    """Cut positions so that each piece holds the store for a moment only."""
    first = ranges = 0
    for at, (_, _, _, _, ahead) in enumerate(some):
        ranges += len(ahead or ())
        if at - first == PIECE or (at > first and ranges > RANGES):
            yield some[first:at]
            first, ranges = at, len(ahead or ())
    yield some[first:]


def position_command(
    connection: Connection, member: str, holder: str, topic: str, writes: Iterable[PositionWrite]
) -> Command:
    """Return the command that moves positions of lanes of a topic (see ``advance.lua``)."""
    key = connection.key
    keys = [key("lanes", topic), key("log", topic)]
    arguments: list[Any] = []
    for client_id, term, position, epoch, ahead in writes:
        beyond = ""
        if ahead is not None:
            keys.append(key("ahead", f"{topic}\0{client_id}"))
            ranges = (f" {first} {last} {under}" for first, last, under in ahead)
            beyond = f"{len(keys)}{''.join(ranges)}"
        arguments += client_id, term, position, epoch, beyond
    return connection.script("advance", keys, member, holder, *arguments)
