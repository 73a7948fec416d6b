"""Nodes that share a topic's messages, as a fleet of hosts does: each one processes every message
once, whenever it comes, goes, or is away."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from support.bulk import fanout_body, run_all
from support.cluster import Cluster, eventually
from support.lanes import Came, Host, Users, lane, publish, subscribe

pytest_plugins = ["support.foreign", "support.lanes"]

WINDOW = {"start": {"window": 120}}
NODES = [f"node{number}" for number in range(1, 6)]


@pytest.fixture
def cluster(gearmand_cluster: Cluster) -> Cluster:
    """gearmand and Redis."""
    return gearmand_cluster


def slow_receiver(pause_s: float) -> Callable[[Came], bool]:
    """A behaviour that succeeds after a while."""

    def behave(_: Came) -> bool:
        time.sleep(pause_s)
        return True

    return behave


def texts(host: Host) -> list[str]:
    """What came, nothing left out."""
    return [one.text for one in list(host.came)]


def publish_many(cluster: Cluster, topic: str, payloads: list[str]) -> None:
    """Publish one after the other, without a wait for each."""
    bodies = [("fanout", fanout_body(topic, payload)) for payload in payloads]
    answers = run_all(cluster.address, bodies)
    assert {kind for kind, _ in answers} == {"complete"}


def test_every_node_processes_every_message_once_whenever_it_comes(
    cluster: Cluster, users: Users, topic: str
) -> None:
    signals = [f"signal{number}" for number in range(40)]
    queues = {node: f"{topic}_{node}" for node in NODES}
    *early, late = NODES
    subscribe(cluster, topic, *early, **WINDOW)
    first, slow, away, restarts = early
    hosts = {first: users.host(cluster, queues[first])}
    publish_many(cluster, topic, signals[:20])
    hosts[first].wait(20)

    # the first node is done with all there is; the others find it nevertheless
    hosts[slow] = users.host(cluster, queues[slow], behave=slow_receiver(0.02))
    before = users.host(cluster, queues[restarts], behave=slow_receiver(0.01))
    before.wait(5)
    before.close()
    assert 5 <= len(before.came) < 20, "it was not in the middle"
    publish_many(cluster, topic, signals[20:])
    hosts[first].wait(40)

    # a node that starts subscribes, whether it is new or not
    subscribe(cluster, topic, late, restarts, **WINDOW)
    for node in (away, restarts, late):
        hosts[node] = users.host(cluster, queues[node])
    for node in NODES:
        eventually(lambda node=node: lane(cluster, topic, node)["lag"] == 0)
    assert texts(before) + texts(hosts[restarts]) == signals, "it continues where it was"
    for node in (first, slow, away, late):
        assert texts(hosts[node]) == signals


@pytest.mark.parametrize("in_flight", [1, 50])
def test_a_host_that_was_away_gets_all_at_once_and_is_charged_no_attempt(
    cluster: Cluster, users: Users, topic: str, in_flight: int
) -> None:
    options = {"timeout": 0.5, "max_attempts": 1, "envelope": True, "in_flight": in_flight}
    subscribe(cluster, topic, "alice", **options)
    former = users.host(cluster, f"{topic}_alice")
    publish(cluster, topic, "m0")
    former.wait(1)
    former.close()
    cluster.wire().can_do(f"{topic}_alice".encode())  # is there, and takes nothing
    expected = [f"m{number}" for number in range(1, 201)]
    publish_many(cluster, topic, expected)
    time.sleep(1.5)  # three times what a receiver may take
    alice = users.host(cluster, f"{topic}_alice")
    began_s = time.monotonic()
    came = alice.wait(200)
    assert time.monotonic() - began_s < 3
    assert [one.envelope["payload"] for one in came] == expected
    assert {one.envelope["attempt"] for one in came} == {1}
    eventually(lambda: lane(cluster, topic, "alice")["lag"] == 0)
    found = lane(cluster, topic, "alice")
    assert (found["attempts"], found["parked"]) == (0, 0)
    assert len(alice.came) == 200
