"""A ``describe_fanout`` request and its reply (docs/protocol.rst, "describe_fanout").

The keys of the structs are those of the JSON, so their names are part of the protocol. A number
that is not known is null or absent, and not 0: an operator would believe the 0.

Rules: pure. A page is as long as the subscriptions on it, which the request bounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType

from gearhorn.errors import BadRequest
from gearhorn.messages.codec import decode_body
from gearhorn.messages.peers import MemberState

MAX_LIMIT = 10_000  # subscriptions in one description


class Describe(msgspec.Struct, frozen=True):
    """A ``describe_fanout`` request, all of whose keys may be left out."""

    topic: str | UnsetType = UNSET  # UNSET: every topic
    limit: int = 100  # subscriptions
    # Of a former reply: "LIST CLIENT_ID", the last pair of its page. The name of a pattern's list
    # begins with a space, and no other name has one.
    cursor: str | UnsetType = UNSET
    pattern: bool = False  # ``topic`` is one


class DescribedDurable(msgspec.Struct, frozen=True):
    """How far a durable subscription is, and its options (times in seconds)."""

    position: int  # the sequence up to which it has done with the log
    lag: int  # messages of the log behind the position
    attempts: int  # the highest number of failed ones that a message which fails now has had
    parked: int  # messages set aside
    expired: int  # messages skipped because their time was over, since it is durable
    member: str | None  # that delivers for it; None where it is released, or read from
    term: int
    in_flight: int
    timeout: float
    max_attempts: int
    max_backoff: float
    batch: int
    pull: bool
    paused: bool
    paused_until: float | None  # Unix time; None where it is not paused, or has no end


class DescribedSubscription(msgspec.Struct, frozen=True, omit_defaults=True):
    """One subscription. What it has not (a ttl, durability) or what is not known is left out."""

    queue: str
    max_backlog: int  # copies; the worker's default where the subscription has none of its own
    overflow: str
    envelope: bool
    drops: int  # copies that found the queue full, since it was subscribed
    ttl: float | None = None  # seconds
    backlog: int | None = None  # jobs on the queue, of all job servers that could be asked
    backlog_at: float | None = None  # when they were asked, in Unix time
    durable: DescribedDurable | None = None


class DescribedLog(msgspec.Struct, frozen=True):
    """A topic's log, and its retention (docs/protocol.rst, "Retention")."""

    epoch: str
    first: int  # the lowest sequence that is kept
    last: int  # the highest sequence that was given
    bytes: int  # of payloads that are kept
    dropped: int  # messages that the caps took away
    max_age: float  # seconds
    max_messages: int
    max_bytes: int


class DescribedTopic(msgspec.Struct, frozen=True, omit_defaults=True):
    """The subscriptions of one topic, or pattern, by client_id; its log where it has one; and the
    patterns that match it, where it was asked for by name."""

    subscriptions: dict[str, DescribedSubscription]
    log: DescribedLog | None = None
    patterns: Sequence[str] = ()

    def matched_by(self, patterns: Sequence[str]) -> DescribedTopic:
        """Return the same with the patterns that match the topic."""
        return msgspec.structs.replace(self, patterns=patterns)


class Described(msgspec.Struct, frozen=True, omit_defaults=True):
    """Reply to a ``describe_fanout``; ``cursor`` leads to the next page, None says that this is
    the last one."""

    members: list[MemberState]
    topics: dict[str, DescribedTopic]
    cursor: str | None
    patterns: dict[str, DescribedTopic] = {}


_describe = msgspec.json.Decoder(Describe)


def decode_describe(body: bytes) -> Describe:
    """Decode a ``describe_fanout`` request; raises ``BadRequest``.

    An empty job counts as an empty object, here only: people ask for descriptions by hand, with
    ``gearman -f describe_fanout``.
    """
    request = decode_body(_describe, body or b"{}")
    if not 1 <= request.limit <= MAX_LIMIT:
        raise BadRequest(f"limit: expected an integer from 1 to {MAX_LIMIT}, got {request.limit}")
    if request.pattern and request.topic is UNSET:
        raise BadRequest("pattern: expected a topic besides, which is the pattern")
    if request.cursor is not UNSET and request.cursor.removeprefix(" ").count(" ") != 1:
        raise BadRequest("cursor: expected that of a former reply")
    return request
