"""What a worker does while its store refuses something, has moved, or is hard to reach."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from support.bulk import Pipeline, fanout_body
from support.cluster import Cluster, eventually
from support.servers import Redis, free_port
from support.trial import Proxy
from support.wire import Outcome

MakeCluster = Callable[..., Cluster]
LEASE_S = 1.5
QUICK = ("--lease", f"{LEASE_S}")
DOCS = Path(__file__).resolve().parents[2] / "docs" / "operations.rst"


@pytest.fixture
def proxy() -> Iterator[Callable[..., Proxy]]:
    """Makes proxies that end with the test."""
    made: list[Proxy] = []

    def make(address: str, forgets_s: float = float("inf")) -> Proxy:
        made.append(Proxy(address, forgets_s))
        return made[-1]

    yield make
    for one in made:
        one.close()


def operator(store: Redis) -> redis.Redis:
    """The operator's client."""
    return redis.Redis.from_url(store.url, client_name="operator", socket_timeout=30)


def connections(store: Redis) -> int:
    """How many connections a store has besides the operator's."""
    with operator(store) as client:
        return sum(one["name"] != "operator" for one in client.client_list())


def test_fan_outs_wait_for_somebodys_endless_script(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(options=QUICK, redis=("--lua-time-limit", "100"))
    topics = [f"t{number}" for number in range(3)]
    for topic in topics:
        cluster.subscribe(topic, "alice")
    cluster.subscribe("kept", "bob", durable=True)
    host = cluster.receiver(*(f"{topic}_alice" for topic in topics), "kept_bob")

    def endless() -> None:
        with operator(cluster.store) as client, pytest.raises(redis.RedisError):
            client.eval("while true do end", 0)

    client = operator(cluster.store)
    client.ping()  # it is hard to log in later
    thread = threading.Thread(target=endless)
    thread.start()
    time.sleep(2 * LEASE_S)  # so that no list may be used
    pipeline = Pipeline(cluster.address)
    for topic in [*topics, "kept"]:
        pipeline.submit("fanout", fanout_body(topic, topic))
    refused = cluster.run("subscribe_fanout", topic="t0", client_id="late")
    assert refused.warnings[0].startswith(b"unavailable: the store: ")
    client.execute_command("SCRIPT", "KILL")
    thread.join()
    client.close()
    assert pipeline.finish(20) == [("complete", b"1")] * 4
    pipeline.close()
    assert sorted(host.wait(4)) == [b"kept", *(topic.encode() for topic in topics)]


def test_a_log_is_drained_in_a_store_that_somebody_else_keeps_full(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(options=QUICK)
    cluster.run("retain_fanout", topic="kept", max_age=1)
    cluster.subscribe("kept", "bob", durable={"in_flight": 10})
    cluster.subscribe("direct", "alice")
    for number in range(200):
        assert cluster.publish("kept", f"{number}").data == b"1"
    with operator(cluster.store) as client:
        client.config_set("maxmemory", 1)
        for topic, options in (("kept", {}), ("kept", {"background": False})):
            refused = cluster.publish(topic, "more", **options)
            assert refused.warnings[0].startswith(
                b"unavailable: the store: OOM command not allowed when used memory > 'maxmemory'"
            )
        refused = cluster.run("subscribe_fanout", topic="direct", client_id="late")
        assert refused.warnings[0].startswith(b"unavailable: the store: OOM ")
        bob = cluster.receiver("kept_bob")
        assert sorted(map(int, bob.wait(200, 30))) == list(range(200))
        time.sleep(2 * LEASE_S)
        assert cluster.publish("direct", "x").data == b"1", "the lease is renewed, lists are read"
        assert cluster.publish("unread", "x").data == b"0"

        def first() -> int:
            return int(client.hget("{gearhorn}:log:kept", "first") or 0)

        # the newest message of a log stays in any case
        eventually(lambda: first() >= 200, 20, "the log is not pruned")
        ended = cluster.run("unsubscribe_fanout", topic="direct", client_id="alice", drain=True)
        assert json.loads(ended.data)["drained"] == 1
        assert "lease lost" not in cluster.workers[0].log()
        client.config_set("maxmemory", 0)
    assert cluster.publish("kept", "again").data == b"1"
    assert len(bob.wait(201)) == 201, "each came once"


def test_a_store_that_lacks_its_replicas_is_read_for_longer_than_a_lease(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(options=QUICK)
    cluster.subscribe("t", "alice")
    with operator(cluster.store) as client:
        client.config_set("min-replicas-to-write", 1)
        for _ in range(3):
            time.sleep(LEASE_S)
            assert cluster.publish("t", "x").data == b"1"
        refused = cluster.run("unsubscribe_fanout", topic="t", client_id="alice")
        assert refused.warnings[0].startswith(b"unavailable: the store: NOREPLICAS Not enough")
        client.config_set("min-replicas-to-write", 0)
    eventually(lambda: run_on(cluster, "subscribe_fanout", client_id="bob").kind == "complete", 20)
    assert cluster.publish("t", "x").data == b"2"


def run_on(cluster: Cluster, function: str, **request: str) -> Outcome:
    """Ask for a change of topic t."""
    return cluster.run(function, topic="t", **request)


def test_no_list_comes_from_a_primary_that_was_demoted_and_the_new_one_is_found(
    make_cluster: MakeCluster, proxy: Callable[..., Proxy]
) -> None:
    cluster = make_cluster(workers=0)
    former = cluster.store
    with Redis("--replicaof", "127.0.0.1", str(former.port)) as later:
        name = proxy(former.address)  # that moves with the primary
        here = ("--redis", f"redis://127.0.0.1:{name.port}/0", *QUICK)
        cluster.add_worker(*here, *functions("b", "fanout")).ready()
        assert run_on(cluster, "subscribe_fanout_b", client_id="x").kind == "complete"
        assert cluster.publish("t", "1").data == b"1"
        with operator(later) as client, operator(former) as old:
            eventually(lambda: client.info("replication")["master_link_status"] == "up", 20)
            eventually(lambda: client.get("{gearhorn}:version") == b"1")
            client.execute_command("REPLICAOF", "NO", "ONE")
            name.move(later.address)
            old.execute_command("REPLICAOF", "127.0.0.1", str(free_port()))
        # another member is at the new primary, and the former one still answers reads
        there = ("--redis", later.url, *QUICK, *functions("a"))
        cluster.add_worker(*there).ready()
        assert run_on(cluster, "subscribe_fanout_a", client_id="y").kind == "complete"
        assert cluster.publish("t", "2", timeout=20).data == b"2"
        assert run_on(cluster, "unsubscribe_fanout_a", client_id="x").kind == "complete"
        assert cluster.publish("t", "3").data == b"1"
        eventually(lambda: not connections(former), 20, "connections to the former primary stay")
        assert run_on(cluster, "subscribe_fanout_b", client_id="z").kind == "complete"
        assert cluster.publish("t", "4").data == b"2"
        cluster.workers[0].logs("store is no primary; connecting anew")


def functions(suffix: str, fanout: str = "") -> list[str]:
    """Options that give a worker's functions names of their own, but for ``fanout``."""
    names = {
        "fanout": fanout or f"fanout_{suffix}",
        "subscribe": f"subscribe_fanout_{suffix}",
        "register": f"register_{suffix}",
        "unsubscribe": f"unsubscribe_fanout_{suffix}",
        "describe": f"describe_{suffix}",
        "retain": f"retain_{suffix}",
        "fetch": f"fetch_{suffix}",
        "parked": f"parked_{suffix}",
    }
    return [part for key, name in names.items() for part in (f"--{key}-function", name)]


def documented_rules() -> list[str]:
    """The ACL rules that docs/operations.rst tells operators to give the worker's user."""
    found = re.search(r"ACL SETUSER gearhorn (.*?)\n\n", DOCS.read_text(), re.S)
    assert found is not None
    return found[1].replace("\\", " ").split()


def test_a_user_with_the_documented_rules_can_do_all_that_is_needed(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(workers=0)
    with operator(cluster.store) as client:
        client.execute_command("ACL", "SETUSER", "gearhorn", *documented_rules())
        url = f"redis://gearhorn:secret@{cluster.store.address}/0"
        worker = cluster.add_worker("--redis", url, *QUICK).ready()
        cluster.subscribe("t", "alice", ttl=600, max_backlog=10)
        cluster.subscribe("kept", "bob", durable={"max_attempts": 1})
        cluster.subscribe("kept", "carol", durable={"pull": True})
        cluster.run("retain_fanout", topic="kept", max_age=1)
        host = cluster.receiver("kept_bob", behave=lambda wire, job: wire.fail(job.handle))
        assert cluster.publish("kept", "m", unique="1").data == b"2"
        asked = {"topic": "kept", "client_id": "bob"}

        def parked() -> int:
            return len(
                json.loads(cluster.run("parked_fanout", action="list", **asked).data)["parked"]
            )

        eventually(parked, 20)
        assert host.jobs
        for action in ("redrive", "purge"):
            assert cluster.run("parked_fanout", action=action, **asked).kind == "complete"
        fetched = cluster.run("fetch_fanout", topic="kept", client_id="carol", ack=1)
        assert fetched.kind == "complete"
        assert cluster.publish("t", "x").data == b"1"
        assert cluster.run("describe_fanout").kind == "complete"
        ended = cluster.run("unsubscribe_fanout", topic="t", client_id="alice", drain=True)
        assert ended.kind == "complete"
        time.sleep(LEASE_S)
        assert worker.stop() == 0
        denied = client.execute_command("ACL", "LOG")
        assert denied == [], denied
        assert "NOPERM" not in worker.log()


def test_channels_that_the_user_lacks_are_named_once_and_messages_come_all_the_same(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(workers=0)
    with operator(cluster.store) as client:
        rules = [rule for rule in documented_rules() if not rule.startswith("&")]
        client.execute_command("ACL", "SETUSER", "gearhorn", *rules)
        url = f"redis://gearhorn:secret@{cluster.store.address}/0"
        worker = cluster.add_worker("--redis", url).ready()
        cluster.subscribe("kept", "bob", durable=True)
        bob = cluster.receiver("kept_bob")
        for number in range(3):
            assert cluster.publish("kept", f"{number}").data == b"1"
        assert bob.wait(3, 20) == [b"0", b"1", b"2"]
        time.sleep(2)
        lines = [line for line in worker.log().splitlines() if "NOPERM" in line]
        assert len(lines) == 1, lines
        assert "{gearhorn}:events@0" in lines[0]


def test_a_policy_that_evicts_is_noticed_while_the_worker_runs(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(redis=("--maxmemory", "100mb"))
    worker = cluster.workers[0]
    assert "maxmemory-policy" not in worker.log()
    with operator(cluster.store) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        eventually(lambda: "policy=allkeys-lru" in worker.log(), 30)
        client.config_set("maxmemory-policy", "noeviction")
        eventually(lambda: "the store keeps its keys again" in worker.log(), 30)
    assert worker.process.poll() is None


def test_a_worker_keeps_all_that_it_has_where_keys_with_an_expiry_are_taken(
    make_cluster: MakeCluster,
) -> None:
    options = ("--maxmemory", "40mb", "--maxmemory-policy", "volatile-lru")
    cluster = make_cluster(redis=options)
    cluster.subscribe("direct", "alice", ttl=3600)
    cluster.subscribe("kept", "bob", durable=True)
    alice, bob = cluster.receiver("direct_alice"), cluster.receiver("kept_bob")
    with operator(cluster.store) as client:
        for number in range(3):
            client.mset({f"other:{number}:{key}": "x" * 10_000 for key in range(1000)})
            for key in range(1000):
                client.expire(f"other:{number}:{key}", 3600)
        for number in range(2000):  # more than there is room for
            client.set(f"more:{number}", "x" * 10_000, ex=3600)
        assert client.info("stats")["evicted_keys"] > 0
        assert cluster.publish("direct", "a").data == b"1"
        assert cluster.publish("kept", "b").data == b"1"
        assert alice.wait(1, 20) == [b"a"]
        assert bob.wait(1, 20) == [b"b"]
        ours = list(client.scan_iter("{gearhorn}:*"))
        assert b"{gearhorn}:askers" in ours
        assert {name for name in ours if client.pttl(name) != -1} == set()
    assert "maxmemory-policy" not in cluster.workers[0].log()


def test_many_requests_share_few_connections_and_leave_others_room(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(redis=("--maxclients", "20"))
    cluster.subscribe("kept", "bob", durable=True)
    for _ in range(3):
        pipeline = Pipeline(cluster.address, window=300)
        for number in range(100):
            pipeline.submit("fetch_fanout", json.dumps({"topic": "kept", "after": 0}).encode())
            pipeline.submit("describe_fanout", json.dumps({"topic": f"t{number}"}).encode())
            pipeline.submit("fanout", fanout_body(f"t{number}", "x"))
        answers = pipeline.finish(60)
        pipeline.close()
        kinds = {kind for kind, _ in answers}
        unknown = [text for kind, text in answers if kind != "complete"]
        assert kinds <= {"complete", "fail"}
        assert all(text.startswith(b"unknown: ") for text in unknown), unknown
        assert connections(cluster.store) <= 16
    cluster.subscribe("kept", "carol", durable=True)
    bob = cluster.receiver("kept_bob")
    assert cluster.publish("kept", "m").data == b"2"
    assert bob.wait(1, 5) == [b"m"]


def test_idle_connections_are_kept_alive_where_a_middlebox_forgets_them(
    make_cluster: MakeCluster, proxy: Callable[..., Proxy]
) -> None:
    cluster = make_cluster(workers=0)
    name = proxy(cluster.store.address, 8)
    cluster.add_worker("--redis", f"redis://127.0.0.1:{name.port}/0", "--lease", "60").ready()
    cluster.subscribe("kept", "bob", durable=True)
    bob = cluster.receiver("kept_bob")
    assert cluster.publish("kept", "1").data == b"1"
    bob.wait(1)
    time.sleep(10)
    began_s = time.monotonic()
    assert cluster.publish("kept", "2").data == b"1"
    assert bob.wait(2, 5) == [b"1", b"2"]
    cluster.subscribe("kept", "carol", durable=True)
    assert time.monotonic() - began_s < 5
    assert name.forgotten == 0
