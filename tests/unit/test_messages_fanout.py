"""What a `fanout` request may hold, however long it is, and what its reply may."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from gearhorn.errors import BadRequest, TooLarge
from gearhorn.messages.fanout import MAX_EXCLUDE_BYTES, MAX_EXCLUDED, MAX_VALUE_BYTES, decode_fanout
from gearhorn.messages.receipts import REPLY_BYTES, encode_failures, encode_receipt

MIB = 1024 * 1024
LIMIT = 8 * MIB


def request(**texts: bytes) -> bytes:
    """A request of JSON texts."""
    keys = {"topic": b'"t"', "payload": b'"p"'} | texts
    return b"{%b}" % b",".join(b'"%b": %b' % (key.encode(), text) for key, text in keys.items())


def decode_costs(body: bytes) -> int:
    """Decode, whatever comes of it; return the most bytes that it took at once."""
    tracemalloc.start()
    try:
        decode_fanout(body, LIMIT)
    except (BadRequest, TooLarge):
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize("seconds", [b"86400.01", b"86401", b"1e300"])
def test_a_timeout_is_a_day_at_most(seconds: bytes) -> None:
    assert decode_fanout(request(timeout=b"86400"), LIMIT).timeout_s == 86_400
    with pytest.raises(BadRequest, match="timeout: expected seconds > 0 and <= 86400"):
        decode_fanout(request(timeout=seconds), LIMIT)


@pytest.mark.parametrize(
    ("text", "is_true"),
    [
        *(
            (text, False)
            for text in (b"false", b"null", b'""', b"[]", b"{}", b"0", b"0.0", b"-0e9", b"1e-400")
        ),
        *((text, False) for text in (b"[%b]" % (b" " * MIB), b"0.%b" % (b"0" * MIB))),
        *((text, True) for text in (b"true", b'"0"', b"[0]", b'{"a": 0}', b"0.1", b"-1", b"1e-9")),
        *((text, True) for text in (b"[%b 0]" % (b" " * MIB), b'"%b"' % (b"x" * MIB))),
        (b"[" + b"[]," * MIB + b"[]]", True),
    ],
)
def test_background_is_true_or_false_in_a_long_request_as_in_a_short_one(
    text: bytes, is_true: bool
) -> None:
    for padding in (b"0", b'"%b"' % (b"x" * MAX_VALUE_BYTES)):
        body = request(background=text, unknown=padding)
        assert decode_fanout(body, LIMIT).background is is_true


LONG = {
    "background of arrays": lambda: request(background=b"[" + b"[]," * (20 * MIB) + b"[]]"),
    "background of objects": lambda: request(background=b'{"a":[' + b"{}," * (20 * MIB) + b"1]}"),
    "unknown key": lambda: request(unknown=b"[" + b"[]," * (20 * MIB) + b"[]]"),
    "names": lambda: request(exclude=b"[" + b'"a",' * (15 * MIB) + b'"b"]'),
    "topic": lambda: request(topic=b'"%b"' % ("x" * (60 * MIB) + "😀").encode()),
    "unique": lambda: request(unique=b'"%b"' % ("x" * (60 * MIB) + "😀").encode()),
    "topic twice": lambda: b'{"topic":"%b",' % ("x" * (60 * MIB) + "😀").encode() + request()[1:],
    "payload": lambda: request(payload=b'"%b"' % (b"x" * (60 * MIB))),
    "payload escaped": lambda: request(payload=b'"%b"' % (b"\\u0041" * LIMIT)),
    "payload no string": lambda: request(payload=b"[" + b"[]," * (20 * MIB) + b"[]]"),
    "base64": lambda: request(payload=b'"%b"' % (b"x" * (60 * MIB)), encoding=b'"base64"'),
}


@pytest.mark.parametrize("name", LONG)
def test_the_longest_requests_cost_no_more_memory_than_they_have_bytes(name: str) -> None:
    body = LONG[name]()
    assert decode_costs(body) < len(body) + 4 * MIB


@pytest.mark.parametrize("key", ["topic", "unique", "priority", "encoding", "quorum"])
def test_a_value_of_another_key_has_64_kib_at_most(key: str) -> None:
    text = b'"%b"' % (b"x" * (MAX_VALUE_BYTES - 1))
    with pytest.raises(BadRequest, match=f"^bad_request: {key}: expected at most 65536 bytes"):
        decode_fanout(request(**{key: text}), LIMIT)


def test_a_long_request_is_refused_for_what_a_short_one_is_refused_for() -> None:
    padding = b'"%b"' % (b"x" * MAX_VALUE_BYTES)
    for body in (b'{"payload": 1, "x": %b}', b'{"topic": "t", "x": %b}', b"[%b]"):
        with pytest.raises(BadRequest) as short:
            decode_fanout(body % b"1", LIMIT)
        with pytest.raises(BadRequest) as long:
            decode_fanout(body % padding, LIMIT)
        assert str(long.value).split(" (")[0] == str(short.value).split(" (")[0]


@pytest.mark.parametrize("where", [0, MIB, 3 * MIB - 2])
def test_a_long_request_is_utf8_throughout(where: int) -> None:
    text = bytearray("é".encode() * (MIB + MIB // 2))
    body = request(unknown=b'"%b"' % bytes(text))
    assert decode_fanout(body, LIMIT).payload == b"p"
    text[where] = 0xFF
    with pytest.raises(BadRequest, match="UTF-8"):
        decode_fanout(request(unknown=b'"%b"' % bytes(text)), LIMIT)


def test_ten_thousand_names_may_be_excluded() -> None:
    names = [f"{'x' * 240}{number}" for number in range(MAX_EXCLUDED)]
    text = json.dumps(names).encode()
    assert len(text) < MAX_EXCLUDE_BYTES
    assert decode_fanout(request(exclude=text), LIMIT).exclude == set(names)
    for over in ([*names, "y"], ["y"] * (MAX_EXCLUDED + 1), ['"'] * (MAX_EXCLUDED + 1)):
        with pytest.raises(BadRequest, match=f"exclude: expected at most {MAX_EXCLUDED} names"):
            decode_fanout(request(exclude=json.dumps(over).encode()), LIMIT)


def test_a_name_that_is_too_long_for_one_excludes_nobody() -> None:
    names = ["a", "x" * 255, "x" * 256, "é" * 127, "é" * 128]
    text = json.dumps(names).encode()
    assert decode_fanout(request(exclude=text), LIMIT).exclude == {
        "a",
        "x" * 255,
        "é" * 127,
    }


@pytest.mark.parametrize(
    "text", [b'"\\ud800"', b'["\\ud800"]', b'["\\udc00"]', b'"\\ud800\\u0041"']
)
def test_a_lone_surrogate_is_said_to_be_no_text(text: bytes) -> None:
    with pytest.raises(BadRequest, match="no surrogates but in pairs"):
        decode_fanout(request(payload=text), LIMIT)


def test_a_payload_may_be_nested_500_deep() -> None:
    text = b"[" * 500 + b"]" * 500
    assert decode_fanout(request(payload=text), LIMIT).payload == text


# replies


def test_a_receipt_lists_as_many_as_16_mib_hold_and_counts_the_others() -> None:
    names = [f"{'é' * 120}{number:07}" for number in range(100_000)]
    body = encode_receipt(100_000, delivered=names, failed={"bob": "full"})
    assert REPLY_BYTES // 2 < len(body) <= REPLY_BYTES
    got = json.loads(body)
    assert got["failed"] == {"bob": "full"}
    assert got["delivered"] == names[: len(got["delivered"])]
    assert got["unlisted"] == {"delivered": 100_000 - len(got["delivered"])}


def test_results_that_grow_too_long_as_json_are_omitted() -> None:
    results = {f"c{number}": b"\x01" * MIB for number in range(7)} | {"last": b"\xff" * MIB}
    body = encode_receipt(8, delivered=list(results), results=results, omitted=["x"])
    assert len(body) <= REPLY_BYTES
    got = json.loads(body)
    assert got["delivered"] == list(results)
    given = [*got["results"], *got["results_base64"]]
    assert given
    assert sorted([*given, *got["results_omitted"]]) == sorted([*results, "x"])


def test_a_receipt_in_which_all_has_room_counts_nothing() -> None:
    assert "unlisted" not in json.loads(encode_receipt(1, delivered=["a"]))


def test_reasons_that_do_not_fit_are_counted_in_a_last_pair() -> None:
    pairs = [(f"c{number}", "\x01" * 4096) for number in range(2000)]
    body = encode_failures(pairs)
    assert REPLY_BYTES // 2 < len(body) <= REPLY_BYTES
    *listed, last = json.loads(body)
    assert listed == [list(pair) for pair in pairs[: len(listed)]]
    assert last == ["", f"and {2000 - len(listed)} more"]
    assert json.loads(encode_failures(pairs[:1])) == [["c0", "\x01" * 4096]]


@pytest.mark.parametrize(
    ("size", "unique", "excluded", "is_refused"),
    [
        (1000, "u" * 128, [], False),
        (1000, "u" * 129, [], True),
        (871, "u" * 129, [], False),
        (872, "u" * 129, [], True),
        (1000, "", ["alice"], False),
        (600, "", [f"{number:03}" for number in range(100)], False),
        (800, "", [f"{number:03}" for number in range(100)], True),
    ],
)
def test_a_long_unique_and_many_excluded_names_count_like_payload(
    size: int, unique: str, excluded: list[str], is_refused: bool
) -> None:
    request = {"topic": "t", "payload": "x" * size, "unique": unique, "exclude": excluded}
    body = json.dumps(request).encode()
    if not is_refused:
        assert len(decode_fanout(body, 1000).payload) == size
        return
    with pytest.raises(TooLarge, match="unique, exclude and headers"):
        decode_fanout(body, 1000)
