"""What members tell each other: changes that drop cached lists, and how each of them is.

Rules: pure. Both kinds of job are described in docs/protocol.rst, "Between workers".
"""

from __future__ import annotations

import msgspec

from gearhorn.messages.codec import decode_body


class Changed(msgspec.Struct, frozen=True):
    """One topic that changed (docs/protocol.rst, "Between workers").

    A teller of another release may leave keys out. The defaults then mean the most that can have
    happened, so that the peer does too much rather than too little.
    """

    topic: str
    version: int  # the store's, after the change
    removed: bool = True  # a pair was removed: the answer waits for fan-outs that hold the old list
    durable: bool = True  # lanes or the log may be concerned
    client: str | None = None  # whose subscription changed; "" is none (a retention), None is any


class Matchmaking(msgspec.Struct, frozen=True):
    """What a member tells its peers (docs/protocol.rst, "Between workers"): one round of changes,
    in the order in which they were written."""

    member: str  # the teller
    changes: list[Changed]


class MatchmakingAnswer(msgspec.Struct, frozen=True):
    """What a peer answers once it has dropped the lists. A result that is none is no answer, so
    that a program which serves the queue by mistake is not taken for the peer."""

    member: str  # the peer
    version: int  # the highest that it was told


class StoreState(msgspec.Struct, frozen=True):
    """How well the store keeps what it is given, as the store itself says."""

    evicts: str | None = None  # the maxmemory-policy by which it may forget gearhorn's keys
    append_only: bool = True  # each write goes to a file that a restart reads
    fails: bool = False  # its last write to disk has failed
    replicas: int = 0  # that are connected to it
    min_replicas: bool = False  # it refuses writes that too few of them would get


class MemberState(msgspec.Struct, frozen=True):
    """How a member is (docs/protocol.rst, "Gossip"). ``at`` is Unix time and ``uptime`` seconds;
    both inform and decide nothing. Of a member that has not been heard of, only ``member`` is
    known; the defaults stand for the rest. ``topics`` and ``subscriptions`` are those that it has
    cached, ``in_flight`` the fan-outs in its hands; ``fanouts``, ``copies``, ``errors`` and
    ``reaped`` count since it started. ``down`` are those of its ``servers`` that it has no
    connection to; ``store`` is None until it has asked; ``ahead`` is what ``heard`` adds."""

    member: str
    host: str = ""
    pid: int = 0
    state: str = "unknown"
    version: int = 0
    release: str = ""
    uptime: float = 0.0
    at: float = 0.0
    servers: list[str] = msgspec.field(default_factory=list)
    topics: int = 0
    subscriptions: int = 0
    in_flight: int = 0
    lanes: int = 0
    fanouts: int = 0
    copies: int = 0
    errors: int = 0
    reaped: int = 0
    down: list[str] = msgspec.field(default_factory=list)
    store: StoreState | None = None
    ahead: float = 0.0

    def heard(self, now: float) -> MemberState:
        """Return what a peer keeps that has heard it: with the seconds by which the sender's clock
        is ahead of the peer's, which is at ``now`` (Unix time). What was on its way counts too, so
        a clock that is a little behind may be right."""
        return msgspec.structs.replace(self, ahead=round(self.at - now, 3))


_matchmaking = msgspec.json.Decoder(Matchmaking)

_answer = msgspec.json.Decoder(MatchmakingAnswer)

_gossip = msgspec.json.Decoder(MemberState)


def decode_matchmaking(body: bytes) -> Matchmaking:
    """Decode what a peer tells; raises ``BadRequest``, with which the teller's job fails. The
    teller then waits for the peer's next renewal, which knows the change."""
    return decode_body(_matchmaking, body)


def decode_answer(body: bytes) -> MatchmakingAnswer:
    """Decode a peer's answer; raises ``BadRequest`` where it is none."""
    return decode_body(_answer, body)


def decode_gossip(body: bytes) -> MemberState:
    """Decode what a member says of itself; raises ``BadRequest``. Any client may publish to that
    topic, so what comes may be anything."""
    return decode_body(_gossip, body)
