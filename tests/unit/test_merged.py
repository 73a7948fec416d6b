"""Merged lists: every question is answered as one list of all parts would answer it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest
from support.fanouts import Servers

from gearhorn.fanout.copies import Subscribers
from gearhorn.fanout.merged import MANY, Joined, Merged
from gearhorn.fanout.packed import LONG, Packed, Packer
from gearhorn.messages.fanout import Fanout
from gearhorn.names import queue_of

NO_LIMIT = 2**31
MESSAGE = Fanout("a.b", b"x", None, True, 30.0, None, False, frozenset(), "normal")


def listed(name: str, *clients: str, plain: bool = False, **more: object) -> Subscribers:
    queues = [queue_of(name, client) for client in clients]
    return Subscribers(name, queues, enveloped=len(queues) if plain else 0, **more)  # type: ignore[arg-type]


def long_list(name: str, count: int) -> Subscribers:
    packer = Packer()
    packer.add([b"%06d" % number for number in range(count)])
    packer.end()
    queues = Packed(queue_of(name, ""), packer.pages, packer.counts, len(packer.pages))
    return Subscribers(name, queues, enveloped=count if name[0] != " " else 0)


def merged(*clients: str) -> Merged:
    own = listed("a.b", *clients, plain=True, durable=("dora",), has_log=True, version=7)
    return Merged(
        own,
        [
            listed(" a.*", "alice", "bob", limits=[(1, 5)], overflow={1: "drop_old"}, version=3),
            listed(" >", "alice"),
        ],
    )


def test_parts_stand_one_behind_the_other() -> None:
    joined = Joined([[b"a", b"b"], [b"c"], [b"d", b"e"]])
    assert list(joined) == [b"a", b"b", b"c", b"d", b"e"]
    assert [joined[at] for at in range(-5, 5)] == list(joined) * 2
    assert joined[1:4] == [b"b", b"c", b"d"]
    for at in (5, -6):
        with pytest.raises(IndexError):
            joined[at]


def test_a_merged_list_knows_whose_each_queue_is() -> None:
    found = merged("carol")
    assert list(found.queues) == [b"a.b_carol", b"a.*_alice", b"a.*_bob", b">_alice"]
    assert [found.client_id(at) for at in range(4)] == ["carol", "alice", "bob", "alice"]
    assert found.client_ids(0, 9) == ["carol", "alice", "bob", "alice"]
    assert found.client_ids(2, 3) == ["bob"]
    assert [found.part_of(at)[0].topic for at in range(4)] == ["a.b", " a.*", " a.*", " >"]
    assert [found.index_of(queue) for queue in found.queues] == [0, 1, 2, 3]
    assert found.index_of(b"a.*_mallory") is None
    assert found.index_of(b"b_alice") is None
    assert found.own.queues == [b"a.b_carol"]
    assert (found.topic, found.version, found.has_log) == ("a.b", 7, True)
    assert found.receivers(frozenset()) == ("dora",)
    assert found.weight == 2 + 2  # carol and dora, and two parts


def test_limits_and_what_happens_there_are_those_of_the_part() -> None:
    found = merged("carol")
    assert [found.limit(at) for at in range(4)] == [0, 0, 5, 0]
    assert [found.overflow_of(at) for at in range(4)] == [None, None, "drop_old", None]
    assert found.lowest_limit() == 5
    assert found.lowest_limit(5) == NO_LIMIT


@pytest.mark.parametrize("clients", [(), ("carol",), ("alice", "carol")])
def test_who_is_excluded_gets_no_copy_of_any_part(clients: Sequence[str]) -> None:
    found = merged(*clients)
    left = found.chosen(frozenset({"alice", "nobody"}))
    assert [found.client_id(at) for at in left] == [*(set(clients) - {"alice"}), "bob"]


def test_a_list_with_long_or_many_parts_is_sent_in_portions() -> None:
    own = listed("a.b", "carol", plain=True)
    assert not merged("carol").is_long
    assert Merged(own, [long_list(" a.*", LONG + 1)]).is_long
    assert Merged(own, [listed(f" {at}", "alice") for at in range(MANY)]).is_long
    assert Merged(listed("a.b", *map(str, range(LONG)), plain=True), [own]).is_long


def test_exclude_finds_the_same_in_long_parts() -> None:
    found = Merged(long_list("a.b", LONG + 10), [long_list(" a.*", 300), listed(" >", "000007")])
    left = found.chosen(frozenset({"000007", "000299", "nobody"}))
    gone = set(range(len(found.queues))) - set(left)
    assert gone == {7, 299, LONG + 10 + 7, LONG + 10 + 299, LONG + 310}


@pytest.mark.parametrize("is_long", [False, True])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
def test_every_copy_is_in_one_block_of_its_server(is_long: bool, share: float) -> None:
    async def test() -> None:
        chance = random.Random(1)
        own = long_list("a.b", LONG + 1) if is_long else listed("a.b", "carol", "dave", plain=True)
        parts = [listed(f" {at}", "alice", "bob") for at in range(40)]
        found = Merged(own, parts)
        routes = {queue: chance.randrange(2) for queue in found.queues}
        servers = Servers(2, routes)
        servers.only = None  # type: ignore[attr-defined]
        servers.route = routes.__getitem__  # type: ignore[attr-defined]
        whole = range(len(found.queues))
        indexes = None if share == 1.0 else [at for at in whole if chance.random() < share]
        blocks = found.blocks(
            servers,  # type: ignore[arg-type]
            MESSAGE,
            foreground=False,
            unique=b"",
            at=1.5,
            indexes=indexes,
        )
        sent = []
        for block in blocks:
            assert block.indexes is not None
            for at, head in zip(block.indexes, block.heads, strict=True):
                queue = head[12:].split(b"\0")[0]
                assert queue == found.queues[at]
                assert routes[queue] == block.place
                assert (b'"topic":"a.b"' in block.tail) == (at >= len(own.queues))
                sent.append(at)
        assert sorted(sent) == list(whole if indexes is None else indexes)
        assert len(blocks) <= 4, "one block for each server and kind"

    asyncio.run(test())
