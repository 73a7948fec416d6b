"""The JSON of PROTOCOL §3-§7: requests in, replies out, as frozen structs.

Law: pure, and this package is the only importer of msgspec. What durable topics add is in
``durable``, how JSON is read and written in ``codec``. A request that decodes is well-formed in
types and ranges; whether its names are allowed is for ``names``. Every refusal names the key.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from gearhorn.errors import BadRequest, TooLarge
from gearhorn.messages.codec import as_text, decode_body
from gearhorn.messages.codec import encode as encode
from gearhorn.messages.durable import (
    DescribedDurable,
    DescribedLog,
    DurableOptions,
    GivenDurable,
    check_durable,
)

Priority = Literal["low", "normal", "high"]
Overflow = Literal["drop_new", "drop_old", "unsubscribe"]
Pair = tuple[str, str]  # (client_id, reason)

_PERCENT = re.compile(r"(\d{1,9})%\Z", re.ASCII)
MAX_LIMIT = 10_000  # subscriptions in one description
MAX_TTL_S = 10**9  # thirty years
_INFINITY = float("inf")
_NOBODY: frozenset[str] = frozenset()
_text = msgspec.json.Decoder(str)


class _FanoutBody(msgspec.Struct, frozen=True, gc=False):
    topic: str
    payload: msgspec.Raw
    unique: str | UnsetType = UNSET
    background: Any = False
    timeout: float = 30.0  # PROTOCOL §4
    quorum: int | str | UnsetType = UNSET
    receipt: bool = False
    exclude: list[str] | UnsetType = UNSET
    priority: Priority = "normal"
    encoding: Literal["base64"] | UnsetType = UNSET


class Fanout(msgspec.Struct, frozen=True, gc=False):
    """One message to copy, decoded once (PROTOCOL §4)."""

    topic: str
    payload: bytes
    unique: str | None
    background: bool
    timeout_s: float
    quorum: int | str | None
    receipt: bool
    exclude: frozenset[str]
    priority: Priority


class Subscribe(msgspec.Struct, frozen=True):
    """A ``subscribe_fanout`` request; an option that is UNSET keeps its former value."""

    topic: str
    client_id: str
    max_backlog: int | UnsetType = UNSET
    overflow: Overflow | UnsetType = UNSET
    envelope: bool | UnsetType = UNSET
    ttl: float | UnsetType = UNSET
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


class _GivenOptions(msgspec.Struct, frozen=True):
    max_backlog: int | UnsetType = UNSET
    overflow: Overflow | UnsetType = UNSET
    envelope: bool | UnsetType = UNSET
    ttl: float | UnsetType = UNSET
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
    parked_discarded: int | UnsetType = UNSET


class Describe(msgspec.Struct, frozen=True):
    """A ``describe_fanout`` request."""

    topic: str | UnsetType = UNSET
    limit: int = 100  # PROTOCOL §7
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

    members: list[Gossip]
    topics: dict[str, DescribedTopic]
    cursor: str | None


class Changed(msgspec.Struct, frozen=True):
    """One topic that changed, and the store's version after it. With ``removed`` the answer
    waits for fan-outs that hold the old list, with ``durable`` lanes may be concerned; a teller
    that leaves either out means the same."""

    topic: str
    version: int
    removed: bool = True
    durable: bool = True


class Matchmaking(msgspec.Struct, frozen=True):
    """What a member tells its peers (PROTOCOL §7.1)."""

    member: str
    changes: list[Changed]


class MatchmakingAnswer(msgspec.Struct, frozen=True):
    """What a peer answers once it has dropped the lists."""

    member: str
    version: int


class Gossip(msgspec.Struct, frozen=True):
    """How a member is (PROTOCOL §7). ``at`` is Unix time and ``uptime`` seconds; both inform and
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


class _Receipt(msgspec.Struct, frozen=True):
    copies: int
    delivered: Sequence[str]
    failed: Mapping[str, str]
    pending: Sequence[str]
    dropped: Sequence[str]
    results: dict[str, str]
    results_base64: dict[str, str] | UnsetType = UNSET
    results_omitted: Sequence[str] | UnsetType = UNSET
    sequence: int | UnsetType = UNSET
    epoch: str | UnsetType = UNSET


class Logged(NamedTuple):
    """Where a message stands in its topic's log. ``is_repeat``: it had been logged before."""

    sequence: int
    epoch: str
    is_repeat: bool


class _Envelope(msgspec.Struct, frozen=True):
    topic: str
    at: float
    unique: str | UnsetType = UNSET
    payload: str | UnsetType = UNSET
    payload_base64: str | UnsetType = UNSET


_fanout_body = msgspec.json.Decoder(_FanoutBody)
_subscribe = msgspec.json.Decoder(Subscribe)
_unsubscribe = msgspec.json.Decoder(Unsubscribe)
_describe = msgspec.json.Decoder(Describe)
_matchmaking = msgspec.json.Decoder(Matchmaking)
_answer = msgspec.json.Decoder(MatchmakingAnswer)
_options = msgspec.json.Decoder(SubscriptionOptions)
_gossip = msgspec.json.Decoder(Gossip)


