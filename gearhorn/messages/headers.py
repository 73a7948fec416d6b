"""Headers: names and texts that travel with a message, beside its payload.

A trace's id, the kind of the payload, the name of a schema: what a receiver or a tool in between
wants to read without knowing the payload.

Rules: pure. See docs/protocol.rst, "Headers". The bounds keep a header line of any other protocol
possible: no control character, no case that counts, a few KiB.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from gearhorn.errors import BadRequest

MAX_HEADERS = 64
MAX_HEADER_BYTES = 8192  # of all names and values, in UTF-8
MAX_HEADER_NAME = 64
_NAME = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_HEADER_NAME}}}\Z")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")  # Unicode's "Cc"
_QUOTED = 100  # characters of a name that a refusal has


def checked_headers(given: Mapping[str, str]) -> tuple[dict[str, str], int]:
    """Return headers as they are kept, with names in lower case, and what they count in bytes.

    Raises ``BadRequest``.
    """
    if len(given) > MAX_HEADERS:
        raise BadRequest(f"headers: expected at most {MAX_HEADERS} names, got {len(given)}")
    headers: dict[str, str] = {}
    for name, value in given.items():
        if not _NAME.match(name):
            raise BadRequest(
                f"headers: expected names of 1 to {MAX_HEADER_NAME} letters, digits, '.', '_' or "
                f"'-' of ASCII, got {name[:_QUOTED]!r}"
            )
        if _CONTROL.search(value):
            raise BadRequest(f"headers: expected no control character in the value of {name!r}")
        key = name.lower()
        if key in headers:
            raise BadRequest(f"headers: expected one name whatever its case, got {name!r} again")
        headers[key] = value
    size = bytes_of(headers)
    if size > MAX_HEADER_BYTES:
        raise BadRequest(
            f"headers: expected at most {MAX_HEADER_BYTES} bytes of names and values, got {size}"
        )
    return headers, size


def is_header_name(name: str) -> bool:
    """Whether a header may have this name."""
    return _NAME.match(name) is not None


def bytes_of(headers: Mapping[str, str]) -> int:
    """Return what headers count where bytes are bounded: names and values in UTF-8."""
    return sum(len(name) + len(value.encode()) for name, value in headers.items())
