"""Subscribing and unsubscribing: requests, replies, and the options that the store keeps.

Rules: pure. A request that decodes is well-formed in types and ranges; whether its names are
allowed is for ``names``. Every refusal names the key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from gearhorn.errors import BadRequest
from gearhorn.messages.codec import decode_body, encode
from gearhorn.messages.logs import MAX_SECONDS, MAX_SEQUENCE

Overflow = Literal["drop_new", "drop_old", "unsubscribe"]

MAX_TTL_S = 10**9  # thirty years

MAX_IN_FLIGHT = 10_000

MAX_BATCH = 10_000

MAX_ATTEMPTS = 10**6


class Start(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a new durable subscription begins, by number or by age."""

    sequence: int | UnsetType = UNSET
    window: float | UnsetType = UNSET


class GivenDurable(msgspec.Struct, frozen=True):
    """The durable options of a subscribe; one that is UNSET keeps its former value."""

    start: Literal["new", "all", "last"] | Start | UnsetType = UNSET
    in_flight: int | UnsetType = UNSET
    timeout: float | UnsetType = UNSET
    max_attempts: int | UnsetType = UNSET
    max_backoff: float | UnsetType = UNSET
    batch: int | UnsetType = UNSET
    pull: bool | UnsetType = UNSET


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


class DurableOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a durable subscription keeps in the store; times in seconds."""

    in_flight: int = 1
    timeout: float = 30.0
    max_attempts: int = 20
    max_backoff: float = 3600.0
    batch: int = 1
    pull: bool = False


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


_subscribe = msgspec.json.Decoder(Subscribe)

_unsubscribe = msgspec.json.Decoder(Unsubscribe)

_options = msgspec.json.Decoder(SubscriptionOptions)


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


def check_durable(given: GivenDurable) -> None:
    """Raise ``BadRequest`` naming the key that is out of range."""
    for key, most in (("in_flight", MAX_IN_FLIGHT), ("batch", MAX_BATCH)):
        value = getattr(given, key)
        if value is not UNSET and not 1 <= value <= most:
            raise BadRequest(f"durable.{key}: expected an integer from 1 to {most}, got {value}")
    for key in ("timeout", "max_backoff"):
        value = getattr(given, key)
        if value is not UNSET and not 0 < value <= MAX_SECONDS:
            raise BadRequest(
                f"durable.{key}: expected seconds > 0 and <= {MAX_SECONDS}, got {value:g}"
            )
    if given.max_attempts is not UNSET and not 0 <= given.max_attempts <= MAX_ATTEMPTS:
        raise BadRequest(
            f"durable.max_attempts: expected an integer from 0 to {MAX_ATTEMPTS}, "
            f"got {given.max_attempts}"
        )
    start = given.start
    if isinstance(start, Start):
        if (start.sequence is UNSET) == (start.window is UNSET):
            raise BadRequest("durable.start: expected either sequence or window")
        if start.sequence is not UNSET and not 0 <= start.sequence <= MAX_SEQUENCE:
            raise BadRequest(
                f"durable.start.sequence: expected an integer from 0 to {MAX_SEQUENCE}, "
                f"got {start.sequence}"
            )
        if start.window is not UNSET and not 0 < start.window <= MAX_SECONDS:
            raise BadRequest(
                f"durable.start.window: expected seconds > 0 and <= {MAX_SECONDS}, "
                f"got {start.window:g}"
            )


def encode_start(given: GivenDurable) -> bytes:
    """Return where the subscription begins should it be new, as the store's script reads it."""
    start = given.start
    return encode("new" if start is UNSET else start)


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


def decode_options(body: bytes) -> SubscriptionOptions:
    """Decode stored options; unreadable ones count as the defaults, so that copies flow."""
    try:
        return _options.decode(body)
    except msgspec.DecodeError:
        return SubscriptionOptions()
