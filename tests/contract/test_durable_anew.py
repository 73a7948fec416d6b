"""What comes again on a durable topic, and what must not, when a log, a subscription or a batch
ends and begins anew, on both pairs of servers."""

from __future__ import annotations

import json

from support.cluster import eventually
from support.durable import (
    ask,
    fail,
    for_a_while,
    id_of,
    lane,
    on_queue,
    parked,
    position,
    publish,
    reaches,
    subscribe,
)
from support.foreign import Raw

pytest_plugins = ["support.foreign"]


def test_a_log_that_went_away_and_came_back_delivers_nothing_old(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice")
    taker = raw.taker(f"{topic}_alice")
    for time in range(3):
        [before] = publish(raw, topic, f"old {time}")
        old = taker.take()
        taker.complete(old.handle)
        reaches(raw, topic, "alice", 1)
        ask(raw, "unsubscribe_fanout", topic=topic, client_id="alice")
        subscribe(raw, topic, "alice")
        [after] = publish(raw, topic, f"new {time}")
        assert after["sequence"] == 1
        assert after["epoch"] != before["epoch"]
        new = taker.take()
        taker.complete(new.handle)
        assert new.payload == f"new {time}".encode()
        assert id_of(new).epoch8 == after["epoch"][:8]
        reaches(raw, topic, "alice", 1)
        ask(raw, "unsubscribe_fanout", topic=topic, client_id="alice")
        subscribe(raw, topic, "alice")


def test_a_batch_that_is_acknowledged_late_is_done(raw: Raw, topic: str) -> None:
    durable = {"batch": 3, "timeout": 0.3, "max_backoff": 1.0}
    subscribe(raw, topic, "alice", durable=durable)
    taker = raw.taker(f"{topic}_alice")
    publish(raw, topic, "1")
    first = taker.take()
    publish(raw, topic, "2", "3", "4")
    taker.complete(first.handle)
    batch = taker.take()
    assert [one["sequence"] for one in json.loads(batch.payload)] == [2, 3, 4]
    eventually(lambda: lane(raw, topic, "alice")["attempts"])
    taker.complete(batch.handle)
    reaches(raw, topic, "alice", 4)
    for_a_while(lambda: on_queue(raw, f"{topic}_alice") == (0, 0), 1.5)
    assert lane(raw, topic, "alice")["attempts"] == 0
    publish(raw, topic, "5")
    last = taker.take()
    assert [one["sequence"] for one in json.loads(last.payload)] == [5]
    taker.complete(last.handle)
    reaches(raw, topic, "alice", 5)


def test_a_message_put_back_that_the_position_has_not_passed_comes_once(
    raw: Raw, topic: str
) -> None:
    durable = {"in_flight": 2, "max_attempts": 2, "max_backoff": 0.2}
    subscribe(raw, topic, "alice", durable=durable)
    publish(raw, topic, "1", "2")
    queue = f"{topic}_alice"
    holder, taker = raw.taker(queue), raw.taker(queue)
    first = holder.take()
    assert id_of(first).sequence == 1
    assert [id_of(job).sequence for job in fail(taker, b"no", b"no")] == [2, 2]
    eventually(lambda: parked(raw, topic, "alice"))
    assert ask(raw, "parked_fanout", topic=topic, client_id="alice", action="redrive") == {
        "redriven": 1
    }
    holder.fail(first.handle)
    came = []
    while (job := taker.grab(1.5)) is not None:
        came.append(id_of(job).sequence)
        taker.complete(job.handle)
    assert came == [2, 1], "what was put back first, and each once"
    reaches(raw, topic, "alice", 2)


def test_a_term_never_comes_again(raw: Raw, topic: str) -> None:
    ask(raw, "retain_fanout", topic=topic, max_messages=100)
    subscribe(raw, topic, "alice", durable={"start": "all"})
    publish(raw, topic, "1")
    taker = raw.taker(f"{topic}_alice")
    ids = []

    def deliver(sequence: int) -> None:
        job = taker.take()
        ids.append(id_of(job))
        taker.complete(job.handle)
        reaches(raw, topic, "alice", sequence)

    deliver(1)
    subscribe(raw, topic, "alice", durable={"pull": True})
    publish(raw, topic, "2")
    assert position(raw, topic, "alice") == 1
    subscribe(raw, topic, "alice", durable={"pull": False})
    deliver(2)
    subscribe(raw, topic, "alice", durable=False)
    subscribe(raw, topic, "alice", durable={"start": "all"})
    deliver(1)
    deliver(2)
    ask(raw, "unsubscribe_fanout", topic=topic, client_id="alice")
    subscribe(raw, topic, "alice", durable={"start": "last"})
    deliver(2)
    terms = [one.term for one in ids]
    assert len({one.epoch8 for one in ids}) == 1
    assert terms == sorted(terms)
    assert len(set(terms)) == 4, "one for each time that deliveries began anew"


def test_what_failed_and_was_dropped_by_a_cap_is_no_attempt_any_more(raw: Raw, topic: str) -> None:
    subscribe(raw, topic, "alice")
    publish(raw, topic, "1")
    fail(raw.taker(f"{topic}_alice"), b"no")
    eventually(lambda: lane(raw, topic, "alice")["attempts"] == 1)
    subscribe(raw, topic, "alice", durable={"pull": True})
    ask(raw, "retain_fanout", topic=topic, max_messages=1)
    publish(raw, topic, "2", "3")
    subscribe(raw, topic, "alice", durable={"pull": False})
    assert raw.taker(f"{topic}_alice").finish() == [b"3"]
    reaches(raw, topic, "alice", 3)
    eventually(lambda: lane(raw, topic, "alice")["attempts"] == 0)
