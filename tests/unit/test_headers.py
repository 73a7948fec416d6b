"""Headers and the end of a message's time: what is taken, what is kept, and what it counts."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from gearhorn.errors import BadRequest, TooLarge
from gearhorn.messages.codec import encode
from gearhorn.messages.fanout import decode_fanout, envelope
from gearhorn.messages.headers import MAX_HEADER_BYTES, MAX_HEADERS
from gearhorn.messages.logs import Info, Parked, decode_info, decode_parked, encode_parked
from gearhorn.store.log import Entry

LIMIT = 8 * 1024 * 1024


def request(**keys: Any) -> bytes:
    return json.dumps({"topic": "t", "payload": "p"} | keys).encode()


def test_names_are_kept_in_lower_case() -> None:
    message = decode_fanout(request(headers={"Trace-Parent": "00-A", "x._9": "ü"}), LIMIT)
    assert message.headers == {"trace-parent": "00-A", "x._9": "ü"}
    assert message.header_bytes == len("trace-parent") + len("00-A") + len("x._9") + 2
    assert message.size == 1 + message.header_bytes
    kept = message.without_payload()
    assert (kept.headers, kept.size) == (None, 0)


def test_without_headers_there_are_none() -> None:
    for body in (request(), request(headers={})):
        message = decode_fanout(body, LIMIT)
        assert (message.headers, message.header_bytes, message.expires_s) == (None, 0, 0.0)


@pytest.mark.parametrize("is_long", [False, True])
@pytest.mark.parametrize(
    ("headers", "words"),
    [
        (["a"], "expected object, got array"),
        ({"a": 1}, "expected string, got integer"),
        ({"a": None}, "expected string, got null"),
        ({"": "x"}, "expected names of 1 to 64"),
        ({"a b": "x"}, "expected names of 1 to 64"),
        ({"ä": "x"}, "expected names of 1 to 64"),
        ({"a\n": "x"}, "expected names of 1 to 64"),
        ({"n" * 65: "x"}, "expected names of 1 to 64"),
        ({"a": "x", "A": "x"}, "expected one name whatever its case, got 'A' again"),
        ({"a": "x\n"}, "no control character in the value of 'a'"),
        ({"a": "\0"}, "no control character in the value of 'a'"),
        ({"a": "\x7f"}, "no control character in the value of 'a'"),
        ({"a": "\x85"}, "no control character in the value of 'a'"),
        ({f"h{n}": "" for n in range(65)}, "expected at most 64 names, got 65"),
        (
            {"a": "x" * MAX_HEADER_BYTES},
            "expected at most 8192 bytes of names and values, got 8193",
        ),
        ({"a": "ü" * 4096}, "expected at most 8192 bytes of names and values, got 8193"),
    ],
)
def test_bad_headers_are_refused(headers: Any, words: str, is_long: bool) -> None:
    payload = "p" * (100_000 if is_long else 1)
    with pytest.raises(BadRequest, match=r"^bad_request: headers") as refusal:
        decode_fanout(request(headers=headers, payload=payload), LIMIT)
    assert words in str(refusal.value)


def test_the_most_that_is_taken() -> None:
    room = MAX_HEADER_BYTES - sum(len(f"h{n}") for n in range(MAX_HEADERS))
    headers = {f"h{n}": "" for n in range(MAX_HEADERS)} | {"h0": "x" * room}
    assert decode_fanout(request(headers=headers), LIMIT).header_bytes == MAX_HEADER_BYTES
    name = "n" * 64
    assert decode_fanout(request(headers={name: ""}), LIMIT).headers == {name: ""}


def test_headers_count_with_the_payload() -> None:
    body = request(payload="p" * 1000, headers={"a": "x" * 127})
    assert decode_fanout(body, 1000).size == 1128  # so much does not count
    body = request(payload="p" * 1000, headers={"a": "x" * 128})
    with pytest.raises(TooLarge, match="payload, unique, exclude and headers of 1129 bytes"):
        decode_fanout(body, 1000)
    assert decode_fanout(body, 1129).size == 1129


@pytest.mark.parametrize("expires", [0, -1, 1e9 + 1, 1e300, "5", None, True, [1]])
def test_a_bad_time_is_refused(expires: Any) -> None:
    with pytest.raises(BadRequest, match=r"^bad_request: expires: expected "):
        decode_fanout(request(expires=expires), LIMIT)


def test_the_time_begins_when_it_is_said_to() -> None:
    message = decode_fanout(request(expires=2.5), LIMIT)
    assert (message.expires_s, message.expires_ms, message.expires_at) == (2.5, 0, 0.0)
    begun = message.expiring(1000, 50.0)
    assert (begun.expires_ms, begun.expires_at) == (3500, 52.5)
    shortest = decode_fanout(request(expires=1e-9), LIMIT).expiring(1000, 50.0)
    assert shortest.expires_ms == 1001  # it has not passed when it begins


def test_an_envelope_bears_them() -> None:
    plain = envelope(decode_fanout(request(), LIMIT), 1.5)
    assert plain == b'{"topic":"t","at":1.5,"payload":"p"}'
    message = decode_fanout(request(headers={"A": "b"}, expires=2), LIMIT).expiring(0, 50.0)
    assert json.loads(envelope(message, 1.5)) == {
        "topic": "t", "at": 1.5, "headers": {"a": "b"}, "expires_at": 52.0, "payload": "p",
    }  # fmt: skip


def test_what_the_log_keeps_has_them_only_where_there_are_any() -> None:
    assert encode(Info(1.5)) == b'{"at":1.5}'
    assert decode_info(b'{"at":1.5,"unique":"u"}') == Info(1.5, "u")  # of a former release
    info = Info(1.5, headers={"a": "b"}, expires_ms=1, expires_at=2.5)
    assert json.loads(encode(info)) == {
        "at": 1.5, "headers": {"a": "b"}, "expires_ms": 1, "expires_at": 2.5,
    }  # fmt: skip
    assert decode_info(encode(info)) == info


def test_a_parked_message_has_them() -> None:
    trouble = {"attempts": 1, "first_at": 1.0, "at": 2.0, "error": "no"}
    former = {"epoch": "e", "trouble": trouble, "info": {"at": 1.5}, "payload": b"p"}
    assert decode_parked(msgspec.msgpack.encode(former)).info == Info(1.5)  # of a former release
    info = Info(1.5, headers={"a": "ü"}, expires_ms=1, expires_at=2.5)
    parked = Parked("e", decode_parked(msgspec.msgpack.encode(former)).trouble, info, b"p")
    assert decode_parked(encode_parked(parked)) == parked


def test_an_entry_counts_what_is_kept_with_it() -> None:
    assert Entry(1, "e", Info(0.0), b"xyz").size == 3
    assert Entry(1, "e", Info(0.0, "unique"), b"xyz").size == 9
    info = Info(0.0, exclude=("bob", "carol"), headers={"a": "üb"})
    entry = Entry(1, "e", info, b"xyz")
    assert (entry.size, entry.length, entry.is_plain) == (3 + 8 + 4, 3, False)
    bare = entry.bare()
    assert (bare.size, bare.length, bare.payload) == (3 + 4, 3, b"")
    assert bare.info == Info(0.0, headers={"a": "üb"})  # what is parked needs them


def test_an_entry_that_expires_is_not_for_everyone_at_any_time() -> None:
    assert Entry(1, "e", Info(0.0, "u", headers={"a": "b"}), b"").is_plain
    info = Info(0.0, expires_ms=10)
    assert not Entry(1, "e", info, b"").is_plain
    assert [info.is_expired(clock_ms) for clock_ms in (9, 10, 11)] == [False, True, True]
    assert not Info(0.0).is_expired(10**12)
