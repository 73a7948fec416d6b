"""What ``describe_fanout`` tells of durable topics, on both pairs of servers."""

from __future__ import annotations

from support.cluster import Cluster, eventually
from support.durable import ask, fail, fetch, lane, log_of, parked, publish, reaches, subscribe
from support.foreign import Raw

pytest_plugins = ["support.foreign"]

DEFAULTS = {
    "in_flight": 1,
    "timeout": 30,
    "max_attempts": 20,
    "max_backoff": 3600,
    "batch": 1,
    "pull": False,
}


def test_a_durable_subscription_tells_how_far_it_is(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "direct")
    subscribe(raw, topic, "alice")
    subscribe(raw, topic, "bob", durable={"max_attempts": 1, "timeout": 1.5})
    nothing = {"position": 0, "lag": 0, "attempts": 0, "parked": 0, "drops": 0}
    assert lane(raw, topic, "alice").items() >= (nothing | DEFAULTS).items()
    bobs = DEFAULTS | {"max_attempts": 1, "timeout": 1.5}
    assert lane(raw, topic, "bob").items() >= (nothing | bobs).items()
    assert "position" not in lane(raw, topic, "direct")

    [one] = publish(raw, topic, "a" * 100)
    publish(raw, topic, "b" * 200, "c")
    fail(raw.taker(f"{topic}_alice"), b"no")
    bob = raw.taker(f"{topic}_bob")
    fail(bob, b"no", b"no")
    eventually(lambda: lane(raw, topic, "alice")["attempts"] == 1)
    reaches(raw, topic, "bob", 2)
    told = lane(raw, topic, "alice")
    assert told.items() >= (nothing | {"lag": 3, "attempts": 1}).items()
    told = lane(raw, topic, "bob")
    assert told.items() >= (nothing | {"position": 2, "lag": 1, "parked": 2}).items()
    bob.finish()
    reaches(raw, topic, "bob", 3)
    ask(raw, "parked_fanout", topic=topic, client_id="bob", action="purge", limit=1)
    told = lane(raw, topic, "bob")
    assert told.items() >= (nothing | {"position": 3, "parked": 1}).items()
    assert len(parked(raw, topic, "bob")) == 1

    log = log_of(raw, topic)
    assert log["epoch"] == one["epoch"]
    assert (log["first"], log["last"]) == (1, 3)
    assert 301 <= log["bytes"] < 1000


def test_a_log_without_a_subscription_is_told_too(raw: Raw, topic: str) -> None:
    ask(raw, "retain_fanout", topic=topic, max_age=1000)
    log = log_of(raw, topic)
    assert (log["first"], log["last"], log["bytes"]) == (1, 0, 0)
    publish(raw, topic, "12345", "67890")
    log = log_of(raw, topic)
    assert (log["first"], log["last"]) == (1, 2)
    whole = log["bytes"]
    fetch(raw, topic, purge=1)
    log = log_of(raw, topic)
    assert (log["first"], log["last"]) == (2, 2)
    assert 5 <= log["bytes"] < whole
    fetch(raw, topic, purge=2)
    assert log_of(raw, topic).items() >= {"first": 3, "last": 2, "bytes": 0}.items()
