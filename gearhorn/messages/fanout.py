"""A ``fanout`` request: the message, its quorum and its envelope.

Theory of operation. This is the one request that comes thousands of times a second, and the one
that may be 64 MiB long; it is decoded in two ways.

A *short* one, up to ``MAX_VALUE_BYTES``, is decoded in one pass into ``_Body``. The payload stays a
piece of the request (``msgspec.Raw``), because the bytes of a copy are those that stand there: a
string without escapes is cut out from between its quotes, and any other value is copied as it is.

A *long* one may be many times as long as what it carries: millions of names in ``exclude``, or an
array under a key that is ignored. Decoding would make Python objects of many times the size of its
text before anything can be refused. So it is first cut into the JSON texts of its keys
(``_Texts``), which copies nothing. Each text is measured against what its key may have, and only
those that pass are joined to a short request, which is decoded like any other. The payload is taken
from its text alone, and refused by its length before it is unescaped where that is certain.

Rules: pure. Neither a key that is ignored nor one that is refused becomes Python objects. A short
and a long request mean the same.
"""

from __future__ import annotations

import binascii
import re
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from gearhorn.errors import BadRequest, TooLarge
from gearhorn.messages.codec import as_text, decode_body, encode
from gearhorn.messages.headers import MAX_HEADER_BYTES, bytes_of, checked_headers
from gearhorn.names import MAX_NAME_BYTES

Priority = Literal["low", "normal", "high"]

MAX_TIMEOUT_S = 86_400  # a day: a caller that has left keeps its place no longer
MAX_EXPIRES_S = 10**9  # thirty years
MAX_EXCLUDED = 10_000  # names in ``exclude``
MAX_EXCLUDE_BYTES = 4 * 1024 * 1024  # of their JSON text
MAX_VALUE_BYTES = 64 * 1024  # of the JSON text of any other key but ``payload``
PLAIN_NAMES_BYTES = 128  # of ``unique``, ``exclude`` and ``headers`` that do not count
_MAX_NAMES_BYTES = MAX_EXCLUDE_BYTES + MAX_VALUE_BYTES + MAX_HEADER_BYTES  # of all three
_QUOTE, _BACKSLASH = b'"\\'  # numbers: bytes are searched for one more quickly than for a text
_ESCAPE_BYTES = 6  # at most, of a JSON string for one byte of UTF-8: \u0041
# A percentage of a quorum, and what is false of ``background`` as JSON text.
_PERCENT = re.compile(r"(\d{1,9})%\Z", re.ASCII)
_FALSE = re.compile(rb'(?:false|null|""|\[\s*\]|\{\s*\}|-?0(?:\.0*)?(?:[eE][+-]?[0-9]+)?)\Z')
_NO_NAMES: frozenset[str] = frozenset()  # shared by the messages that exclude no client_id
_text = msgspec.json.Decoder(str)


class _Body(msgspec.Struct, frozen=True, gc=False):
    """The keys of a request, with the types and defaults of docs/protocol.rst, "fanout".
    ``background`` takes anything: its truth is what counts."""

    topic: str
    payload: msgspec.Raw
    unique: str | UnsetType = UNSET
    background: Any = False
    timeout: float = 30.0
    quorum: int | str | UnsetType = UNSET
    receipt: bool = False
    stream: bool = False
    exclude: list[str] | UnsetType = UNSET
    priority: Priority = "normal"
    encoding: Literal["base64"] | UnsetType = UNSET
    headers: dict[str, str] | UnsetType = UNSET
    expires: float | UnsetType = UNSET


class _Texts(msgspec.Struct, gc=False):
    """The same keys as JSON text that is not decoded. msgspec has checked that it is JSON."""

    topic: msgspec.Raw | UnsetType = UNSET
    payload: msgspec.Raw | UnsetType = UNSET
    unique: msgspec.Raw | UnsetType = UNSET
    background: msgspec.Raw | UnsetType = UNSET
    timeout: msgspec.Raw | UnsetType = UNSET
    quorum: msgspec.Raw | UnsetType = UNSET
    receipt: msgspec.Raw | UnsetType = UNSET
    stream: msgspec.Raw | UnsetType = UNSET
    exclude: msgspec.Raw | UnsetType = UNSET
    priority: msgspec.Raw | UnsetType = UNSET
    encoding: msgspec.Raw | UnsetType = UNSET
    headers: msgspec.Raw | UnsetType = UNSET
    expires: msgspec.Raw | UnsetType = UNSET


