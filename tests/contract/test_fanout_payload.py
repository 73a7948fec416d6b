"""What is promised of payloads: which bytes a copy carries, on both pairs of servers."""

from __future__ import annotations

import base64
import json

import pytest
from support.cluster import Cluster
from support.foreign import Raw, refusal

pytest_plugins = ["support.foreign"]

MIB = 1024 * 1024
# JSON as it stands in a request, and the bytes of a copy
STRINGS = {
    b'""': b"",
    b'" "': b" ",
    b'"hello"': b"hello",
    b'"\\"\\\\\\/\\b\\f\\n\\r\\t"': b'"\\/\b\f\n\r\t',
    b'"\\u0000a\\u0000"': b"\0a\0",
    '"grüße 😀"'.encode(): "grüße 😀".encode(),
    b'"gr\\u00fc\\u00DFe \\ud83d\\ude00"': "grüße 😀".encode(),
    b'"\\ufeff\\uffff\\u2028"': "\ufeff\uffff\u2028".encode(),
    b'"{\\"a\\": 1}"': b'{"a": 1}',
    b'"\x7f"': b"\x7f",
}
OTHERS = [
    *(b"true", b"false", b"null", b"0", b"-0", b"1.50", b"-1.0e+2", b"1E400", b"0.1e-999"),
    *(b"[]", b"[ ]", b"{}", b"{ }", b"[1,  2\t,\n3\r]", b'{"b" :1, "a":  2, "b": 3}'),
    *(b'["\\u0041\\/", "\\ud83d\\ude00"]', '{"ä": ["ö", "\x7f"]}'.encode(), b'[""]'),
    *(b"123456789012345678901234567890", b"1" * 400, b"[1" + b"0" * 5000 + b"]", b"-1e999"),
    b'{"payload": {"payload": "x"}, "topic": "other", "background": false}',
    b"[" * 200 + b"1" + b"]" * 200,
]


def copied(cluster: Cluster, raw: Raw, topic: str, body: bytes) -> bytes:
    """The copy that a request makes, in the background and in the foreground alike."""
    cluster.subscribe(topic, "alice")
    alice = raw.taker(f"{topic}_alice")
    assert raw.ask("fanout", body % b', "background": true').data == b"1"
    pending = raw.start("fanout", body % b"")
    first, second = alice.finish(2)
    assert first == second
    assert pending.outcome().data == b"1"
    return first


@pytest.mark.parametrize("given", list(STRINGS))
def test_a_string_is_copied_as_its_utf_8(
    cluster: Cluster, raw: Raw, topic: str, given: bytes
) -> None:
    body = b'{"topic": "%s", "payload": %s%%s}' % (topic.encode(), given)
    assert copied(cluster, raw, topic, body) == STRINGS[given]


@pytest.mark.parametrize("given", OTHERS, ids=lambda given: given.decode()[:20])
def test_any_other_value_is_copied_byte_for_byte_as_it_stood(
    cluster: Cluster, raw: Raw, topic: str, given: bytes
) -> None:
    body = b'{"topic": "%s", "payload": %s%%s}' % (topic.encode(), given)
    assert copied(cluster, raw, topic, body) == given


@pytest.mark.parametrize("given", [b'"a b"', b"[1, 2]", b"17", b'{"a": " "}'])
def test_whitespace_around_a_payload_is_no_part_of_it(
    cluster: Cluster, raw: Raw, topic: str, given: bytes
) -> None:
    body = b' {"payload"\n:\t %s \r\n , "topic" : "%s" %%s } \n' % (given, topic.encode())
    expected = b"a b" if given == b'"a b"' else given
    assert copied(cluster, raw, topic, body) == expected


def test_a_payload_of_8_mib_is_copied_whole(cluster: Cluster, raw: Raw, topic: str) -> None:
    payload = "".join(f"{number:07x} " for number in range(MIB))
    assert len(payload) == 8 * MIB
    body = b'{"topic": "%s", "payload": "%s"%%s}' % (topic.encode(), payload.encode())
    assert copied(cluster, raw, topic, body) == payload.encode()


def test_8_mib_may_be_spelt_at_six_bytes_a_byte(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice")
    spelt = b"\\u0041" * (8 * MIB)
    body = b'{"topic": "%s", "payload": "%s", "background": true}' % (topic.encode(), spelt)
    assert raw.ask("fanout", body).data == b"1"
    assert raw.taker(f"{topic}_alice").finish() == [b"A" * (8 * MIB)]


# encoding


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"\0" * 100, bytes(range(256)) * 10, b"\xff\xfe\xfd", b"text", b"\0REQ\0\0"],
)
def test_base64_is_decoded(cluster: Cluster, raw: Raw, topic: str, data: bytes) -> None:
    coded = base64.b64encode(data)
    body = b'{"encoding": "base64", "topic": "%s", "payload": "%s"%%s}'
    assert copied(cluster, raw, topic, body % (topic.encode(), coded)) == data


def test_base64_may_be_escaped_as_json(cluster: Cluster, raw: Raw, topic: str) -> None:
    body = b'{"encoding": "base64", "topic": "%s", "payload": "\\/\\u002f8="%%s}' % topic.encode()
    assert copied(cluster, raw, topic, body) == b"\xff\xff"


@pytest.mark.parametrize(
    "payload",
    [
        *("a", "ab", "abc", "=", "====", "abcd=", "ab=c", "abcdé", "ab-_", " abcd", "abcd\n"),
        *("ab cd", "YQ==YQ==", 1, None, True, ["abcd"], {"abcd": "abcd"}),
    ],
)
def test_what_is_not_base64_is_refused(
    cluster: Cluster, raw: Raw, topic: str, payload: object
) -> None:
    cluster.subscribe(topic, "alice")
    outcome = cluster.publish(topic, payload, encoding="base64")
    assert refusal(outcome).startswith("bad_request: payload")
    assert cluster.publish(topic, "after").data == b"1"
    assert raw.taker(f"{topic}_alice").finish() == [b"after"]


def test_without_encoding_base64_is_text_like_any_other(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    body = json.dumps({"topic": topic, "payload": "aGVsbG8="})
    cluster.subscribe(topic, "alice")
    pending = raw.start("fanout", body.encode())
    assert raw.taker(f"{topic}_alice").finish() == [b"aGVsbG8="]
    assert pending.outcome().data == b"1"
