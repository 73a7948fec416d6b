"""Long lists whose queues are all full: what that takes of time and of memory."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.cluster import Cluster, eventually
from support.lists import Meanwhile, fill, waiting
from support.lossy import Lossy
from support.turns import InProcess
from support.wire import CAN_DO, admin, packet

from gearhorn.config import Config, parse_server
from gearhorn.fanout import background, overflow
from gearhorn.fanout.copies import Subscribers
from gearhorn.fanout.drops import Drops
from gearhorn.gearman import trimming

MIB = 1024 * 1024
MakeCluster = Callable[..., Cluster]
OPTIONS = b'{"max_backlog":1,"overflow":"drop_old"}'


def test_a_list_of_which_every_queue_drops_its_oldest_is_sent_and_nobody_waits_for_it(
    make_cluster: MakeCluster,
) -> None:
    """With a search through the full queues for each copy the loop would have no turn for others.

    How long it takes is the machine's business; that others went on meanwhile is not.
    """
    cluster = make_cluster()
    count = 20_000
    fill(cluster.store.url, "long", count, OPTIONS)
    others = Meanwhile(cluster, "small")
    for number in range(2):
        answer = others.during(
            lambda n=number: cluster.run("fanout", 300, topic="long", payload=n, background=True)
        )
        assert answer.data == b"%d" % count
        assert len(others.took) > 20
    jobs = {name: n for name, n in waiting(cluster.address).items() if name.startswith("long_")}
    # Those whose limits were set before the second copy came; two seconds are given for that.
    full = [name for name, n in jobs.items() if n == 1]
    assert len(full) > 200
    both = [name for name, n in jobs.items() if n == 2]
    assert len(full) + len(both) == count
    assert cluster.receiver(*full[:50]).wait(50, 60) == [b"1"] * 50, "the old copy was dropped"
    if both:
        assert cluster.receiver(both[0]).wait(2, 60) == [b"0", b"1"]


@pytest.mark.parametrize("is_ours", [True, False], ids=["full", "limit in doubt"])
def test_copies_that_waited_for_room_have_their_payload_once(
    make_cluster: MakeCluster, is_ours: bool
) -> None:
    count = 300
    cluster = make_cluster(workers=0)
    clients = fill(cluster.store.url, "t", count, OPTIONS if is_ours else b"")
    worker = cluster.add_worker().ready()
    assert cluster.publish("t", "first").data == b"%d" % count
    if not is_ours:
        for client in clients:  # as somebody else would
            assert admin(cluster.address, f"maxqueue t_{client} 1") == "OK"
    before = worker.peak_bytes()
    assert cluster.publish("t", "x" * MIB).data == b"%d" % count
    assert worker.peak_bytes() - before < 64 * MIB


def test_what_a_pair_lost_is_not_counted_for_its_next_subscription(
    make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many drops are counted in small steps, and the pair changes between two of them."""
    monkeypatch.setattr(background, "STEP", 1)
    begun = threading.Event()
    dropped = Drops.dropped

    def slowly(drops: Drops, subscribers: Subscribers, index: int) -> None:
        begun.set()
        time.sleep(0.001)
        dropped(drops, subscribers, index)

    monkeypatch.setattr(Drops, "dropped", slowly)
    cluster = make_cluster(workers=0)
    clients = fill(cluster.store.url, "t", 2000, b'{"max_backlog":1}')
    [server] = cluster.job_servers
    config = Config(servers=(parse_server(server.address),), redis=cluster.store.url)
    with InProcess(config), ThreadPoolExecutor(1) as pool:
        assert cluster.publish("t", "first").data == b"2000"
        second = pool.submit(cluster.publish, "t", "second")
        assert begun.wait(60)
        cluster.run("unsubscribe_fanout", topic="t", client_id=clients[-1])
        cluster.subscribe("t", clients[-1])
        assert second.result().data == b"0"
        monkeypatch.undo()

        def drops(client: str) -> int:
            request = {"topic": "t", "cursor": f"t {client[:-1]}", "limit": 10}
            page = json.loads(cluster.run("describe_fanout", **request).data)
            found: int = page["topics"]["t"]["subscriptions"][client]["drops"]
            return found

        eventually(lambda: drops(clients[-2]) == 1)
        assert drops(clients[-1]) == 0


def test_what_a_frozen_member_counted_is_not_the_next_subscriptions(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(workers=0, options=("--lease", "1"))
    frozen = cluster.add_worker("--fanout-function", "frozen_fanout").ready()
    cluster.add_worker().ready()
    cluster.subscribe("t", "alice", max_backlog=1)
    cluster.subscribe("t", "bob", max_backlog=1)

    def drops(client: str) -> int:
        described = json.loads(cluster.run("describe_fanout", topic="t").data)
        found: int = described["topics"]["t"]["subscriptions"][client]["drops"]
        return found

    cluster.run("frozen_fanout", topic="t", payload="first", background=True)
    count, is_written = 0, True
    while is_written:  # counters are written each second, and may be just now
        before = drops("alice")
        for _ in range(2):
            cluster.run("frozen_fanout", topic="t", payload="more", background=True)
        frozen.freeze()
        count += 2
        is_written = drops("alice") != before
        if is_written:
            frozen.thaw()
    cluster.run("unsubscribe_fanout", topic="t", client_id="alice")
    cluster.subscribe("t", "alice", max_backlog=1)
    frozen.thaw()
    eventually(lambda: drops("bob") == count)
    assert drops("alice") == 0


def test_no_old_copies_are_discarded_once_the_subscription_has_ended(
    make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One queue's trim is held up, another's waits for its turn until the drain gives it up."""
    monkeypatch.setattr(overflow, "GIVE_UP_S", 0.5)
    monkeypatch.setattr(trimming, "TRIM_S", 30.0)
    cluster = make_cluster(options=("--fanout-function", "another_fanout"))
    [server] = cluster.job_servers
    line = Lossy(server.address)
    try:
        config = Config(servers=(parse_server(line.address),), redis=cluster.store.url)
        with InProcess(config), ThreadPoolExecutor(2) as pool:
            for topic in ("slow", "t"):
                cluster.subscribe(topic, "alice", max_backlog=1, overflow="drop_old")
                assert cluster.publish(topic, "old").data == b"1"
            line.hold(packet(CAN_DO, b"slow_alice"))
            slow = pool.submit(cluster.publish, "slow", "new")
            assert line.held.wait(10)
            late = pool.submit(cluster.publish, "t", "late")
            assert cluster.publish("behind", "that").data == b"0"
            ended = cluster.run("unsubscribe_fanout", topic="t", client_id="alice", drain=True)
            assert json.loads(ended.data)["drained"] == 1
            assert late.result().data == b"0"
            cluster.subscribe("t", "alice", max_backlog=2)
            request = {"topic": "t", "payload": "kept", "background": True}
            assert cluster.run("another_fanout", **request).data == b"1"
            line.release()
            assert slow.result().data == b"1"
            assert cluster.publish("t", "last").data == b"1"  # behind what was to be discarded
            assert cluster.receiver("t_alice").wait(2) == [b"kept", b"last"]
    finally:
        line.close()
