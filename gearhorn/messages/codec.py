"""JSON in and out, with refusals that name the key.

msgspec decodes and checks a request in one pass, against a struct of the request's keys. Its errors
are precise, but they are made for Python programmers: "Expected `int | str`, got `float` - at
`$.quorum`". A caller in PHP or Perl gets "quorum: expected integer or string, got number"
(docs/protocol.rst, "Requests, replies, errors"). Checks of ranges that msgspec could make too stand
in the modules of the requests, since its text for them would not say which range.

Rules: pure. What msgspec says is put into the terms of docs/protocol.rst here and nowhere else.
"""

from __future__ import annotations

import codecs
import re
from typing import Any, Final, TypeVar

import msgspec

from gearhorn.errors import BadRequest

# Of msgspec's texts: where in the request something is wrong, and which key is missing.
_WHERE = re.compile(r"(.*) - at `\$\.?(.*)`\Z", re.DOTALL)
_FIELD = re.compile(r"Object missing required field `(.*)`\Z")
# Half a surrogate pair makes a text that has no UTF-8. msgspec says "Input data was truncated" of
# it, by which a caller whose JSON library writes such halves would search in the wrong place.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_SURROGATES = "; strings are Unicode text, which has no surrogates but in pairs"
_PIECE_BYTES = 64 * 1024  # of a long request, decoded at a time to check that it is UTF-8
_TYPE = re.compile(r"`([a-z]+(?: \| [a-z]+)*)`")
_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}  # JSON's names
_MAX_TEXT = 500  # characters of a refusal, which may quote the request
_SAFE_DEPTH = 500  # levels of arrays and objects; Python's recursion limit decides about more
_CHOICES = {  # what msgspec does not say of a key that takes certain texts only
    "priority": '"low", "normal" or "high"',
    "encoding": '"base64"',
    "overflow": '"drop_new", "drop_old" or "unsubscribe"',
    "durable.start": '"new", "all", "last" or an object with sequence or window',
    "sort": '"name", "lag", "parked", "backlog" or "drops"',
    "action": '"list", "redrive" or "purge"',
}
_Body = TypeVar("_Body")

encode: Final = msgspec.json.encode


def decode_body(decoder: msgspec.json.Decoder[_Body], body: bytes) -> _Body:
    """Decode a request.

    Keys that the struct does not have are skipped, so that a request for a later release is taken
    (docs/protocol.rst, "Requests, replies, errors"). msgspec does not check what it skips, hence
    the check for UTF-8 in front: a request is valid or not as a whole. Most are ASCII, which one
    scan tells.

    Raises ``BadRequest``.
    """
    if not body:
        raise BadRequest("the job has no arguments; expected a JSON object")
    try:
        if not body.isascii():
            _check_utf8(body)
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise BadRequest(_explain(str(error))[:_MAX_TEXT]) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        hint = _SURROGATES if _SURROGATE.search(body) else ""
        raise BadRequest(f"not a JSON object in UTF-8: {error}{hint}") from None
    except RecursionError:
        raise BadRequest(f"nested too deeply; {_SAFE_DEPTH} levels are always taken") from None


def _check_utf8(body: bytes) -> None:
    """Raise ``UnicodeDecodeError`` unless ``body`` is UTF-8.

    A long one is checked piece by piece. As one string it would take up to four bytes for each
    byte, since a single character beyond the basic plane makes all of them so wide. A character
    that the end of a piece cuts is left to the next one: ``taken`` does not count it.
    """
    if len(body) <= _PIECE_BYTES:
        body.decode()
        return
    view, at = memoryview(body), 0
    while at < len(body):
        end = at + _PIECE_BYTES
        _, taken = codecs.utf_8_decode(view[at:end], "strict", end >= len(body))
        at += taken


def _explain(text: str) -> str:
    """Return msgspec's text with the key in front: "payload: missing", "timeout: expected ...".
    An error of the request as a whole has no key."""
    if missing := _FIELD.match(text):
        return f"{missing[1]}: missing"
    if where := _WHERE.match(text):
        what, key = where[1][:1].lower() + where[1][1:], where[2]
        if what.startswith("invalid enum value") and key in _CHOICES:
            what = f"expected {_CHOICES[key]}, got {what[19:]}"  # behind "invalid enum value "
        return f"{key}: {_TYPE.sub(_as_json_types, what)}"
    return _TYPE.sub(_as_json_types, text[:1].lower() + text[1:])


def _as_json_types(types: re.Match[str]) -> str:
    """Return Python's names of types as JSON's: "`int | str`" as "integer or string"."""
    return " or ".join(_TYPES.get(name, name) for name in types[1].split(" | "))


def as_text(payload: bytes) -> dict[str, Any]:
    """Return the key and the value that hold a payload in JSON: ``payload``, or
    ``payload_base64`` where it is not UTF-8 (docs/protocol.rst, "Envelope"). They are the keyword
    argument of a struct that has both keys, UNSET by default."""
    try:
        return {"payload": payload.decode()}
    except UnicodeDecodeError:
        return {"payload_base64": payload}  # as which msgspec encodes bytes
