"""What docs/protocol.rst promises of `fanout` in its plain forms, on both pairs of servers."""

from __future__ import annotations

import json

import pytest
from support.cluster import Cluster, eventually
from support.foreign import Raw, receipt
from support.wire import Assigned, Wire, admin

pytest_plugins = ["support.foreign"]


def test_every_subscriber_gets_its_own_copy(cluster: Cluster, topic: str) -> None:
    cluster.subscribe(topic, "alice", "bob")
    alice = cluster.receiver(f"{topic}_alice")
    bob = cluster.receiver(f"{topic}_bob")
    assert cluster.publish(topic, "hello").data == b"2"
    assert alice.wait(1) == [b"hello"]
    assert bob.wait(1) == [b"hello"]


def test_a_foreground_fanout_counts_those_that_succeeded(cluster: Cluster, topic: str) -> None:
    cluster.subscribe(topic, "alice", "bob")
    cluster.receiver(f"{topic}_alice", f"{topic}_bob")
    outcome = cluster.publish(topic, "hello", background=False)
    assert (outcome.kind, outcome.data) == ("complete", b"2")
    assert outcome.statuses[-1] == (2, 2)


def test_failures_are_named_with_the_receivers_own_words(cluster: Cluster, topic: str) -> None:
    cluster.subscribe(topic, "alice", "bob")
    cluster.receiver(f"{topic}_alice")

    def refuse(wire: Wire, job: Assigned) -> None:
        wire.warn(job.handle, b"disk full")
        wire.fail(job.handle)

    cluster.receiver(f"{topic}_bob", behave=refuse)
    outcome = cluster.publish(topic, "hello", background=False)
    assert outcome.kind == "fail"
    assert json.loads(outcome.warnings[-1]) == [["bob", "disk full"]]


# Copies


