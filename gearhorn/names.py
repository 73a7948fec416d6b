"""Topic, client and queue names: the only place that joins, splits or judges them.

Rules: pure. The rules: docs/protocol.rst, "Names"; each refusal says which rule it was.
"""

from __future__ import annotations

from collections.abc import Iterator

from gearhorn.errors import BadName, Reserved

MAX_NAME_BYTES = 255  # docs/protocol.rst, "Names"
MATCHMAKING = "__matchmaking"
GOSSIP = "__gossip"
_RESERVED_PREFIX = "__"
# gearmand's text protocol escapes nothing: U+0000-U+0020 and U+007F would break a line.
_FORBIDDEN = frozenset(map(chr, [*range(0x21), 0x7F]))


def queue_of(topic: str, client_id: str) -> bytes:
    """Return the Gearman function that carries this subscription's copies."""
    return f"{topic}_{client_id}".encode()


def client_of(topic: str, queue: bytes) -> str:
    """Return the client_id of a queue that is known to belong to ``topic``."""
    return queue[len(topic.encode()) + 1 :].decode()


def splits_of(queue: bytes) -> Iterator[tuple[str, str]]:
    """Yield every (topic, client_id) pair that makes this queue name."""
    text = queue.decode()
    at = text.find("_")
    while at != -1:
        topic, client_id = text[:at], text[at + 1 :]
        if _fits(topic) and _fits(client_id):
            yield topic, client_id
        at = text.find("_", at + 1)


def _fits(name: str) -> bool:
    return 0 < len(name.encode()) <= MAX_NAME_BYTES


def check_name(key: str, name: str) -> None:
    """Raise ``BadName`` unless ``name`` may be a topic or client_id; ``key`` says which."""
    size = len(name.encode())
    if not size:
        raise BadName(f"{key} is empty; 1 to {MAX_NAME_BYTES} bytes of UTF-8 are allowed")
    if size > MAX_NAME_BYTES:
        raise BadName(f"{key} has {size} bytes; at most {MAX_NAME_BYTES} are allowed")
    if not _FORBIDDEN.isdisjoint(name):
        raise BadName(f"{key} has a space or control character (U+0000-U+0020, U+007F)")


def check_publish(topic: str) -> None:
    """Raise ``BadName`` or ``Reserved`` unless anybody may publish to ``topic``."""
    check_name("topic", topic)
    if topic.startswith(_RESERVED_PREFIX):
        raise Reserved(f"topic {topic}: names that begin with __ are kept for gearhorn's workers")


def check_subscription(topic: str, client_id: str, served: frozenset[bytes]) -> bytes:
    """Return the queue of a pair that anybody may subscribe.

    ``served`` are the functions that gearhorn serves itself.
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
