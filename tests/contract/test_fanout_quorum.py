"""What docs/protocol.rst promises of `quorum`, on both pairs of servers."""

from __future__ import annotations

import json

import pytest
from support.cluster import Cluster
from support.foreign import Pending, Raw, Taker, receipt

pytest_plugins = ["support.foreign"]

# (subscriptions, quorum, how many that is)
NEEDED = [
    *((3, 1, 1), (3, 2, 2), (3, 3, 3), (3, 4, 3), (3, 10**30, 3), (1, 1, 1)),
    *((3, "1%", 1), (3, "33%", 1), (3, "34%", 2), (3, "66%", 2), (3, "67%", 3), (3, "100%", 3)),
    *((3, "0%", 1), (3, "101%", 3), (3, "999%", 3), (1, "1%", 1), (10, "10%", 1), (10, "11%", 2)),
    *((7, "029%", 3), (2, "50%", 1), (2, "51%", 2)),
]


def start(cluster: Cluster, raw: Raw, topic: str, count: int, **options: object) -> Pending:
    """Subscribe c0, c1 and so on, and start a fan-out to them."""
    cluster.subscribe(topic, *(f"c{number}" for number in range(count)))
    cluster.subscribe(f"{topic}-settled", "x")
    return raw.fanout(topic, "x", **options)


def takers(raw: Raw, topic: str, count: int) -> list[Taker]:
    """The receivers of c0, c1 and so on."""
    return [raw.taker(f"{topic}_c{number}") for number in range(count)]


def waits_still(cluster: Cluster, topic: str, pending: Pending) -> None:
    """Assert that all that receivers have done so far has not ended the fan-out."""
    assert cluster.publish(f"{topic}-settled", "x").data == b"1"  # now the worker knows of it
    pending.progress()


@pytest.mark.parametrize(("count", "quorum", "needed"), NEEDED)
def test_the_reply_comes_as_soon_as_so_many_have_succeeded(
    cluster: Cluster, raw: Raw, topic: str, count: int, quorum: object, needed: int
) -> None:
    pending = start(cluster, raw, topic, count, quorum=quorum)
    receivers = takers(raw, topic, count)
    for receiver in receivers[: needed - 1]:
        receiver.finish()
    waits_still(cluster, topic, pending)
    receivers[needed - 1].finish()
    outcome = pending.outcome()
    assert (outcome.kind, outcome.warnings) == ("complete", [])
    assert outcome.data == b"%d" % needed
    assert outcome.statuses[-1] == (needed, count)
    for receiver in receivers[needed:]:  # the others have their copies all the same
        assert receiver.finish() == [b"x"]


@pytest.mark.parametrize(
    ("count", "quorum", "failures"),
    [
        *((3, 1, 3), (3, 2, 2), (3, 3, 1), (3, 9, 1), (1, 1, 1)),
        *((3, "1%", 3), (3, "34%", 2), (3, "67%", 1), (3, "100%", 1), (4, "50%", 3)),
    ],
)
def test_it_fails_as_soon_as_so_many_cannot_succeed(
    cluster: Cluster, raw: Raw, topic: str, count: int, quorum: object, failures: int
) -> None:
    pending = start(cluster, raw, topic, count, quorum=quorum)
    receivers = takers(raw, topic, count)
    for number, receiver in enumerate(receivers[:failures]):
        waits_still(cluster, topic, pending)
        receiver.exception(receiver.take().handle, b"reason %d" % number)
    outcome = pending.outcome(5)
    assert outcome.kind == "fail"
    named = sorted(json.loads(outcome.warnings[-1]))
    assert named == [[f"c{number}", f"reason {number}"] for number in range(failures)]
    for receiver in receivers[failures:]:
        assert receiver.finish() == [b"x"]


