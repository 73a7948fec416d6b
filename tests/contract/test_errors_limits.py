"""What docs/protocol.rst promises at a worker's own limits, on both pairs of servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from support.cluster import Cluster, eventually
from support.foreign import Raw, refusal
from support.servers import EmbeddedGearman, Gearmand, Redis, Valkey

pytest_plugins = ["support.foreign"]

LIMITS = ["--max-payload", "1000", "--max-fanout-bytes", "2500", "--max-foreground", "2"]


@pytest.fixture(
    scope="module",
    params=[(Gearmand, Redis), (EmbeddedGearman, Valkey)],
    ids=["gearmand-redis", "standalone"],
)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """One worker with low limits."""
    job_server, store = request.param
    shared = Cluster([job_server()], store(), options=LIMITS)
    yield shared
    shared.close()


@pytest.mark.parametrize(
    ("template", "at_limit", "over"),
    [
        (b'"payload": "%s"', b"x" * 1000, b"x" * 1001),
        (b'"payload": "%s"', b"\\u0041" * 1000, b"\\u0041" * 1001),
        (b'"payload": "%s"', b"\\u00e9" * 500, b"\\u00e9" * 500 + b"x"),
        (b'"payload": "%s"', "é".encode() * 500, "é".encode() * 501),
        (b'"payload":   %s  ', b"[" + b"1, " * 332 + b"11]", b"[" + b"1, " * 332 + b"111]"),
        (b'"encoding": "base64", "payload": "%s"', b"A" * 1334 + b"==", b"A" * 1335 + b"="),
    ],
)
def test_the_payload_limit_is_of_the_bytes_that_copies_carry(
    cluster: Cluster, raw: Raw, topic: str, template: bytes, at_limit: bytes, over: bytes
) -> None:
    cluster.subscribe(topic, "alice")
    body = b'{"topic": "%s", "background": true, %s}' % (topic.encode(), template)
    assert raw.ask("fanout", body % at_limit).data == b"1"
    text = refusal(raw.ask("fanout", body % over))
    assert text.startswith("too_large: ")
    assert "--max-payload 1000" in text
    alice = raw.taker(f"{topic}_alice")
    assert [len(payload) for payload in alice.finish()] == [1000]
    assert alice.grab_now() is None


@pytest.mark.parametrize("background", [True, False])
def test_payload_times_copies_counts_those_that_are_sent(
    cluster: Cluster, raw: Raw, topic: str, background: bool
) -> None:
    cluster.subscribe(topic, "a", "b", "c")
    receiver = cluster.receiver(*(f"{topic}_{client}" for client in "abc"))
    text = refusal(cluster.publish(topic, "x" * 834, background=background))  # 2,502
    assert text.startswith("too_large: ")
    assert "--max-fanout-bytes 2500" in text
    assert cluster.publish(topic, "x" * 833, background=background).data == b"3"
    outcome = cluster.publish(topic, "x" * 1000, background=background, exclude=["b"])
    assert outcome.data == b"2"
    assert sorted(map(len, receiver.wait(5))) == [833, 833, 833, 1000, 1000]
    receiver.close()


def test_more_foreground_fanouts_than_may_wait_are_told_busy(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice")
    alice = raw.taker(f"{topic}_alice")
    waiting = [raw.fanout(topic, f"wait {number}") for number in range(2)]
    jobs = [alice.take() for _ in waiting]
    text = refusal(raw.ask("fanout", topic=topic, payload="too many"))
    assert text.startswith("busy: ")
    assert cluster.publish(topic, "background").data == b"1"
    alice.complete(jobs[0].handle)
    assert waiting[0].outcome().data == b"1"
    again = raw.fanout(topic, "again")
    assert alice.finish(2) == [b"background", b"again"]  # and never "too many"
    assert again.outcome().data == b"1"
    alice.complete(jobs[1].handle)
    assert waiting[1].outcome().data == b"1"


def test_a_fanout_that_its_quorum_answered_does_not_count_as_waiting(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice", "bob")
    alice, bob = raw.taker(f"{topic}_alice"), raw.taker(f"{topic}_bob")
    early = []
    for number in range(4):
        pending = raw.fanout(topic, str(number), quorum=1)
        job = alice.take(3)
        alice.complete(job.handle)
        assert pending.outcome().data == b"1"
        early.append(bob.take())
    for job in early:
        bob.complete(job.handle)


def test_without_the_store_a_change_is_refused_as_unavailable(
    make_cluster: Callable[..., Cluster], topic: str
) -> None:
    cluster = make_cluster()
    cluster.subscribe(topic, "alice")
    cluster.store.kill()
    with Raw(cluster.address) as raw:
        for function in ("subscribe_fanout", "unsubscribe_fanout"):
            text = refusal(raw.ask(function, topic=topic, client_id="bob"))
            assert text.startswith("unavailable: ")
        cluster.store.restart()
        request = {"topic": topic, "client_id": "bob"}
        eventually(lambda: raw.ask("subscribe_fanout", **request).kind == "complete")
        assert cluster.publish(topic, "x").data in (b"1", b"2")
        assert raw.taker(f"{topic}_bob").finish() == [b"x"]
