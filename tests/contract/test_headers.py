"""What is promised of headers, on both pairs of servers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.cluster import eventually
from support.durable import ask, fail, fetch, lane, parked, publish, subscribe
from support.foreign import Raw, refusal

pytest_plugins = ["support.foreign"]

GIVEN = {"TraceParent": "00-4bf92f", "content-type": "text/plain; charset=utf-8", "x": "ü"}
KEPT = {"traceparent": "00-4bf92f", "content-type": "text/plain; charset=utf-8", "x": "ü"}
LARGE = {f"h{number:02}": "x" * 125 for number in range(64)}  # 64 of them, 8 KiB in all


@pytest.mark.parametrize("is_background", [True, False])
def test_envelopes_bear_headers_and_plain_copies_do_not(
    raw: Raw, topic: str, is_background: bool
) -> None:
    ask(raw, "subscribe_fanout", topic=topic, client_id="alice", envelope=True)
    ask(raw, "subscribe_fanout", topic=topic, client_id="bob")
    alice, bob = raw.taker(f"{topic}_alice"), raw.taker(f"{topic}_bob")
    for headers, kept in ((GIVEN, KEPT), (LARGE, LARGE)):
        pending = raw.start(
            "fanout", topic=topic, payload="p", headers=headers, background=is_background
        )
        [envelope] = alice.finish()
        assert json.loads(envelope)["headers"] == kept
        assert bob.finish() == [b"p"]
        assert pending.outcome().data == b"2"
    nothing: list[dict[str, Any]] = [{}, {"headers": {}}]
    for given in nothing:
        raw.start("fanout", topic=topic, payload="p", background=True, **given)
        [envelope] = alice.finish()
        assert json.loads(envelope).keys() == {"topic", "at", "payload"}
        bob.finish()


@pytest.mark.parametrize("headers", [GIVEN, LARGE])
def test_headers_are_kept_with_a_message_wherever_it_goes(
    raw: Raw, topic: str, headers: dict[str, str]
) -> None:
    kept = {name.lower(): value for name, value in headers.items()}
    once = {"max_attempts": 1, "max_backoff": 0.05}
    subscribe(raw, topic, "alice", envelope=True, durable=once)
    subscribe(raw, topic, "bob", durable={"batch": 10})
    subscribe(raw, topic, "carol", durable={"pull": True})
    subscribe(raw, topic, "dave", durable=True)
    publish(raw, topic, "p", headers=headers)
    publish(raw, topic, "p")
    alice, bob = raw.taker(f"{topic}_alice"), raw.taker(f"{topic}_bob")

    for reply in (fetch(raw, topic), fetch(raw, topic, client_id="carol")):
        assert [one.get("headers") for one in reply["messages"]] == [kept, None]
    [delivered] = fail(alice, b"no")
    assert json.loads(delivered.payload)["headers"] == kept
    assert "headers" not in json.loads(alice.finish()[0])
    envelopes: list[dict[str, Any]] = []
    while len(envelopes) < 2:
        envelopes += json.loads(bob.finish()[0])
    assert [one.get("headers") for one in envelopes] == [kept, None]
    assert raw.taker(f"{topic}_dave").finish(2) == [b"p", b"p"]

    eventually(lambda: lane(raw, topic, "alice")["parked"] == 1)
    [listed] = parked(raw, topic, "alice")
    assert (listed["headers"], listed["payload"]) == (kept, "p")
    for _ in range(2):  # parked again they are still there
        ask(raw, "parked_fanout", topic=topic, client_id="alice", action="redrive")
        [delivered] = fail(alice, b"no")
        assert json.loads(delivered.payload)["headers"] == kept
        eventually(lambda: lane(raw, topic, "alice")["parked"] == 1)
    assert parked(raw, topic, "alice")[0]["headers"] == kept


def test_a_log_counts_headers(raw: Raw, topic: str) -> None:
    ask(raw, "retain_fanout", topic=topic, max_bytes=20_000)
    publish(raw, topic, *"123456", headers=LARGE)
    assert len(fetch(raw, topic)["messages"]) == 2


def test_a_reply_counts_headers(raw: Raw, topic: str) -> None:
    ask(raw, "retain_fanout", topic=topic)
    publish(raw, topic, *["x" * (4 * 1024 * 1024 - 8192)] * 2, headers=LARGE)
    assert len(fetch(raw, topic)["messages"]) == 2  # 8 MiB together
    publish(raw, topic, *["x" * (4 * 1024 * 1024 - 8191)] * 2, headers=LARGE)
    assert len(fetch(raw, topic, after=2)["messages"]) == 1


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ("a", "headers: expected object, got string"),
        (None, "headers: expected object, got null"),
        ({"a": 1}, "expected string, got integer"),
        ({"a b": "x"}, "headers: expected names of 1 to 64 letters, digits"),
        ({"a" * 65: "x"}, "headers: expected names of 1 to 64 letters, digits"),
        ({"A": "x", "a": "x"}, "headers: expected one name whatever its case, got 'a' again"),
        ({"a": "x\r\n"}, "headers: expected no control character in the value of 'a'"),
        (LARGE | {"one-more": ""}, "headers: expected at most 64 names, got 65"),
        (LARGE | {"h00": "x" * 126}, "headers: expected at most 8192 bytes"),
    ],
)
def test_bad_headers_are_refused(raw: Raw, topic: str, headers: Any, words: str) -> None:
    text = refusal(raw.ask("fanout", topic=topic, payload="p", headers=headers))
    assert text.startswith("bad_request: headers")
    assert words in text


def test_headers_count_with_the_copies(raw: Raw, topic: str) -> None:
    text = refusal(raw.ask("fanout", topic=topic, payload="x" * (8 * 1024 * 1024), headers=LARGE))
    assert text.startswith("too_large: payload, unique, exclude and headers of 8396800 bytes")