class Fanout(msgspec.Struct, frozen=True, gc=False):
    """One message to copy, decoded once (docs/protocol.rst, "fanout").

    It holds no reference to the request: what is left of a long one is freed. ``gc=False`` keeps it
    out of the garbage collector's sight, of which tens of thousands wait in the foreground.
    ``unique`` is None where it is empty, ``quorum`` a number, "N%" or None (all), ``payload`` the
    bytes of a copy.

    ``headers`` are None where there are none; ``header_bytes`` is what they count. ``expires_s`` is
    how long the message may wait, 0.0 is without end. It begins when a worker takes the job, which
    notes the end (``expiring``): ``expires_ms`` on the members' clock, and for receivers, which do
    not know that clock, ``expires_at`` in Unix time. Both are 0 until then.
    """

    topic: str
    payload: bytes
    unique: str | None
    background: bool
    timeout_s: float
    quorum: int | str | None
    receipt: bool
    exclude: frozenset[str]
    priority: Priority
    headers: dict[str, str] | None = None
    header_bytes: int = 0
    expires_s: float = 0.0
    expires_ms: int = 0
    expires_at: float = 0.0
    stream: bool = False

    @property
    def size(self) -> int:
        """What a copy counts where bytes are bounded: payload and headers."""
        return len(self.payload) + self.header_bytes

    def without_payload(self) -> Fanout:
        """Return the same message for parts that need its bytes no more: a fan-out that a quorum
        has answered and whose copies are still out."""
        return msgspec.structs.replace(self, payload=b"", headers=None, header_bytes=0)

    def is_expired(self, clock_ms: int) -> bool:
        """Whether the message's time is over at this reading of the members' clock."""
        return 0 < self.expires_ms <= clock_ms

    def expiring(self, clock_ms: int, at: float) -> Fanout:
        """Return the same message with the end of its time, which begins now.

        Arguments:
            clock_ms: the members' clock.
            at: Unix time in seconds.
        """
        return msgspec.structs.replace(
            self,
            expires_ms=clock_ms + max(1, int(self.expires_s * 1000)),
            expires_at=at + self.expires_s,
        )


class _Envelope(msgspec.Struct, frozen=True):
    """What a receiver gets instead of the bare payload (docs/protocol.rst, "Envelope")."""

    topic: str
    at: float
    unique: str | UnsetType = UNSET
    headers: dict[str, str] | UnsetType = UNSET
    expires_at: float | UnsetType = UNSET
    payload: str | UnsetType = UNSET
    payload_base64: bytes | UnsetType = UNSET


_body = msgspec.json.Decoder(_Body)
_texts = msgspec.json.Decoder(_Texts)


def decode_fanout(body: bytes, max_payload: int) -> Fanout:
    """Decode a ``fanout`` request.

    The payload comes first: a long one is refused by its length, before anything is made of the
    rest. Ranges and quorum follow. What is seldom there
    (headers, an end of the message's time, exclusions of a message near the limit) is behind one
    comparison each: a plain request pays for none of it.

    Arguments:
        body: the arguments of the job.
        max_payload: in bytes, of the payload as the copies carry it.

    Raises ``BadRequest`` naming the key, or ``TooLarge``.
    """
    if len(body) <= MAX_VALUE_BYTES:
        raw = decode_body(_body, body)
        payload = _payload(bytes(raw.payload), raw.encoding)
    else:
        raw, text = _decode_long(body)
        payload = _long_payload(text, raw.encoding, max_payload)
    size = len(payload)
    if size > max_payload:
        _check_size(size, max_payload)
    if not 0 < raw.timeout <= MAX_TIMEOUT_S:
        raise BadRequest(
            f"timeout: expected seconds > 0 and <= {MAX_TIMEOUT_S}, got {raw.timeout:g}"
        )
    if size > max_payload - _MAX_NAMES_BYTES and (raw.unique or raw.exclude or raw.headers):
        _check_kept(size, raw, max_payload)
    message = Fanout(
        raw.topic,
        payload,
        raw.unique or None,
        bool(raw.background),
        raw.timeout,
        None if raw.quorum is UNSET else _quorum(raw.quorum),
        raw.receipt,
        _excluded(raw.exclude) if raw.exclude else _NO_NAMES,
        raw.priority,
    )
    if raw.headers is UNSET and raw.expires is UNSET and not raw.stream:  # as nearly always
        return message
    return _with_seldom(message, raw)


