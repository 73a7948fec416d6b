"""What ``describe_fanout`` with ``summary`` tells, on both pairs of servers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.cluster import Cluster, eventually
from support.foreign import Raw, refusal

pytest_plugins = ["support.foreign"]

SORTS = ["name", "lag", "parked", "backlog", "drops"]


def summaries(raw: Raw, **request: Any) -> dict[str, Any]:
    """Ask, and read the answer."""
    outcome = raw.ask("describe_fanout", summary=True, **request)
    assert outcome.kind == "complete", outcome
    return dict(json.loads(outcome.data))


def whole(raw: Raw, **request: Any) -> list[str]:
    """The topics of all pages, in their order."""
    found: list[str] = []
    more: dict[str, Any] = {}
    while True:
        page = summaries(raw, **request, **more)
        assert page.keys() == {"topics", "cursor"}
        found += page["topics"]
        if page["cursor"] is None:
            return found
        more = {"cursor": page["cursor"]}


def test_a_topic_is_told_with_its_counts(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "direct", "full", max_backlog=1)
    cluster.subscribe(topic, "durable", "pull", durable={"pull": True})
    cluster.subscribe(topic, "paused", durable={"paused": True})
    cluster.subscribe(topic, "soon", durable={"paused": 0.1})
    one = {"topic": f"{topic[:-1]}*", "client_id": "p", "pattern": True}
    assert raw.ask("subscribe_fanout", **one).kind == "complete"
    for number in range(3):
        assert raw.ask("fanout", topic=topic, payload=number, background=True).kind == "complete"

    def told() -> bool:
        [(name, found)] = summaries(raw, topic=topic)["topics"].items()
        assert name == topic
        counts = {key: found[key] for key in ("subscriptions", "durable", "lag_max", "parked")}
        assert counts == {"subscriptions": 6, "durable": 4, "lag_max": 3, "parked": 0}
        assert found["patterns"] == 0, "in a pattern only whole segments stand for any"
        assert found["log"].items() >= {"first": 1, "last": 3}.items()
        return bool(found["drops"] == 4 and found["paused"] == 1)

    eventually(told, 20)


def test_what_waits_without_a_receiver_is_counted(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice", "bob_under")
    serving = raw.taker(f"{topic}_alice")
    cluster.publish(topic, "x")

    def told() -> bool:
        found = summaries(raw, topic=topic)["topics"][topic]
        return bool((found["backlog"], found["receivers_missing"]) in ((1, 1), (2, 1)))

    eventually(told, 45)
    assert serving


@pytest.mark.parametrize("sort", SORTS)
def test_pages_have_every_topic_once_the_most_first(
    cluster: Cluster, raw: Raw, topic: str, sort: str
) -> None:
    names = [f"{topic}.{number}" for number in range(7)]
    for number, name in enumerate(names):
        cluster.subscribe(name, "alice", durable={"pull": True})
        for _ in range(number % 4):
            cluster.publish(name, "x")
    found = whole(raw, match=f"{topic}.*", sort=sort, limit=2)
    if sort == "lag":
        numbers = [3, 2, 6, 1, 5, 0, 4]
        assert found == [names[number] for number in numbers]
    else:
        assert found == names
    assert whole(raw, match=f"{topic}.*.x", sort=sort) == []
    assert whole(raw, match=f"{topic}.3", sort=sort) == [names[3]]


def test_patterns_that_match_are_counted_and_are_no_topics(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(f"{topic}.a", "alice")
    for pattern in (f"{topic}.*", f"{topic}.>"):
        one = {"topic": pattern, "client_id": "p", "pattern": True}
        assert raw.ask("subscribe_fanout", **one).kind == "complete"
    found = summaries(raw, match=f"{topic}.>")["topics"]
    assert {name: one["patterns"] for name, one in found.items()} == {f"{topic}.a": 2}
    assert "lag_max" in found[f"{topic}.a"]
    assert "log" not in found[f"{topic}.a"]


def test_bad_requests_are_told_what_was_expected(raw: Raw, topic: str) -> None:
    wrong: dict[str, list[object]] = {
        "summary": [1, "yes", None],
        "match": [1, None, [topic]],
        "sort": ["size", 1, None],
        "limit": [0, 10_001, "5"],
        "cursor": [1, "", "a b", "lag 1 t", "name x t", "name -1 t", "name 0 a b"],
    }
    for key, values in wrong.items():
        for value in values:
            text = refusal(raw.ask("describe_fanout", **({"summary": True} | {key: value})))
            assert text.startswith(f"bad_request: {key}: expected"), text
    for key, value in (("match", "a.*"), ("sort", "lag")):
        assert refusal(raw.ask("describe_fanout", **{key: value})).startswith(
            f"bad_request: {key}: expected"
        )
    both = {"summary": True, "topic": topic}
    assert refusal(raw.ask("describe_fanout", **both, match="a")).startswith("bad_request: match")
    assert refusal(raw.ask("describe_fanout", **both, pattern=True)).startswith("bad_request: pat")
    assert refusal(raw.ask("describe_fanout", **both)).startswith("unknown: ")
    assert refusal(raw.ask("describe_fanout", summary=True, match="a b")).startswith("bad_name: ")
    assert refusal(raw.ask("describe_fanout", summary=True, match=">.a")).startswith("bad_name: ")
