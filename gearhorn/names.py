"""Topic, client and queue names: the only place that joins, splits or judges them.

A queue is named ``TOPIC_CLIENTID``, and both parts may have underscores, so several pairs can make
the same name (``a_b`` and ``c``, ``a`` and ``b_c``). Another separator would not help, since every
character that a topic may have, a client_id may have too; and 0.0.5 used this one. So the store
lets only one pair own a name at a time, and ``splits_of`` says which others to ask for.

Rules: pure. docs/protocol.rst, "Names" has the rules for names; each refusal says which rule it
was.
"""

from __future__ import annotations

from collections.abc import Iterator

from gearhorn.errors import BadName, Reserved

MAX_NAME_BYTES = 255  # docs/protocol.rst, "Names"
MATCHMAKING = "__matchmaking"
GOSSIP = "__gossip"
SEGMENT, SOME, TAIL = ".", "*", ">"  # between segments; one segment; one or more, at the end
MAX_SEGMENTS = 16  # of a pattern: what bounds the trie of all patterns
_RESERVED_PREFIX = "__"
_PATTERN_MARK = " "  # which no topic can have
# gearmand's text protocol escapes nothing: U+0000-U+0020 and U+007F would break a line.
_FORBIDDEN = frozenset(map(chr, [*range(0x21), 0x7F]))


def list_name(topic: str, pattern: bool) -> str:
    """Return the name of a list of subscriptions: its topic, or its pattern behind a mark.

    So a literal topic that looks like a pattern and that pattern are two lists. The store's keys,
    what members tell each other, and whatever is kept by topic and client_id go by this name.
    """
    return _PATTERN_MARK + topic if pattern else topic


def is_pattern(name: str) -> bool:
    """Whether the name of a list is a pattern's."""
    return name.startswith(_PATTERN_MARK)


def shown_name(name: str) -> str:
    """Return the topic or the pattern that a list is of."""
    return name.removeprefix(_PATTERN_MARK)


def is_reserved(topic: str) -> bool:
    """Whether a topic is kept for gearhorn's workers; no pattern matches it then."""
    return topic.startswith(_RESERVED_PREFIX)


def queue_of(name: str, client_id: str) -> bytes:
    """Return the Gearman function that carries the copies of a subscription, given by the name of
    its list and its client_id."""
    return f"{name.removeprefix(_PATTERN_MARK)}_{client_id}".encode()


def client_of(name: str, queue: bytes) -> str:
    """Return the client_id of a queue that is known to belong to the list ``name``: from the name
    alone it could not be told where the topic ends."""
    return queue[len(name.removeprefix(_PATTERN_MARK).encode()) + 1 :].decode()


def splits_of(queue: bytes) -> Iterator[tuple[str, str]]:
    """Yield every pair of a list's name and a client_id that makes this queue name, of a topic and
    of a pattern, the shortest first."""
    text = queue.decode()
    at = text.find("_")
    while at != -1:
        topic, client_id = text[:at], text[at + 1 :]
        if _fits(topic) and _fits(client_id):
            yield topic, client_id
            yield list_name(topic, True), client_id
        at = text.find("_", at + 1)


def _fits(name: str) -> bool:
    return 0 < len(name.encode()) <= MAX_NAME_BYTES


def check_name(key: str, name: str) -> None:
    """Raise ``BadName`` unless ``name`` may be a topic or client_id; ``key`` says which.

    Bytes are counted and not characters, because gearmand bounds a function's name in bytes.
    """
    size = len(name.encode())
    if not size:
        raise BadName(f"{key} is empty; 1 to {MAX_NAME_BYTES} bytes of UTF-8 are allowed")
    if size > MAX_NAME_BYTES:
        raise BadName(f"{key} has {size} bytes; at most {MAX_NAME_BYTES} are allowed")
    if not _FORBIDDEN.isdisjoint(name):
        raise BadName(f"{key} has a space or control character (U+0000-U+0020, U+007F)")


def check_publish(topic: str) -> None:
    """Raise ``BadName`` or ``Reserved`` unless applications may publish to ``topic``."""
    check_name("topic", topic)
    if topic.startswith(_RESERVED_PREFIX):
        raise Reserved(f"topic {topic}: names that begin with __ are kept for gearhorn's workers")


def check_pattern(pattern: str) -> None:
    """Raise ``BadName`` or ``Reserved`` unless a name that may be a topic may be a pattern, too."""
    if is_reserved(pattern):
        raise Reserved(f"pattern {pattern}: topics that begin with __ are matched by no pattern")
    segments = pattern.split(SEGMENT)
    if len(segments) > MAX_SEGMENTS:
        raise BadName(
            f"topic: a pattern has at most {MAX_SEGMENTS} segments, this one has {len(segments)}"
        )
    if TAIL in segments[:-1]:
        raise BadName(f"topic: in a pattern {TAIL} may only be the last segment")


def check_subscription(topic: str, client_id: str, served: frozenset[bytes]) -> bytes:
    """Return the queue of a pair that applications may subscribe.

    ``served`` are the functions that gearhorn serves itself: a receiver there would take requests
    away from the workers. A queue may begin with ``__`` although its topic does not (topic ``_``,
    client_id beginning with ``_``), so the whole name is checked as well.
    Raises ``BadName`` or ``Reserved`` (docs/protocol.rst, "Names").
    """
    check_name("topic", topic)
    check_name("client_id", client_id)
    queue = queue_of(topic, client_id)
    if topic != GOSSIP and topic.startswith(_RESERVED_PREFIX):
        raise Reserved(f"topic {topic}: names that begin with __ are kept for gearhorn's workers")
    if topic != GOSSIP and queue.startswith(b"__"):
        raise Reserved(
            f"queue {queue.decode()}: names that begin with __ are kept for gearhorn's workers"
        )
    if queue in served:
        raise Reserved(f"queue {queue.decode()} is a function that gearhorn serves itself")
    return queue
