"""What docs/protocol.rst promises of requests that are not what they should be, on both pairs."""

from __future__ import annotations

import re
from typing import Any

import pytest
from support.cluster import Cluster
from support.foreign import Raw, refusal

pytest_plugins = ["support.foreign"]

GOOD: dict[str, dict[str, object]] = {
    "fanout": {"topic": "some", "payload": "x"},
    "subscribe_fanout": {"topic": "some", "client_id": "body"},
    "unsubscribe_fanout": {"topic": "some", "client_id": "body"},
    "retain_fanout": {"topic": "some"},
    "fetch_fanout": {"topic": "some", "after": 0},
    "parked_fanout": {"topic": "some", "client_id": "body", "action": "list"},
}
FUNCTIONS = [*GOOD, "register_fanout_subscriber"]
ALL = b'"topic": "some", "client_id": "body", "payload": "x"'  # enough for any function
NOT_JSON = [
    *(b"", b" ", b"{", b"}", b"hello", b"\0" * 100, bytes(range(256)), b"{%s" % ALL),
    b"{'topic': 'some', 'client_id': 'body', 'payload': 'x'}",
    *(b"{%s,}" % ALL, b"{%s} trailing" % ALL, b"{%s}{}" % ALL, b"{%s}\0" % ALL),
    *(b'{%s, "z": }' % ALL, b'{%s, "z": 01}' % ALL, b'{%s, "z": "a\nb"}' % ALL),
    *(b'{%s, "z": "\\x"}' % ALL, b'{%s, "z": NaN}' % ALL, b'{%s, "z": [-Infinity]}' % ALL),
    *(b'{%s, "z": tru}' % ALL, b'{%s, "z" 1}' % ALL, b"{%s, z: 1}" % ALL),
]
NOT_UTF_8 = [
    b'{%s, "z": "\xff"}' % ALL,
    b'{%s, "z": "\xc3"}' % ALL,  # cut short
    b'{%s, "z": "\xed\xa0\x80"}' % ALL,  # half a surrogate pair
    b'{%s, "z": "\xc0\x80"}' % ALL,  # longer than needed
    b'{%s, "z\xff": 1}' % ALL,
    ALL.replace(b"some", b"so\xffme"),
    b"\xef\xbb\xbf{%s}" % ALL,  # a byte order mark is no JSON
    b"{%s}" % ALL + b"\xff",
    (b"{%s}" % ALL).decode().encode("utf-16"),
]
TEXT: list[object] = [1, 1.5, True, None, ["a"], {"a": "b"}]  # what is no string
BOOLEAN: list[object] = [1, 0, "true", None, [], {}]
COUNT: list[object] = [0, -1, 1.5, "10", True, [10], 10**15]
SECONDS: list[object] = [0, -1, -0.5, "5", True, [5], 10**10]
WRONG: dict[tuple[str, str], list[object]] = {
    ("fanout", "topic"): TEXT,
    ("fanout", "unique"): TEXT,
    ("fanout", "timeout"): [0, -1, -0.5, "5", True, None, [5], 86_401, 1e300],
    ("fanout", "quorum"): [
        *(0, -1, 1.5, True, None, [2], "", "3", "%", "x%", "-1%", "1.5%", "5 %", "5%%", "٣%"),
    ],
    ("fanout", "receipt"): BOOLEAN,
    ("fanout", "exclude"): ["bob", None, True, {"bob": 1}, [1], ["bob", None], [["bob"]]],
    ("fanout", "priority"): ["urgent", "High", "", 1, None, ["high"]],
    ("fanout", "encoding"): ["hex", "Base64", "", 64, True, None],
    ("subscribe_fanout", "topic"): TEXT,
    ("subscribe_fanout", "client_id"): TEXT,
    ("subscribe_fanout", "max_backlog"): [0, -1, 1.5, "10", True, None, [10]],
    ("subscribe_fanout", "overflow"): ["drop", "", 1, None, ["drop_new"]],
    ("subscribe_fanout", "envelope"): BOOLEAN,
    ("subscribe_fanout", "ttl"): [0, -1, -0.5, "5", True, [5], 10**10],
    ("subscribe_fanout", "durable"): [None, 1, 0, "true", "new", []],
    ("subscribe_fanout", "durable.in_flight"): [*COUNT, None, 10_001],
    ("subscribe_fanout", "durable.timeout"): [*SECONDS, None],
    ("subscribe_fanout", "durable.max_attempts"): [-1, 1.5, "20", True, None, [1], 10**15],
    ("subscribe_fanout", "durable.max_backoff"): [*SECONDS, None],
    ("subscribe_fanout", "durable.batch"): [*COUNT, None, 10_001],
    ("subscribe_fanout", "durable.pull"): BOOLEAN,
    ("subscribe_fanout", "durable.start"): [
        *("", "New", "first", 0, 17, True, None, [], {}, {"after": 1}),
        *({"sequence": 1, "window": 1}, {"sequence": 1, "window": 1.5}),
    ],
    ("subscribe_fanout", "durable.start.sequence"): [-1, 0.5, "1", True, None, [1], {}],
    ("subscribe_fanout", "durable.start.window"): [*SECONDS, None],
    ("unsubscribe_fanout", "topic"): TEXT,
    ("unsubscribe_fanout", "client_id"): TEXT,
    ("unsubscribe_fanout", "drain"): BOOLEAN,
    ("retain_fanout", "topic"): TEXT,
    ("retain_fanout", "max_age"): SECONDS,
    ("retain_fanout", "max_messages"): COUNT,
    ("retain_fanout", "max_bytes"): COUNT,
    ("fetch_fanout", "topic"): TEXT,
    ("fetch_fanout", "after"): [-1, 1.5, "0", True, None, [0], 10**17],
    ("fetch_fanout", "client_id"): TEXT,
    ("fetch_fanout", "epoch"): TEXT,
    ("fetch_fanout", "limit"): [*COUNT, None, 10_001],
    ("fetch_fanout", "wait"): [-1, -0.5, "5", True, None, [5], 3601],
    ("fetch_fanout", "ack"): [-1, 0, 7, 1.5, "0", True, None, [0]],  # only of a pull subscription
    ("fetch_fanout", "purge"): [-1, 1.5, "0", True, None, [0], 10**17],
    ("parked_fanout", "topic"): TEXT,
    ("parked_fanout", "client_id"): TEXT,
    ("parked_fanout", "action"): ["", "List", "drop", 1, None, ["list"]],
    ("parked_fanout", "limit"): [0, -1, 1.5, "10", True, None, [10], 10**15],
}


