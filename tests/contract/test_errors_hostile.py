"""What docs/protocol.rst promises of how errors travel, and that nobody else suffers from them."""

from __future__ import annotations

import json
import time

import pytest
from support.cluster import Cluster
from support.foreign import Raw, refusal
from support.wire import (
    JOB_CREATED,
    OPTION_REQ,
    OPTION_RES,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    WORK_COMPLETE,
    WORK_FAIL,
    WORK_WARNING,
    packet,
)

pytest_plugins = ["support.foreign"]

MIB = 1024 * 1024
OTHERS = [  # than fanout
    *("subscribe_fanout", "unsubscribe_fanout", "retain_fanout", "fetch_fanout", "parked_fanout"),
]
BAD = [
    b"",
    b"{",
    b"\xff\xfe",
    b"[]",
    b'{"topic": 1, "payload": 2}',
    b'{"topic": "", "payload": 2}',
    b'{"topic": "__matchmaking", "payload": 2}',
    b'{"topic": "some", "payload": 2, "timeout": -1, "max_age": -1}',
    b'{"topic": "some", "payload": "\\ud800", "max_age": "\\ud800"}',
    b'{"topic": "some", "payload": ' + b"[" * 5000 + b"}",
    bytes(range(256)),
]


@pytest.mark.parametrize("exceptions", [True, False])
@pytest.mark.parametrize(
    ("function", "body"),
    [
        ("fanout", b"{"),
        ("subscribe_fanout", b'{"topic": "a b", "client_id": "x"}'),
        ("unsubscribe_fanout", b'{"topic": "__x", "client_id": "x"}'),
    ],
)
def test_a_refusal_is_a_warning_and_then_a_failure(
    raw: Raw, function: str, body: bytes, exceptions: bool
) -> None:
    wire = raw.wire()
    if exceptions:
        wire.send(OPTION_REQ, b"exceptions")
        wire.expect(OPTION_RES)
    handle = wire.submit(function.encode(), body)
    whose, _, text = wire.expect(WORK_WARNING).partition(b"\0")
    assert whose == handle
    assert text.split(b":")[0] in (b"bad_request", b"bad_name", b"reserved")
    assert wire.expect(WORK_FAIL) == handle  # without the NUL on which the gearman command hangs
    wire.expect_nothing()


@pytest.mark.parametrize("exceptions", [True, False])
def test_a_fanout_that_did_not_succeed_is_a_warning_and_then_a_failure(
    cluster: Cluster, raw: Raw, topic: str, exceptions: bool
) -> None:
    cluster.subscribe(topic, "alice")
    alice = raw.taker(f"{topic}_alice")
    wire = raw.wire()
    if exceptions:
        wire.send(OPTION_REQ, b"exceptions")
        wire.expect(OPTION_RES)
    body = json.dumps({"topic": topic, "payload": "x"}).encode()
    handle = wire.submit(b"fanout", body)
    alice.exception(alice.take().handle, b"disk full")
    packets = [wire.recv()]
    while packets[-1][0] != WORK_FAIL:
        packets.append(wire.recv())
    assert packets[-2:] == [
        (WORK_WARNING, handle + b'\0[["alice","disk full"]]'),
        (WORK_FAIL, handle),
    ]
    wire.expect_nothing()


@pytest.mark.parametrize("depth", [1_000, 100_000, 5_000_000])
def test_deep_nesting_harms_nobody(cluster: Cluster, raw: Raw, topic: str, depth: int) -> None:
    name = topic.encode()
    for template in (
        b'{"topic": "%s", "payload": %s, "background": 1}',
        b'{"topic": "%s", "payload": "x", "background": %s}',
        b'{"topic": "%s", "payload": "x", "timeout": %s}',
        b'{"topic": "%s", "payload": "x", "exclude": %s}',
        b'{"topic": "%s", "payload": "x", "whatever": %s}',
    ):
        for opening, closing in ((b"[", b"]"), (b'{"":', b"}")):
            nested = opening * depth + b"1" + closing * depth
            outcome = raw.ask("fanout", template % (name, nested))
            if outcome.kind == "fail" or depth > 1_000:
                assert refusal(outcome).startswith("bad_request: ")
    assert cluster.publish(topic, "still there").data == b"0"


