"""Publishing to durable topics through several members: from when on messages are logged, and what
becomes of callers whose member dies."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from support.bulk import Pipeline, fanout_body
from support.cluster import Cluster, eventually
from support.lanes import Host, Reply, Users, lane, log_of, processed, subscribe

pytest_plugins = ["support.lanes"]

MakeCluster = Callable[..., Cluster]
MEMBERS = 3


@pytest.mark.parametrize(
    "function", ["subscribe_fanout", "retain_fanout"], ids=["subscription", "retention"]
)
def test_every_message_is_logged_from_the_reply_on_whoever_handles_it(
    make_cluster: MakeCluster, users: Users, function: str
) -> None:
    """Each member has a publisher of its own, and each publishes to every topic in turn."""
    topics = [f"t{number}" for number in range(5)]
    cluster = make_cluster(workers=0)
    for number in range(MEMBERS):
        cluster.add_worker("--fanout-function", f"fanout{number}")
    for worker in cluster.workers:
        worker.ready()
    for topic in topics:
        cluster.subscribe(topic, "direct")
    publishers = [
        users.publisher(cluster, *topics, name=f"p{at}", pause_s=0.001, function=f"fanout{at}")
        for at in range(MEMBERS)
    ]
    late = users.host(cluster, *(f"{topic}_late" for topic in topics))
    since_s = {}
    for topic in topics:
        for publisher in publishers:
            publisher.wait(5)
        request = {"topic": topic, "client_id": "late", "durable": True, "max_age": 60}
        assert cluster.run(function, **request).kind == "complete"
        since_s[topic] = time.monotonic()
    for publisher in publishers:
        publisher.wait(10)
    replies = [reply for publisher in publishers for reply in publisher.stop()]
    for topic in topics:
        mine = [one for one in replies if one.topic == topic]
        owed = [one for one in mine if one.submitted_s > since_s[topic]]
        assert len({one.text.split("-")[0] for one in owed}) == MEMBERS
        assert [one for one in owed if not one.sequence] == [], "not logged after the reply"
        assert any(not one.sequence for one in mine), "it was made before anything was published"
        logged = sorted((one for one in mine if one.sequence), key=lambda one: one.sequence)
        assert [one.sequence for one in logged] == list(range(1, len(logged) + 1))
        assert_kept(cluster, topic, logged)
        if function == "subscribe_fanout":
            assert_delivered(cluster, late, topic, logged)
    assert late.came or function == "retain_fanout"


def assert_delivered(cluster: Cluster, late: Host, topic: str, logged: list[Reply]) -> None:
    """The new subscription gets just what is logged."""
    eventually(lambda: lane(cluster, topic, "late")["lag"] == 0)
    got = [one.text for one in late.of(f"{topic}_late")]
    assert got == [one.text for one in logged]


def assert_kept(cluster: Cluster, topic: str, logged: list[Reply]) -> None:
    """The log is what the publishers were told; those of one publisher in its order."""
    outcome = cluster.run("fetch_fanout", topic=topic, after=0, limit=10_000)
    messages = json.loads(outcome.data)["messages"]
    assert [(one["sequence"], one["payload"]) for one in messages] == [
        (one.sequence, one.text) for one in logged
    ]
    for number in range(MEMBERS):
        mine = [one for one in logged if one.text.startswith(f"p{number}-")]
        assert mine == sorted(mine, key=lambda one: one.submitted_s)


def test_callers_whose_member_dies_are_answered_and_each_message_is_logged_once(
    make_cluster: MakeCluster, users: Users
) -> None:
    cluster = make_cluster(workers=2, options=("--lease", "1"))
    subscribe(cluster, "t", "alice", in_flight=20)
    callers = Pipeline(cluster.address)
    texts = [f"m{number}" for number in range(60)]
    for text in texts:
        callers.submit("fanout", fanout_body("t", text, background=False, unique=text))
    eventually(lambda: log_of(cluster, "t")["last"] == len(texts))
    callers.settle(0.1)
    assert callers.answers == {}, "no receiver has had anything"
    cluster.workers[0].kill()
    alice = users.host(cluster, "t_alice")
    assert callers.finish(20) == [("complete", b"1")] * len(texts)
    callers.close()
    assert log_of(cluster, "t")["last"] == len(texts)
    assert sorted(one.text for one in processed(alice.came)) == sorted(texts)


def test_a_member_that_dies_while_it_logs_leaves_no_message_twice_or_out(
    make_cluster: MakeCluster, users: Users
) -> None:
    cluster = make_cluster(workers=2, options=("--lease", "1"))
    subscribe(cluster, "t", "alice", in_flight=20)
    alice = users.host(cluster, "t_alice")
    callers = Pipeline(cluster.address, window=100)
    texts = [f"m{number}" for number in range(1500)]
    for number, text in enumerate(texts):
        callers.submit("fanout", fanout_body("t", text, background=False, unique=text))
        if number == 500:
            cluster.workers[0].kill()
    assert callers.finish(30) == [("complete", b"1")] * len(texts)
    callers.close()
    assert log_of(cluster, "t")["last"] == len(texts)
    assert sorted(one.text for one in processed(alice.came)) == sorted(texts)


def test_the_order_holds_when_a_topics_log_ends_while_messages_wait_for_it(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    cluster.subscribe("t", "direct")
    cluster.subscribe("t", "logged", durable=True)
    assert cluster.publish("t", "000").data == b"2"
    [worker] = cluster.workers
    worker.freeze()
    count = 900  # of which as many are taken as may be in hand
    publisher = cluster.wire()
    for number in range(1, count):
        body = fanout_body("t", f"{number:03d}" + 60_000 * "x")
        publisher.submit(b"fanout", body, background=True)
    receiver = cluster.receiver("t_direct")
    worker.thaw()
    receiver.wait(50, 30)
    assert cluster.run("unsubscribe_fanout", topic="t", client_id="logged").kind == "complete"
    got = [int(payload[:3]) for payload in receiver.wait(count, 60)]
    assert got == [*range(count)]
