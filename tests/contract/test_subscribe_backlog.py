"""What docs/protocol.rst promises of max_backlog and its overflow, on both pairs of servers."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from support.cluster import Cluster
from support.foreign import Raw, receipt

pytest_plugins = ["support.foreign"]


def accepted(cluster: Cluster, topic: str, count: int) -> list[int]:
    """Publish so many messages; to how many subscriptions each was copied."""
    return [int(cluster.publish(topic, str(number)).data) for number in range(count)]


def test_copies_over_the_limit_are_dropped_and_not_counted(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice", max_backlog=3)
    cluster.subscribe(topic, "bob")
    assert accepted(cluster, topic, 5) == [2, 2, 2, 1, 1]
    assert raw.taker(f"{topic}_alice").finish(3) == [b"0", b"1", b"2"]  # the new ones dropped
    assert raw.taker(f"{topic}_bob").finish(5) == [b"0", b"1", b"2", b"3", b"4"]


def test_a_limit_of_one_holds_for_the_first_copies(cluster: Cluster, raw: Raw, topic: str) -> None:
    clients = [f"c{number}" for number in range(20)]
    cluster.subscribe(topic, *clients, max_backlog=1, overflow="drop_new")
    assert accepted(cluster, topic, 3) == [20, 0, 0]
    for client in clients:
        taker = raw.taker(f"{topic}_{client}")
        assert taker.finish() == [b"0"]
        assert taker.grab_now() is None


def test_room_that_a_receiver_makes_is_used(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice", max_backlog=2)
    assert accepted(cluster, topic, 3) == [1, 1, 0]
    alice = raw.taker(f"{topic}_alice")
    alice.finish(2)
    alice.echo()  # the server has heard of both
    assert accepted(cluster, topic, 3) == [1, 1, 0]
    assert alice.finish(2) == [b"0", b"1"]


def test_a_receipt_names_who_was_dropped(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice", "carol", max_backlog=1)
    cluster.subscribe(topic, "bob")
    assert accepted(cluster, topic, 1) == [3]
    got = receipt(cluster.publish(topic, "x", receipt=True))
    assert (got["copies"], sorted(got["dropped"])) == (1, ["alice", "carol"])
    assert (got["failed"], got["pending"]) == ({}, [])
    bob = raw.taker(f"{topic}_bob")
    assert bob.finish(2) == [b"0", b"x"]
    pending = raw.fanout(topic, "y", receipt=True)
    assert bob.finish() == [b"y"]
    got = receipt(pending.outcome())
    assert (got["copies"], got["delivered"]) == (1, ["bob"])
    assert sorted(got["dropped"]) == ["alice", "carol"]
    assert (got["failed"], got["pending"]) == ({}, [])


def test_a_foreground_fanout_fails_naming_who_was_dropped(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice", max_backlog=1)
    cluster.subscribe(topic, "bob")
    assert accepted(cluster, topic, 1) == [2]
    pending = raw.fanout(topic, "x")
    assert raw.taker(f"{topic}_bob").finish(2) == [b"0", b"x"]
    outcome = pending.outcome()
    assert outcome.kind == "fail"
    [[client, reason]] = json.loads(outcome.warnings[-1])
    assert client == "alice"
    assert "full" in reason


def test_a_foreground_fanout_fails_at_once_if_every_queue_is_full(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice", "bob", max_backlog=1)
    assert accepted(cluster, topic, 1) == [2]
    outcome = raw.fanout(topic, "x").outcome(5)
    assert outcome.kind == "fail"
    assert sorted(client for client, _ in json.loads(outcome.warnings[-1])) == ["alice", "bob"]


@pytest.mark.parametrize(("quorum", "kind"), [(1, "complete"), (2, "fail"), ("50%", "complete")])
def test_what_was_dropped_does_not_count_for_a_quorum(
    cluster: Cluster, raw: Raw, topic: str, quorum: object, kind: str
) -> None:
    cluster.subscribe(topic, "alice", max_backlog=1)
    cluster.subscribe(topic, "bob")
    assert accepted(cluster, topic, 1) == [2]
    bob = raw.taker(f"{topic}_bob")
    bob.finish()
    pending = raw.fanout(topic, "x", quorum=quorum, timeout=5)
    assert bob.finish() == [b"x"]
    outcome = pending.outcome()
    assert outcome.kind == kind
    if kind == "fail":
        assert [client for client, _ in json.loads(outcome.warnings[-1])] == ["alice"]


def test_a_limit_may_be_raised(cluster: Cluster, topic: str) -> None:
    cluster.subscribe(topic, "alice", max_backlog=1)
    assert accepted(cluster, topic, 2) == [1, 0]
    cluster.subscribe(topic, "alice", max_backlog=3)
    assert accepted(cluster, topic, 3) == [1, 1, 0]


def test_a_limit_may_be_raised_and_lowered_again(cluster: Cluster, raw: Raw, topic: str) -> None:
    alice = raw.taker(f"{topic}_alice")
    for limit in (2, 4, 2):
        cluster.subscribe(topic, "alice", max_backlog=limit)
        assert accepted(cluster, topic, 5) == [1] * limit + [0] * (5 - limit)
        alice.finish(limit)
        alice.echo()


@pytest.mark.parametrize("limit", [10_001, 100_000, 2**31 - 1])
def test_a_limit_may_be_raised_far(cluster: Cluster, topic: str, limit: int) -> None:
    cluster.subscribe(topic, "alice", max_backlog=2)
    assert accepted(cluster, topic, 3) == [1, 1, 0]
    cluster.subscribe(topic, "alice", max_backlog=limit)
    assert accepted(cluster, topic, 3) == [1, 1, 1]


def test_a_new_subscription_does_not_inherit_a_limit(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice", max_backlog=1)
    assert accepted(cluster, topic, 2) == [1, 0]
    raw.taker(f"{topic}_alice").finish()
    raw.ask("unsubscribe_fanout", topic=topic, client_id="alice")
    cluster.subscribe(topic, "alice")
    assert accepted(cluster, topic, 3) == [1, 1, 1]


def test_a_queues_next_owner_does_not_inherit_a_limit(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(f"{topic}_b", "c", max_backlog=1)
    assert accepted(cluster, f"{topic}_b", 2) == [1, 0]
    raw.taker(f"{topic}_b_c").finish()
    raw.ask("unsubscribe_fanout", topic=f"{topic}_b", client_id="c")
    cluster.subscribe(topic, "b_c")
    assert accepted(cluster, topic, 3) == [1, 1, 1]


def test_a_limit_goes_with_its_subscription_whichever_member_set_it(
    make_cluster: Callable[..., Cluster], topic: str
) -> None:
    cluster = make_cluster(workers=3)
    for number in range(10):
        name = f"{topic}-{number}"
        cluster.subscribe(name, "alice", max_backlog=1)
        assert accepted(cluster, name, 2) == [1, 0]
        cluster.run("unsubscribe_fanout", topic=name, client_id="alice")
        cluster.subscribe(name, "alice")
        assert accepted(cluster, name, 10) == [1] * 10
        cluster.subscribe(name, "alice", max_backlog=13)
        assert accepted(cluster, name, 10) == [1, 1] + [0] * 8


def test_a_subscription_without_a_limit_has_the_workers(
    make_cluster: Callable[..., Cluster], topic: str
) -> None:
    cluster = make_cluster(options=("--max-backlog", "3"))
    cluster.subscribe(topic, "alice")
    assert accepted(cluster, topic, 5) == [1, 1, 1, 0, 0]
    cluster.subscribe(topic, "alice", max_backlog=4)
    assert accepted(cluster, topic, 3) == [1, 0, 0]


@pytest.mark.parametrize("given", [None, 12_000])
def test_a_limit_above_10_000_is_overshot_by_a_quarter_at_most(
    make_cluster: Callable[..., Cluster], topic: str, given: int | None
) -> None:
    limit = 12_000  # a lower one is set before the first copy
    cluster = make_cluster(options=() if given else ("--max-backlog", str(limit)))
    cluster.subscribe(topic, "alice", **({"max_backlog": given} if given else {}))
    body = json.dumps({"topic": topic, "payload": "x", "background": True}).encode()
    with Raw(cluster.address) as raw:
        caller = raw.wire()
        for _ in range(20):
            for _ in range(1_000):
                caller.submit(b"fanout", body, background=True)
            assert cluster.publish(topic, "x").kind == "complete"
        assert cluster.publish(topic, "x").data == b"0"
        request = {"topic": topic, "client_id": "alice", "drain": True}
        drained = json.loads(raw.start("unsubscribe_fanout", **request).outcome(30).data)["drained"]
        assert limit <= drained <= limit * 5 // 4
