"""Splitting and building packets: whole, byte by byte, and with what follows."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gearhorn.errors import ProtocolError
from gearhorn.gearman import packets
from gearhorn.gearman.packets import KEPT_BYTES, Packet, Splitter


def response(kind: int, body: bytes) -> bytes:
    return b"\0RES" + struct.pack(">II", kind, len(body)) + body


def flat(found: list[Packet]) -> list[Packet]:
    """Take JOB_CREATED runs apart."""
    out: list[Packet] = []
    for kind, body in found:
        if kind == packets.JOB_CREATED:
            out += [(kind, handle) for handle in packets.handles(body)]
        else:
            out.append((kind, body))
    return out


CASES = [
    [(packets.NOOP, b"")],
    [(packets.JOB_CREATED, b"H:vm:1")],
    [(packets.JOB_CREATED, b"H:vm:9"), (packets.JOB_CREATED, b"H:vm:10")],
    [(packets.JOB_CREATED, b"H:vm:11"), (packets.JOB_CREATED, b"H:vm:12"), (packets.NOOP, b"")],
    [(packets.WORK_COMPLETE, b"H:vm:1\0" + response(packets.JOB_CREATED, b"H:vm:2"))],
    [(packets.ERROR, b"QUEUE_ERROR\0full"), (packets.JOB_CREATED, b"H:vm:3")],
    [(packets.JOB_ASSIGN_UNIQ, b"H:vm:1\0f\0\0" + b"x" * 100_000), (packets.NO_JOB, b"")],
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("step", [1, 2, 7, 12, 13, 4096, 1 << 20])
def test_packets_come_out_as_they_went_in(case: list[Packet], step: int) -> None:
    data = b"".join(response(*packet) for packet in case)
    splitter = Splitter(1 << 20)
    found: list[Packet] = []
    for at in range(0, len(data), step):
        found += splitter.feed(data[at : at + step])
    assert flat(found) == case


@pytest.mark.parametrize("case", CASES)
def test_what_follows_a_packet_waits_for_the_rest(case: list[Packet]) -> None:
    splitter = Splitter(1 << 20)
    data = b"".join(response(*packet) for packet in case)
    following = response(packets.ECHO_RES, b"tail")
    assert flat(splitter.feed(data + following[:5])) == case
    assert splitter.feed(following[5:]) == [(packets.ECHO_RES, b"tail")]


@given(st.lists(st.tuples(st.integers(1, 40), st.binary(max_size=40))), st.integers(1, 60))
def test_any_stream_in_any_pieces(case: list[Packet], step: int) -> None:
    data = b"".join(response(*packet) for packet in case)
    splitter = Splitter(1 << 20)
    found: list[Packet] = []
    for at in range(0, len(data), step):
        found += splitter.feed(data[at : at + step])
    assert flat(found) == case


@pytest.mark.parametrize("step", [1000, KEPT_BYTES, 1 << 20])
def test_a_body_over_the_limit_is_cut_and_the_stream_goes_on(step: int) -> None:
    body = b"H:vm:1\0fanout\0\0" + b"x" * (3 * KEPT_BYTES)
    data = response(packets.JOB_ASSIGN_UNIQ, body) + response(packets.NOOP, b"")
    splitter = Splitter(KEPT_BYTES)
    found: list[Packet] = []
    for at in range(0, len(data), step):
        found += splitter.feed(data[at : at + step])
    assert found == [(-packets.JOB_ASSIGN_UNIQ, body[:KEPT_BYTES]), (packets.NOOP, b"")]


def test_what_is_not_a_response_is_refused() -> None:
    with pytest.raises(ProtocolError):
        Splitter(100).feed(b"HTTP/1.1 200 OK\r\n")


def test_acceptances_that_came_together_are_one_run() -> None:
    data = b"".join(response(packets.JOB_CREATED, b"H:vm:%d" % n) for n in range(10, 99))
    [(kind, run)] = Splitter(100).feed(data)
    assert kind == packets.JOB_CREATED
    assert packets.handles(run) == [b"H:vm:%d" % n for n in range(10, 99)]


@given(st.lists(st.binary(min_size=1, max_size=30).filter(lambda q: b"\0" not in q), min_size=1))
def test_a_block_is_the_packets_one_after_the_other(queues: list[bytes]) -> None:
    kind = packets.SUBMIT[False]["normal"]
    tail = packets.tail(b"id", b"pay\0load")
    heads = packets.heads(queues, kind, len(tail))
    block = tail.join(heads) + tail
    assert block == b"".join(packets.pack(kind, q, b"id", b"pay\0load") for q in queues)
