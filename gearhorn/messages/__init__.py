"""The JSON of docs/protocol.rst: requests in, replies out, as frozen structs.

Law: pure, and this package is the only importer of msgspec. What durable topics add is in
``durable``, how JSON is read and written in ``codec``. A request that decodes is well-formed in
types and ranges; whether its names are allowed is for ``names``. Every refusal names the key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from gearhorn.errors import BadRequest
from gearhorn.messages.codec import decode_body
from gearhorn.messages.codec import encode as encode
from gearhorn.messages.durable import (
    DescribedDurable,
    DescribedLog,
    DurableOptions,
    GivenDurable,
    check_durable,
)
from gearhorn.messages.fanout import Fanout as Fanout
from gearhorn.messages.fanout import copies_needed as copies_needed
from gearhorn.messages.fanout import decode_fanout as decode_fanout
from gearhorn.messages.fanout import envelope as envelope
from gearhorn.messages.receipts import Logged as Logged
from gearhorn.messages.receipts import encode_failures as encode_failures
from gearhorn.messages.receipts import encode_receipt as encode_receipt

Overflow = Literal["drop_new", "drop_old", "unsubscribe"]

MAX_LIMIT = 10_000  # subscriptions in one description
MAX_TTL_S = 10**9  # thirty years


class Subscribe(msgspec.Struct, frozen=True):
    """A ``subscribe_fanout`` request; an option that is UNSET keeps its former value."""

    topic: str
    client_id: str
    max_backlog: int | UnsetType = UNSET
    overflow: Overflow | UnsetType = UNSET
    envelope: bool | UnsetType = UNSET
    ttl: float | UnsetType | None = UNSET  # None takes it away
    durable: bool | GivenDurable | UnsetType = UNSET

    @property
    def is_durable(self) -> bool:
        """Whether it asks for a durable subscription."""
        return self.durable is not UNSET and self.durable is not False


class Unsubscribe(msgspec.Struct, frozen=True):
    """An ``unsubscribe_fanout`` request."""

    topic: str
    client_id: str
    drain: bool = False


class SubscriptionOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a subscription keeps in the store; None is the worker's own default."""

    max_backlog: int | None = None
    overflow: Overflow = "drop_new"
    envelope: bool = False
    ttl: float | None = None
    durable: DurableOptions | None = None
    made: int = 0  # with overflow "unsubscribe": the version at which it was last subscribed


class _GivenOptions(msgspec.Struct, frozen=True):
    max_backlog: int | UnsetType = UNSET
    overflow: Overflow | UnsetType = UNSET
    envelope: bool | UnsetType = UNSET
    ttl: float | UnsetType | None = UNSET
    durable: msgspec.Raw | bool | UnsetType = UNSET


class _GivenDurable(msgspec.Struct, frozen=True):
    in_flight: int | UnsetType = UNSET
    timeout: float | UnsetType = UNSET
    max_attempts: int | UnsetType = UNSET
    max_backoff: float | UnsetType = UNSET
    batch: int | UnsetType = UNSET
    pull: bool | UnsetType = UNSET


class Subscribed(msgspec.Struct, frozen=True):
    """Reply to a subscribe; ``parked_discarded`` where it ended durability."""

    queue: str
    version: int
    parked_discarded: int | UnsetType = UNSET


class _Unsubscribed(msgspec.Struct, frozen=True):
    version: int
    drained: int | UnsetType = UNSET
    undrained: Sequence[str] | UnsetType = UNSET
    parked_discarded: int | UnsetType = UNSET


class Describe(msgspec.Struct, frozen=True):
    """A ``describe_fanout`` request."""

    topic: str | UnsetType = UNSET
    limit: int = 100  # docs/protocol.rst, "describe_fanout"
    cursor: str | UnsetType = UNSET


class DescribedSubscription(msgspec.Struct, frozen=True, omit_defaults=True):
    """One subscription; ``backlog`` as of ``backlog_at`` (Unix time), None where not known."""

    queue: str
    max_backlog: int
    overflow: str
    envelope: bool
    drops: int
    ttl: float | None = None
    backlog: int | None = None
    backlog_at: float | None = None
    durable: DescribedDurable | None = None


class DescribedTopic(msgspec.Struct, frozen=True, omit_defaults=True):
    """The subscriptions of one topic by client_id, and its log where it has one."""

    subscriptions: dict[str, DescribedSubscription]
    log: DescribedLog | None = None


