"""Payloads: from what an application hands over to JSON, and back.

A payload is bytes on the wire. Requests are JSON, which has text and no bytes; so bytes that are
UTF-8 travel as text, which costs nothing, and the others as base64, a third longer. Receivers see
the same bytes in both cases ("Envelope" in docs/protocol.rst).

Rules: pure. Bytes stay what they are: those that are no UTF-8 travel as base64.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from gearhorn.messages.codec import encode

# bytes, bytearray or memoryview as they are; text as UTF-8; any other object as JSON
Payload = bytes | bytearray | memoryview | str | object

Headers = Mapping[str, str]


class Request(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A ``fanout`` request ("fanout" in docs/protocol.rst); what is not given is left out."""

    topic: str
    payload: Any
    encoding: str | UnsetType = UNSET
    background: bool = False
    receipt: bool = False
    stream: bool = False
    timeout: float | UnsetType = UNSET
    quorum: int | str | UnsetType = UNSET
    unique: str | UnsetType = UNSET
    exclude: list[str] | UnsetType = UNSET
    priority: str = "normal"
    headers: Headers | UnsetType = UNSET
    expires: float | UnsetType = UNSET

    def with_headers(self, headers: Headers) -> Request:
        """Return the same request with these headers."""
        return msgspec.structs.replace(self, headers=headers or UNSET)


def request_of(
    topic: str,
    payload: Payload,
    *,
    unique: str | None = None,
    headers: Headers | None = None,
    exclude: Iterable[str] = (),
    priority: str = "normal",
    expires: float | None = None,
    background: bool = False,
    receipt: bool = False,
    stream: bool = False,
    timeout: float | None = None,
    quorum: int | str | None = None,
) -> Request:
    """Return a request for a message; what is None or empty is left out.

    Arguments: as in "fanout" in docs/protocol.rst; ``payload`` is bytes, text, or what can be JSON.

    Raises ``TypeError`` for a payload that is none of these, and for an ``exclude`` that is a text:
    its letters would be taken for client_ids.
    """
    if isinstance(exclude, str):
        raise TypeError(f"exclude: a list of client_ids, not {exclude!r}")
    value, encoding = (payload, UNSET) if isinstance(payload, str) else _json_of(payload)
    return Request(
        topic,
        value,
        encoding,
        background,
        receipt,
        stream,
        UNSET if timeout is None else timeout,
        UNSET if quorum is None else quorum,
        unique or UNSET,
        list(exclude) if exclude else UNSET,
        priority,
        headers or UNSET,
        UNSET if expires is None else expires,
    )


def _json_of(payload: Payload) -> tuple[Any, str | UnsetType]:
    """Return what stands for a payload in JSON, and how that is encoded."""
    if not isinstance(payload, bytes | bytearray | memoryview):
        return msgspec.Raw(encode(payload)), UNSET
    data = bytes(payload)
    try:
        return data.decode(), UNSET
    except UnicodeDecodeError:
        return data, "base64"  # as which msgspec encodes bytes


def bytes_of(payload: Payload | None) -> bytes:
    """Return an answer's bytes; raises ``TypeError`` where it cannot be JSON."""
    if payload is None:
        return b""
    if isinstance(payload, str):
        return payload.encode()
    if isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload)
    return encode(payload)


def data_of(message: Mapping[str, Any], key: str = "payload") -> bytes:
    """Return the bytes that JSON holds under ``key``, or under ``KEY_base64``."""
    text = message.get(key)
    if text is not None:
        return str(text).encode()
    return binascii.a2b_base64(message.get(f"{key}_base64") or "")


def json_of(data: bytes, type: Any = Any) -> Any:
    """Return a payload decoded from JSON; raises ``msgspec.DecodeError``."""
    return msgspec.json.decode(data, type=type)


def is_of(data: bytes, payload: Payload) -> bool:
    """Whether these bytes are what a payload is sent as: texts and bytes to the byte, other objects
    by what their JSON says. Raises ``TypeError`` for a payload that cannot be JSON."""
    expected = bytes_of(payload)
    if data == expected or isinstance(payload, str | bytes | bytearray | memoryview):
        return data == expected
    try:
        return bool(json_of(data) == json_of(expected))
    except msgspec.DecodeError:
        return False
