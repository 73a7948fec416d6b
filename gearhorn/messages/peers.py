"""What members tell each other: changes that drop cached lists, and how each of them is.

Rules: pure. Both kinds of job are described in docs/protocol.rst, "Between workers".
"""

from __future__ import annotations

import msgspec

from gearhorn.messages.codec import decode_body


class Changed(msgspec.Struct, frozen=True):
    """One topic that changed, and the store's version after it. With ``removed`` the answer
    waits for fan-outs that hold the old list, with ``durable`` lanes may be concerned; a teller
    that leaves either out means the same. ``client`` is whose subscription changed, empty where it
    is no subscription; a teller that leaves it out means any."""

    topic: str
    version: int
    removed: bool = True
    durable: bool = True
    client: str | None = None


class Matchmaking(msgspec.Struct, frozen=True):
    """What a member tells its peers (docs/protocol.rst, "Gossip")."""

    member: str
    changes: list[Changed]


class MatchmakingAnswer(msgspec.Struct, frozen=True):
    """What a peer answers once it has dropped the lists."""

    member: str
    version: int


class MemberState(msgspec.Struct, frozen=True):
    """How a member is. ``at`` is Unix time and ``uptime`` seconds; both inform and
    decide nothing. Of a member that has not been heard of, only ``member`` is known."""

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


_matchmaking = msgspec.json.Decoder(Matchmaking)

_answer = msgspec.json.Decoder(MatchmakingAnswer)

_gossip = msgspec.json.Decoder(MemberState)


def decode_matchmaking(body: bytes) -> Matchmaking:
    """Decode what a peer tells; raises ``BadRequest``."""
    return decode_body(_matchmaking, body)


def decode_answer(body: bytes) -> MatchmakingAnswer:
    """Decode a peer's answer; raises ``BadRequest``."""
    return decode_body(_answer, body)


def decode_gossip(body: bytes) -> MemberState:
    """Decode what a member says of itself; raises ``BadRequest``."""
    return decode_body(_gossip, body)
