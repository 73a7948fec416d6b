"""What docs/protocol.rst promises of the receipt, on both pairs of servers."""

from __future__ import annotations

import base64

import pytest
from support.cluster import Cluster
from support.foreign import Raw, receipt

pytest_plugins = ["support.foreign"]

MIB = 1024 * 1024
KEYS = {"copies", "delivered", "failed", "pending", "dropped", "results"}


def test_a_receipt_tells_what_became_of_each_copy(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice", "bob", "carol", "excluded")
    cluster.subscribe(topic, "dave", max_backlog=1)
    assert cluster.publish(topic, "fills", exclude=["alice", "bob", "carol"]).data == b"2"
    alice, bob = raw.taker(f"{topic}_alice"), raw.taker(f"{topic}_bob")
    pending = raw.fanout(topic, "x", receipt=True, timeout=0.7, exclude=["excluded"])
    bob.finish(1, b"thanks")
    alice.exception(alice.take().handle, b"disk full")
    outcome = pending.outcome()
    assert receipt(outcome) == {
        "copies": 3,
        "delivered": ["bob"],
        "failed": {"alice": "disk full"},
        "pending": ["carol"],
        "dropped": ["dave"],
        "results": {"bob": "thanks"},
    }
    assert outcome.statuses[-1][1] == 4


def test_a_receipt_is_a_success_though_everything_failed(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice", "bob")
    pending = raw.fanout(topic, "x", receipt=True)
    taker = raw.taker(f"{topic}_alice", f"{topic}_bob")
    for _ in range(2):
        taker.fail(taker.take().handle)
    got = receipt(pending.outcome())
    assert got.keys() == KEYS
    assert (got["copies"], got["delivered"], got["pending"]) == (2, [], [])
    assert got["failed"].keys() == {"alice", "bob"}
    got = receipt(raw.ask("fanout", topic=topic, payload="x", receipt=True, timeout=0.1))
    assert (got["copies"], got["delivered"], got["failed"]) == (2, [], {})
    assert sorted(got["pending"]) == ["alice", "bob"]


def test_a_background_receipt_tells_what_was_accepted(cluster: Cluster, topic: str) -> None:
    cluster.subscribe(topic, "alice", "bob")
    got = receipt(cluster.publish(topic, "x", receipt=True))
    assert got == {
        "copies": 2,
        "delivered": [],
        "failed": {},
        "pending": [],
        "dropped": [],
        "results": {},
    }


@pytest.mark.parametrize("background", [True, False])
def test_without_receipt_the_reply_is_a_number(
    cluster: Cluster, raw: Raw, topic: str, background: bool
) -> None:
    cluster.subscribe(topic, "alice")
    pending = raw.fanout(topic, "x", receipt=False, background=background)
    raw.taker(f"{topic}_alice").finish(1, b"not shown")
    assert pending.outcome().data == b"1"


# results


def test_results_are_what_the_receivers_returned(cluster: Cluster, raw: Raw, topic: str) -> None:
    results = {"alice": '"größe\\"\n\0 😀', "bøb": "x" * 100_000, "carol": "{}"}
    cluster.subscribe(topic, *results)
    pending = raw.fanout(topic, "x", receipt=True)
    for client, result in results.items():
        raw.taker(f"{topic}_{client}").finish(1, result.encode())
    got = receipt(pending.outcome())
    assert got.keys() == KEYS
    assert got["results"] == results


def test_data_in_chunks_is_joined(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice", "bob")
    pending = raw.fanout(topic, "x", receipt=True)
    alice, bob = raw.taker(f"{topic}_alice"), raw.taker(f"{topic}_bob")
    one, two = alice.take().handle, bob.take().handle
    for chunk in (b"gr\xc3", b"\xbc\xc3", b"\x9f", b"", b"e"):  # characters cut in two
        alice.data(one, chunk)
        alice.warn(one, b"no part of the result")
        bob.data(two, b"b")
        bob.progress(two, 1, 2)
    alice.complete(one, "größer".encode())
    bob.complete(two)
    got = receipt(pending.outcome())
    assert got["results"] == {"alice": "grüßegrößer", "bob": "bbbbb"}


def test_what_is_not_text_is_under_results_base64(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice", "bob")
    pending = raw.fanout(topic, "x", receipt=True)
    raw.taker(f"{topic}_alice").finish(1, bytes(range(256)))
    raw.taker(f"{topic}_bob").finish(1, b"text")
    got = receipt(pending.outcome())
    assert got.keys() == KEYS | {"results_base64"}
    assert got["results"] == {"bob": "text"}
    assert got["results_base64"].keys() == {"alice"}
    assert base64.b64decode(got["results_base64"]["alice"]) == bytes(range(256))


def test_a_receiver_that_returned_nothing_was_delivered_all_the_same(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice")
    pending = raw.fanout(topic, "x", receipt=True)
    raw.taker(f"{topic}_alice").finish()
    got = receipt(pending.outcome())
    assert got["delivered"] == ["alice"]
    assert got["results"].get("alice", "") == ""


def test_what_a_failed_receiver_sent_is_no_result(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice")
    pending = raw.fanout(topic, "x", receipt=True)
    alice = raw.taker(f"{topic}_alice")
    handle = alice.take().handle
    alice.data(handle, b"half of it")
    alice.fail(handle)
    got = receipt(pending.outcome())
    assert got.keys() == KEYS
    assert (got["results"], list(got["failed"])) == ({}, ["alice"])


@pytest.mark.parametrize("chunks", [1, 8])
def test_a_result_of_8_mib_is_in_the_receipt(
    cluster: Cluster, raw: Raw, topic: str, chunks: int
) -> None:
    cluster.subscribe(topic, "alice")
    pending = raw.fanout(topic, "x", receipt=True)
    alice = raw.taker(f"{topic}_alice")
    handle = alice.take().handle
    for _ in range(chunks - 1):
        alice.data(handle, b"y" * (8 * MIB // chunks))
    alice.complete(handle, b"y" * (8 * MIB // chunks))
    got = receipt(pending.outcome())
    assert got.get("results_omitted", []) == []
    assert got["results"] == {"alice": "y" * (8 * MIB)}


@pytest.mark.parametrize("chunks", [1, 9])
def test_a_result_above_8_mib_is_named_in_results_omitted(
    cluster: Cluster, raw: Raw, topic: str, chunks: int
) -> None:
    cluster.subscribe(topic, "alice", "bob")
    pending = raw.fanout(topic, "x", receipt=True)
    raw.taker(f"{topic}_bob").finish(1, b"small")
    alice = raw.taker(f"{topic}_alice")
    handle = alice.take().handle
    for _ in range(chunks - 1):
        alice.data(handle, b"y" * (9 * MIB // chunks))
    alice.complete(handle, b"y" * (9 * MIB // chunks))
    got = receipt(pending.outcome())
    assert got.keys() == KEYS | {"results_omitted"}
    assert got["results_omitted"] == ["alice"]
    assert got["results"] == {"bob": "small"}
    assert sorted(got["delivered"]) == ["alice", "bob"]


def test_results_above_8_mib_in_all_are_omitted_but_counted(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    clients = ["a", "b", "c", "d"]
    cluster.subscribe(topic, *clients)
    pending = raw.fanout(topic, "x", receipt=True)
    for client in clients:
        raw.taker(f"{topic}_{client}").finish(1, client.encode() * (3 * MIB))
    got = receipt(pending.outcome())
    assert sorted(got["delivered"]) == clients
    assert len(got["results"]) == 2
    assert sorted([*got["results"], *got["results_omitted"]]) == clients
    for client, result in got["results"].items():
        assert result == client * (3 * MIB)


def test_a_small_result_finds_room_beside_an_omitted_one(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "a", "b", "c")
    pending = raw.fanout(topic, "x", receipt=True)
    taker = raw.taker(*(f"{topic}_{client}" for client in "abc"))
    sizes = {}
    for size in (5 * MIB, 5 * MIB, 1 * MIB):
        job = taker.take()
        sizes[job.function.decode()[-1]] = size
        taker.complete(job.handle, b"y" * size)
    got = receipt(pending.outcome())
    assert len(got["results"]) == 2
    [omitted] = got["results_omitted"]
    assert sizes[omitted] == 5 * MIB
    assert {client: len(result) for client, result in got["results"].items()} == {
        client: size for client, size in sizes.items() if client != omitted
    }
