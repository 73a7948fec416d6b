"""Subscribing and unsubscribing: requests, replies, and the options that the store keeps.

An option has three forms. In a *request* it may be left out, which keeps its former value: UNSET.
The *given* options go to the store as JSON, without those that were left out, and ``change.lua``
merges them into the former ones, because only the script knows those for certain. The *stored* ones
are what was given at any time and not taken away. What is missing has its default, so most
subscriptions take no memory for options.

Rules: pure. A request that decodes is well-formed in types and ranges; whether its names are
allowed is for ``names``. Every refusal names the key.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from gearhorn.errors import BadRequest
from gearhorn.messages.codec import decode_body, encode
from gearhorn.messages.headers import MAX_HEADER_NAME, is_header_name
from gearhorn.messages.logs import MAX_SECONDS, MAX_SEQUENCE

Overflow = Literal["drop_new", "drop_old", "unsubscribe"]

# The upper ends of docs/protocol.rst, "subscribe_fanout" and "Durable topics".
MAX_TTL_S = 10**9  # thirty years
MAX_IN_FLIGHT = 10_000  # deliveries of one subscription
MAX_BATCH = 10_000  # messages in one delivery
MAX_ATTEMPTS = 10**6  # of one message


class Start(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a new durable subscription begins, by number or by age: one of the two."""

    sequence: int | UnsetType = UNSET  # behind this one
    window: float | UnsetType = UNSET  # with what was logged in the last so many seconds


class GivenDurable(msgspec.Struct, frozen=True):
    """The durable options of a subscribe (docs/protocol.rst, "Durable topics"); one that is UNSET
    keeps its former value."""

    start: Literal["new", "all", "last"] | Start | UnsetType = UNSET
    in_flight: int | UnsetType = UNSET
    timeout: float | UnsetType = UNSET
    max_attempts: int | UnsetType = UNSET
    max_backoff: float | UnsetType = UNSET
    batch: int | UnsetType = UNSET
    pull: bool | UnsetType = UNSET
    paused: bool | float | UnsetType = UNSET  # for so many seconds; True: without end
    latest: bool | str | UnsetType = UNSET  # of each value of this header; True: of all


class Subscribe(msgspec.Struct, frozen=True):
    """A ``subscribe_fanout`` request (docs/protocol.rst, "subscribe_fanout"); an option that is
    UNSET keeps its former value."""

    topic: str
    client_id: str
    max_backlog: int | UnsetType = UNSET
    overflow: Overflow | UnsetType = UNSET
    envelope: bool | UnsetType = UNSET
    ttl: float | UnsetType | None = UNSET  # seconds; None takes it away
    durable: bool | GivenDurable | UnsetType = UNSET  # False ends durability
    pattern: bool = False  # ``topic`` is one

    @property
    def is_durable(self) -> bool:
        """Whether it asks for a durable subscription."""
        return self.durable is not UNSET and self.durable is not False

    @property
    def pauses(self) -> bool:
        """Whether nothing is to be delivered from now on."""
        durable = self.durable
        return isinstance(durable, GivenDurable) and durable.paused not in (UNSET, False)


class Unsubscribe(msgspec.Struct, frozen=True):
    """An ``unsubscribe_fanout`` request (docs/protocol.rst, "unsubscribe_fanout")."""

    topic: str
    client_id: str
    drain: bool = False
    pattern: bool = False


class DurableOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a durable subscription keeps in the store; times in seconds. The defaults are those of
    docs/protocol.rst, "Durable topics"."""

    in_flight: int = 1
    timeout: float = 30.0
    max_attempts: int = 20
    max_backoff: float = 3600.0
    batch: int = 1
    pull: bool = False
    latest: bool | str = False  # as given, a header's name in lower case
    paused_ms: int = 0  # the members' clock at the end of a pause; below 0: it has no end


class SubscriptionOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a subscription keeps in the store."""

    max_backlog: int | None = None  # None is the worker's own default
    overflow: Overflow = "drop_new"
    envelope: bool = False
    ttl: float | None = None
    durable: DurableOptions | None = None
    made: int = 0  # with overflow "unsubscribe": the version at which it was last subscribed


class _GivenOptions(msgspec.Struct, frozen=True):
    """The options that a subscribe gives, as ``change.lua`` reads them. UNSET ones are not in the
    JSON; null takes one away; ``durable`` is an object, or false."""

    max_backlog: int | UnsetType = UNSET
    overflow: Overflow | UnsetType = UNSET
    envelope: bool | UnsetType = UNSET
    ttl: float | UnsetType | None = UNSET
    durable: msgspec.Raw | bool | UnsetType = UNSET


class _GivenDurable(msgspec.Struct, frozen=True):
    """``GivenDurable`` without ``start``, which is no option: it counts once."""

    in_flight: int | UnsetType = UNSET
    timeout: float | UnsetType = UNSET
    max_attempts: int | UnsetType = UNSET
    max_backoff: float | UnsetType = UNSET
    batch: int | UnsetType = UNSET
    pull: bool | UnsetType = UNSET
    paused: bool | float | UnsetType = UNSET  # the script keeps when it ends (``paused_ms``)
    latest: bool | str | UnsetType = UNSET


