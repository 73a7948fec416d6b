"""What an application hands over becomes JSON and comes back as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gearhorn.client.payloads import bytes_of, data_of, request_of
from gearhorn.messages.codec import encode
from gearhorn.messages.fanout import decode_fanout

LIMIT = 1 << 20


@given(st.one_of(st.binary(), st.text()))
def test_bytes_and_texts_arrive_as_they_are(payload: bytes | str) -> None:
    found = decode_fanout(encode(request_of("t", payload)), LIMIT)
    assert found.payload == (payload.encode() if isinstance(payload, str) else payload)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_other_bytes_do_too(kind: Any) -> None:
    assert decode_fanout(encode(request_of("t", kind(b"\xff\0"))), LIMIT).payload == b"\xff\0"


@pytest.mark.parametrize("payload", [{"a": [1, 2.5, None]}, [], 7, True, None])
def test_anything_else_arrives_as_json(payload: Any) -> None:
    found = decode_fanout(encode(request_of("t", payload)), LIMIT)
    assert json.loads(found.payload) == payload


def test_what_cannot_be_json_is_refused_at_once() -> None:
    with pytest.raises(TypeError):
        request_of("t", object())


def test_one_client_to_leave_out_is_no_list_of_letters() -> None:
    with pytest.raises(TypeError, match="exclude"):
        request_of("t", "x", exclude="web1")


def test_what_is_not_given_is_left_out() -> None:
    assert json.loads(encode(request_of("t", "x"))) == {"topic": "t", "payload": "x"}


def test_everything_that_is_given_is_told() -> None:
    request = request_of(
        "t",
        b"x",
        unique="u",
        headers={"a": "b"},
        exclude={"web1"},
        priority="high",
        expires=2.5,
        background=True,
        receipt=True,
        stream=True,
        timeout=3.0,
        quorum="50%",
    )
    assert json.loads(encode(request)) == {
        "topic": "t",
        "payload": "x",
        "unique": "u",
        "headers": {"a": "b"},
        "exclude": ["web1"],
        "priority": "high",
        "expires": 2.5,
        "background": True,
        "receipt": True,
        "stream": True,
        "timeout": 3.0,
        "quorum": "50%",
    }


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(None, b""), ("é", "é".encode()), (b"\xff", b"\xff"), (bytearray(b"x"), b"x"), ([1], b"[1]")],
)
def test_answers_become_bytes(answer: Any, expected: bytes) -> None:
    assert bytes_of(answer) == expected


@pytest.mark.parametrize(
    ("envelope", "data"),
    [({"payload": "é"}, "é".encode()), ({"payload_base64": "/wA="}, b"\xff\0"), ({}, b"")],
)
def test_envelopes_hold_bytes(envelope: dict[str, str], data: bytes) -> None:
    assert data_of(envelope) == data
