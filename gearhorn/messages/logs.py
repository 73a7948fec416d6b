"""Logs and what hangs on them: entries, retention, fetches, parked messages and envelopes.

The store has three records of messages. A log *entry* is info and payload side by side (``Info``,
as JSON). A *failure history* is JSON, by the sequence of the message. A *parked* message has all of
it in one piece, for which MessagePack is used: it holds the payload's bytes as they are, and ends
with them, so that a script can put the payload behind a head that a worker has made. Releases read
each other's records: keys that are not known are skipped, and new ones have defaults.

Rules: pure. What the store keeps of a message besides its payload is made and read here, and
nowhere else in Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from gearhorn.errors import BadRequest
from gearhorn.messages.codec import as_text, decode_body, encode
from gearhorn.messages.headers import bytes_of

# Upper ends, where docs/protocol.rst, "Requests, replies, errors" or a table there names them.
MAX_SECONDS = 10**9  # thirty years
MAX_MESSAGES = 10**12  # and bytes of them
MAX_SEQUENCE = 10**15  # scripts count exactly up to 2**53
MAX_FETCH = 10_000  # messages in one reply
MAX_WAIT_S = 3600.0  # of a fetch

# Of a log without settings (docs/protocol.rst, "retain_fanout"); ``log.lua`` has the same numbers.
DEFAULT_MAX_AGE_S = 120.0
DEFAULT_MAX_MESSAGES = 1_000_000
DEFAULT_MAX_BYTES = 256 * 1024 * 1024


class Logged(NamedTuple):
    """Where a message stands in its topic's log. ``is_repeat``: it had been logged before."""

    sequence: int
    epoch: str
    is_repeat: bool


