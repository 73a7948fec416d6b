"""Decoding requests and encoding replies."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gearhorn.errors import BadRequest, TooLarge
from gearhorn.messages.fanout import Fanout, copies_needed, decode_fanout, envelope
from gearhorn.messages.logs import (
    decode_fetch,
    decode_parked_request,
    decode_retain,
    encode_given_retention,
)
from gearhorn.messages.peers import decode_answer, decode_matchmaking
from gearhorn.messages.receipts import encode_receipt
from gearhorn.messages.subscriptions import (
    DurableOptions,
    GivenDurable,
    Subscribe,
    decode_options,
    decode_subscribe,
    decode_unsubscribe,
    encode_given_options,
    encode_start,
)

LIMIT = 1000
Decode = Callable[[bytes], object]


def fanout(**request: object) -> Fanout:
    body = {"topic": "t", "payload": "p"} | request
    return decode_fanout(json.dumps(body).encode(), LIMIT)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the job has no arguments"),
        (b"nope", "not a JSON object"),
        (b"[1]", "object"),
        (b'"x"', "object"),
        (b"{}", "missing"),
        (b'{"topic":"t"}', "payload: missing"),
        (b'{"payload":"t"}', "topic: missing"),
        (b'{"topic":1,"payload":"p"}', "topic: expected string, got integer"),
        (b'{"topic":"t","payload":"p","timeout":"1"}', "timeout: expected number, got string"),
        (b'{"topic":"t","payload":"p","timeout":0}', "timeout: expected seconds > 0"),
        (b'{"topic":"t","payload":"p","timeout":-1}', "timeout: expected seconds > 0"),
        (b'{"topic":"t","payload":"p","timeout":1e999}', "timeout"),
        (b'{"topic":"t","payload":"p","timeout":true}', "timeout: expected"),
        (b'{"topic":"t","payload":"p","quorum":0}', "quorum: expected"),
        (b'{"topic":"t","payload":"p","quorum":"half"}', "quorum: expected"),
        (b'{"topic":"t","payload":"p","quorum":"-5%"}', "quorum: expected"),
        (
            b'{"topic":"t","payload":"p","quorum":1.5}',
            "quorum: expected integer or string, got number",
        ),
        (b'{"topic":"t","payload":"p","receipt":1}', "receipt: expected boolean, got integer"),
        (b'{"topic":"t","payload":"p","exclude":"bob"}', "exclude: expected array, got string"),
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
        (
            b'{"topic":"t","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            "nested too deeply; 500 levels",
        ),
    ],
)
def test_a_bad_request_names_the_key(body: bytes, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        decode_fanout(body, 1 << 20)


@pytest.mark.parametrize("text", [' {"a" : 1.0 } ', "[1,  2]", "3", "-0.0", "true", "null"])
def test_a_payload_that_is_no_string_keeps_its_bytes(text: str) -> None:
    body = b'{"payload":' + text.encode() + b',"topic":"t"}'
    assert decode_fanout(body, LIMIT).payload == text.strip().encode()


@given(st.text())
def test_a_string_payload_is_its_utf8(text: str) -> None:
    body = json.dumps({"topic": "t", "payload": text}).encode()
    assert decode_fanout(body, 1 << 20).payload == text.encode()


@given(st.binary())
def test_base64_carries_any_bytes(data: bytes) -> None:
    coded = base64.b64encode(data).decode()
    assert fanout(payload=coded, encoding="base64").payload == data


@given(st.binary(max_size=200))
def test_no_bytes_break_the_decoders(body: bytes) -> None:
    for decode in (
        lambda: decode_fanout(body, LIMIT),
        lambda: decode_subscribe(body),
        lambda: decode_unsubscribe(body),
        lambda: decode_matchmaking(body),
        lambda: decode_answer(body),
        lambda: decode_retain(body),
        lambda: decode_fetch(body),
        lambda: decode_parked_request(body),
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
    assert copies_needed(quorum, copies) == needed


@pytest.mark.parametrize("value", [True, 1, "x", [0], {"a": 1}, 0.1])
def test_background_is_any_truth(value: object) -> None:
    assert fanout(background=value).background


@pytest.mark.parametrize("value", [False, 0, "", [], {}, None])
def test_foreground_is_any_falsehood(value: object) -> None:
    assert not fanout(background=value).background


# Durable subscriptions


def subscribe(**options: object) -> Subscribe:
    body = json.dumps({"topic": "t", "client_id": "c"} | options)
    return decode_subscribe(body.replace("Infinity", "1e999").encode())


SECONDS = "expected seconds > 0 and <= 1000000000, got"
STARTS = "expected either sequence or window"
WRONG_DURABLES: list[tuple[object, str]] = [
    (None, "durable: expected"),
    (1, "durable: expected"),
    ("yes", "durable: expected"),
    ([], "durable: expected"),
    *(({key: None}, f"durable.{key}: expected") for key in ("start", "in_flight", "timeout")),
    *(({key: None}, f"durable.{key}: expected") for key in ("max_attempts", "max_backoff")),
    *(({key: None}, f"durable.{key}: expected") for key in ("batch", "pull")),
    ({"in_flight": 0}, "durable.in_flight: expected an integer from 1 to 10000, got 0"),
    ({"in_flight": 10_001}, "durable.in_flight: expected an integer from 1 to 10000, got 10001"),
    ({"in_flight": 1.5}, "durable.in_flight: expected"),
    ({"in_flight": True}, "durable.in_flight: expected"),
    ({"in_flight": "1"}, "durable.in_flight: expected"),
    ({"timeout": 0}, f"durable.timeout: {SECONDS} 0"),
    ({"timeout": -1}, f"durable.timeout: {SECONDS} -1"),
    ({"timeout": 10**9 + 1}, f"durable.timeout: {SECONDS}"),
    ({"timeout": float("inf")}, "durable.timeout: "),
    ({"timeout": "30"}, "durable.timeout: expected"),
    ({"max_attempts": -1}, "durable.max_attempts: expected an integer from 0 to 1000000, got -1"),
    ({"max_attempts": 10**6 + 1}, "durable.max_attempts: expected an integer from 0 to 1000000"),
    ({"max_attempts": 2.5}, "durable.max_attempts: expected"),
    ({"max_backoff": 0}, f"durable.max_backoff: {SECONDS} 0"),
    ({"max_backoff": 10**9 + 1}, f"durable.max_backoff: {SECONDS}"),
    ({"max_backoff": False}, "durable.max_backoff: expected"),
    ({"batch": 0}, "durable.batch: expected an integer from 1 to 10000, got 0"),
    ({"batch": 10_001}, "durable.batch: expected an integer from 1 to 10000, got 10001"),
    ({"batch": 2.0}, "durable.batch: expected"),
    ({"pull": 1}, "durable.pull: expected"),
    ({"pull": "true"}, "durable.pull: expected"),
    ({"start": "old"}, "durable.start: "),
    ({"start": 7}, "durable.start: expected"),
    ({"start": []}, "durable.start: expected"),
    ({"start": {}}, f"durable.start: {STARTS}"),
    ({"start": {"sequence": 1, "window": 1}}, f"durable.start: {STARTS}"),
    (
        {"start": {"sequence": -1}},
        "durable.start.sequence: expected an integer from 0 to 1000000000",
    ),
    ({"start": {"sequence": 1.5}}, "durable.start.sequence: expected"),
    ({"start": {"sequence": "1"}}, "durable.start.sequence: expected"),
    ({"start": {"sequence": None}}, "durable.start.sequence: expected"),
    ({"start": {"window": 0}}, f"durable.start.window: {SECONDS} 0"),
    ({"start": {"window": 10**9 + 1}}, f"durable.start.window: {SECONDS}"),
    ({"start": {"window": float("inf")}}, "durable.start.window: "),
    ({"start": {"window": True}}, "durable.start.window: expected"),
]


@pytest.mark.parametrize(("option", "words"), WRONG_DURABLES)
def test_a_wrong_durable_option_is_named(option: object, words: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        subscribe(durable=option)
    assert str(refusal.value).startswith(f"bad_request: {words}")


LEAST = {"in_flight": 1, "timeout": 1e-3, "max_attempts": 0, "max_backoff": 1e-3, "batch": 1}
MOST = {"in_flight": 10_000, "timeout": 10**9, "max_attempts": 10**6, "batch": 10_000}
NOT_DURABLE = {"max_backlog": 7, "envelope": True, "ttl": 60.0}


@pytest.mark.parametrize(
    "some", [{}, LEAST, MOST, {"pull": True}, {"pull": False}, {"batch": 5}], ids=str
)
def test_the_store_keeps_the_durable_options_that_were_given(some: dict[str, object]) -> None:
    request = subscribe(durable=some | {"unknown": 1}, **NOT_DURABLE)
    assert request.is_durable
    kept = encode_given_options(request)
    assert json.loads(kept) == NOT_DURABLE | {"durable": some}
    options = decode_options(kept).durable
    assert options == DurableOptions(**some)  # type: ignore[arg-type]


def test_a_durable_subscription_without_options_has_the_defaults() -> None:
    assert DurableOptions() == DurableOptions(
        in_flight=1, timeout=30.0, max_attempts=20, max_backoff=3600.0, batch=1, pull=False
    )
    shorthands: list[object] = [True, {}]
    for shorthand in shorthands:
        kept = encode_given_options(subscribe(durable=shorthand))
        assert json.loads(kept) == {"durable": {}}
        assert decode_options(kept).durable == DurableOptions()


def test_what_ends_durability_is_not_what_leaves_it_alone() -> None:
    ends, leaves = subscribe(durable=False), subscribe()
    assert not ends.is_durable
    assert not leaves.is_durable
    assert json.loads(encode_given_options(ends)) == {"durable": False}
    assert json.loads(encode_given_options(leaves)) == {}


@pytest.mark.parametrize(
    ("options", "start"),
    [
        ({}, "new"),
        *(({"start": word}, word) for word in ("new", "all", "last")),
        ({"start": {"sequence": 0}}, {"sequence": 0}),
        ({"start": {"sequence": 17}}, {"sequence": 17}),
        ({"start": {"window": 0.5}}, {"window": 0.5}),
        ({"start": {"window": 3600}}, {"window": 3600.0}),
    ],
)
def test_where_a_durable_subscription_begins_is_told_apart_from_what_is_kept(
    options: dict[str, object], start: object
) -> None:
    request = subscribe(durable=options)
    assert isinstance(request.durable, GivenDurable)
    assert json.loads(encode_start(request.durable)) == start
    assert json.loads(encode_given_options(request)) == {"durable": {}}


RETAIN: Decode = decode_retain
FETCH: Decode = decode_fetch
PARKED: Decode = decode_parked_request
FROM: dict[str, object] = {"after": 0}
PULL: dict[str, object] = {"client_id": "c"}
LIST: dict[str, object] = {"client_id": "c", "action": "list"}
COUNT = "expected an integer from 1 to 1000000000000, got"


@pytest.mark.parametrize(
    ("decode", "request_", "words"),
    [
        (RETAIN, {"topic": None}, "topic: expected string, got null"),
        (RETAIN, {"max_age": 0}, f"max_age: {SECONDS} 0"),
        (RETAIN, {"max_age": -1}, f"max_age: {SECONDS} -1"),
        (RETAIN, {"max_age": 10**9 + 1}, f"max_age: {SECONDS}"),
        (RETAIN, {"max_age": "1h"}, "max_age: expected"),
        (RETAIN, {"max_messages": 0}, f"max_messages: {COUNT} 0"),
        (RETAIN, {"max_messages": 10**12 + 1}, f"max_messages: {COUNT}"),
        (RETAIN, {"max_messages": 1.5}, "max_messages: expected"),
        (RETAIN, {"max_bytes": -1}, f"max_bytes: {COUNT} -1"),
        (RETAIN, {"max_bytes": 10**12 + 1}, f"max_bytes: {COUNT}"),
        (RETAIN, {"max_bytes": "1M"}, "max_bytes: expected"),
        (FETCH, {}, "after: expected either after or client_id"),
        (FETCH, FROM | PULL, "after: expected either after or client_id"),
        (FETCH, {"after": -1}, "after: expected an integer from 0 to 1000000000"),
        (FETCH, {"after": "1"}, "after: expected"),
        (FETCH, {"client_id": 1}, "client_id: expected"),
        (FETCH, FROM | {"ack": 1}, "ack: expected a client_id"),
        (FETCH, PULL | {"ack": -1}, "ack: expected an integer from 0 to 1000000000"),
        (FETCH, PULL | {"ack": 1.0}, "ack: expected"),
        (FETCH, PULL | {"purge": -1}, "purge: expected an integer from 0 to 1000000000"),
        (FETCH, FROM | {"epoch": 1}, "epoch: expected"),
        (FETCH, FROM | {"limit": 0}, "limit: expected an integer from 1 to 10000, got 0"),
        (FETCH, FROM | {"limit": 10_001}, "limit: expected an integer from 1 to 10000, got 10001"),
        (FETCH, FROM | {"wait": -0.5}, "wait: expected seconds from 0 to 3600, got -0.5"),
        (FETCH, FROM | {"wait": 3601}, "wait: expected seconds from 0 to 3600, got 3601"),
        (PARKED, {"action": "list"}, "client_id: missing"),
        (PARKED, PULL, "action: missing"),
        (PARKED, PULL | {"action": "drop"}, 'action: expected "list", "redrive" or "purge"'),
        (PARKED, LIST | {"limit": 0}, "limit: expected an integer from 1 to 1000000000000, got 0"),
        (PARKED, LIST | {"limit": "all"}, "limit: expected"),
    ],
)
def test_a_bad_request_about_a_log_names_the_key(
    decode: Decode, request_: dict[str, object], words: str
) -> None:
    with pytest.raises(BadRequest) as refusal:
        decode(json.dumps({"topic": "t"} | request_).encode())
    assert str(refusal.value).startswith(f"bad_request: {words}")


@pytest.mark.parametrize("decode", [RETAIN, FETCH, PARKED])
def test_a_request_about_a_log_needs_a_topic(decode: Decode) -> None:
    with pytest.raises(BadRequest, match="topic: missing"):
        decode(b'{"client_id":"c","action":"list"}')


def test_retention_that_is_null_is_not_what_is_left_out() -> None:
    body = b'{"topic":"t","max_age":null,"max_bytes":5}'
    kept = encode_given_retention(decode_retain(body))
    assert json.loads(kept) == {"max_age": None, "max_bytes": 5}


def test_an_envelope_tells_what_plain_copies_cannot() -> None:
    told = json.loads(envelope(fanout(payload="hi", unique="u1"), 12.5))
    assert told == {"topic": "t", "at": 12.5, "unique": "u1", "payload": "hi"}
    coded = base64.b64encode(b"\xff").decode()
    told = json.loads(envelope(fanout(payload=coded, encoding="base64"), 1.0))
    assert told == {"topic": "t", "at": 1.0, "payload_base64": coded}


def test_a_receipt_sorts_results_by_what_they_are() -> None:
    body = encode_receipt(
        2, delivered=["a", "b"], results={"a": b"ok", "b": b"\xff"}, omitted=["c"]
    )
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
