"""A ``describe_fanout`` request and its reply (docs/protocol.rst, "describe_fanout").

Rules: pure. A page is as long as the subscriptions on it, which the request bounds.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from gearhorn.errors import BadRequest
from gearhorn.messages.codec import decode_body
from gearhorn.messages.peers import MemberState

MAX_LIMIT = 10_000  # subscriptions in one description


class Describe(msgspec.Struct, frozen=True):
    """A ``describe_fanout`` request."""

    topic: str | UnsetType = UNSET
    limit: int = 100  # docs/protocol.rst, "describe_fanout"
    cursor: str | UnsetType = UNSET


class DescribedDurable(msgspec.Struct, frozen=True):
    """A durable subscription: ``lag`` messages behind, ``attempts`` of those that fail now."""

    position: int
    lag: int
    attempts: int
    parked: int
    member: str | None
    term: int
    in_flight: int
    timeout: float
    max_attempts: int
    max_backoff: float
    batch: int
    pull: bool


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


class DescribedLog(msgspec.Struct, frozen=True):
    """A topic's log: ``bytes`` of payloads, ``dropped`` by its caps."""

    epoch: str
    first: int
    last: int
    bytes: int
    dropped: int
    max_age: float
    max_messages: int
    max_bytes: int


class DescribedTopic(msgspec.Struct, frozen=True, omit_defaults=True):
    """The subscriptions of one topic by client_id, and its log where it has one."""

    subscriptions: dict[str, DescribedSubscription]
    log: DescribedLog | None = None


class Described(msgspec.Struct, frozen=True):
    """Reply to a ``describe_fanout``; ``cursor`` is for the next page, None is the last one."""

    members: list[MemberState]
    topics: dict[str, DescribedTopic]
    cursor: str | None


_describe = msgspec.json.Decoder(Describe)


def decode_describe(body: bytes) -> Describe:
    """Decode a ``describe_fanout`` request; raises ``BadRequest``."""
    request = decode_body(_describe, body or b"{}")
    if not 1 <= request.limit <= MAX_LIMIT:
        raise BadRequest(f"limit: expected an integer from 1 to {MAX_LIMIT}, got {request.limit}")
    if request.cursor is not UNSET and request.cursor.count(" ") != 1:
        raise BadRequest("cursor: expected that of a former reply")
    return request
