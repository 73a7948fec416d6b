"""Decoding requests and encoding replies."""

from __future__ import annotations

import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gearhorn import messages
from gearhorn.errors import BadRequest, TooLarge

LIMIT = 1000


def fanout(**request: object) -> messages.Fanout:
    body = {"topic": "t", "payload": "p"} | request
    return messages.decode_fanout(json.dumps(body).encode(), LIMIT)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not a JSON object"),
        (b"nope", "not a JSON object"),
        (b"[1]", "object"),
        (b'"x"', "object"),
        (b"{}", "missing"),
        (b'{"topic":"t"}', "payload: missing"),
        (b'{"payload":"t"}', "topic: missing"),
        (b'{"topic":1,"payload":"p"}', "topic: expected"),
        (b'{"topic":"t","payload":"p","timeout":"1"}', "timeout: expected"),
        (b'{"topic":"t","payload":"p","timeout":0}', "timeout: expected seconds > 0"),
        (b'{"topic":"t","payload":"p","timeout":-1}', "timeout: expected seconds > 0"),
        (b'{"topic":"t","payload":"p","timeout":1e999}', "timeout"),
        (b'{"topic":"t","payload":"p","timeout":true}', "timeout: expected"),
        (b'{"topic":"t","payload":"p","quorum":0}', "quorum: expected"),
        (b'{"topic":"t","payload":"p","quorum":"half"}', "quorum: expected"),
        (b'{"topic":"t","payload":"p","quorum":"-5%"}', "quorum: expected"),
        (b'{"topic":"t","payload":"p","quorum":1.5}', "quorum: expected"),
        (b'{"topic":"t","payload":"p","receipt":1}', "receipt: expected"),
        (b'{"topic":"t","payload":"p","exclude":"bob"}', "exclude: expected"),
        (b'{"topic":"t","payload":"p","exclude":[1]}', "exclude"),
        (b'{"topic":"t","payload":"p","priority":"urgent"}', 'priority: expected "low"'),
        (b'{"topic":"t","payload":"p","encoding":"hex"}', 'encoding: expected "base64"'),
        (b'{"topic":"t","payload":"p","unique":7}', "unique: expected"),
        (b'{"topic":"t","payload":"!","encoding":"base64"}', "payload: not base64"),
        (b'{"topic":"t","payload":7,"encoding":"base64"}', "payload: expected a string"),
        (b'{"topic":"\xff","payload":"p"}', "UTF-8"),
        (b'{"topic":"t","payload":"\xff"}', "UTF-8"),
        (b'{"topic":"t","payload":{"a":"\xff"}}', "UTF-8"),
        (b'{"topic":"t","payload":NaN}', "not a JSON object"),
        (b'{"topic":"t","payload":"a\nb"}', "not a JSON object"),
        (b'{"topic":"t","payload":' + b"[" * 100_000, "nested|JSON"),
        (b'{"topic":"t","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
    ],
)
def test_a_bad_request_names_the_key(body: bytes, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        messages.decode_fanout(body, 1 << 20)


@pytest.mark.parametrize("text", [' {"a" : 1.0 } ', "[1,  2]", "3", "-0.0", "true", "null"])
def test_a_payload_that_is_no_string_keeps_its_bytes(text: str) -> None:
    body = b'{"payload":' + text.encode() + b',"topic":"t"}'
    assert messages.decode_fanout(body, LIMIT).payload == text.strip().encode()


@given(st.text())
def test_a_string_payload_is_its_utf8(text: str) -> None:
    body = json.dumps({"topic": "t", "payload": text}).encode()
    assert messages.decode_fanout(body, 1 << 20).payload == text.encode()


@given(st.binary())
def test_base64_carries_any_bytes(data: bytes) -> None:
    coded = base64.b64encode(data).decode()
    assert fanout(payload=coded, encoding="base64").payload == data


@given(st.binary(max_size=200))
def test_no_bytes_break_the_decoders(body: bytes) -> None:
    for decode in (
        lambda: messages.decode_fanout(body, LIMIT),
        lambda: messages.decode_subscribe(body),
        lambda: messages.decode_unsubscribe(body),
        lambda: messages.decode_matchmaking(body),
        lambda: messages.decode_answer(body),
    ):
        with contextlib.suppress(BadRequest, TooLarge):
            decode()


def test_the_payload_limit_counts_what_copies_carry() -> None:
    assert len(fanout(payload="é" * 500).payload) == LIMIT
    with pytest.raises(TooLarge):
        fanout(payload="é" * 501)


@pytest.mark.parametrize(
    ("quorum", "copies", "needed"),
    [
        (None, 5, 5),
        (2, 5, 2),
        (9, 5, 5),
        ("50%", 5, 3),
        ("50%", 4, 2),
        ("1%", 5, 1),
        ("0%", 5, 1),
        ("100%", 5, 5),
        ("900%", 5, 5),
    ],
)
def test_a_quorum_is_rounded_up(quorum: int | str | None, copies: int, needed: int) -> None:
    assert messages.copies_needed(quorum, copies) == needed


@pytest.mark.parametrize("value", [True, 1, "x", [0], {"a": 1}, 0.1])
def test_background_is_any_truth(value: object) -> None:
    assert fanout(background=value).background


@pytest.mark.parametrize("value", [False, 0, "", [], {}, None])
def test_foreground_is_any_falsehood(value: object) -> None:
    assert not fanout(background=value).background


@pytest.mark.parametrize("option", [{"durable": True}, {"durable": {}}])
def test_what_this_release_cannot_do_is_refused(option: dict[str, object]) -> None:
    with pytest.raises(BadRequest, match=next(iter(option))):
        messages.decode_subscribe(json.dumps({"topic": "t", "client_id": "c"} | option).encode())


def test_an_envelope_tells_what_plain_copies_cannot() -> None:
    told = json.loads(messages.envelope(fanout(payload="hi", unique="u1"), 12.5))
    assert told == {"topic": "t", "at": 12.5, "unique": "u1", "payload": "hi"}
    coded = base64.b64encode(b"\xff").decode()
    told = json.loads(messages.envelope(fanout(payload=coded, encoding="base64"), 1.0))
    assert told == {"topic": "t", "at": 1.0, "payload_base64": coded}


def test_a_receipt_sorts_results_by_what_they_are() -> None:
    body = messages.encode_receipt(2, ["a", "b"], results={"a": b"ok", "b": b"\xff"}, omitted=["c"])
    assert json.loads(body) == {
        "copies": 2,
        "delivered": ["a", "b"],
        "failed": {},
        "pending": [],
        "dropped": [],
        "results": {"a": "ok"},
        "results_base64": {"b": "/w=="},
        "results_omitted": ["c"],
    }
