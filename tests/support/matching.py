"""Which topics a pattern matches: the rule of docs/protocol.rst, word for word and slow."""

from __future__ import annotations


def matches(pattern: str, topic: str) -> bool:
    """Whether a pattern matches a topic."""
    if topic.startswith("__"):
        return False
    wanted, there = pattern.split("."), topic.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(there) <= len(wanted):
            return False
        there = there[: len(wanted)]
    pairs = zip(wanted, there, strict=False)
    return len(wanted) == len(there) and all(own in ("*", other) for own, other in pairs)
