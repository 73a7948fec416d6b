"""A ``describe_fanout`` request and its reply (docs/protocol.rst, "describe_fanout").

The keys of the structs are those of the JSON, so their names are part of the protocol. A number
that is not known is null or absent, and not 0: an operator would believe the 0.

Rules: pure. A page is as long as the subscriptions on it, which the request bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from gearhorn.errors import BadRequest
from gearhorn.messages.codec import decode_body
from gearhorn.messages.logs import (
    DEFAULT_MAX_AGE_S,
    DEFAULT_MAX_BYTES,
    DEFAULT_MAX_MESSAGES,
)
from gearhorn.messages.peers import MemberState
from gearhorn.names import check_name, check_pattern

MAX_LIMIT = 10_000  # subscriptions in one description, or topics in one summary
Sort = Literal["name", "lag", "parked", "backlog", "drops"]


class Describe(msgspec.Struct, frozen=True):
    """A ``describe_fanout`` request, all of whose keys may be left out."""

    topic: str | UnsetType = UNSET  # UNSET: every topic
    limit: int = 100  # subscriptions
    # Of a former reply: "LIST CLIENT_ID", the last pair of its page. The name of a pattern's list
    # begins with a space, and no other name has one.
    cursor: str | UnsetType = UNSET
    summary: bool = False  # counts of each topic; ``limit`` is of topics then
    match: str | UnsetType = UNSET  # a pattern: only topics that it matches
    sort: Sort | UnsetType = UNSET  # the topics with most first; "name" where it is left out
    pattern: bool = False  # ``topic`` is one


class DescribedDurable(msgspec.Struct, frozen=True):
    """How far a durable subscription is, and its options (times in seconds)."""

    position: int  # the sequence up to which it has done with the log
    lag: int  # messages of the log behind the position
    attempts: int  # the highest number of failed ones that a message which fails now has had
    parked: int  # messages set aside
    expired: int  # messages skipped because their time was over, since it is durable
    skipped: int  # messages that ``latest`` passed by, likewise
    member: str | None  # that delivers for it; None where it is released, or read from
    term: int
    in_flight: int
    timeout: float
    max_attempts: int
    max_backoff: float
    batch: int
    pull: bool
    latest: bool | str
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


class Summarized(msgspec.Struct, frozen=True, omit_defaults=True):
    """The counts of one topic. What no job server told is left out."""

    subscriptions: int
    durable: int
    patterns: int  # that match it
    lag_max: int  # messages behind the log's last, of the durable subscription furthest behind
    parked: int
    drops: int
    paused: int
    backlog: int | None = None  # jobs on its queues
    receivers_missing: int | None = None  # subscriptions with jobs, and no receiver registered
    log: DescribedLog | None = None


class Summaries(msgspec.Struct, frozen=True):
    """Reply to a ``describe_fanout`` with ``summary``; topics are in the order asked for."""

    topics: dict[str, Summarized]
    cursor: str | None


class SummaryCursor(NamedTuple):
    """Where a page of summaries ended: in the order of ``sort``, at a topic that had ``number``."""

    sort: str
    number: int
    topic: str

    def __str__(self) -> str:
        return f"{self.sort} {self.number} {self.topic}"


def summary_cursor(request: Describe) -> SummaryCursor | None:
    """Return where the page before ended, None for the first; raises ``BadRequest``."""
    if request.cursor is UNSET:
        return None
    sort, _, rest = request.cursor.partition(" ")
    count, _, topic = rest.partition(" ")
    is_one = count.isascii() and count.isdigit() and len(count) < 16 and " " not in topic
    if not is_one or sort != ("name" if request.sort is UNSET else request.sort):
        raise BadRequest("cursor: expected that of a former reply with the same sort")
    return SummaryCursor(sort, int(count), topic)


def _check_summary(request: Describe) -> None:
    """Raise ``BadRequest`` or ``BadName`` for keys that do not go together in a summary."""
    if request.pattern:
        raise BadRequest("pattern: expected no summary besides, which has topics only")
    if request.match is not UNSET:
        if request.topic is not UNSET:
            raise BadRequest("match: expected no topic besides")
        check_name("match", request.match)
        check_pattern(request.match)
    summary_cursor(request)


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
    if request.summary:
        _check_summary(request)
        return request
    for key, value in (("match", request.match), ("sort", request.sort)):
        if value is not UNSET:
            raise BadRequest(f'{key}: expected "summary": true besides')
    if request.cursor is not UNSET and request.cursor.removeprefix(" ").count(" ") != 1:
        raise BadRequest("cursor: expected that of a former reply")
    return request


def log_of(fields: dict[str, str]) -> DescribedLog:
    """Describe a log as the store keeps it. ``bytes`` counts all that was ever logged and ``floor``
    what of that is gone; caps that were never set are the usual ones."""
    return DescribedLog(
        fields["epoch"],
        int(fields["first"]),
        int(fields["last"]),
        int(fields["bytes"]) - int(fields["floor"]),
        int(fields["dropped"]),
        float(fields.get("max_age", DEFAULT_MAX_AGE_S)),
        int(fields.get("max_messages", DEFAULT_MAX_MESSAGES)),
        int(fields.get("max_bytes", DEFAULT_MAX_BYTES)),
    )
