"""Lists of 100,000 subscriptions: nobody waits for them but those who use them.

``tests/stress`` and ``scripts/bench`` do the same with a million.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import redis
from support.bulk import Pipeline, fanout_body
from support.cluster import Cluster, Receiver, Worker, eventually
from support.lists import Meanwhile, fill, waiting
from support.proxy import Proxy, on_loop
from support.servers import Gearmand, Redis
from support.turns import TURN_S, InProcess, Turns
from support.wire import Wire

from gearhorn.config import Config, parse_server
from gearhorn.fanout.packed import LONG

MakeCluster = Callable[..., Cluster]
COUNT = 100_000
OPTIONS = b'{"envelope":true,"max_backlog":50000,"overflow":"drop_old"}'


@pytest.fixture
def beds() -> Iterator[Callable[[int], Cluster]]:
    """Builds job servers and a store, for workers in this process."""
    made: list[Cluster] = []

    def make(job_servers: int) -> Cluster:
        servers = [Gearmand("--hashtable-buckets=1000003") for _ in range(job_servers)]
        made.append(Cluster(servers, Redis(), 0))
        return made[-1]

    yield make
    for one in made:
        one.close()


def config_of(bed: Cluster, **more: Any) -> Config:
    servers = tuple(parse_server(server.address) for server in bed.job_servers)
    return Config(servers=servers, redis=bed.store.url, **more)


@pytest.mark.parametrize("options", [b"", OPTIONS], ids=["plain", "options"])
def test_the_loop_turns_while_a_long_list_is_used(
    beds: Callable[[int], Cluster], options: bytes
) -> None:
    bed = beds(1)
    clients = fill(bed.store.url, "long", COUNT, options)
    too_large = f"too_large: {COUNT} copies"
    with Turns() as turns, InProcess(config_of(bed, max_fanout_bytes=1000)):
        others = Meanwhile(bed, "small")

        def check(request: Callable[[], bytes]) -> bytes:
            turns.reset()
            answer: bytes = others.during(request)
            assert turns.longest < TURN_S, turns.what
            return answer

        def publish(**more: object) -> bytes:
            outcome = bed.publish("long", "x", **more)
            return outcome.data or b"".join(outcome.warnings)

        assert check(publish).decode().startswith(too_large), "read"
        assert others.took
        assert check(publish).decode().startswith(too_large), "cached"
        left = check(lambda: publish(exclude=[*clients[5:25], "nobody"]))
        assert left.startswith(b"too_large: %d copies" % (COUNT - 20))
        page = json.loads(check(lambda: bed.run("describe_fanout", topic="long").data))
        assert list(page["topics"]["long"]["subscriptions"]) == clients[:100]
        assert page["cursor"] == f"long {clients[99]}"
        check(lambda: bed.run("describe_fanout", topic="long", limit=10_000).data)
        request = {"topic": "long", "client_id": clients[7]}
        check(lambda: bed.run("unsubscribe_fanout", **request).data)
        assert check(publish).startswith(b"too_large: %d copies" % (COUNT - 1)), "read again"


def test_copies_of_a_long_list_are_made_and_spread_while_the_loop_turns(
    beds: Callable[[int], Cluster],
) -> None:
    bed = beds(2)
    clients = fill(bed.store.url, "long", COUNT)
    with Turns() as turns, InProcess(config_of(bed)):
        others = Meanwhile(bed, "small")
        turns.reset()
        but = {"exclude": clients[1000:1010], "background": True}
        answer = others.during(lambda: bed.run("fanout", 120, topic="long", payload="y", **but))
        assert answer.data == b"%d" % (COUNT - 10)
        assert turns.longest < TURN_S, turns.what
        assert len(others.took) > 10, "others' fan-outs went in between"
        counts = [
            sum(count == 1 for name, count in waiting(server.address).items() if "long_" in name)
            for server in bed.job_servers
        ]
        assert sum(counts) == COUNT - 10
        assert min(counts) > COUNT // 3


def test_copies_of_one_queue_keep_their_order_while_the_list_becomes_short(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(job_servers=2)
    clients = fill(cluster.store.url, "long", LONG + 1)
    pipeline = Pipeline(cluster.address)
    for number in range(12):
        exclude = clients[5:9000] if number == 4 else []
        pipeline.submit("fanout", fanout_body("long", f"{number}", exclude=exclude))
    for client in clients[3:5]:
        request = json.dumps({"topic": "long", "client_id": client})
        pipeline.submit("unsubscribe_fanout", request.encode())
    with redis.Redis.from_url(cluster.store.url) as store:
        eventually(lambda: store.zcard("{gearhorn}:clients:long") == LONG - 1)
    for number in range(12, 15):
        pipeline.submit("fanout", fanout_body("long", f"{number}"))
    answers = pipeline.finish(120)
    pipeline.close()
    assert all(kind == "complete" for kind, _ in answers), answers
    everything = [b"%d" % number for number in range(15)]
    for client in (clients[0], clients[5], clients[8999], clients[-1]):
        excluded = client in clients[5:9000]
        wanted = everything[:4] + everything[5:] if excluded else everything
        receivers = [
            cluster.receiver(f"long_{client}", address=server.address)
            for server in cluster.job_servers
        ]
        eventually(partial(_have, receivers, len(wanted)))
        came = [payload for receiver in receivers for payload in receiver.payloads]
        assert came == wanted


def test_an_unsubscribe_is_answered_once_the_long_fan_outs_of_its_topic_are_sent(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(workers=2, options=("--max-fanout-bytes", "1000000"))
    count = 40_000
    clients = fill(cluster.store.url, "long", count)
    for number in range(20):  # so that both members have read the list
        assert cluster.publish("long", "x" * 100 + f"{number}").kind == "fail", "it is too large"
    wire = Wire(cluster.address)
    handle = wire.submit(b"fanout", fanout_body("long", "last"))
    first, last = f"long_{clients[1]}", f"long_{clients[-1]}"
    eventually(lambda: waiting(cluster.address).get(first), 60)
    assert not waiting(cluster.address).get(last), "the fan-out is not half done"
    request = {"topic": "long", "client_id": clients[-1]}
    assert cluster.run("unsubscribe_fanout", 60, **request).kind == "complete"
    assert waiting(cluster.address)[last] == 1, "its copy was on its way"
    assert wire.outcome(handle, 60).data == b"%d" % count
    wire.close()


def _have(receivers: list[Receiver], count: int) -> bool:
    return sum(len(receiver.jobs) for receiver in receivers) >= count


class _Narrow(Proxy):
    """Passes little of what the store answers at a time."""

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_client: bool
    ) -> None:
        while data := await reader.read(1 << 16):
            if not is_client and len(data) > 3000:
                await asyncio.sleep(len(data) / 500_000)
            writer.write(data)
        writer.close()


@on_loop
async def test_a_list_that_comes_slowly_delays_its_own_topic_only() -> None:
    server, store = Gearmand(), Redis()
    bed = await asyncio.to_thread(Cluster, [server], store, 0)
    worker = None
    try:
        fill(store.url, "long", COUNT)
        fill(store.url, "small", 3)
        async with _Narrow(store.url.removeprefix("redis://").split("/")[0]) as proxy:
            worker = Worker([server.address], f"redis://127.0.0.1:{proxy.port}/0")
            await asyncio.to_thread(worker.ready)
            pipeline = Pipeline(server.address)
            worker.freeze()  # so that it takes both in one turn
            pipeline.submit("fanout", fanout_body("long", "x"))
            pipeline.submit("fanout", fanout_body("small", "x"))
            await asyncio.to_thread(eventually, lambda: waiting(server.address)["fanout"] == 2)
            worker.thaw()
            answers = asyncio.create_task(asyncio.to_thread(pipeline.finish, 120))
            while 1 not in pipeline.answers and not answers.done():
                await asyncio.sleep(0.01)
            assert list(pipeline.answers.items()) == [(1, ("complete", b"3"))]
            assert await answers == [("complete", b"%d" % COUNT), ("complete", b"3")]
            assert "store unreachable" not in worker.log()
            pipeline.close()
    finally:
        if worker is not None:
            await asyncio.to_thread(worker.close)
        await asyncio.to_thread(bed.close)