class Info(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What a log entry holds besides payload, sequence and epoch. ``at`` is Unix time, which
    informs and decides nothing; ``waiter`` is the worker process whose caller waits.

    ``headers`` are as ``checked_headers`` leaves them, None where there are none. ``expires_ms`` is
    the reading of the members' clock from which on nothing is begun with the message, 0 where it
    does not expire; ``expires_at`` is the same in Unix time, for receivers.
    """

    at: float
    unique: str | None = None
    exclude: tuple[str, ...] = ()
    waiter: str = ""
    headers: dict[str, str] | None = None
    expires_ms: int = 0
    expires_at: float = 0.0

    def is_expired(self, clock_ms: int) -> bool:
        """Whether the message's time is over at this reading of the members' clock."""
        return 0 < self.expires_ms <= clock_ms

    def excludes(self, client_id: str) -> bool:
        """Whether its publisher has excluded a client."""
        return bool(self.exclude) and client_id in self.exclude

    def without_exclude(self) -> Info:
        """Return the same for a lane, which has decided already whether it delivers the message.
        Ten thousand names need not stay in memory with each message under way."""
        return msgspec.structs.replace(self, exclude=())

    @property
    def size(self) -> int:
        """What it counts where bytes are bounded: unique id, exclusions and headers."""
        size = len(self.unique or "") + sum(map(len, self.exclude))
        return size + bytes_of(self.headers) if self.headers else size


class FailureHistory(msgspec.Struct, frozen=True, omit_defaults=True):
    """What failed attempts of one message for one subscription left behind."""

    attempts: int  # failed ones, over all owners and redrives
    first_at: float  # when the first one failed, in Unix time
    at: float  # when the last one failed, or the message was parked, in Unix time
    error: str  # of the last one: the receiver's text, or why there is none
    due_ms: int = 0  # when the next one is due, on the members' clock
    since: int = 0  # the attempts there had been when it was last put back: it gets new ones


class Parked(msgspec.Struct, frozen=True):
    """A message that was set aside for one subscription, as the store keeps it. It outlives its log
    entry, so it has all of that, and the epoch under which its sequence counts."""

    epoch: str
    trouble: FailureHistory
    info: Info
    payload: bytes  # last, see ``parked_head``


class _ListedParked(msgspec.Struct, frozen=True):
    """A parked message in the reply to ``list`` (docs/protocol.rst, "parked_fanout")."""

    sequence: int
    epoch: str
    attempts: int
    error: str
    at: float
    first_at: float
    headers: dict[str, str] | UnsetType = UNSET
    expires_at: float | UnsetType = UNSET
    payload: str | UnsetType = UNSET
    payload_base64: bytes | UnsetType = UNSET


class _DurableEnvelope(msgspec.Struct, frozen=True):
    """What receivers of durable subscriptions, and fetches, get (docs/protocol.rst, "Envelope")."""

    topic: str
    sequence: int
    epoch: str
    at: float
    attempt: int | UnsetType = UNSET
    unique: str | UnsetType = UNSET
    headers: dict[str, str] | UnsetType = UNSET
    expires_at: float | UnsetType = UNSET
    payload: str | UnsetType = UNSET
    payload_base64: bytes | UnsetType = UNSET


class Retain(msgspec.Struct, frozen=True):
    """A ``retain_fanout`` request (docs/protocol.rst, "retain_fanout"); None returns to the
    default, UNSET keeps what there is."""

    topic: str
    max_age: float | UnsetType | None = UNSET
    max_messages: int | UnsetType | None = UNSET
    max_bytes: int | UnsetType | None = UNSET


class _GivenRetention(msgspec.Struct, frozen=True):
    """The settings that a request gives, as ``retain.lua`` reads them."""

    max_age: float | UnsetType | None = UNSET
    max_messages: int | UnsetType | None = UNSET
    max_bytes: int | UnsetType | None = UNSET


class Retained(msgspec.Struct, frozen=True):
    """Reply to a ``retain_fanout``."""

    version: int


class Fetch(msgspec.Struct, frozen=True):
    """A ``fetch_fanout`` request (docs/protocol.rst, "fetch_fanout")."""

    topic: str
    after: int | UnsetType = UNSET  # this or ``client_id``, never both
    client_id: str | UnsetType = UNSET
    epoch: str | UnsetType = UNSET
    limit: int = 100  # messages
    wait: float = 0.0  # seconds
    ack: int | UnsetType = UNSET  # a sequence, with ``client_id`` only
    purge: int | UnsetType = UNSET  # a sequence


class _Fetched(msgspec.Struct, frozen=True):
    """The reply to a fetch; the messages are encoded one by one, with turns of the loop between."""

    epoch: str
    first: int
    last: int
    messages: Sequence[msgspec.Raw]


class ParkedRequest(msgspec.Struct, frozen=True):
    """A ``parked_fanout`` request (docs/protocol.rst, "parked_fanout")."""

    topic: str
    client_id: str
    action: Literal["list", "redrive", "purge"]
    limit: int | UnsetType = UNSET  # messages; UNSET is 100 of a list, all otherwise
    after: int = 0  # a sequence, of a list


_retain = msgspec.json.Decoder(Retain)

_fetch = msgspec.json.Decoder(Fetch)

_parked_request = msgspec.json.Decoder(ParkedRequest)

_info = msgspec.json.Decoder(Info)

_trouble = msgspec.json.Decoder(FailureHistory)

_parked = msgspec.msgpack.Decoder(Parked)

encode_parked = msgspec.msgpack.encode

_NO_PAYLOAD = b"\xc4\x00"  # MessagePack's empty binary string


def decode_retain(body: bytes) -> Retain:
    """Decode a ``retain_fanout`` request; raises ``BadRequest`` naming the key."""
    request = decode_body(_retain, body)
    if isinstance(request.max_age, float) and not 0 < request.max_age <= MAX_SECONDS:
        raise BadRequest(
            f"max_age: expected seconds > 0 and <= {MAX_SECONDS}, got {request.max_age:g}"
        )
    for key in ("max_messages", "max_bytes"):
        value = getattr(request, key)
        if isinstance(value, int) and not 1 <= value <= MAX_MESSAGES:
            raise BadRequest(f"{key}: expected an integer from 1 to {MAX_MESSAGES}, got {value}")
    return request


def encode_given_retention(request: Retain) -> bytes:
    """Return, as JSON, the retention settings that a request gives."""
    return encode(_GivenRetention(request.max_age, request.max_messages, request.max_bytes))


def decode_fetch(body: bytes) -> Fetch:
    """Decode a ``fetch_fanout`` request; raises ``BadRequest`` naming the key. Whether sequences
    are beyond the log's last is for the store to say."""
    request = decode_body(_fetch, body)
    if (request.after is UNSET) == (request.client_id is UNSET):
        raise BadRequest("after: expected either after or client_id")
    if request.ack is not UNSET and request.client_id is UNSET:
        raise BadRequest("ack: expected a client_id beside it")
    for key in ("after", "ack", "purge"):
        value = getattr(request, key)
        if value is not UNSET and not 0 <= value <= MAX_SEQUENCE:
            raise BadRequest(f"{key}: expected an integer from 0 to {MAX_SEQUENCE}, got {value}")
    if not 1 <= request.limit <= MAX_FETCH:
        raise BadRequest(f"limit: expected an integer from 1 to {MAX_FETCH}, got {request.limit}")
    if not 0 <= request.wait <= MAX_WAIT_S:
        raise BadRequest(f"wait: expected seconds from 0 to {MAX_WAIT_S:g}, got {request.wait:g}")
    return request


def decode_parked_request(body: bytes) -> ParkedRequest:
    """Decode a ``parked_fanout`` request; raises ``BadRequest`` naming the key."""
    request = decode_body(_parked_request, body)
    if request.limit is not UNSET and not 1 <= request.limit <= MAX_MESSAGES:
        raise BadRequest(
            f"limit: expected an integer from 1 to {MAX_MESSAGES}, got {request.limit}"
        )
    if not 0 <= request.after <= MAX_SEQUENCE:
        raise BadRequest(
            f"after: expected an integer from 0 to {MAX_SEQUENCE}, got {request.after}"
        )
    return request


def decode_info(body: bytes) -> Info:
    """Decode what the store keeps of a message. What a store holds was written by a worker, so
    anything else is a fault: msgspec's errors are raised as they are, here and below."""
    return _info.decode(body)


def decode_history(body: bytes) -> FailureHistory:
    """Decode what failed attempts left behind."""
    return _trouble.decode(body)


def decode_parked(body: bytes) -> Parked:
    """Decode a parked message."""
    return _parked.decode(body)


def parked_head(message: Parked) -> bytes:
    """Return how a parked message is kept, but for its payload, which comes last.

    ``park.lua`` appends the payload from the log, with MessagePack's header for its length. So a
    message of 8 MiB is parked without travelling to the worker and back. The assertion holds the
    order of the fields.
    """
    head = encode_parked(Parked(message.epoch, message.trouble, message.info, b""))
    assert head.endswith(_NO_PAYLOAD)
    return head[: -len(_NO_PAYLOAD)]


def durable_envelope(
    topic: str, sequence: int, epoch: str, *, attempt: int | None, info: Info, payload: bytes
) -> _DurableEnvelope:
    """Return a message as receivers and readers see it (docs/protocol.rst, "Envelope"). ``attempt``
    counts from 1; None is for messages that are read, not delivered."""
    return _DurableEnvelope(
        topic,
        sequence,
        epoch,
        info.at,
        UNSET if attempt is None else attempt,
        info.unique or UNSET,
        info.headers or UNSET,
        info.expires_at or UNSET,
        **as_text(payload),
    )


def encode_fetched(epoch: str, first: int, last: int, messages: Sequence[bytes]) -> bytes:
    """Return the reply to a fetch, of messages that are encoded."""
    return encode(_Fetched(epoch, first, last, [msgspec.Raw(message) for message in messages]))


def encode_parked_entry(sequence: int, message: Parked) -> bytes:
    """Return one message of the reply to ``list``."""
    trouble = message.trouble
    return encode(
        _ListedParked(
            sequence,
            message.epoch,
            trouble.attempts,
            trouble.error,
            trouble.at,
            trouble.first_at,
            message.info.headers or UNSET,
            message.info.expires_at or UNSET,
            **as_text(message.payload),
        )
    )


def encode_parked_list(entries: Sequence[bytes], after: int | None) -> bytes:
    """Return the reply to ``list``, of messages that are encoded; ``after`` leads to the next page,
    None where there is none."""
    parked = [msgspec.Raw(entry) for entry in entries]
    return encode({"parked": parked} if after is None else {"parked": parked, "after": after})
