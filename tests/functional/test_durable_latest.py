"""Subscriptions that want the latest message only, while members that deliver for them go."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from support.cluster import Cluster, eventually
from support.lanes import Users, describe, lane, owners, processed, publish, subscribe, worker_of

pytest_plugins = ["support.lanes"]

MakeCluster = Callable[..., Cluster]
QUICK = ("--lease", "1", "--gossip-interval", "0.2")
CLIENTS: dict[str, dict[str, Any]] = {
    "all": {"latest": True},
    "each": {"latest": "k"},
    "several": {"latest": "k", "in_flight": 4},
}
VALUES = "abc"
COUNT = 40  # messages in a row


def value_of(sequence: int, client: str) -> str:
    """Which messages one takes the place of."""
    return "" if client == "all" else VALUES[sequence % len(VALUES)]


def send(cluster: Cluster, last: int) -> int:
    """Publish messages of all values in turn, behind this one; return the last."""
    for sequence in range(last + 1, last + COUNT + 1):
        headers = {"k": value_of(sequence, "each")}
        [reply] = publish(cluster, "t", sequence, headers=headers)
        assert reply.sequence == sequence
    return last + COUNT


def are_done(cluster: Cluster) -> None:
    """Wait until every lane has everything behind it."""

    def is_behind() -> bool:
        found = describe(cluster, "t")["topics"]["t"]["subscriptions"]
        return any(found[client]["durable"]["lag"] for client in CLIENTS)

    eventually(lambda: not is_behind(), 40, "lanes are behind")


@pytest.mark.parametrize("accident", ["killed", "frozen"])
def test_nothing_older_follows_and_the_newest_comes_whoever_delivers(
    make_cluster: MakeCluster, users: Users, accident: str
) -> None:
    cluster = make_cluster(workers=2, options=QUICK)
    for client, options in CLIENTS.items():
        subscribe(cluster, "t", client, timeout=60, **options)
    eventually(lambda: None not in owners(cluster, "t").values())
    may_end = threading.Event()
    host = users.host(
        cluster, *(f"t_{client}" for client in CLIENTS), behave=lambda one: may_end.wait(60)
    )
    last = send(cluster, 0)
    host.wait(1)  # the receiver holds one, and the others wait behind it
    victim = worker_of(cluster, "t", "each")
    if accident == "killed":
        victim.kill()
        last = send(cluster, last)
        may_end.set()
        are_done(cluster)
    else:
        victim.freeze()
        may_end.set()
        are_done(cluster)
        victim.thaw()
    may_end.clear()
    last = send(cluster, last)
    may_end.set()
    are_done(cluster)
    for client, options in CLIENTS.items():
        came = processed(host.of(f"t_{client}"))
        newest: dict[str, int] = {}
        for one in came:
            value = value_of(one.sequence, client)
            assert newest.get(value, 0) < one.sequence, (client, came)
            newest[value] = one.sequence
        owed = range(last - len(VALUES) + 1, last + 1)
        assert newest == {value_of(sequence, client): sequence for sequence in owed}
        # of what was in flight then, the acknowledgement may not have been heard
        unheard = options.get("in_flight", 1)
        passed = last - len(came)
        assert 0 < passed <= lane(cluster, "t", client)["skipped"] <= passed + unheard