class Subscribed(msgspec.Struct, frozen=True):
    """Reply to a subscribe; ``parked_discarded`` counts messages, where it ended durability."""

    queue: str
    version: int
    parked_discarded: int | UnsetType = UNSET


class _Unsubscribed(msgspec.Struct, frozen=True):
    """Reply to an unsubscribe; the keys of what was not asked for are absent."""

    version: int
    drained: int | UnsetType = UNSET
    undrained: Sequence[str] | UnsetType = UNSET
    parked_discarded: int | UnsetType = UNSET


_subscribe = msgspec.json.Decoder(Subscribe)

_unsubscribe = msgspec.json.Decoder(Unsubscribe)

_options = msgspec.json.Decoder(SubscriptionOptions)


def pause_left_s(paused_ms: int, clock_ms: int) -> float:
    """Return in how many seconds a pause ends: 0 where there is none, infinity where it has no end.

    Arguments:
        paused_ms: as ``DurableOptions`` has it.
        clock_ms: the members' clock.
    """
    return inf if paused_ms < 0 else max(0.0, (paused_ms - clock_ms) / 1000)


def decode_subscribe(body: bytes) -> Subscribe:
    """Decode a ``subscribe_fanout`` request; raises ``BadRequest`` naming the key.

    Ranges are checked here and not by msgspec, whose text would not name the lower and the upper
    end together.
    """
    request = decode_body(_subscribe, body)
    if isinstance(request.ttl, float) and not 0 < request.ttl <= MAX_TTL_S:
        raise BadRequest(f"ttl: expected seconds > 0 and <= {MAX_TTL_S}, got {request.ttl:g}")
    if request.pattern and request.is_durable:
        raise BadRequest("durable: expected none or false with pattern, got more")
    if isinstance(request.durable, GivenDurable):
        check_durable(request.durable)
    if request.max_backlog is not UNSET and not 1 <= request.max_backlog < 2**31:
        raise BadRequest(
            f"max_backlog: expected an integer from 1 to 2147483647, got {request.max_backlog}"
        )
    return request


def check_durable(given: GivenDurable) -> None:
    """Raise ``BadRequest`` naming the key that is out of range.

    First the options of one kind together: counts, then times. ``max_attempts`` stands alone, since
    its 0 means without end. ``start`` comes last: it is an object of two keys, one of which it must
    have, and only then is there a range to check.
    """
    for key, limit in (("in_flight", MAX_IN_FLIGHT), ("batch", MAX_BATCH)):
        value = getattr(given, key)
        if value is not UNSET and not 1 <= value <= limit:
            raise BadRequest(f"durable.{key}: expected an integer from 1 to {limit}, got {value}")
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
    if isinstance(given.latest, str) and not is_header_name(given.latest):
        raise BadRequest(
            "durable.latest: expected true, false, or the name of a header, got "
            f"{given.latest[:MAX_HEADER_NAME]!r}"
        )
    if type(given.paused) is float and not 0 < given.paused <= MAX_SECONDS:
        raise BadRequest(
            f"durable.paused: expected true, false, or seconds > 0 and <= {MAX_SECONDS}, "
            f"got {given.paused:g}"
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
    """Return, as JSON, the options that a subscribe gives and the store shall keep. ``durable:
    true`` is an object without options: it makes the subscription durable, or changes nothing."""
    durable: msgspec.Raw | bool | UnsetType = UNSET
    if isinstance(request.durable, GivenDurable):
        given = request.durable
        options = _GivenDurable(
            given.in_flight,
            given.timeout,
            given.max_attempts,
            given.max_backoff,
            given.batch,
            given.pull,
            given.paused,
            given.latest.lower() if isinstance(given.latest, str) else given.latest,
        )
        durable = msgspec.Raw(encode(options))
    elif request.durable is True:
        durable = msgspec.Raw(b"{}")
    elif request.durable is False:
        durable = False
    envelope = request.envelope
    if request.pattern:  # the receiver has to learn the topic
        envelope, durable = True, UNSET
    return encode(
        _GivenOptions(request.max_backlog, request.overflow, envelope, request.ttl, durable)
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
    """Return the reply to an unsubscribe (docs/protocol.rst, "unsubscribe_fanout").

    Arguments:
        version: the store's, after the change.
        drained: how many jobs were discarded, None where nothing was to drain.
        undrained: the servers ("HOST:PORT") whose queue was not emptied.
        parked: how many parked messages were discarded, None where it was not durable.
    """
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
    """Decode stored options. Unreadable ones count as the defaults: a receiver that gets bare
    copies is better off than one that gets none, and an option of a later release is skipped."""
    try:
        return _options.decode(body)
    except msgspec.DecodeError:
        return SubscriptionOptions()