def test_a_copy_is_a_plain_job(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice")
    for options in ({"background": True}, {"background": False}):
        pending = raw.fanout(topic, "hello", **options)
        alice = raw.taker(f"{topic}_alice")
        job = alice.take()
        assert (job.function, job.unique, job.payload) == (
            f"{topic}_alice".encode(),
            b"",
            b"hello",
        )
        alice.complete(job.handle)
        assert pending.outcome().data == b"1"


def test_each_copy_of_a_queue_goes_to_one_of_its_receivers(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice")
    first, second = raw.taker(f"{topic}_alice"), raw.taker(f"{topic}_alice")
    for number in range(10):
        assert cluster.publish(topic, str(number)).data == b"1"
    assert first.finish(5) + second.finish(5) == [b"%d" % number for number in range(10)]
    assert (first.grab_now(), second.grab_now()) == (None, None)


def test_topics_do_not_mix(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(f"{topic}-one", "alice")
    cluster.subscribe(f"{topic}-two", "alice")
    assert cluster.publish(f"{topic}-one", "1").data == b"1"
    assert cluster.publish(f"{topic}-two", "2").data == b"1"
    assert raw.taker(f"{topic}-one_alice").finish() == [b"1"]
    assert raw.taker(f"{topic}-two_alice").finish() == [b"2"]


def test_a_background_reply_means_that_every_copy_is_accepted(cluster: Cluster, topic: str) -> None:
    clients = [f"c{number}" for number in range(1_000)]
    cluster.subscribe(topic, *clients)
    for number in range(1, 4):
        assert cluster.publish(topic, "x").data == b"1000"
        lines = [line.split("\t") for line in admin(cluster.address, "status")]
        held = [total for name, total, *_ in lines if name.startswith(f"{topic}_")]
        assert held == [str(number)] * 1000


@pytest.mark.parametrize("background", [True, False])
def test_no_subscribers_is_a_success(cluster: Cluster, topic: str, background: bool) -> None:
    for options in ({}, {"quorum": 1}, {"quorum": "50%"}, {"exclude": ["alice"]}):
        outcome = cluster.publish(topic, "x", background=background, **options)
        assert (outcome.kind, outcome.data, outcome.warnings) == ("complete", b"0", [])
    got = receipt(cluster.publish(topic, "x", background=background, receipt=True))
    assert got == {
        **{"copies": 0, "delivered": [], "failed": {}, "pending": [], "dropped": []},
        "results": {},
    }


@pytest.mark.parametrize("background", [True, False])
def test_a_fanout_may_itself_be_a_background_job(
    cluster: Cluster, raw: Raw, topic: str, background: bool
) -> None:
    cluster.subscribe(topic, "alice", "bob")
    body = json.dumps({"topic": topic, "payload": "x", "background": background}).encode()
    raw.wire().submit(b"fanout", body, background=True)
    assert raw.taker(f"{topic}_alice").finish() == [b"x"]
    assert raw.taker(f"{topic}_bob").finish() == [b"x"]


def test_a_caller_that_leaves_keeps_nobody_from_a_copy(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice", "bob")
    pending = raw.fanout(topic, "x")
    alice = raw.taker(f"{topic}_alice")
    job = alice.take()
    pending.wire.close()
    alice.complete(job.handle)
    assert raw.taker(f"{topic}_bob").finish() == [b"x"]
    assert cluster.publish(topic, "y").data == b"2"


# background, by truthiness


@pytest.mark.parametrize(
    "value", ["true", "1", "-1", "0.1", '"x"', '"0"', '"false"', "[0]", "[[]]"]
)
def test_what_is_truthy_waits_for_no_receiver(
    cluster: Cluster, raw: Raw, topic: str, value: str
) -> None:
    cluster.subscribe(topic, "alice")
    body = f'{{"topic": "{topic}", "payload": "x", "background": {value}}}'
    assert raw.ask("fanout", body.encode()).data == b"1"
    assert raw.taker(f"{topic}_alice").finish() == [b"x"]


@pytest.mark.parametrize("value", ["false", "null", "0", "0.0", "-0", '""', "[]", "{}"])
def test_what_is_falsy_waits_for_the_receivers(
    cluster: Cluster, raw: Raw, topic: str, value: str
) -> None:
    cluster.subscribe(topic, "alice")
    body = f'{{"topic": "{topic}", "payload": "x", "background": {value}}}'
    pending = raw.start("fanout", body.encode())
    alice = raw.taker(f"{topic}_alice")
    job = alice.take()
    pending.wire.expect_nothing(0.01)  # a reply would have come before the copy
    alice.complete(job.handle)
    assert pending.outcome().data == b"1"


# exclude


@pytest.mark.parametrize("background", [True, False])
def test_the_excluded_get_no_copy(cluster: Cluster, raw: Raw, topic: str, background: bool) -> None:
    cluster.subscribe(topic, "alice", "bob", "c_d", "ë")
    excluded = ["bob", "bob", "ë", "nobody", "", "d"]
    pending = raw.fanout(topic, "x", background=background, exclude=excluded)
    everyone = [f"{topic}_{client}" for client in ("alice", "bob", "c_d", "ë")]
    taker = raw.taker(*everyone)
    jobs = [taker.take(), taker.take()]
    assert {job.function.decode() for job in jobs} == {f"{topic}_alice", f"{topic}_c_d"}
    for job in jobs:
        taker.complete(job.handle)
    outcome = pending.outcome()
    assert outcome.data == b"2"
    assert background or outcome.statuses[-1] == (2, 2)
    assert cluster.publish(topic, "y", exclude=["bob"]).data == b"3"
    assert taker.finish(3) == [b"y"] * 3
    assert taker.grab_now() is None


@pytest.mark.parametrize("background", [True, False])
def test_excluding_everybody_is_a_success(cluster: Cluster, topic: str, background: bool) -> None:
    cluster.subscribe(topic, "alice", "bob")
    everybody = ["alice", "bob"]
    outcome = cluster.publish(topic, "x", background=background, exclude=everybody)
    assert (outcome.kind, outcome.data) == ("complete", b"0")


def test_an_empty_exclude_excludes_nobody(cluster: Cluster, topic: str) -> None:
    cluster.subscribe(topic, "alice", "bob")
    assert cluster.publish(topic, "x", exclude=[]).data == b"2"


# priority


def test_copies_have_the_priority_of_their_message(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice")
    cluster.subscribe(topic, "bob", envelope=True)
    for number in range(2):
        for priority in ("low", "normal", "high"):
            options = {"priority": priority} if priority != "normal" or number else {}
            assert cluster.publish(topic, f"{priority} {number}", **options).data == b"2"
    expected = ["high 0", "high 1", "normal 0", "normal 1", "low 0", "low 1"]
    assert raw.taker(f"{topic}_alice").finish(6) == [text.encode() for text in expected]
    enveloped = raw.taker(f"{topic}_bob").finish(6)
    assert [json.loads(copy)["payload"] for copy in enveloped] == expected


def test_foreground_copies_have_it_too(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice")
    waiting = []
    for priority in ("low", "normal", "high"):
        waiting.append(raw.fanout(topic, priority, priority=priority))
        count = str(len(waiting))
        eventually(
            lambda count=count: f"{topic}_alice\t{count}\t0\t0" in admin(cluster.address, "status")
        )
    assert raw.taker(f"{topic}_alice").finish(3) == [b"high", b"normal", b"low"]
    assert [pending.outcome().data for pending in waiting] == [b"1"] * 3