def decode_fanout(body: bytes, max_payload: int) -> Fanout:
    """Decode a ``fanout`` request.

    ``max_payload`` is in bytes, of the payload as the copies carry it.
    Raises ``BadRequest`` naming the key, or ``TooLarge``.
    """
    raw = decode_body(_fanout_body, body)
    if not 0 < raw.timeout < _INFINITY:
        raise BadRequest(f"timeout: expected seconds > 0, got {raw.timeout:g}")
    payload = _payload_bytes(bytes(raw.payload), raw.encoding)
    if len(payload) > max_payload:
        raise TooLarge(f"payload of {len(payload)} bytes is over --max-payload {max_payload}")
    return Fanout(
        raw.topic,
        payload,
        raw.unique or None,
        bool(raw.background),
        raw.timeout,
        None if raw.quorum is UNSET else _quorum(raw.quorum),
        raw.receipt,
        frozenset(raw.exclude) if raw.exclude else _NOBODY,
        raw.priority,
    )


def _quorum(quorum: int | str) -> int | str:
    if quorum >= 1 if isinstance(quorum, int) else _PERCENT.match(quorum):
        return quorum
    raise BadRequest(f'quorum: expected an integer >= 1 or "N%", got {quorum!r}')


def _payload_bytes(raw: bytes, encoding: str | UnsetType) -> bytes:
    """Return what the copies carry: a string's UTF-8, other values as their JSON text."""
    if raw[:1] != b'"':
        if encoding is not UNSET:
            raise BadRequest("payload: expected a string of base64, as encoding says")
        return raw  # msgspec has checked that it is JSON
    try:
        text = _text.decode(raw)
        if encoding is UNSET:
            return text.encode()
        if len(text) % 4:
            raise ValueError("its length is no multiple of four")
        return binascii.a2b_base64(text, strict_mode=True)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise BadRequest(f"payload: {error}") from None
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"payload: not base64: {error}") from None


def copies_needed(quorum: int | str | None, copies: int) -> int:
    """Return how many receivers must succeed out of ``copies`` (PROTOCOL §4, quorum)."""
    if quorum is None:
        return copies
    if isinstance(quorum, str):
        quorum = max(1, -(-int(quorum[:-1]) * copies // 100))
    return min(quorum, copies)


def decode_subscribe(body: bytes) -> Subscribe:
    """Decode a ``subscribe_fanout`` request; raises ``BadRequest``."""
    request = decode_body(_subscribe, body)
    if request.ttl is not UNSET and not 0 < request.ttl <= MAX_TTL_S:
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


def encode_unsubscribed(version: int, drained: int | None, parked: int | None = None) -> bytes:
    """Return the reply to an unsubscribe; ``drained`` is None where nothing was to drain,
    ``parked`` where the subscription was not durable."""
    return encode(
        _Unsubscribed(
            version, UNSET if drained is None else drained, UNSET if parked is None else parked
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


def decode_gossip(body: bytes) -> Gossip:
    """Decode what a member says of itself; raises ``BadRequest``."""
    return decode_body(_gossip, body)


def decode_options(body: bytes) -> SubscriptionOptions:
    """Decode stored options; unreadable ones count as the defaults, so that copies flow."""
    try:
        return _options.decode(body)
    except msgspec.DecodeError:
        return SubscriptionOptions()


def envelope(message: Fanout, at: float) -> bytes:
    """Return the arguments of a copy for a subscription with ``envelope`` (PROTOCOL §4).

    ``at`` is Unix time in seconds; it informs and decides nothing.
    """
    unique = message.unique or UNSET
    return encode(_Envelope(message.topic, at, unique, **as_text(message.payload)))


def encode_receipt(
    copies: int,
    delivered: Sequence[str] = (),
    failed: Mapping[str, str] = MappingProxyType({}),
    pending: Sequence[str] = (),
    dropped: Sequence[str] = (),
    results: Mapping[str, bytes] = MappingProxyType({}),
    omitted: Sequence[str] = (),
    logged: Logged | None = None,
) -> bytes:
    """Return a receipt: what became of a message, copy by copy (PROTOCOL §5)."""
    text: dict[str, str] = {}
    coded: dict[str, str] = {}
    for client_id, data in results.items():
        try:
            text[client_id] = data.decode()
        except UnicodeDecodeError:
            coded[client_id] = base64.b64encode(data).decode()
    failures = dict(failed)
    return encode(
        _Receipt(
            copies,
            delivered,
            failures,
            pending,
            dropped,
            text,
            coded or UNSET,
            omitted or UNSET,
            logged.sequence if logged else UNSET,
            logged.epoch if logged else UNSET,
        )
    )
