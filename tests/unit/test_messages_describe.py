"""``describe_fanout`` requests, and the JSON of their replies."""

from __future__ import annotations

import json

import pytest

from gearhorn.errors import BadRequest
from gearhorn.messages.codec import encode
from gearhorn.messages.describe import (
    MAX_LIMIT,
    Described,
    DescribedLog,
    DescribedSubscription,
    DescribedTopic,
    decode_describe,
)
from gearhorn.messages.peers import MemberState


def test_a_request_without_arguments_asks_for_the_first_page_of_everything() -> None:
    request = decode_describe(b"")
    assert request == decode_describe(b"{}")
    assert request.limit == 100
    assert not request.topic
    assert not request.cursor


def test_a_page_is_asked_for_by_topic_limit_and_cursor() -> None:
    request = decode_describe(b'{"topic":"t","limit":10000,"cursor":"t alice"}')
    assert (request.topic, request.limit, request.cursor) == ("t", MAX_LIMIT, "t alice")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"limit":0}', "limit: expected an integer from 1 to 10000, got 0"),
        ('{"limit":10001}', "limit: expected an integer from 1 to 10000, got 10001"),
        ('{"limit":1.5}', "limit: expected integer"),
        ('{"cursor":"alice"}', "cursor: expected that of a former reply"),
        ('{"cursor":"a b c"}', "cursor: expected that of a former reply"),
        ('{"cursor":7}', "cursor: expected string"),
        ('{"topic":null}', "topic: expected string"),
        ("[]", "expected object"),
    ],
)
def test_a_refusal_names_the_key(body: str, text: str) -> None:
    with pytest.raises(BadRequest, match=text):
        decode_describe(body.encode())


def test_a_reply_leaves_out_what_a_subscription_has_not() -> None:
    plain = DescribedSubscription("t_a", 100, "drop_new", envelope=False, drops=0)
    topic = DescribedTopic({"a": plain})
    reply = json.loads(encode(Described([MemberState("me")], {"t": topic}, None)))
    assert reply["cursor"] is None, "the last page says so"
    assert reply["members"][0]["state"] == "unknown"
    assert set(reply["topics"]["t"]) == {"subscriptions"}
    described = reply["topics"]["t"]["subscriptions"]["a"]
    assert set(described) == {"queue", "max_backlog", "overflow", "envelope", "drops"}


def test_a_log_is_told_with_its_bounds() -> None:
    log = DescribedLog("e", 3, 9, bytes=50, dropped=1, max_age=120.0, max_messages=5, max_bytes=6)
    reply = json.loads(encode(DescribedTopic({}, log)))
    assert reply["log"] == {
        **{"epoch": "e", "first": 3, "last": 9, "bytes": 50, "dropped": 1},
        **{"max_age": 120.0, "max_messages": 5, "max_bytes": 6},
    }
