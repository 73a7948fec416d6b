"""From a message and a list to blocks of copies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from hashlib import sha256

import pytest

from gearhorn.fanout.copies import Block, Subscribers, unique_id
from gearhorn.gearman import packets
from gearhorn.gearman.job_servers import JobServers
from gearhorn.gearman.server import Server
from gearhorn.messages.fanout import Fanout, decode_fanout

PREFIX = b"0123456789abcdef.1:"


def test_a_background_unique_is_carried_as_it_is() -> None:
    assert unique_id("u", b"p", None) == b"u"
    assert unique_id("x" * 63, b"p", None) == b"x" * 63
    assert unique_id("-", b"p", None) == b"-"
    assert unique_id(None, b"p", None) == b""


@pytest.mark.parametrize("unique", ["x" * 64, "a\nb", "a\0b", "\x7f", "é" * 32])
def test_a_unique_that_gearmand_cannot_carry_becomes_its_digest(unique: str) -> None:
    digest = sha256(unique.encode()).hexdigest()[:40].encode()
    assert unique_id(unique, b"p", None) == digest
    assert unique_id(unique, b"p", PREFIX) == PREFIX + digest


def test_a_foreground_unique_has_the_members_prefix() -> None:
    assert unique_id("u", b"p", PREFIX) == PREFIX + b"u"
    longest = "x" * (63 - len(PREFIX))
    assert unique_id(longest, b"p", PREFIX) == PREFIX + longest.encode()
    assert len(unique_id(longest + "x", b"p", PREFIX)) == len(PREFIX) + 40


def test_a_foreground_dash_is_the_payloads_digest() -> None:
    digest = sha256(b"p").hexdigest()[:40].encode()
    assert unique_id("-", b"p", PREFIX) == PREFIX + digest


class _Up:
    """Stands for a connection, so that a client counts as up."""


def cluster_of(*up: bool) -> JobServers:
    servers = [Server("127.0.0.1", 4730 + number) for number in range(len(up))]
    cluster = JobServers(servers, None, b"test", limit=1 << 20)
    for client, is_up in zip(cluster.clients, up, strict=True):
        client.connection = _Up() if is_up else None  # type: ignore[assignment]
    cluster._changed()
    return cluster


def message_for(topic: str) -> Fanout:
    body = b'{"topic":"%s","payload":"hello"}' % topic.encode()
    return decode_fanout(body, 1000)


def blocks(
    subscribers: Subscribers, cluster: JobServers, unique: bytes, indexes: list[int] | None = None
) -> list[Block]:
    message = message_for("t")
    return subscribers.blocks(
        cluster, message, foreground=False, unique=unique, at=1.0, indexes=indexes
    )


def in_loop(check: Callable[[], None]) -> None:
    async def main() -> None:
        check()

    asyncio.run(main())


def test_routing_is_the_highest_digest_of_server_nul_queue() -> None:
    def check() -> None:
        cluster = cluster_of(True, True, True)
        for number in range(100):
            queue = b"t_%d" % number
            names = [f"127.0.0.1:{4730 + place}".encode() for place in range(3)]
            digests = [sha256(name + b"\0" + queue).digest() for name in names]
            assert cluster.route(queue) == digests.index(max(digests))

    in_loop(check)


def test_only_the_queues_of_a_lost_server_move() -> None:
    def check() -> None:
        queues = [b"t_%d" % number for number in range(300)]
        all_up, without = cluster_of(True, True, True), cluster_of(True, False, True)
        for queue in queues:
            if all_up.route(queue) != 1:
                assert without.route(queue) == all_up.route(queue)
        counts = {place: len(part) for place, part in all_up.partition(queues).items()}
        assert min(counts.values()) > 60

    in_loop(check)


def test_blocks_cover_every_queue_once_and_keep_the_lists_order() -> None:
    def check() -> None:
        cluster = cluster_of(True, True)
        queues = [b"t_%d" % number for number in range(50)]
        subscribers = Subscribers("t", queues, enveloped=40)
        found = blocks(subscribers, cluster, b"")
        seen: list[int] = []
        for block in found:
            assert block.indexes is not None
            assert list(block.indexes) == sorted(block.indexes)
            enveloped = block.tail != packets.tail(b"", b"hello")
            assert all((index >= 40) == enveloped for index in block.indexes)
            seen += block.indexes
        assert sorted(seen) == list(range(50))
        some = blocks(subscribers, cluster, b"", [3, 45])
        assert sorted(i for block in some for i in block.indexes or ()) == [3, 45]

    in_loop(check)


def test_heads_are_kept_for_one_payload_length() -> None:
    def check() -> None:
        cluster = cluster_of(True)
        subscribers = Subscribers("t", [b"t_a", b"t_b"], enveloped=2)
        [first] = blocks(subscribers, cluster, b"")
        [again] = blocks(subscribers, cluster, b"")
        assert first.indexes is None
        assert again.heads is first.heads
        [longer] = blocks(subscribers, cluster, b"unique")
        assert longer.heads != first.heads

    in_loop(check)


def test_exclude_leaves_the_others() -> None:
    subscribers = Subscribers("a_b", [b"a_b_x", b"a_b_y"], enveloped=2)
    assert subscribers.chosen(frozenset()) == [0, 1]
    assert subscribers.chosen(frozenset({"x", "unknown"})) == [1]
