"""JSON in and out, with refusals that name the key.

Rules: pure. What msgspec says is put into the words of docs/protocol.rst here and nowhere else.
"""

from __future__ import annotations

import codecs
import re
from typing import Any, Final, TypeVar

import msgspec

from gearhorn.errors import BadRequest

_WHERE = re.compile(r"(.*) - at `\$\.?(.*)`\Z", re.DOTALL)
_FIELD = re.compile(r"Object missing required field `(.*)`\Z")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_SURROGATES = "; strings are Unicode text, which has no surrogates but in pairs"
_PIECE_BYTES = 64 * 1024
_TYPE = re.compile(r"`([a-z]+(?: \| [a-z]+)*)`")
_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}  # JSON's words
_MAX_WORDS = 500  # of a refusal, which may quote the request
_SAFE_DEPTH = 500  # of the levels of arrays and objects
_WORDS = {  # what msgspec does not say of a key that takes certain words only
    "priority": '"low", "normal" or "high"',
    "encoding": '"base64"',
    "overflow": '"drop_new", "drop_old" or "unsubscribe"',
    "durable.start": '"new", "all", "last" or an object with sequence or window',
    "action": '"list", "redrive" or "purge"',
}
_Body = TypeVar("_Body")

encode: Final = msgspec.json.encode


def decode_body(decoder: msgspec.json.Decoder[_Body], body: bytes) -> _Body:
    """Decode a request; raises ``BadRequest``."""
    if not body:
        raise BadRequest("the job has no arguments; expected a JSON object")
    try:
        if not body.isascii():  # msgspec does not look inside what it skips
            _check_utf8(body)
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise BadRequest(_explain(str(error))[:_MAX_WORDS]) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        words = _SURROGATES if _SURROGATE.search(body) else ""
        raise BadRequest(f"not a JSON object in UTF-8: {error}{words}") from None
    except RecursionError:
        raise BadRequest(f"nested too deeply; {_SAFE_DEPTH} levels are always taken") from None


def _check_utf8(body: bytes) -> None:
    """Raise ``UnicodeDecodeError`` unless ``body`` is UTF-8; of a long one without a string of
    the same length, of which each character may take four bytes."""
    if len(body) <= _PIECE_BYTES:
        body.decode()
        return
    view, at = memoryview(body), 0
    while at < len(body):
        end = at + _PIECE_BYTES
        _, taken = codecs.utf_8_decode(view[at:end], "strict", end >= len(body))
        at += taken


def _explain(text: str) -> str:
    """Put the key first in msgspec's words: "payload: missing", "timeout: expected ..."."""
    if missing := _FIELD.match(text):
        return f"{missing[1]}: missing"
    if where := _WHERE.match(text):
        what, key = where[1][:1].lower() + where[1][1:], where[2]
        if what.startswith("invalid enum value") and key in _WORDS:
            what = f"expected {_WORDS[key]}, got {what[19:]}"
        return f"{key}: {_TYPE.sub(_as_json_types, what)}"
    return _TYPE.sub(_as_json_types, text[:1].lower() + text[1:])


def _as_json_types(types: re.Match[str]) -> str:
    return " or ".join(_TYPES.get(name, name) for name in types[1].split(" | "))


def as_text(payload: bytes) -> dict[str, Any]:
    """Return the key and the value that hold a payload in JSON: ``payload``, or
    ``payload_base64`` where it is not UTF-8 (docs/protocol.rst, "Durable topics")."""
    try:
        return {"payload": payload.decode()}
    except UnicodeDecodeError:
        return {"payload_base64": payload}  # as which msgspec encodes bytes
