"""What is promised of waiting for receivers, its timeout and its failures, on both."""

from __future__ import annotations

import json
import time

import pytest
from support.cluster import Cluster
from support.foreign import Raw, receipt
from support.wire import Assigned, Outcome, Wire

pytest_plugins = ["support.foreign"]


def reasons(outcome: Outcome) -> dict[str, str]:
    """Whom a foreground fan-out that did not succeed names, and why."""
    assert (outcome.kind, outcome.data, len(outcome.warnings)) == ("fail", b"", 1), outcome
    pairs = json.loads(outcome.warnings[0])
    assert all(type(pair) is list and len(pair) == 2 for pair in pairs)
    named = dict(pairs)
    assert len(named) == len(pairs)  # each client once
    return named


def settle(cluster: Cluster, topic: str) -> None:
    """Return once the worker has heard of all that receivers did before."""
    cluster.subscribe(f"{topic}-settled", "x")
    assert cluster.publish(f"{topic}-settled", "x").data == b"1"


# Waiting


def test_the_reply_comes_when_every_receiver_has_finished(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice", "bob", "carol")
    pending = raw.fanout(topic, "x")
    for client in ("alice", "bob", "carol"):
        settle(cluster, topic)
        pending.progress()  # not answered yet
        assert raw.taker(f"{topic}_{client}").finish() == [b"x"]
    outcome = pending.outcome()
    assert (outcome.kind, outcome.data, outcome.warnings) == ("complete", b"3", [])


def test_one_failure_does_not_end_the_waiting(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice", "bob")
    pending = raw.fanout(topic, "x")
    alice = raw.taker(f"{topic}_alice")
    alice.fail(alice.take().handle)
    settle(cluster, topic)
    pending.progress()
    assert raw.taker(f"{topic}_bob").finish() == [b"x"]
    assert reasons(pending.outcome()).keys() == {"alice"}


def test_the_caller_is_told_how_far_it_is(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "a", "b", "c", "d")
    pending = raw.fanout(topic, "x", exclude=["d"])
    taker = raw.taker(*(f"{topic}_{client}" for client in "abc"))
    told: list[tuple[int, int]] = []
    taker.complete(taker.take().handle)
    while (1, 3) not in told:
        told += pending.progress()
    taker.fail(taker.take().handle)
    while (2, 3) not in told:
        told += pending.progress()
    taker.finish()
    told += pending.outcome().statuses
    assert told[-1] == (3, 3)
    assert sorted(set(told)) == [*dict.fromkeys(told)]  # never back
    assert {total for _, total in told} == {3}


def test_300_receivers_are_each_counted_once(cluster: Cluster, raw: Raw, topic: str) -> None:
    clients = [f"c{number}" for number in range(300)]
    cluster.subscribe(topic, *clients)
    pending = raw.fanout(topic, "x")
    taker = raw.taker(*(f"{topic}_{client}" for client in clients))
    for number in range(300):
        job = taker.take()
        if number % 30 == 7:
            taker.exception(job.handle, job.function)
        else:
            taker.complete(job.handle)
    named = reasons(pending.outcome())
    assert len(named) == 10
    assert all(reason == f"{topic}_{client}" for client, reason in named.items())


# Failures


def said(wire: Wire, job: Assigned, how: str) -> None:
    """Let a receiver fail, in one of the ways that it has words."""
    if how == "exception":
        wire.exception(job.handle, b"disk full")
    elif how == "exception after a warning":
        wire.warn(job.handle, b"nearly full")
        wire.exception(job.handle, b"disk full")
    else:
        wire.data(job.handle, b"half of it")
        wire.warn(job.handle, b"nearly full")
        wire.progress(job.handle, 1, 2)
        wire.warn(job.handle, b"disk full")
        wire.fail(job.handle)


@pytest.mark.parametrize("how", ["exception", "exception after a warning", "last warning"])
def test_a_failure_is_told_in_the_receivers_words(
    cluster: Cluster, raw: Raw, topic: str, how: str
) -> None:
    cluster.subscribe(topic, "alice", "bob")
    pending = raw.fanout(topic, "x")
    raw.taker(f"{topic}_bob").finish()
    alice = raw.taker(f"{topic}_alice")
    said(alice, alice.take(), how)
    assert reasons(pending.outcome()) == {"alice": "disk full"}


@pytest.mark.parametrize("exception", [True, False])
def test_a_failure_without_words_is_told_too(
    cluster: Cluster, raw: Raw, topic: str, exception: bool
) -> None:
    cluster.subscribe(topic, "alice")
    pending = raw.fanout(topic, "x")
    alice = raw.taker(f"{topic}_alice")
    if exception:
        alice.exception(alice.take().handle)
    else:
        alice.fail(alice.take().handle)
    [(client, reason)] = reasons(pending.outcome()).items()
    assert client == "alice"
    assert reason


@pytest.mark.parametrize("words", [b'"]\\\n\0\x01', "größer 😀\u2028".encode(), b"\xff\xfe!"])
def test_any_words_of_a_receiver_stay_words(
    cluster: Cluster, raw: Raw, topic: str, words: bytes
) -> None:
    cluster.subscribe(topic, 'al"i\\ce', "bøb")
    pending = raw.fanout(topic, "x")
    taker = raw.taker(f'{topic}_al"i\\ce', f"{topic}_bøb")
    for _ in range(2):
        taker.exception(taker.take().handle, words)
    told = words.decode(errors="replace")
    assert reasons(pending.outcome()) == {'al"i\\ce': told, "bøb": told}


def test_a_warning_alone_is_no_failure(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice")
    pending = raw.fanout(topic, "x")
    alice = raw.taker(f"{topic}_alice")
    job = alice.take()
    alice.warn(job.handle, b"nearly full")
    alice.complete(job.handle)
    outcome = pending.outcome()
    assert (outcome.kind, outcome.data, outcome.warnings) == ("complete", b"1", [])


def test_a_copy_whose_receiver_dies_goes_to_the_next(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice")
    pending = raw.fanout(topic, "x")
    dying = raw.taker(f"{topic}_alice")
    dying.take()
    dying.close()
    assert raw.taker(f"{topic}_alice").finish() == [b"x"]
    assert pending.outcome().data == b"1"


# timeout


@pytest.mark.parametrize("timeout", [1, 0.4, 1e-9])
def test_late_receivers_are_named_at_the_timeout(
    cluster: Cluster, raw: Raw, topic: str, timeout: float
) -> None:
    cluster.subscribe(topic, "alice", "bob")
    began = time.monotonic()
    pending = raw.fanout(topic, "x", timeout=timeout)
    outcome = pending.outcome()
    took = time.monotonic() - began
    assert timeout <= took < timeout + 2
    named = reasons(outcome)
    assert named.keys() == {"alice", "bob"}
    assert all(named.values())
    assert outcome.statuses[-1] == (0, 2)


def test_those_that_finished_or_failed_before_the_timeout_are_no_late_ones(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice", "bob", "carol", "dave")
    alice, bob, carol = (raw.taker(f"{topic}_{client}") for client in ("alice", "bob", "carol"))
    pending = raw.fanout(topic, "x", timeout=0.7)
    alice.finish()
    bob.exception(bob.take().handle, b"disk full")
    carol.take()  # and never finished
    outcome = pending.outcome()
    named = reasons(outcome)
    assert named.keys() == {"bob", "carol", "dave"}
    assert named.pop("bob") == "disk full"
    assert named["carol"] == named["dave"] != "disk full"
    assert outcome.statuses[-1] == (2, 4)


def test_what_nobody_took_before_the_timeout_is_never_delivered(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    clients = [f"c{number}" for number in range(50)]
    cluster.subscribe(topic, *clients)
    cluster.subscribe(topic, "enveloped", envelope=True)
    pending = raw.fanout(topic, "withdrawn", timeout=0.3)
    other = raw.fanout(topic, "withdrawn too", timeout=0.3, priority="low", unique="u")
    assert len(reasons(pending.outcome())) == 51
    assert len(reasons(other.outcome())) == 51
    assert cluster.publish(topic, "next").data == b"51"
    taker = raw.taker(*(f"{topic}_{client}" for client in clients))
    assert taker.finish(50) == [b"next"] * 50
    assert taker.grab_now() is None
    enveloped = raw.taker(f"{topic}_enveloped")
    assert [json.loads(copy)["payload"] for copy in enveloped.finish()] == ["next"]
    assert enveloped.grab_now() is None


def test_a_receiver_that_comes_after_the_timeout_was_told_gets_nothing(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice")
    waiting = [raw.fanout(topic, "withdrawn", timeout=0.3) for _ in range(50)]
    alice = raw.taker()
    for pending in waiting:
        assert reasons(pending.outcome()).keys() == {"alice"}
    alice.can_do(f"{topic}_alice".encode())
    assert alice.grab_now() is None


def test_what_was_taken_before_the_timeout_may_still_be_finished(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice", "bob", "carol")
    takers = [raw.taker(f"{topic}_{client}") for client in ("alice", "bob", "carol")]
    pending = raw.fanout(topic, "slow", timeout=0.7)
    jobs = [taker.take() for taker in takers]
    assert reasons(pending.outcome()).keys() == {"alice", "bob", "carol"}
    takers[0].data(jobs[0].handle, b"late")
    takers[0].complete(jobs[0].handle, b"late")
    takers[1].fail(jobs[1].handle)
    takers[2].exception(jobs[2].handle, b"late")
    pending.wire.expect_nothing()  # the caller was answered, once
    assert cluster.publish(topic, "next").data == b"3"
    for taker in takers:  # an ERROR would be an unexpected packet here
        assert taker.finish() == [b"next"]


def test_a_timeout_withdraws_nothing_but_its_own_copies(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice")
    assert cluster.publish(topic, "background").data == b"1"
    short = raw.fanout(topic, "withdrawn", timeout=0.3)
    long = raw.fanout(topic, "long")
    assert reasons(short.outcome()).keys() == {"alice"}
    assert raw.taker(f"{topic}_alice").finish(2) == [b"background", b"long"]
    assert long.outcome().data == b"1"


def test_a_timeout_is_of_no_matter_in_the_background(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice")
    assert cluster.publish(topic, "kept", timeout=1e-3).data == b"1"
    pending = raw.fanout(topic, "waits", timeout=0.1)
    assert reasons(pending.outcome()).keys() == {"alice"}
    assert raw.taker(f"{topic}_alice").finish() == [b"kept"]


# Side by side


@pytest.mark.parametrize("hanging_shares_the_queue", [True, False])
def test_of_200_at_once_one_that_hangs_delays_only_its_own(
    cluster: Cluster, raw: Raw, topic: str, hanging_shares_the_queue: bool
) -> None:
    cluster.subscribe(f"{topic}-a", "alice", "bob")
    cluster.subscribe(f"{topic}-b", "alice", "bob")
    began = time.monotonic()
    waiting = []
    for number in range(200):
        hangs = number == 60
        name = f"{topic}-b" if hangs and not hanging_shares_the_queue else f"{topic}-a"
        timeout = 2 if hangs else 60
        waiting.append(raw.fanout(name, number, timeout=timeout, receipt=not hangs))
    alice = raw.taker(f"{topic}-a_alice", f"{topic}-b_alice")
    bob = raw.taker(f"{topic}-a_bob", f"{topic}-b_bob")
    for _ in range(200):
        job = alice.take()
        if job.payload != b"60":  # alice hangs on that one
            alice.complete(job.handle, job.payload)
    assert sorted(map(int, bob.finish(200, b"bob"))) == [*range(200)]
    hung = waiting.pop(60)
    hung.progress()
    numbers = [number for number in range(200) if number != 60]
    for number, pending in zip(numbers, waiting, strict=True):
        got = receipt(pending.outcome())
        assert sorted(got["delivered"]) == ["alice", "bob"]
        assert got["results"] == {"alice": str(number), "bob": "bob"}
    hung.progress()
    assert time.monotonic() - began < 2  # the others did not wait for it
    outcome = hung.outcome()
    assert 2 <= time.monotonic() - began < 4
    assert reasons(outcome).keys() == {"alice"}
    assert outcome.statuses[-1] == (1, 2)


def test_600_that_wait_keep_the_worker_from_nothing(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice")
    cluster.subscribe(f"{topic}-other", "bob")
    request = {"topic": topic, "payload": "x", "timeout": 2}
    batch = raw.batch([request] * 600)
    began = time.monotonic()
    bob = raw.taker(f"{topic}-other_bob")
    for number in range(20):
        assert cluster.publish(f"{topic}-other", str(number)).data == b"1"
        assert bob.finish() == [b"%d" % number]
        cluster.subscribe(f"{topic}-other", "bob")
    pending = raw.fanout(f"{topic}-other", "foreground")
    assert bob.finish() == [b"foreground"]
    assert pending.outcome().data == b"1"
    assert time.monotonic() - began < 2  # all of it while the 600 wait
    for outcome in batch.outcomes():
        assert reasons(outcome).keys() == {"alice"}
