"""What is promised of subscriptions by pattern, on both pairs of servers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.cluster import Cluster, eventually
from support.foreign import Raw, receipt, refusal
from support.wire import admin

pytest_plugins = ["support.foreign"]


def subscribe(raw: Raw, pattern: str, client: str = "alice", **options: Any) -> str:
    """Subscribe a client by a pattern; return the queue."""
    outcome = raw.ask("subscribe_fanout", topic=pattern, client_id=client, pattern=True, **options)
    assert outcome.kind == "complete", outcome
    return str(json.loads(outcome.data)["queue"])


def unsubscribe(raw: Raw, pattern: str, client: str = "alice", **more: Any) -> dict[str, Any]:
    outcome = raw.ask("unsubscribe_fanout", topic=pattern, client_id=client, pattern=True, **more)
    assert outcome.kind == "complete", outcome
    reply: dict[str, Any] = json.loads(outcome.data)
    return reply


def taken(raw: Raw, queue: str, count: int = 1) -> list[dict[str, Any]]:
    """Take envelopes from a queue."""
    return [json.loads(body) for body in raw.taker(queue).finish(count)]


def waiting(cluster: Cluster, queue: str) -> int:
    lines = (line.split("\t") for line in admin(cluster.address, "status"))
    return sum(int(total) for name, total, *_ in lines if name == queue)


# Subscribing


def test_a_pattern_has_a_queue_of_its_name_and_takes_envelopes(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    queue = subscribe(raw, f"{topic}.*", "ålice")
    assert queue == f"{topic}.*_ålice"
    assert cluster.publish(f"{topic}.a", "x").data == b"1"
    [envelope] = taken(raw, queue)
    assert envelope["topic"] == f"{topic}.a"
    assert envelope["payload"] == "x"
    assert type(envelope["at"]) is float


def test_the_older_name_of_the_function_subscribes_by_pattern_too(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    request = {"topic": f"{topic}.*", "client_id": "alice", "pattern": True}
    assert raw.ask("register_fanout_subscriber", **request).kind == "complete"
    assert cluster.publish(f"{topic}.a", "x").data == b"1"


def test_headers_and_expiry_are_in_the_envelope(cluster: Cluster, raw: Raw, topic: str) -> None:
    queue = subscribe(raw, f"{topic}.*")
    cluster.publish(f"{topic}.a", "x", headers={"kind": "text"}, expires=60)
    [envelope] = taken(raw, queue)
    assert envelope["headers"] == {"kind": "text"}
    assert envelope["expires_at"] > envelope["at"]


@pytest.mark.parametrize("envelope", [{}, {"envelope": False}, {"envelope": True}])
def test_the_envelope_is_there_whatever_was_asked_for(
    cluster: Cluster, raw: Raw, topic: str, envelope: dict[str, bool]
) -> None:
    queue = subscribe(raw, f"{topic}.*", "alice", **envelope)
    cluster.publish(f"{topic}.a", "x")
    assert taken(raw, queue)[0]["topic"] == f"{topic}.a"


@pytest.mark.parametrize(
    ("tail", "yes", "no"),
    [
        (".*", [".a", ".", ".*", ".>"], ["", ".a.b", "a"]),
        (".>", [".a", ".a.b.c", "."], ["", "a.b"]),
        (".*.b", [".a.b", "..b"], [".b", ".a.b.c", ".a.c"]),
        ("", [""], [".a"]),
        (".a*", [".a*"], [".ab"]),
    ],
)
def test_which_topics_a_pattern_matches(
    cluster: Cluster, raw: Raw, topic: str, tail: str, yes: list[str], no: list[str]
) -> None:
    queue = subscribe(raw, topic + tail)
    for end in no:
        assert cluster.publish(topic + end, "x").data == b"0", end
    for end in yes:
        assert cluster.publish(topic + end, "x").data == b"1", end
    assert [one["topic"] for one in taken(raw, queue, len(yes))] == [topic + end for end in yes]


def test_more_than_everything_is_matched_by_no_pattern(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    gossip = f"__gossip_{topic}"
    raw.ask("subscribe_fanout", topic="__gossip", client_id=topic)
    queue = subscribe(raw, ">", topic)
    other = subscribe(raw, "*", topic)
    try:
        eventually(lambda: waiting(cluster, gossip), what="no gossip")
        assert cluster.publish(topic, "x").data == b"2"
        assert {one["topic"] for one in taken(raw, queue) + taken(raw, other)} == {topic}
        assert waiting(cluster, queue) == waiting(cluster, other) == 0
    finally:
        unsubscribe(raw, ">", topic)
        unsubscribe(raw, "*", topic)
        raw.ask("unsubscribe_fanout", topic="__gossip", client_id=topic, drain=True)


def test_a_literal_topic_that_looks_like_a_pattern_stays_literal(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    raw.ask("subscribe_fanout", topic=f"{topic}.*", client_id="alice")
    raw.ask("subscribe_fanout", topic=f"{topic}.>", client_id="alice", pattern=False)
    assert cluster.publish(f"{topic}.a", "x").data == b"0"
    assert cluster.publish(f"{topic}.*", "x").data == b"1"
    assert raw.taker(f"{topic}.*_alice").finish() == [b"x"]


def test_a_topic_and_a_pattern_of_one_name_are_two_subscriptions_and_clash(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    name = f"{topic}.*"
    subscribe(raw, name, "alice")
    text = refusal(raw.ask("subscribe_fanout", topic=name, client_id="alice"))
    assert text == (
        f"queue_taken: {name}_alice belongs to pattern {name}, client alice, until that is "
        "unsubscribed"
    )
    raw.ask("subscribe_fanout", topic=name, client_id="bob")
    request = {"topic": name, "client_id": "bob", "pattern": True}
    text = refusal(raw.ask("subscribe_fanout", **request))
    assert text.startswith(f"queue_taken: {name}_bob belongs to topic {name}, client bob")
    # neither ends the other
    raw.ask("unsubscribe_fanout", topic=name, client_id="alice")
    unsubscribe(raw, name, "bob")
    assert cluster.publish(name, "x").data == b"2"
    raw.ask("unsubscribe_fanout", topic=name, client_id="bob")
    subscribe(raw, name, "bob")
    assert cluster.publish(f"{topic}.a", "x").data == b"2"


@pytest.mark.parametrize("pattern", [True, False])
def test_queue_names_that_other_pairs_make_clash_whichever_kind_owns_them(
    raw: Raw, topic: str, pattern: bool
) -> None:
    owner = {"topic": f"{topic}.*_b", "client_id": "c", "pattern": pattern}
    raw.ask("subscribe_fanout", **owner)
    for other in (True, False):
        request = {"topic": f"{topic}.*", "client_id": "b_c", "pattern": other}
        assert refusal(raw.ask("subscribe_fanout", **request)).startswith("queue_taken:")
    raw.ask("unsubscribe_fanout", **owner)
    assert raw.ask("subscribe_fanout", **request).kind == "complete"


def test_a_client_gets_a_copy_for_each_of_its_subscriptions(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    raw.ask("subscribe_fanout", topic=f"{topic}.a", client_id="alice")
    queues = [subscribe(raw, f"{topic}.*"), subscribe(raw, f"{topic}.>")]
    assert cluster.publish(f"{topic}.a", "x").data == b"3"
    assert raw.taker(f"{topic}.a_alice").finish() == [b"x"]
    for queue in queues:
        assert taken(raw, queue)[0]["payload"] == "x"


def test_subscribing_again_keeps_what_is_not_given(cluster: Cluster, raw: Raw, topic: str) -> None:
    queue = subscribe(raw, f"{topic}.*", max_backlog=1, overflow="drop_old")
    subscribe(raw, f"{topic}.*")
    for text in ("x", "y"):
        assert cluster.publish(f"{topic}.a", text).data == b"1"
    assert taken(raw, queue)[0]["payload"] == "y"


def test_the_version_counts_changes_of_patterns_too(raw: Raw, topic: str) -> None:
    request = {"topic": f"{topic}.*", "client_id": "alice"}
    first = json.loads(raw.ask("subscribe_fanout", **request, pattern=True).data)["version"]
    assert unsubscribe(raw, f"{topic}.*")["version"] == first + 1
    assert json.loads(raw.ask("subscribe_fanout", **request).data)["version"] == first + 2


# Refusals


@pytest.mark.parametrize("function", ["subscribe_fanout", "unsubscribe_fanout"])
@pytest.mark.parametrize("value", [1, "true", None, [], {}])
def test_what_is_no_boolean_is_refused(raw: Raw, topic: str, function: str, value: object) -> None:
    text = refusal(raw.ask(function, topic=topic, client_id="a", pattern=value))
    assert text.startswith("bad_request: pattern: expected boolean")


@pytest.mark.parametrize("durable", [True, {}, {"start": "all"}])
def test_a_pattern_cannot_be_durable(raw: Raw, topic: str, durable: object) -> None:
    request = {"topic": topic, "client_id": "a", "pattern": True, "durable": durable}
    text = refusal(raw.ask("subscribe_fanout", **request))
    assert text.startswith("bad_request: durable: expected")
    assert raw.ask("subscribe_fanout", **request | {"durable": False}).kind == "complete"


@pytest.mark.parametrize("function", ["subscribe_fanout", "unsubscribe_fanout"])
@pytest.mark.parametrize(
    ("pattern", "code"),
    [
        (">.a", "bad_name: topic: in a pattern > may only be the last segment"),
        ("a.>.>", "bad_name: topic: in a pattern > may only be the last segment"),
        (".".join("a" * 17), "bad_name: topic: a pattern has at most 16 segments, this one has 17"),
        ("a .*", "bad_name: topic has a space"),
        ("", "bad_name: topic is empty"),
        ("x" * 256, "bad_name: topic has 256 bytes"),
        ("__gossip", "reserved:"),
        ("__a.*", "reserved:"),
        ("_", "reserved: queue __x"),
    ],
)
def test_what_is_no_pattern_is_refused(raw: Raw, function: str, pattern: str, code: str) -> None:
    client = "_x" if pattern == "_" else "x"
    text = refusal(raw.ask(function, topic=pattern, client_id=client, pattern=True))
    assert text.startswith(code.replace("queue __x", "queue ___x"))


def test_the_queue_of_a_pattern_is_no_function_of_the_worker(raw: Raw) -> None:
    request = {"topic": "subscribe", "client_id": "fanout", "pattern": True}
    assert refusal(raw.ask("subscribe_fanout", **request)).startswith("reserved: queue")


# Publishing


def test_publishing_to_what_was_subscribed_by_patterns_only_works_in_every_way(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    queue = subscribe(raw, f"{topic}.*")
    taker = raw.taker(queue)
    pending = raw.fanout(f"{topic}.a", "x", receipt=True)
    taker.finish(answer=b"42 files")
    told = receipt(pending.outcome())
    assert told["copies"] == 1
    assert told["delivered"] == ["alice"]
    assert told["results"] == {"alice": "42 files"}
    assert cluster.publish(f"{topic}.a", "x", unique="1").data == b"1"
    assert taken(raw, queue)[0]["unique"] == "1"


def test_exclude_names_clients_of_both_kinds(cluster: Cluster, raw: Raw, topic: str) -> None:
    for client in ("alice", "bob"):
        raw.ask("subscribe_fanout", topic=f"{topic}.a", client_id=client)
        subscribe(raw, f"{topic}.*", client)
    assert cluster.publish(f"{topic}.a", "x", exclude=["alice", "mallory"]).data == b"2"
    assert waiting(cluster, f"{topic}.*_alice") == waiting(cluster, f"{topic}.a_alice") == 0
    assert waiting(cluster, f"{topic}.*_bob") == waiting(cluster, f"{topic}.a_bob") == 1


def test_a_receipt_names_each_client_once_and_counts_its_copies(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    raw.ask("subscribe_fanout", topic=f"{topic}.a", client_id="alice")
    queue = subscribe(raw, f"{topic}.*")
    one, other = raw.taker(f"{topic}.a_alice"), raw.taker(queue)
    pending = raw.fanout(f"{topic}.a", "x", receipt=True)
    one.finish(answer=b"own")
    other.finish(answer=b"pattern")
    told = receipt(pending.outcome())
    assert told["copies"] == 2
    assert told["delivered"] == ["alice"]
    assert told["results"] == {"alice": "own"}
    # one of two has not finished: she is pending
    pending = raw.fanout(f"{topic}.a", "x", receipt=True, timeout=1)
    one.finish()
    told = receipt(pending.outcome())
    assert (told["delivered"], told["pending"]) == ([], ["alice"])


def test_a_topic_with_a_log_copies_to_patterns_too(cluster: Cluster, raw: Raw, topic: str) -> None:
    raw.ask("subscribe_fanout", topic=f"{topic}.a", client_id="dora", durable=True)
    queue = subscribe(raw, f"{topic}.*")
    pending = raw.fanout(f"{topic}.a", "x", receipt=True)
    raw.taker(f"{topic}.a_dora").finish()
    taken(raw, queue)
    told = receipt(pending.outcome())
    assert told["copies"] == 2
    assert sorted(told["delivered"]) == ["alice", "dora"]
    assert told["sequence"] == 1
    # a log without any literal subscription
    raw.ask("retain_fanout", topic=f"{topic}.b", max_age=60)
    told = receipt(raw.fanout(f"{topic}.b", "y", receipt=True, background=True).outcome())
    assert (told["copies"], told["sequence"]) == (1, 1)
    assert taken(raw, queue)[0]["payload"] == "y"
    fetched = json.loads(raw.ask("fetch_fanout", topic=f"{topic}.b", after=0).data)
    assert [one["payload"] for one in fetched["messages"]] == ["y"]


def test_the_name_of_a_cached_list_of_a_pattern_is_no_topic(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    queue = subscribe(raw, f"{topic}.*")
    cluster.publish(f"{topic}.a", "x")
    text = refusal(raw.ask("fanout", topic=f" {topic}.*", payload="x", background=True))
    assert text.startswith("bad_name: topic has a space")
    assert waiting(cluster, queue) == 1


# Ending


def test_an_unsubscribe_needs_the_key_and_ends_the_copies(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    queue = subscribe(raw, f"{topic}.*")
    cluster.publish(f"{topic}.a", "x")
    unsubscribe(raw, f"{topic}.*")
    assert cluster.publish(f"{topic}.a", "y").data == b"0"
    assert taken(raw, queue)[0]["payload"] == "x"


def test_a_drain_empties_the_queue_of_a_pattern(cluster: Cluster, raw: Raw, topic: str) -> None:
    queue = subscribe(raw, f"{topic}.>")
    for end in ("a", "b", "a.b"):
        cluster.publish(f"{topic}.{end}", "x")
    assert unsubscribe(raw, f"{topic}.>", drain=True)["drained"] == 3
    assert waiting(cluster, queue) == 0
    # what a topic owns is not touched for a pattern that is gone
    raw.ask("subscribe_fanout", topic=f"{topic}.>", client_id="alice")
    cluster.publish(f"{topic}.>", "x")
    assert "drained" not in unsubscribe(raw, f"{topic}.>", drain=True)
    assert waiting(cluster, queue) == 1


def test_a_ttl_ends_a_pattern(cluster: Cluster, raw: Raw, topic: str) -> None:
    subscribe(raw, f"{topic}.*", ttl=0.5)
    assert cluster.publish(f"{topic}.a", "x").data == b"1"
    eventually(lambda: cluster.publish(f"{topic}.a", "x").data == b"0", timeout=15)


def test_a_full_queue_of_a_pattern_drops_and_counts(cluster: Cluster, raw: Raw, topic: str) -> None:
    subscribe(raw, f"{topic}.*", max_backlog=2)
    for number in range(4):
        told = raw.fanout(f"{topic}.{number}", "x", receipt=True, background=True).outcome()
        dropped = receipt(told)["dropped"]
        assert dropped == (["alice"] if number >= 2 else []), number


def test_a_full_queue_ends_a_pattern_that_wants_it(cluster: Cluster, raw: Raw, topic: str) -> None:
    queue = subscribe(raw, f"{topic}.*", max_backlog=1, overflow="unsubscribe")
    for number in range(2):
        cluster.publish(f"{topic}.{number}", "x")
    eventually(lambda: cluster.publish(f"{topic}.a", "x").data == b"0")
    assert waiting(cluster, queue) == 1


# Describing


def describe(raw: Raw, **request: Any) -> dict[str, Any]:
    outcome = raw.ask("describe_fanout", **request)
    assert outcome.kind == "complete", outcome
    told: dict[str, Any] = json.loads(outcome.data)
    return told


def test_a_description_tells_patterns_and_which_match_a_topic(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    subscribe(raw, f"{topic}.*", "alice", max_backlog=7, ttl=1000)
    subscribe(raw, f"{topic}.>", "bob")
    subscribe(raw, f"{topic}.b", "carol")
    raw.ask("subscribe_fanout", topic=f"{topic}.a", client_id="dave")
    told = describe(raw, topic=f"{topic}.a")
    assert told["topics"][f"{topic}.a"]["patterns"] == [f"{topic}.*", f"{topic}.>"]
    assert told["topics"][f"{topic}.a"]["subscriptions"].keys() == {"dave"}
    # one that nothing but patterns subscribes, and one that nothing does
    told = describe(raw, topic=f"{topic}.b")
    patterns = [f"{topic}.*", f"{topic}.>", f"{topic}.b"]
    assert told["topics"] == {f"{topic}.b": {"subscriptions": {}, "patterns": patterns}}
    assert refusal(raw.ask("describe_fanout", topic=topic)).startswith("unknown:")
    # the pattern itself
    told = describe(raw, topic=f"{topic}.*", pattern=True)
    assert told["topics"] == {}
    assert told["patterns"].keys() == {f"{topic}.*"}
    [(client, found)] = told["patterns"][f"{topic}.*"]["subscriptions"].items()
    assert client == "alice"
    expected = {"queue": f"{topic}.*_alice", "max_backlog": 7, "ttl": 1000, "envelope": True}
    assert found.items() >= expected.items()


def test_pages_of_a_description_hold_every_pattern_and_topic_once(raw: Raw, topic: str) -> None:
    wanted = {
        (pattern, f"{topic}.{name}", f"{client}{pattern}")
        for pattern in (True, False)
        for name in "abc"
        for client in ("alice", "bob")
    }
    for pattern, name, client in wanted:
        raw.ask("subscribe_fanout", topic=name, client_id=client, pattern=pattern)
    found: list[tuple[bool, str, str]] = []
    request: dict[str, Any] = {"limit": 1}
    while True:
        told = describe(raw, **request)
        for key in ("patterns", "topics"):
            for name, page in told.get(key, {}).items():
                if name.startswith(f"{topic}."):
                    found += [(key == "patterns", name, client) for client in page["subscriptions"]]
        if told["cursor"] is None:
            break
        request = {"limit": 1, "cursor": told["cursor"]}
    assert sorted(found) == sorted(wanted)


def test_drops_and_backlog_of_a_pattern_are_told(cluster: Cluster, raw: Raw, topic: str) -> None:
    subscribe(raw, f"{topic}.*", max_backlog=1)
    for number in range(3):
        cluster.publish(f"{topic}.{number}", "x")

    def told() -> dict[str, Any]:
        patterns = describe(raw, topic=f"{topic}.*", pattern=True)["patterns"]
        found: dict[str, Any] = patterns[f"{topic}.*"]["subscriptions"]["alice"]
        return found

    eventually(lambda: told()["drops"] == 2)
    eventually(lambda: told()["backlog"] == 1, timeout=15)
