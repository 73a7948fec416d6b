"""What is promised of requests about durable topics that are wrong, on both pairs."""

from __future__ import annotations

from typing import Any

import pytest
from support.cluster import Cluster
from support.durable import ask, fail, fetch, lane, log_of, publish, reaches, subscribe
from support.foreign import Raw, refusal

pytest_plugins = ["support.foreign"]

TEXT: list[Any] = [1, 1.5, True, None, ["a"], {"a": "b"}]  # what is no string
BOOLEAN: list[Any] = [1, 0, "true", None, [], {}]
COUNT: list[Any] = [0, -1, 1.5, "2", True, None, [1], {}]  # what is no integer from 1
NUMBER: list[Any] = [-1, 1.5, "2", True, None, [1], {}]  # what is no integer from 0
SECONDS: list[Any] = [0, -1, -0.5, "2", True, None, [1], {}]
STARTS: list[Any] = [
    *("", "old", "New", 1, True, None, [], ["all"], {}),
    *({"sequence": -1}, {"sequence": 1.5}, {"sequence": "1"}, {"sequence": None}),
    *({"window": 0}, {"window": -1}, {"window": "1"}, {"window": None}),
    {"sequence": 0, "window": 1},
]
DURABLE = {
    "start": STARTS,
    "in_flight": COUNT,
    "timeout": SECONDS,
    "max_attempts": NUMBER,
    "max_backoff": [value for value in SECONDS if value != 0],
    "batch": COUNT,
    "pull": BOOLEAN,
}
PAIR = {"client_id": "alice"}
GOOD: dict[str, dict[str, Any]] = {
    "retain_fanout": {},
    "fetch_fanout": {"after": 0},
    "parked_fanout": PAIR | {"action": "list"},
}
WRONG = {
    "retain_fanout": {
        "topic": TEXT,
        "max_age": [value for value in SECONDS if value is not None],
        "max_messages": [value for value in COUNT if value is not None],
        "max_bytes": [value for value in COUNT if value is not None],
    },
    "fetch_fanout": {
        "topic": TEXT,
        "after": NUMBER,
        "epoch": TEXT,
        "limit": COUNT,
        "wait": [-1, -0.5, "1", True, None, [1]],
        "purge": NUMBER,
    },
    "parked_fanout": {
        "topic": TEXT,
        "client_id": TEXT,
        "action": ["", "List", "drop", 1, True, None, ["list"], {}],
        "limit": COUNT,
    },
}
PULLER = {"client_id": "puller"}


def test_a_wrong_durable_option_is_refused_and_named(raw: Raw, topic: str) -> None:
    request = {"topic": topic, "client_id": "alice"}
    for key, values in DURABLE.items():
        for value in values:
            text = refusal(raw.ask("subscribe_fanout", **request, durable={key: value}))
            assert text.startswith("bad_request: "), (key, value, text)
            assert key in text, (key, value, text)
    for value in (1, 0, "true", "yes", None, [], [True]):
        text = refusal(raw.ask("subscribe_fanout", **request, durable=value))
        assert text.startswith("bad_request: durable"), (value, text)
    assert refusal(raw.ask("describe_fanout", topic=topic)).startswith("unknown: ")
    subscribe(raw, topic, "alice", durable={"of": "later", "releases": [1]})  # unknown keys


@pytest.mark.parametrize("function", list(WRONG))
def test_a_wrong_value_is_refused_and_its_key_named(
    cluster: Cluster, raw: Raw, topic: str, function: str
) -> None:
    subscribe(raw, topic, "alice", durable={"max_attempts": 1, "in_flight": 2})
    subscribe(raw, topic, "puller", durable={"pull": True})
    publish(raw, topic, "bad", "good")
    fail(raw.taker(f"{topic}_alice"), b"no")
    reaches(raw, topic, "alice", 1)
    before = log_of(raw, topic), lane(raw, topic, "alice"), lane(raw, topic, "puller")

    good = {"topic": topic} | GOOD[function]
    for key, values in WRONG[function].items():
        for value in values:
            text = refusal(raw.ask(function, **good | {key: value}))
            assert text.startswith("bad_request: "), (key, value, text)
            assert key in text, (key, value, text)
    for missing in good:
        rest = {key: value for key, value in good.items() if key != missing}
        assert refusal(raw.ask(function, **rest)).startswith(f"bad_request: {missing}")
    if function == "fetch_fanout":
        for key, values in {"client_id": TEXT, "ack": NUMBER}.items():
            for value in values:
                request = {"topic": topic} | PULLER | {key: value}
                text = refusal(raw.ask(function, **request))
                assert text.startswith(f"bad_request: {key}"), (key, value, text)
    for body in (b"", b"{", b"hello", b"[]", b'"x"', b"1", b"null", b'{"topic": "\xff"}'):
        assert refusal(raw.ask(function, body)).startswith("bad_request: "), body
    for name in ("", "a b", "a\n", "x" * 256):
        assert refusal(raw.ask(function, **good | {"topic": name})).startswith("bad_name: "), name

    # nothing of it has changed anything for anybody
    after = log_of(raw, topic), lane(raw, topic, "alice"), lane(raw, topic, "puller")
    for told in (*before, *after):
        for key in ("backlog", "backlog_at"):  # as old as it may be
            told.pop(key, None)
    assert after == before
    assert raw.taker(f"{topic}_alice").finish() == [b"good"]
    assert cluster.publish(topic, "next").data == b"2"


def test_what_is_reserved_is_no_durable_topic(raw: Raw, topic: str) -> None:
    request: dict[str, object]
    for name in ("__matchmaking", "__gossip", "__other"):
        text = refusal(raw.ask("retain_fanout", topic=name, max_age=1))
        assert text.startswith("reserved: "), (name, text)
        text = refusal(raw.ask("fetch_fanout", topic=name, after=0))
        assert text.startswith(("reserved: ", "unknown: ")), (name, text)
        request = {"topic": name, "client_id": "alice", "action": "list"}
        text = refusal(raw.ask("parked_fanout", **request))
        assert text.startswith(("reserved: ", "unknown: ")), (name, text)
    for name in ("__matchmaking", "__other"):
        request = {"topic": name, "client_id": "alice", "durable": True}
        assert refusal(raw.ask("subscribe_fanout", **request)).startswith("reserved: ")
    for name in ("retain", "fetch", "parked"):  # their queues are functions of gearhorn's own
        request = {"topic": name, "client_id": "fanout"}
        assert refusal(raw.ask("subscribe_fanout", **request)).startswith("reserved: "), name
        request["durable"] = True
        assert refusal(raw.ask("subscribe_fanout", **request)).startswith("reserved: "), name
    subscribe(raw, f"{topic}_a", "b")
    request = {"topic": topic, "client_id": "a_b", "durable": True}
    assert refusal(raw.ask("subscribe_fanout", **request)).startswith("queue_taken: ")
    assert refusal(raw.ask("fetch_fanout", topic=topic, after=0)).startswith("unknown: ")
    ask(raw, "unsubscribe_fanout", topic=f"{topic}_a", client_id="b")
    subscribe(raw, topic, "a_b")
    assert fetch(raw, topic)["messages"] == []