def _with_seldom(message: Fanout, raw: _Body) -> Fanout:
    """Return a message with what few requests give: headers, a time, a stream of answers; raises
    ``BadRequest``."""
    headers, size = checked_headers(raw.headers) if raw.headers else (None, 0)
    expires_s = 0.0 if raw.expires is UNSET else raw.expires
    if raw.expires is not UNSET and not 0 < expires_s <= MAX_EXPIRES_S:
        raise BadRequest(f"expires: expected seconds > 0 and <= {MAX_EXPIRES_S}, got {expires_s:g}")
    return msgspec.structs.replace(
        message, headers=headers, header_bytes=size, expires_s=expires_s, stream=raw.stream
    )


def _check_kept(size: int, raw: _Body, max_payload: int) -> None:
    """Raise ``TooLarge`` where what is kept besides a payload of ``size`` bytes makes a message too
    large. A log entry holds all of it, so it counts; a few bytes do not, so that a payload of just
    the limit may have a ``unique``."""
    excluded = raw.exclude or ()
    kept = sum(len(name.encode()) for name in (raw.unique or "", *excluded))
    kept += bytes_of(raw.headers or {})
    if size + kept > max_payload and kept > PLAIN_NAMES_BYTES:
        raise TooLarge(
            f"payload, unique, exclude and headers of {size + kept} bytes are over --max-payload "
            f"{max_payload}"
        )


def _decode_long(body: bytes) -> tuple[_Body, msgspec.Raw]:
    """Decode a request that is longer than any key but ``payload`` and ``exclude`` may be.

    Return its keys, with a 0 for the payload, and the payload's text. That a payload is missing is
    found by the second decoding, like any other error, and named in the same way.
    Raises ``BadRequest``.
    """
    texts = decode_body(_texts, body)
    kept = []
    for key in texts.__struct_fields__:
        value = getattr(texts, key)
        if value is not UNSET:
            kept.append(b'"%b":%b' % (key.encode(), _checked(key, value)))
    raw = decode_body(_body, b"{%b}" % b",".join(kept))
    assert texts.payload is not UNSET
    return raw, texts.payload


def _checked(key: str, text: msgspec.Raw) -> bytes | msgspec.Raw:
    """Return what stands for the text of a key; raises ``BadRequest`` where it is too long.

    A long ``background`` is decided by its text, since any value is allowed and none is refused.
    The names of ``exclude`` are counted by their quotes, two for each, without decoding them;
    escaped quotes are taken off. A backslash before a closing quote makes the count too low, and
    ``_excluded`` counts for certain.
    """
    size = memoryview(text).nbytes
    if key == "payload":
        return b"0"  # it is taken as it is
    if key == "background" and size > MAX_VALUE_BYTES:
        return b"false" if _FALSE.match(text) else b"true"
    if key == "exclude":
        if size > MAX_EXCLUDE_BYTES:
            raise BadRequest(f"exclude: expected at most {MAX_EXCLUDE_BYTES} bytes, got {size}")
        whole = bytes(text)
        if whole.count(b'"') - whole.count(b'\\"') > 2 * MAX_EXCLUDED:
            raise BadRequest(f"exclude: expected at most {MAX_EXCLUDED} names, got more")
    elif size > MAX_VALUE_BYTES:
        raise BadRequest(f"{key}: expected at most {MAX_VALUE_BYTES} bytes, got {size}")
    return text


def _excluded(names: list[str]) -> frozenset[str]:
    """Return the names that a client can have: one that is too long excludes no client, and is not
    kept. Raises ``BadRequest`` where there are too many."""
    if len(names) > MAX_EXCLUDED:
        raise BadRequest(f"exclude: expected at most {MAX_EXCLUDED} names, got {len(names)}")
    return frozenset(name for name in names if len(name.encode()) <= MAX_NAME_BYTES)