def at(key: str, value: object) -> dict[str, Any]:
    """The part of a request that has this value at ``key.of.key``."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value  # type: ignore[return-value]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_not_json_is_a_bad_request(raw: Raw, function: str) -> None:
    for body in NOT_JSON:
        assert refusal(raw.ask(function, body)).startswith("bad_request: "), body


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_not_utf_8_is_a_bad_request(raw: Raw, function: str) -> None:
    for body in NOT_UTF_8:
        assert refusal(raw.ask(function, body)).startswith("bad_request: "), body


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_not_an_object_is_a_bad_request(raw: Raw, function: str) -> None:
    for body in (b"[]", b'["topic"]', b'"topic"', b"1", b"1.5", b"true", b"null"):
        text = refusal(raw.ask(function, body))
        assert text.startswith("bad_request: ")
        assert "object" in text


@pytest.mark.parametrize("function", list(GOOD))
def test_a_missing_key_is_named(raw: Raw, function: str) -> None:
    for missing in GOOD[function]:
        rest = {key: value for key, value in GOOD[function].items() if key != missing}
        text = refusal(raw.ask(function, **rest))
        assert text.startswith(f"bad_request: {missing}")
    assert refusal(raw.ask(function, b"{}")).startswith("bad_request: topic")


@pytest.mark.parametrize(("function", "key"), list(WRONG))
def test_a_wrong_value_is_refused_and_its_key_named(raw: Raw, function: str, key: str) -> None:
    for value in WRONG[function, key]:
        text = refusal(raw.ask(function, **GOOD[function] | at(key, value)))
        named = re.match(r"bad_request: ([a-z_.]+)(\[\d\])?: ", text)
        assert named, (value, text)
        assert named[1] == key, (value, text)


@pytest.mark.parametrize("key", [key for _, key in WRONG if key.startswith("durable")])
def test_a_durable_subscription_that_was_refused_is_none(
    cluster: Cluster, raw: Raw, topic: str, key: str
) -> None:
    for value in WRONG["subscribe_fanout", key][:2]:
        refusal(raw.ask("subscribe_fanout", topic=topic, client_id="alice", **at(key, value)))
    assert cluster.publish(topic, "x").data == b"0"
    text = refusal(raw.ask("fetch_fanout", topic=topic, after=0))
    assert text.startswith("unknown: "), "nor is there a log"


def test_a_subscription_that_says_not_to_be_durable_is_a_direct_one(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice", durable=False, overflow="drop_new")
    assert cluster.publish(topic, "x").data == b"1"
    assert refusal(raw.ask("fetch_fanout", topic=topic, after=0)).startswith("unknown: ")


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" * 400, "NaN"])
def test_a_timeout_beyond_any_number_is_refused(raw: Raw, number: str) -> None:
    body = f'{{"topic": "some", "payload": "x", "timeout": {number}}}'
    assert refusal(raw.ask("fanout", body.encode())).startswith("bad_request: ")


@pytest.mark.parametrize("payload", [b"NaN", b"Infinity", b"-Infinity", b"[NaN]", b'{"a": NaN}'])
def test_a_payload_of_what_json_does_not_have_is_refused(raw: Raw, payload: bytes) -> None:
    outcome = raw.ask("fanout", b'{"topic": "some", "payload": %s}' % payload)
    assert refusal(outcome).startswith("bad_request: ")


@pytest.mark.parametrize("half", ["\\ud800", "\\udc00x", "\\ud800\\u0041", "\\udc00\\ud800"])
def test_half_a_surrogate_pair_is_a_bad_request(raw: Raw, half: str) -> None:
    for function, body in (
        ("fanout", f'{{"topic": "{half}", "payload": "x"}}'),
        ("fanout", f'{{"topic": "some", "payload": "{half}"}}'),
        ("fanout", f'{{"topic": "some", "payload": "x", "unique": "{half}"}}'),
        ("fanout", f'{{"topic": "some", "payload": "x", "exclude": ["{half}"]}}'),
        ("subscribe_fanout", f'{{"topic": "{half}", "client_id": "body"}}'),
        ("subscribe_fanout", f'{{"topic": "some", "client_id": "{half}"}}'),
        ("unsubscribe_fanout", f'{{"topic": "{half}", "client_id": "body"}}'),
        ("unsubscribe_fanout", f'{{"topic": "some", "client_id": "{half}"}}'),
    ):
        assert refusal(raw.ask(function, body.encode())).startswith("bad_request: "), body


def test_unknown_keys_are_ignored(cluster: Cluster, raw: Raw, topic: str) -> None:
    more = {"": 0, "Topic": 1, "topics": [], "retry": {"a": [None, {}]}, "🦙": "\0", "z" * 9999: 1}
    pair = {"topic": topic, "client_id": "alice"}
    assert raw.ask("subscribe_fanout", **more | pair).kind == "complete"
    alice = raw.taker(f"{topic}_alice")
    pending = raw.fanout(topic, "x", **more)
    assert alice.finish() == [b"x"]
    assert pending.outcome().data == b"1"
    assert raw.ask("unsubscribe_fanout", **pair | more).kind == "complete"
    assert cluster.publish(topic, "y").data == b"0"


def test_unknown_keys_may_hold_numbers_of_any_size(raw: Raw, topic: str) -> None:
    for number in (b"1e999", b"-1e-999", b"1" * 5000):
        body = b'{"topic": "%s", "payload": "x", "z": [%s]}' % (topic.encode(), number)
        assert raw.ask("fanout", body).data == b"0"


def test_a_key_given_twice_makes_one_copy(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice")
    alice = raw.taker(f"{topic}_alice")
    body = b'{"topic": "x%s", "payload": "a", "payload": "b", "payload": [1], "topic": "%s"}'
    pending = raw.start("fanout", body % (topic.encode(), topic.encode()))
    assert alice.finish() == [b"[1]"]  # the last one counts
    assert pending.outcome().data == b"1"
    assert alice.grab_now() is None
