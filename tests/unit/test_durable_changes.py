"""Subscriptions that are changed under fire: what they take, and what they are still owed."""

from __future__ import annotations

import json
import time

import pytest
from support.durable_changes import Drained, Host, LatestOfEach, Optioned
from support.durable_history import DurableHistory
from support.wire import Assigned

EPOCH = "0123456789abcdef"
NOWHERE = ["127.0.0.1:1"]


def job(payload: bytes, sequence: int = 1) -> Assigned:
    return Assigned(b"H:1", b"t_drained", f"{EPOCH[:8]}:{sequence}:1.1".encode(), payload)


def history_of(*messages: tuple[str, str, bool]) -> DurableHistory:
    """Messages as (payload, topic, whether they were replied to), numbered from 1."""
    history = DurableHistory({}, 1.0)
    for number, (payload, topic, is_replied) in enumerate(messages, 1):
        history.publish(payload, topic, time.monotonic())
        if is_replied:
            history.reply(payload, EPOCH, number)
    return history


def test_what_was_replied_to_is_owed_until_it_has_come() -> None:
    history = history_of(("a", "t", True), ("b", "t", True), ("c", "x", True), ("d", "t", False))
    optioned = Optioned(history, NOWHERE, "t", 1)
    assert list(optioned.owed()) == ["a", "b"]
    optioned.take(job(b"a"))
    both = json.dumps([{"sequence": 1, "payload": "a"}, {"sequence": 2, "payload": "b"}]).encode()
    while not optioned.take(job(both)):
        assert list(optioned.owed()) == ["b"], "a batch that fails has not come"
    assert list(optioned.owed()) == []


def test_a_drained_subscription_is_owed_what_was_published_since_it_was_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history = history_of(("old", "t", True))
    drained = Drained(history, NOWHERE, "t", 1)
    monkeypatch.setattr(drained, "ask", lambda *_, **__: {})
    drained.stop()  # so that it waits for nothing
    drained.change()
    history.publish("new", "t", time.monotonic())
    history.reply("new", EPOCH, 2)
    assert list(drained.owed()) == ["new"]
    assert [away.last for away in drained.aways] == [1]
    drained.take(job(b"old"))
    drained.take(job(b"new", 2))
    assert list(drained.owed()) == []
    [found] = drained.violations()
    assert found.startswith("t_drained: old came at ")


def test_a_drain_that_left_a_server_out_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    drained = Drained(history_of(), NOWHERE, "t", 1)
    monkeypatch.setattr(drained, "ask", lambda *_, **__: {"undrained": NOWHERE})
    drained.stop()
    drained.change()
    assert drained.changes == 1
    assert drained.aways == []


def test_a_host_that_ends_with_an_error_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    drained = Drained(history_of(), NOWHERE, "t", 1)

    def breaks(_: Host) -> None:
        raise AssertionError("unexpected packet")

    monkeypatch.setattr(Host, "_serve", breaks)
    for host in drained._hosts:
        host.start()
        host.join(20)
    assert "unexpected packet" in str(drained.error)


def test_a_subscription_that_wants_the_latest_is_owed_the_newest_of_each_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history = history_of(("p1-1", "t", True), ("p2-1", "t", True), ("p1-2", "t", True))
    latest = LatestOfEach(history, NOWHERE, "t", 1)
    monkeypatch.setattr(latest, "does", lambda _: True)
    assert sorted(latest.owed()) == ["p1-2", "p2-1"]
    latest.take(job(b"p2-1", 2))
    latest.take(job(b"p1-2", 3))
    assert list(latest.owed()) == []
    counts = {"position": 3, "lag": 0, "skipped": 1}
    described = {"subscriptions": {latest.client: {"durable": counts}}}
    monkeypatch.setattr(latest, "ask", lambda *_: {"topics": {"t": described}})
    assert latest.is_counted()
    assert latest.violations() == []
    counts["skipped"] = 0
    assert latest.is_counted()
    [missing] = latest.violations()
    assert missing.startswith("t_latest-of-each: 0 passed by, 2 of ")