def _quorum(quorum: int | str) -> int | str:
    """Return a quorum as it was given; raises ``BadRequest`` where it is none. What it means is
    known only with the number of copies (``copies_needed``)."""
    if quorum >= 1 if isinstance(quorum, int) else _PERCENT.match(quorum):
        return quorum
    raise BadRequest(f'quorum: expected an integer >= 1 or "N%", got {quorum!r:.100}')


def _payload(raw: bytes, encoding: str | UnsetType) -> bytes:
    """Return what the copies carry: a string's UTF-8, other values as their JSON text. A string
    without a backslash is its own UTF-8. Raises ``BadRequest``."""
    if raw[0] != _QUOTE:
        if encoding is not UNSET:
            raise BadRequest("payload: expected a string of base64, as encoding says")
        return raw  # msgspec has checked that it is JSON
    if _BACKSLASH in raw:
        return _unescaped(raw, encoding)
    return raw[1:-1] if encoding is UNSET else _from_base64(raw[1:-1])


def _long_payload(text: msgspec.Raw, encoding: str | UnsetType, limit: int) -> bytes:
    """Return the same of a payload that may be much longer than ``limit``, without a copy where it
    is. Each escape is one byte of UTF-8 at least, and six of JSON at most; so the escapes give a
    minimum of what the string can come to, and base64 has three bytes for each four, less padding.

    Raises ``BadRequest``, and ``TooLarge`` where that minimum is over ``limit``.
    """
    view = memoryview(text)
    if bytes(view[:1]) != b'"':
        _check_size(view.nbytes, limit)
        return _payload(bytes(view), encoding)
    escapes = bytes(view).count(b"\\")
    minimum = view.nbytes - 2 - (_ESCAPE_BYTES - 1) * escapes
    _check_size(minimum if encoding is UNSET else minimum // 4 * 3 - 2, limit, "at least ")
    if escapes:
        return _unescaped(text, encoding)
    string = bytes(view[1:-1])
    return string if encoding is UNSET else _from_base64(string)


def _unescaped(raw: bytes | msgspec.Raw, encoding: str | UnsetType) -> bytes:
    """Return what a string with escapes stands for; raises ``BadRequest``."""
    try:
        string = _text.decode(raw).encode()
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise BadRequest(f"payload: {error}") from None
    return string if encoding is UNSET else _from_base64(string)


def _from_base64(string: bytes) -> bytes:
    """Return what base64 stands for; raises ``BadRequest``. The length is checked apart, for a text
    that says what is wrong."""
    if len(string) % 4:
        raise BadRequest("payload: not base64: its length is no multiple of four")
    try:
        return binascii.a2b_base64(string, strict_mode=True)
    except binascii.Error as error:
        raise BadRequest(f"payload: not base64: {error}") from None


def _check_size(size: int, limit: int, about: str = "") -> None:
    """Raise ``TooLarge`` where a payload is over ``limit``; ``about`` says that ``size`` is no
    exact number."""
    if size > limit:
        raise TooLarge(f"payload of {about}{size} bytes is over --max-payload {limit}")


def copies_needed(quorum: int | str | None, copies: int) -> int:
    """Return how many receivers must succeed out of ``copies`` (docs/protocol.rst, "fanout").

    ``quorum`` is a number, "N%" or None, which means all. A percentage is rounded up and is 1 at
    least, so that a quorum of none never succeeds by itself. More than there are means all.
    """
    if quorum is None:
        return copies
    if isinstance(quorum, str):
        quorum = max(1, -(-int(quorum[:-1]) * copies // 100))
    return min(quorum, copies)


def envelope(message: Fanout, at: float) -> bytes:
    """Return the arguments of a copy for a subscription with ``envelope``.

    ``at`` is Unix time in seconds; it informs and decides nothing.
    """
    return encode(
        _Envelope(
            message.topic,
            at,
            message.unique or UNSET,
            message.headers or UNSET,
            message.expires_at or UNSET,
            **as_text(message.payload),
        )
    )
