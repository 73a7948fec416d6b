"""Events: what is published on the store's channels, for workers that listen.

Rules: pure. An event makes a worker read the store sooner and decides nothing: it may be lost with
the connection, and what it tells stands in the store. Parts are separated by NUL, which no name
contains. They are no JSON, since Lua scripts publish some of them, and building JSON there would
cost as much as an append.

=============  ====================================  ===============================================
channel        text                                  published by
=============  ====================================  ===============================================
events         ``appended`` topic last-sequence      ``append.lua``: a log has grown, and where it
               [first-sequence]                      begins then
events         ``redriven`` topic client_id          ``redrive.lua``: parked messages were put back
events         ``released`` topic                    a round: lanes may be taken by another member
events         ``leaving`` member                    a member that gives its lanes up
events         ``members``                           a member that sees another come or go
done:PROCESS   topic client_id sequence error        a round: a receiver that PROCESS waits for has
               [``expired`` or nothing, epoch]       done with a message; one event a line
=============  ====================================  ===============================================
"""

from __future__ import annotations

from typing import NamedTuple

LOG_DROPPED = "dropped by the log"  # the error of a message that was neither delivered nor parked


class Appended(NamedTuple):
    """A topic's log has grown up to the sequence ``last``, and begins with ``first``, 0 where an
    older release does not say. Events of one topic may come late or be lost, so the highest one
    counts."""

    topic: str
    last: int
    first: int = 0


class Redriven(NamedTuple):
    """Parked messages of a subscription were put back."""

    topic: str
    client_id: str


class Released(NamedTuple):
    """Lanes of a topic have no owner any more; another member may take them."""

    topic: str


class Leaving(NamedTuple):
    """A member is about to stop: it gives its lanes up as their jobs end, and takes none."""

    member: str


class MembersChanged(NamedTuple):
    """A member came or went: membership is to be read again."""


class Done(NamedTuple):
    """A subscription has done with a message. ``error`` is why the message was parked, or
    ``LOG_DROPPED``; "" where a receiver acknowledged it, or where it expired. ``epoch`` is the
    message's, "" where a member of an older release tells."""

    topic: str
    client_id: str
    sequence: int
    error: str
    is_expired: bool = False
    epoch: str = ""


Event = Appended | Redriven | Released | Leaving | MembersChanged


def encode_event(event: Redriven | Released | Leaving | MembersChanged) -> str:
    """Return the text of an event. ``Appended`` is published by a script only, which makes its
    text by itself."""
    match event:
        case Redriven(topic, client_id):
            return f"redriven\0{topic}\0{client_id}"
        case Released(topic):
            return f"released\0{topic}"
        case Leaving(member):
            return f"leaving\0{member}"
        case MembersChanged():
            return "members"


def decode_event(text: bytes) -> Event | None:
    """Return the event that a text stands for; None where its kind is a later release's. Parts that
    a later release adds are ignored.

    Raises ``ValueError`` where a known kind lacks a part.
    """
    kind, *parts = text.decode().split("\0")
    match kind, parts:
        case "appended", [topic, last, first, *_]:
            return Appended(topic, int(last), int(first))
        case "appended", [topic, last]:
            return Appended(topic, int(last))
        case "redriven", [topic, client_id, *_]:
            return Redriven(topic, client_id)
        case "released", [topic, *_]:
            return Released(topic)
        case "leaving", [member, *_]:
            return Leaving(member)
        case "members", _:
            return MembersChanged()
        case (("appended" | "redriven" | "released" | "leaving"), _):
            raise ValueError(f"event {kind!r} with {len(parts)} parts")
    return None


def encode_done(
    topic: str, client_id: str, sequence: int, error: str, *, epoch: str, is_expired: bool = False
) -> bytes:
    """Return the line that tells a waiting process of one receiver. NULs and line ends of ``error``
    become spaces, since they part events. A process that waits for a message which expires is of a
    release that knows the fifth part."""
    text = error.replace("\n", " ").replace("\0", " ") if error else ""
    end = "expired" if is_expired else ""
    return f"{topic}\0{client_id}\0{sequence}\0{text}\0{end}\0{epoch}".encode()


def decode_done(text: bytes) -> list[Done]:
    """Return the events of one publication on the channel of a process.

    Raises ``ValueError`` where a line has less than four parts.
    """
    events = []
    for line in text.decode().split("\n"):
        topic, client_id, sequence, error, *more = line.split("\0")
        end, epoch, *_ = *more, "", ""
        events.append(Done(topic, client_id, int(sequence), error, end == "expired", epoch))
    return events
