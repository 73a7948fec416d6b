"""What ``describe_fanout`` tells, on both pairs of servers."""

from __future__ import annotations

import json
import time
from typing import Any

from support.cluster import Cluster, eventually
from support.foreign import Raw, refusal

pytest_plugins = ["support.foreign"]


def describe(raw: Raw, **request: Any) -> dict[str, Any]:
    """Ask, and read the answer."""
    outcome = raw.ask("describe_fanout", **request)
    assert outcome.kind == "complete", outcome
    return dict(json.loads(outcome.data))


def test_a_topic_is_told_with_its_subscriptions_and_their_options(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice")
    cluster.subscribe(topic, "bob", max_backlog=7, envelope=True, ttl=1000, overflow="unsubscribe")
    told = describe(raw, topic=topic)
    assert told["topics"].keys() == {topic}
    found = told["topics"][topic]["subscriptions"]
    assert found.keys() == {"alice", "bob"}
    assert found["alice"]["max_backlog"] == 100_000
    assert "ttl" not in found["alice"]
    expected = {"max_backlog": 7, "envelope": True, "ttl": 1000, "overflow": "unsubscribe"}
    assert found["bob"].items() >= {"queue": f"{topic}_bob", "drops": 0, **expected}.items()
    assert told["cursor"] is None
    assert [one["state"] for one in told["members"]] == ["solitary"]


def test_the_backlog_is_at_most_ten_seconds_old(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice")
    for _ in range(3):
        cluster.publish(topic, "x")

    def backlog() -> bool:
        found = describe(raw, topic=topic)["topics"][topic]["subscriptions"]["alice"]
        assert time.time() - found["backlog_at"] < 11
        return bool(found["backlog"] == 3)

    eventually(backlog, 12)
    assert raw.taker(f"{topic}_alice").finish(3)


def test_pages_follow_each_other_to_the_end(cluster: Cluster, raw: Raw, topic: str) -> None:
    clients = sorted(f"c{number}" for number in range(7))
    for number in range(3):
        cluster.subscribe(f"{topic}-{number}", *clients)
    found: list[tuple[str, str]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = describe(raw, limit=5, **({"cursor": cursor} if cursor else {}))
        pairs = [(name, c) for name, one in page["topics"].items() for c in one["subscriptions"]]
        assert len(pairs) <= 5
        found += pairs
        cursor = page["cursor"]
    ours = [pair for pair in found if pair[0].startswith(topic)]
    assert ours == [(f"{topic}-{number}", client) for number in range(3) for client in clients]
    assert len(set(found)) == len(found)


def test_a_topic_that_ended_is_told_no_more(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice")
    assert cluster.run("unsubscribe_fanout", topic=topic, client_id="alice").kind == "complete"
    assert refusal(raw.ask("describe_fanout", topic=topic)).startswith("unknown: ")


def test_bad_requests_are_told_what_was_expected(raw: Raw) -> None:
    wrong: dict[str, list[object]] = {
        "topic": [1, None, ["t"]],
        "limit": [0, -1, "5", 1.5, 10**6],
        "cursor": [1, "", "one", "a b c"],
    }
    for key, values in wrong.items():
        for value in values:
            text = refusal(raw.ask("describe_fanout", **{key: value}))
            assert text.startswith(f"bad_request: {key}"), (value, text)
    assert refusal(raw.ask("describe_fanout", topic="a b")).startswith("bad_name: ")


def test_a_subscription_ends_with_its_time_unless_it_is_made_again(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "short", ttl=1)
    cluster.subscribe(topic, "kept", ttl=3)
    cluster.subscribe(topic, "for-ever")
    assert cluster.publish(topic, "x").data == b"3"
    began = time.monotonic()

    def count() -> bytes:
        cluster.subscribe(topic, "kept")  # the options are kept, and the time begins anew
        return cluster.publish(topic, "x").data

    eventually(lambda: count() == b"2", 10)
    assert time.monotonic() - began > 0.9
    while time.monotonic() - began < 5:
        assert count() == b"2"
        time.sleep(0.3)
    eventually(lambda: cluster.publish(topic, "x").data == b"1", 10)
    for client in ("short", "kept", "for-ever"):
        raw.taker(f"{topic}_{client}").finish()


def test_a_subscription_ends_where_its_backlog_is_full_if_it_was_made_so(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice")
    cluster.subscribe(topic, "slow", max_backlog=3, overflow="unsubscribe")
    for number in range(3):
        assert cluster.publish(topic, str(number)).data == b"2"
    receipt = json.loads(cluster.publish(topic, "3", receipt=True).data)
    assert (receipt["copies"], receipt["dropped"]) == (1, ["slow"])
    eventually(
        lambda: describe(raw, topic=topic)["topics"][topic]["subscriptions"].keys() == {"alice"}
    )
    assert cluster.publish(topic, "4").data == b"1"
    assert raw.taker(f"{topic}_slow").finish(3) == [b"0", b"1", b"2"]
    assert raw.taker(f"{topic}_alice").finish(5)