@pytest.mark.parametrize("function", [*OTHERS, "describe_fanout"])
def test_deep_nesting_in_another_request_harms_nobody(
    cluster: Cluster, raw: Raw, topic: str, function: str
) -> None:
    for key in (b"durable", b"ttl", b"topic", b"drain", b"max_age", b"after", b"whatever"):
        nested = b"[" * 100_000 + b"]" * 100_000
        body = b'{"topic": "%s", "client_id": "x", "%s": %s}' % (topic.encode(), key, nested)
        assert refusal(raw.ask(function, body)).startswith("bad_request: ")
    cluster.subscribe(topic, "alice")


def test_a_payload_over_8_mib_is_too_large(cluster: Cluster, raw: Raw, topic: str) -> None:
    cluster.subscribe(topic, "alice")
    for payload in ("x" * (8 * MIB + 1), "é" * (4 * MIB) + "x", ["x" * (8 * MIB)]):
        text = refusal(cluster.publish(topic, payload))
        assert text.startswith("too_large: ")
        assert "--max-payload" in text
    assert cluster.publish(topic, "small").data == b"1"
    assert raw.taker(f"{topic}_alice").finish() == [b"small"]


def test_a_request_far_above_every_limit_is_too_large(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice")
    name = topic.encode()
    for body in (
        b'{"topic": "%s", "payload": "%s"}' % (name, b"x" * (100 * MIB)),
        b'{"topic": "%s", "payload": "x", "z": "%s"}' % (name, b"\0" * (100 * MIB)),
    ):
        assert refusal(raw.ask("fanout", body)).startswith("too_large: ")
        assert cluster.publish(topic, "small").data == b"1"
    assert raw.taker(f"{topic}_alice").finish(2) == [b"small"] * 2


@pytest.mark.parametrize("function", OTHERS)
def test_another_request_far_above_every_limit_is_too_large(
    cluster: Cluster, raw: Raw, topic: str, function: str
) -> None:
    body = b'{"topic": "%s", "client_id": "x", "z": "%s"}' % (topic.encode(), b"x" * (20 * MIB))
    assert refusal(raw.ask(function, body)).startswith("too_large: ")
    cluster.subscribe(topic, "alice")


def test_payload_times_copies_over_1_gib_is_too_large(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, *(f"c{number}" for number in range(129)))
    for background in (True, False):
        text = refusal(cluster.publish(topic, "x" * (8 * MIB), background=background))
        assert text.startswith("too_large: ")
        assert "--max-fanout-bytes" in text
    assert cluster.publish(topic, "small").data == b"129"
    assert raw.taker(f"{topic}_c7").finish() == [b"small"]  # and nothing of the large one


def test_every_good_request_among_ten_thousand_bad_ones_is_served(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    cluster.subscribe(topic, "alice", "bob")
    good, bad = 1_000, 10_000
    blocks = []
    for number in range(good):
        body = json.dumps({"topic": topic, "payload": str(number), "background": True}).encode()
        for at in range(number * bad // good, (number + 1) * bad // good):
            # those in the foreground are answered, the others go the way of the mistaken
            kind = SUBMIT_JOB if at % 2 else SUBMIT_JOB_BG
            function = ("fanout", *OTHERS)[at % (1 + len(OTHERS))].encode()
            blocks.append(packet(kind, function, b"", BAD[at % len(BAD)]))
        blocks.append(packet(SUBMIT_JOB, b"fanout", b"", body))
    caller = raw.wire()
    counts = dict.fromkeys((JOB_CREATED, WORK_COMPLETE, WORK_WARNING, WORK_FAIL), 0)
    answers = set()
    began = time.monotonic()
    for at in range(0, len(blocks), 500):
        caller.send_raw(b"".join(blocks[at : at + 500]))
        while counts[JOB_CREATED] < min(at + 500, len(blocks)):
            kind, body = caller.recv()
            counts[kind] += 1
            if kind == WORK_COMPLETE:
                answers.add(body.partition(b"\0")[2])
    while counts[WORK_COMPLETE] < good or counts[WORK_FAIL] < bad // 2:
        kind, body = caller.recv(30 - (time.monotonic() - began))
        counts[kind] += 1
        if kind == WORK_COMPLETE:
            answers.add(body.partition(b"\0")[2])
    assert answers == {b"2"}
    assert counts[WORK_WARNING] == counts[WORK_FAIL] == bad // 2
    expected = [b"%d" % number for number in range(good)]
    for client in ("alice", "bob"):
        assert raw.taker(f"{topic}_{client}").finish(good) == expected
