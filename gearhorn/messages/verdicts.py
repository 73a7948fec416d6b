"""Verdicts: what a receiver says about a message that it could not process.

The text is a receiver's last warning, or the text of its exception: the only words that every
Gearman library can send with a failure. Nearly always it is a reason for people. Two forms of it
ask for something ("What a receiver may ask for" in docs/protocol.rst).

Rules: pure. A text of another form is a reason, however close it comes: a receiver that has always
written such a thing must not have its messages parked by it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_RETRY_AFTER = re.compile(r"retry_after:\s*(\d{1,20}(?:\.\d{1,20})?(?:e[+-]?\d{1,2})?)\s*\Z", re.A)
_PARK = re.compile(r"park:\s*(?=\S)", re.A)


class Verdict(NamedTuple):
    """What a receiver says of a failed attempt.

    Attributes:
        reason: why, as it is kept and shown.
        retry_after_s: seconds until the next attempt; None where the receiver does not say.
        parks: the message is to be parked without another attempt.
    """

    reason: str
    retry_after_s: float | None = None
    parks: bool = False


def verdict_of(text: bytes, limit: int) -> Verdict:
    """Return what a receiver's text says.

    Arguments:
        text: as it was sent, empty where the receiver said nothing.
        limit: bytes of the reason that are kept.

    A ``retry_after`` is its own reason, since it gives no other.
    """
    words = text.decode(errors="replace")
    if found := _RETRY_AFTER.match(words):
        return Verdict(_cut(words.rstrip(), limit), retry_after_s=float(found[1]))
    if (found := _PARK.match(words)) and (reason := _cut(words[found.end() :].strip(), limit)):
        return Verdict(reason, parks=True)
    return Verdict(text[:limit].decode(errors="replace") or "failed")


def _cut(text: str, limit: int) -> str:
    """Return a text of at most ``limit`` bytes of UTF-8."""
    return text.encode()[:limit].decode(errors="replace")