class Described(msgspec.Struct, frozen=True):
    """Reply to a ``describe_fanout``; ``cursor`` is for the next page, None is the last one."""

    members: list[MemberState]
    topics: dict[str, DescribedTopic]
    cursor: str | None


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


_subscribe = msgspec.json.Decoder(Subscribe)
_unsubscribe = msgspec.json.Decoder(Unsubscribe)
_describe = msgspec.json.Decoder(Describe)
_matchmaking = msgspec.json.Decoder(Matchmaking)
_answer = msgspec.json.Decoder(MatchmakingAnswer)
_options = msgspec.json.Decoder(SubscriptionOptions)
_gossip = msgspec.json.Decoder(MemberState)


def decode_subscribe(body: bytes) -> Subscribe:
    """Decode a ``subscribe_fanout`` request; raises ``BadRequest``."""
    request = decode_body(_subscribe, body)
    if isinstance(request.ttl, float) and not 0 < request.ttl <= MAX_TTL_S:
        raise BadRequest(f"ttl: expected seconds > 0 and <= {MAX_TTL_S}, got {request.ttl:g}")
    if isinstance(request.durable, GivenDurable):
        check_durable(request.durable)
    if request.max_backlog is not UNSET and not 1 <= request.max_backlog < 2**31:
        raise BadRequest(
            f"max_backlog: expected an integer from 1 to 2147483647, got {request.max_backlog}"
        )
    return request


def encode_given_options(request: Subscribe) -> bytes:
    """Return, as JSON, the options that a subscribe gives and the store shall keep."""
    durable: msgspec.Raw | bool | UnsetType = UNSET
    if isinstance(request.durable, GivenDurable):
        one = request.durable
        given = _GivenDurable(
            one.in_flight, one.timeout, one.max_attempts, one.max_backoff, one.batch, one.pull
        )
        durable = msgspec.Raw(encode(given))
    elif request.durable is True:
        durable = msgspec.Raw(b"{}")
    elif request.durable is False:
        durable = False
    return encode(
        _GivenOptions(request.max_backlog, request.overflow, request.envelope, request.ttl, durable)
    )


def encode_subscribed(queue: bytes, version: int, parked: int | None) -> bytes:
    """Return the reply to a subscribe; ``parked`` were discarded with the durability that it
    ended, None where it ended none."""
    return encode(Subscribed(queue.decode(), version, UNSET if parked is None else parked))


def encode_unsubscribed(
    version: int,
    drained: int | None = None,
    undrained: Sequence[str] = (),
    parked: int | None = None,
) -> bytes:
    """Return the reply to an unsubscribe; ``drained`` is None where nothing was to drain,
    ``undrained`` are the servers whose queue was not emptied, ``parked`` is None where the
    subscription was not durable."""
    return encode(
        _Unsubscribed(
            version,
            UNSET if drained is None else drained,
            undrained or UNSET,
            UNSET if parked is None else parked,
        )
    )


def decode_unsubscribe(body: bytes) -> Unsubscribe:
    """Decode an ``unsubscribe_fanout`` request; raises ``BadRequest``."""
    return decode_body(_unsubscribe, body)


def decode_describe(body: bytes) -> Describe:
    """Decode a ``describe_fanout`` request; raises ``BadRequest``."""
    request = decode_body(_describe, body or b"{}")
    if not 1 <= request.limit <= MAX_LIMIT:
        raise BadRequest(f"limit: expected an integer from 1 to {MAX_LIMIT}, got {request.limit}")
    if request.cursor is not UNSET and request.cursor.count(" ") != 1:
        raise BadRequest("cursor: expected that of a former reply")
    return request


def decode_matchmaking(body: bytes) -> Matchmaking:
    """Decode what a peer tells; raises ``BadRequest``."""
    return decode_body(_matchmaking, body)


def decode_answer(body: bytes) -> MatchmakingAnswer:
    """Decode a peer's answer; raises ``BadRequest``."""
    return decode_body(_answer, body)


def decode_gossip(body: bytes) -> MemberState:
    """Decode what a member says of itself; raises ``BadRequest``."""
    return decode_body(_gossip, body)


def decode_options(body: bytes) -> SubscriptionOptions:
    """Decode stored options; unreadable ones count as the defaults, so that copies flow."""
    try:
        return _options.decode(body)
    except msgspec.DecodeError:
        return SubscriptionOptions()
