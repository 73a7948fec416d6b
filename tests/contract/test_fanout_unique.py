"""What docs/protocol.rst promises of `unique`: what coalesces and what does not, on both pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256

import pytest
from support.cluster import Cluster
from support.foreign import Pending, Raw, receipt
from support.wire import Refused

pytest_plugins = ["support.foreign"]

MOST = 63  # bytes of a Gearman unique id
PREFIX = 20  # bytes of a member's own, at most


def digits(data: bytes) -> bytes:
    """The first 40 hex digits of the SHA-256."""
    return sha256(data).hexdigest()[:40].encode()


def foreground_unique(raw: Raw, topic: str, unique: str, payload: str = "x") -> bytes:
    """The Gearman unique id of the copy for alice."""
    pending = raw.fanout(topic, payload, unique=unique)
    alice = raw.taker(f"{topic}_alice")
    job = alice.take()
    assert job.payload == payload.encode()
    alice.complete(job.handle)
    assert pending.outcome().data == b"1"
    alice.close()
    return job.unique


# Background


def test_background_copies_carry_the_unique_as_their_own(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice", "bob")
    assert cluster.publish(topic, "x", unique="mine, Ünique").data == b"2"
    for client in ("alice", "bob"):
        assert raw.taker(f"{topic}_{client}").take().unique == "mine, Ünique".encode()


def test_while_a_background_copy_waits_the_first_payload_is_kept(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice")
    for payload in ("first", "second", "third"):
        assert cluster.publish(topic, payload, unique="u").data == b"1"
    alice = raw.taker(f"{topic}_alice")
    assert alice.finish() == [b"first"]
    assert alice.grab_now() is None


def test_while_a_background_copy_runs_another_joins_it(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice")
    assert cluster.publish(topic, "first", unique="u").data == b"1"
    alice = raw.taker(f"{topic}_alice")
    job = alice.take()
    assert cluster.publish(topic, "joins", unique="u").data == b"1"
    alice.complete(job.handle)
    alice.echo()  # the server has heard of it
    assert cluster.publish(topic, "next", unique="u").data == b"1"
    assert alice.finish() == [b"next"]
    assert alice.grab_now() is None


def test_copies_coalesce_queue_by_queue(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice", "bob")
    assert cluster.publish(topic, "first", unique="u").data == b"2"
    alice, bob = raw.taker(f"{topic}_alice"), raw.taker(f"{topic}_bob")
    alice.finish()
    alice.echo()
    assert cluster.publish(topic, "second", unique="u").data == b"2"
    assert alice.finish() == [b"second"]
    assert bob.finish() == [b"first"]
    assert (alice.grab_now(), bob.grab_now()) == (None, None)


@pytest.mark.parametrize("options", [{}, {"unique": ""}])
def test_without_unique_nothing_coalesces(
    cluster: Cluster, raw: Raw, topic: str, options: dict[str, str]
) -> None:
    cluster.subscribe(topic, "alice")
    for _ in range(3):
        assert cluster.publish(topic, "same", **options).data == b"1"
    waiting = [raw.fanout(topic, "same", **options) for _ in range(3)]
    assert raw.taker(f"{topic}_alice").finish(6) == [b"same"] * 6
    assert [pending.outcome().data for pending in waiting] == [b"1"] * 3


def test_different_uniques_do_not_coalesce(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice")
    long = "x" * 100
    uniques = ["u", "v", "U", "u ", long, long + "y", "\0", "\0\0", "a\0b", "a\0c"]
    for unique in uniques:
        assert cluster.publish(topic, "same", unique=unique).data == b"1"
    assert len(raw.taker(f"{topic}_alice").finish(len(uniques))) == len(uniques)


@pytest.mark.parametrize("envelope", [False, True])
def test_a_dash_coalesces_by_payload(
    cluster: Cluster, raw: Raw, topic: str, envelope: bool
) -> None:
    cluster.subscribe(topic, "alice", envelope=envelope)
    for payload in ("one", "one", "two", "one", "two"):
        assert cluster.publish(topic, payload, unique="-").data == b"1"
    alice = raw.taker(f"{topic}_alice")
    copies = alice.finish(2)
    if envelope:
        copies = [json.loads(copy)["payload"].encode() for copy in copies]
    assert copies == [b"one", b"two"]
    assert alice.grab_now() is None


@pytest.mark.parametrize("unique", ["x" * 63, "é" * 31 + "x", "a b", "%s", "\x80"])
def test_a_unique_of_up_to_63_bytes_stays_as_it_is(
    cluster: Cluster, raw: Raw, topic: str, unique: str
) -> None:
    cluster.subscribe(topic, "alice")
    assert cluster.publish(topic, "x", unique=unique).data == b"1"
    job = raw.taker(f"{topic}_alice").take()
    assert (job.unique, job.payload) == (unique.encode(), b"x")


@pytest.mark.parametrize(
    "unique",
    [
        *("x" * 64, "x" * 65, "x" * 10_000, "é" * 32, sha256(b"").hexdigest()),
        *("\0", "a\0b", "\n", "a\tb", "\x1f", "\x7f", "a\r\n"),
    ],
)
def test_a_longer_one_or_one_with_control_characters_becomes_its_sha_256(
    cluster: Cluster, raw: Raw, topic: str, unique: str
) -> None:
    cluster.subscribe(topic, "alice")
    for payload in ("first", "second"):
        assert cluster.publish(topic, payload, unique=unique).data == b"1"
    alice = raw.taker(f"{topic}_alice")
    job = alice.take()
    assert (job.unique, job.payload) == (digits(unique.encode()), b"first")
    alice.complete(job.handle)
    assert alice.grab_now() is None


# Foreground


def test_foreground_copies_carry_it_behind_a_prefix_of_the_members_own(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice")
    for unique in ("u", "é", "x" * 40):
        whole = foreground_unique(raw, topic, unique)
        assert whole.endswith(unique.encode())
        assert 0 < len(whole) - len(unique.encode()) <= PREFIX


def test_what_is_too_long_with_its_prefix_becomes_prefix_and_sha_256(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice")
    for length in (*range(MOST - PREFIX, MOST + 3), 1_000):
        unique = "x" * length
        whole = foreground_unique(raw, topic, unique)
        assert len(whole) <= MOST
        if not whole.endswith(unique.encode()):
            assert whole.endswith(digits(unique.encode()))
            prefix = len(whole) - 40
            assert 0 < prefix <= PREFIX
            assert length > MOST - prefix


@pytest.mark.parametrize("unique", ["\0", "a\0b", "\n", "\x1f", "\x7f", "a\tb"])
def test_control_characters_become_prefix_and_sha_256(
    cluster: Cluster, raw: Raw, topic: str, unique: str
) -> None:
    cluster.subscribe(topic, "alice")
    whole = foreground_unique(raw, topic, unique)
    assert whole.endswith(digits(unique.encode()))
    assert 40 < len(whole) <= 40 + PREFIX


@pytest.mark.parametrize("envelope", [False, True])
def test_a_dash_becomes_the_payloads_sha_256(
    cluster: Cluster, raw: Raw, topic: str, envelope: bool
) -> None:
    cluster.subscribe(topic, "alice", envelope=envelope)
    waiting = [raw.fanout(topic, payload, unique="-") for payload in ("one", "one", "two")]
    assert cluster.publish(topic, "sent after them").data == b"1"
    alice = raw.taker(f"{topic}_alice")
    jobs = [alice.take(), alice.take()]
    for job, payload in zip(jobs, (b"one", b"two"), strict=True):
        assert job.unique.endswith(digits(payload))
        assert 40 < len(job.unique) <= 40 + PREFIX
        alice.complete(job.handle)
    assert [pending.outcome().data for pending in waiting] == [b"1"] * 3


def test_foreground_fanouts_with_one_unique_share_a_copy(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice", "bob")
    payloads = ["first", "second", "third"]
    waiting = [raw.fanout(topic, payload, unique="u", receipt=True) for payload in payloads]
    assert cluster.publish(topic, "sent after them").data == b"2"
    for client in ("alice", "bob"):
        taker = raw.taker(f"{topic}_{client}")
        assert taker.finish(2, b"done") == [b"first", b"sent after them"]
        assert taker.grab_now() is None
    for pending in waiting:
        got = json.loads(pending.outcome().data)
        assert sorted(got["delivered"]) == ["alice", "bob"]
        assert got["results"] == {"alice": "done", "bob": "done"}


def test_each_of_those_that_share_a_copy_hears_of_its_failure(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice")
    waiting = [raw.fanout(topic, "x", unique="u") for _ in range(3)]
    assert cluster.publish(topic, "sent after them").data == b"1"
    alice = raw.taker(f"{topic}_alice")
    handle = alice.take().handle
    alice.data(handle, b"some")
    alice.warn(handle, b"disk full")
    alice.fail(handle)
    for pending in waiting:
        outcome = pending.outcome()
        assert outcome.kind == "fail"
        assert json.loads(outcome.warnings[-1]) == [["alice", "disk full"]]


# Background and foreground, and what was given up


@pytest.mark.parametrize("order", [(True, False), (False, True)])
def test_background_and_foreground_with_one_unique_do_not_meet(
    cluster: Cluster, raw: Raw, topic: str, order: tuple[bool, bool]
) -> None:
    cluster.subscribe(topic, "alice")
    caller = None
    for background in order:
        pending = raw.fanout(topic, f"background {background}", unique="u", background=background)
        if background:
            assert pending.outcome().data == b"1"
        else:
            caller = pending
            assert cluster.publish(topic, "sent after it").data == b"1"
    alice = raw.taker(f"{topic}_alice")
    copies = set(alice.finish(3))
    assert copies == {b"background True", b"background False", b"sent after it"}
    assert caller is not None
    assert caller.outcome().data == b"1"


@pytest.mark.parametrize("background_first", [True, False])
def test_a_background_copy_survives_a_foreground_one_with_its_unique(
    cluster: Cluster, raw: Raw, topic: str, background_first: bool
) -> None:
    cluster.subscribe(topic, "alice")
    if background_first:
        assert cluster.publish(topic, "kept", unique="u").data == b"1"
    pending = raw.fanout(topic, "given up", unique="u", timeout=0.3)
    if not background_first:
        assert cluster.publish(topic, "kept", unique="u").data == b"1"
    assert pending.outcome().kind == "fail"
    pending.wire.close()
    alice = raw.taker(f"{topic}_alice")
    assert alice.finish() == [b"kept"]
    assert alice.grab_now() is None


@pytest.mark.parametrize("taken", [False, True])
def test_after_a_timeout_the_same_unique_is_delivered_anew(
    cluster: Cluster, raw: Raw, topic: str, taken: bool
) -> None:
    cluster.subscribe(topic, "alice", "bob")
    takers = [raw.taker(f"{topic}_alice") for _ in range(2)] if taken else [None, None]
    for number, taker in enumerate(takers):
        pending = raw.fanout(topic, f"given up {number}", unique="u", timeout=0.5)
        if taker is not None:
            assert taker.take().payload == b"given up %d" % number  # and never finished
        assert pending.outcome().kind == "fail"
    again = raw.fanout(topic, "again", unique="u")
    for client in ("alice", "bob"):
        taker = raw.taker(f"{topic}_{client}")
        assert taker.finish() == [b"again"]
        assert taker.grab_now() is None
    assert again.outcome().data == b"2"


@pytest.mark.parametrize("well", [True, False])
def test_after_a_receiver_has_finished_the_same_unique_is_delivered_anew(
    cluster: Cluster, raw: Raw, topic: str, well: bool
) -> None:
    cluster.subscribe(topic, "alice")
    alice = raw.taker(f"{topic}_alice")
    for number in range(3):
        pending = raw.fanout(topic, str(number), unique="u")
        job = alice.take()
        assert job.payload == b"%d" % number
        if well:
            alice.complete(job.handle)
        else:
            alice.fail(job.handle)
        assert pending.outcome().kind == ("complete" if well else "fail")


def test_a_timeout_takes_no_copy_from_another_that_shares_it(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice")
    impatient = raw.fanout(topic, "shared", unique="u", timeout=0.3)
    patient = raw.fanout(topic, "joins", unique="u", receipt=True)
    assert impatient.outcome().kind == "fail"
    assert patient.progress() == []
    alice = raw.taker(f"{topic}_alice")
    job = alice.take()
    assert job.payload == b"shared"
    alice.data(job.handle, b"one ")
    alice.complete(job.handle, b"two")
    assert receipt(patient.outcome())["results"] == {"alice": "one two"}
    assert alice.grab_now() is None


def test_those_that_share_a_copy_each_have_its_result(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice")
    batch = raw.batch([{"topic": topic, "payload": "x", "unique": "u", "receipt": True}] * 3)
    assert cluster.publish(topic, "sent after them").data == b"1"
    alice = raw.taker(f"{topic}_alice")
    job = alice.take()
    for chunk in (b"one ", b"two "):
        alice.data(job.handle, chunk)
        alice.progress(job.handle, 1, 2)
    alice.complete(job.handle, b"three")
    for outcome in batch.outcomes():
        assert receipt(outcome)["results"] == {"alice": "one two three"}


# The publisher's own


@pytest.mark.parametrize("size", [62, 63, 64])
@pytest.mark.parametrize("background", [True, False])
def test_a_publisher_may_give_its_own_job_an_id_of_up_to_64_bytes(
    cluster: Cluster, raw: Raw, topic: str, size: int, background: bool
) -> None:
    # a SHA-256 in hexadecimal has 64, which gearmand hands out as 63 and a NUL
    cluster.subscribe(topic, "alice")
    request = {"topic": topic, "payload": "x", "background": background}
    pending = start_with_id(raw, "fanout", digits(topic.encode()).ljust(size, b"0"), request)
    if pending is None:
        return  # the embedded job server takes 63, and says so
    assert raw.taker(f"{topic}_alice").finish() == [b"x"]
    outcome = pending.outcome()
    assert (outcome.kind, outcome.data, outcome.warnings) == ("complete", b"1", [])


def test_a_subscriber_may_give_its_own_job_such_an_id_too(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    request = {"topic": topic, "client_id": "alice"}
    pending = start_with_id(raw, "subscribe_fanout", b"f" * 64, request)
    assert pending is None or pending.outcome().kind == "complete"


def start_with_id(
    raw: Raw, function: str, unique: bytes, request: Mapping[str, object]
) -> Pending | None:
    """Submit a request under a Gearman unique id; None where the job server refuses the id."""
    wire = raw.wire()
    try:
        handle = wire.submit(function.encode(), json.dumps(request).encode(), unique=unique)
    except Refused:
        if len(unique) < 64:
            raise
        return None
    return Pending(wire, handle)