def test_failures_below_the_quorum_are_no_failure(cluster: Cluster, raw: Raw, topic: str) -> None:
    pending = start(cluster, raw, topic, 4, quorum="50%")
    receivers = takers(raw, topic, 4)
    for receiver, good in zip(receivers, (False, True, False), strict=False):
        handle = receiver.take().handle
        if good:
            receiver.complete(handle)
        else:
            receiver.fail(handle)
    waits_still(cluster, topic, pending)
    receivers[3].finish()
    outcome = pending.outcome()
    assert (outcome.kind, outcome.data) == ("complete", b"2")


def test_a_percentage_is_of_those_that_exclude_leaves(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    # half of 6 were 3, half of the 3 that are left is 2
    pending = start(cluster, raw, topic, 6, quorum="50%", exclude=["c3", "c4", "c5", "c6"])
    receivers = takers(raw, topic, 3)
    receivers[0].finish()
    waits_still(cluster, topic, pending)
    receivers[1].finish()
    assert pending.outcome().data == b"2"
    receivers[2].finish()


def test_more_than_exclude_leaves_means_all_of_those(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    pending = start(cluster, raw, topic, 4, quorum=3, exclude=["c2", "c3"])
    receivers = takers(raw, topic, 2)
    receivers[0].finish()
    waits_still(cluster, topic, pending)
    receivers[1].finish()
    assert pending.outcome().data == b"2"


def test_at_the_timeout_a_quorum_that_was_not_reached_is_a_failure(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    receivers = takers(raw, topic, 2)
    pending = start(cluster, raw, topic, 4, quorum=2, timeout=0.7)
    receivers[0].finish()
    receivers[1].exception(receivers[1].take().handle, b"disk full")
    outcome = pending.outcome()
    assert outcome.kind == "fail"
    named = dict(json.loads(outcome.warnings[-1]))
    assert named.keys() == {"c1", "c2", "c3"}
    assert named["c1"] == "disk full"


def test_what_nobody_took_is_withdrawn_at_the_timeout_of_a_quorum_too(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    [receiver] = takers(raw, topic, 1)
    pending = start(cluster, raw, topic, 2, quorum=1, timeout=0.5)
    last = start(cluster, raw, f"{topic}-other", 1, timeout=0.7)  # ends after the other's timeout
    receiver.finish()
    assert pending.outcome().data == b"1"
    assert last.outcome().kind == "fail"
    assert cluster.publish(topic, "next").data == b"2"
    assert raw.taker(f"{topic}_c1").finish() == [b"next"]


@pytest.mark.parametrize("quorum", [2, "100%"])
def test_a_quorum_is_of_no_matter_in_the_background(
    cluster: Cluster, raw: Raw, topic: str, quorum: object
) -> None:
    pending = start(cluster, raw, topic, 2, quorum=quorum, background=True)
    assert pending.outcome().data == b"2"


def test_a_receipt_of_a_quorum_tells_how_far_it_was(cluster: Cluster, raw: Raw, topic: str) -> None:
    pending = start(cluster, raw, topic, 4, quorum=2, receipt=True)
    receivers = takers(raw, topic, 4)
    receivers[0].finish(1, b"zero")
    receivers[1].exception(receivers[1].take().handle, b"disk full")
    waits_still(cluster, topic, pending)
    receivers[2].finish(1, b"two")
    got = receipt(pending.outcome())
    assert got["copies"] == 4
    assert sorted(got["delivered"]) == ["c0", "c2"]
    assert got["failed"] == {"c1": "disk full"}
    assert got["pending"] == ["c3"]
    assert got["results"] == {"c0": "zero", "c2": "two"}
    assert receivers[3].finish() == [b"x"]


def test_a_receipt_of_a_quorum_that_cannot_be_reached_comes_at_once(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    pending = start(cluster, raw, topic, 3, quorum=3, receipt=True)
    receivers = takers(raw, topic, 3)
    receivers[0].fail(receivers[0].take().handle)
    got = receipt(pending.outcome(5))
    assert (got["copies"], got["delivered"]) == (3, [])
    assert got["failed"].keys() == {"c0"}
    assert sorted(got["pending"]) == ["c1", "c2"]
    for receiver in receivers[1:]:
        receiver.finish()
