"""Payloads that bear the sequence of their message, and where to find it.

Rules: of ``SIZE`` bytes each, ASCII. The sequence is found in a plain copy and in an envelope,
since topics have no ``#``.
"""

from __future__ import annotations

SIZE = 100
_DIGITS = 8


def payload(sequence: int) -> str:
    """The payload of a message."""
    return f"#{sequence:0{_DIGITS}d}".ljust(SIZE, "x")


def sequence_of(body: bytes) -> int:
    """The sequence of the message that a body holds; raises ``ValueError`` where it has none."""
    at = body.index(b"#") + 1
    return int(body[at : at + _DIGITS])
