"""What docs/protocol.rst promises of how long a log keeps messages, on both pairs of servers."""

from __future__ import annotations

import time

from support.cluster import eventually
from support.durable import (
    ask,
    fail,
    fetch,
    for_a_while,
    id_of,
    lane,
    log_of,
    on_queue,
    position,
    publish,
    reaches,
    sequences,
    subscribe,
)
from support.foreign import Raw, refusal

pytest_plugins = ["support.foreign"]

MAX_AGE_S = 0.3
PRUNED_S = 2 * MAX_AGE_S + 2.0  # and what a shared machine takes


def test_caps_hold_whatever_the_subscriptions_and_leave_a_gap(raw: Raw, topic: str) -> None:
    messages, size = f"{topic}-messages", f"{topic}-bytes"
    for name in (messages, size):
        subscribe(raw, name, "alice")
    ask(raw, "retain_fanout", topic=messages, max_messages=2)
    ask(raw, "retain_fanout", topic=size, max_bytes=2500)
    drops: dict[str, int] = {}
    for name in (messages, size):
        publish(raw, name, "x" * 1000)
        eventually(lambda name=name: on_queue(raw, f"{name}_alice") == (1, 0))
        publish(raw, name, *["x" * 1000] * 4)
        told = fetch(raw, name)
        assert (told["first"], told["last"], sequences(told)) == (4, 5, [4, 5]), name
        log = log_of(raw, name)
        assert (log["first"], log["last"], log["dropped"]) == (4, 5, 3)
        assert 2000 <= log["bytes"] <= 2500
        alice = raw.taker(f"{name}_alice")
        got: list[int] = []
        while got[-1:] != [5]:
            job = alice.take()
            got.append(id_of(job).sequence)
            alice.complete(job.handle)
        # the first was on its queue already; a worker may have had others in its hands
        assert got in ([1, 4, 5], [1, 2, 4, 5], [1, 3, 4, 5])
        reaches(raw, name, "alice", 5)
        drops[name] = 5 - len(got)
    for name, count in drops.items():
        eventually(lambda name=name, count=count: lane(raw, name, "alice")["drops"] == count)


def test_a_message_that_the_caps_take_while_it_rests_holds_nothing_up(raw: Raw, topic: str) -> None:
    """With one in flight the others would wait for an attempt that is never made."""
    subscribe(raw, topic, "alice")
    ask(raw, "retain_fanout", topic=topic, max_messages=2)
    publish(raw, topic, "1")
    alice = raw.taker(f"{topic}_alice")
    fail(alice, b"retry_after: 3600")
    eventually(lambda: lane(raw, topic, "alice")["attempts"] == 1)
    publish(raw, topic, "2", "3", "4")
    assert alice.take(10.0).payload in (b"2", b"3")  # a worker has read it before it was taken
    eventually(lambda: lane(raw, topic, "alice")["attempts"] == 0)


def test_a_cap_holds_for_what_there_is(raw: Raw, topic: str) -> None:
    messages, size = f"{topic}-messages", f"{topic}-bytes"
    for name in (messages, size):
        subscribe(raw, name, "alice")
        publish(raw, name, *["x" * 1000] * 4)
    ask(raw, "retain_fanout", topic=messages, max_messages=1)
    ask(raw, "retain_fanout", topic=size, max_bytes=1500)
    for name in (messages, size):
        told = fetch(raw, name)
        assert (told["first"], told["last"], sequences(told)) == (4, 4, [4]), name


def test_a_message_is_forgotten_when_it_is_old_and_acknowledged(raw: Raw, topic: str) -> None:
    names = own, unread, default = [f"{topic}-{kind}" for kind in ("own", "unread", "default")]
    for name in (own, default):
        subscribe(raw, name, "alice")
    for name in (own, unread):
        ask(raw, "retain_fanout", topic=name, max_age=MAX_AGE_S)
    for name in names:
        publish(raw, name, "1", "2", "3")
    alice = {name: raw.taker(f"{name}_alice") for name in (own, default)}
    for name in (own, default):
        alice[name].finish(2)
    published = time.monotonic()
    publish(raw, unread, "4")
    kept = sequences(fetch(raw, unread))
    if time.monotonic() - published < MAX_AGE_S:
        assert 4 in kept
    eventually(lambda: sequences(fetch(raw, own)) == [3], MAX_AGE_S + PRUNED_S)
    eventually(lambda: fetch(raw, unread)["first"] == 4, MAX_AGE_S + PRUNED_S)
    assert sequences(fetch(raw, unread)) == [4]  # the newest stays
    # what alice has not done with stays, however old
    for_a_while(lambda: sequences(fetch(raw, own)) == [3], 4 * MAX_AGE_S)
    alice[own].finish()
    assert publish(raw, own, "4")[0]["sequence"] == 4
    eventually(lambda: fetch(raw, own)["first"] == 4, PRUNED_S)
    assert sequences(fetch(raw, default)) == [1, 2, 3]


def test_a_setting_makes_a_log_and_null_takes_it_back(raw: Raw, topic: str) -> None:
    reply = ask(raw, "retain_fanout", topic=topic, max_messages=2, max_age=7.5)
    assert reply.keys() == {"version"}
    [one] = publish(raw, topic, "1")
    assert one["sequence"] == 1
    publish(raw, topic, "2", "3")
    assert sequences(fetch(raw, topic)) == [2, 3]
    again = ask(raw, "retain_fanout", topic=topic, max_messages=None, max_bytes=None)
    assert again["version"] > reply["version"]
    publish(raw, topic, "4", "5")
    assert sequences(fetch(raw, topic)) == [2, 3, 4, 5]
    expected = {"max_age": 7.5, "max_messages": 1_000_000, "max_bytes": 256 * 1024 * 1024}
    assert log_of(raw, topic).items() >= expected.items()
    subscribe(raw, topic, "alice", durable={"start": "all"})
    ask(raw, "retain_fanout", topic=topic, max_age=None)
    assert log_of(raw, topic)["max_age"] == 120
    assert position(raw, topic, "alice") == 1
    assert fetch(raw, topic)["epoch"] == one["epoch"]
    ask(raw, "unsubscribe_fanout", topic=topic, client_id="alice")
    assert refusal(raw.ask("fetch_fanout", topic=topic, after=0)).startswith("unknown: ")


def test_the_last_setting_that_is_taken_back_takes_the_log_along(raw: Raw, topic: str) -> None:
    ask(raw, "retain_fanout", topic=topic, max_bytes=10_000)
    publish(raw, topic, "1")
    ask(raw, "retain_fanout", topic=topic, max_bytes=None)
    assert refusal(raw.ask("fetch_fanout", topic=topic, after=0)).startswith("unknown: ")
    assert "sequence" not in publish(raw, topic, "2")[0]
