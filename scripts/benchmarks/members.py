"""Line 8: what changes cost with three members, and with one of them gone.

Rules: the members that are not measured serve subscriptions under another name, so that every
change goes through one of them and is told to two.
"""

from __future__ import annotations

import time

import redis
from support.cluster import Worker
from support.wire import Wire

from benchmarks.bed import Bed
from benchmarks.lines import RATE, TIME, Line, Plan, Target, percentile
from benchmarks.load import request
from benchmarks.processes import Busy
from benchmarks.raw import Caller
from benchmarks.subscribing import subscription

SECTION = "8 changes with 3 members"
LEASE_S = 10.0  # the default
HEALTHY = 1_000
AT_ONCE = 64
RATE_COUNT = 20_000
RATE_ASKED = 5_000
LATENCY_ASKED_S = 0.020
START_ASKED_S = 2.0
TOPICS, CLIENTS = 100_000, 10
PEER = ("--subscribe-function", "peer_subscribe", "--register-function", "peer_register")


def measure(plan: Plan) -> list[Line]:
    """Latencies, the rate, and a start on a full store."""
    p50 = Line(SECTION, "a subscribe, p50", TIME)
    p99 = Line(SECTION, "a subscribe, p99", TIME)
    rate = Line(SECTION, f"subscribes to different topics, {AT_ONCE} at once", RATE)
    first = Line(SECTION, "the first one after a member was killed", TIME)
    after = Line(SECTION, "p99 once it is removed", TIME)
    with Bed() as bed:
        peers = [bed.add_worker(*PEER) for _ in range(2)]
        for peer in peers:
            peer.ready()
        caller = Caller(bed.address)
        for number in range(plan.rounds):
            times = _one_by_one(caller, f"healthy{number}", plan.count(HEALTHY))
            p50.add(percentile(times, 50))
            p99.add(percentile(times, 99))
            count = plan.count(RATE_COUNT)
            jobs = [subscription(f"t{number}-{n}", "alice") for n in range(count)]
            busy = Busy({**bed.pids, "redis": bed.store.pid}).start()
            rate.add(count / caller.run(jobs, AT_ONCE), busy=busy.stop())
        peers[0].kill()
        killed_at = time.perf_counter()
        first.add(_one_by_one(caller, "killed", 1)[0])
        removed_s = _until_removed(bed, killed_at)
        after.add(percentile(_one_by_one(caller, "removed", plan.count(HEALTHY)), 99))
        caller.close()
    p99.target = Target(p99.value or 0, LATENCY_ASKED_S, "s")
    rate.target = Target(rate.value or 0, RATE_ASKED, "/s", at_least=True)
    first.target = Target(first.rounds[0], LEASE_S, "s")
    first.note = f"lease {LEASE_S:g} s; removed after {removed_s:.1f} s"
    after.target = Target(after.rounds[0], LATENCY_ASKED_S, "s")
    return [p50, p99, rate, first, after, *_full_store(plan)]


def _one_by_one(caller: Caller, topic: str, count: int) -> list[float]:
    return [caller.run([subscription(topic, f"c{n}")]) for n in range(count)]


def _until_removed(bed: Bed, since: float) -> float:
    with redis.Redis.from_url(bed.store.url) as store:
        while store.hlen("{gearhorn}:members") > 2:
            time.sleep(0.05)
    return time.perf_counter() - since


def _full_store(plan: Plan) -> list[Line]:
    """A worker that starts on many subscriptions, and a topic's first fan-out."""
    count = plan.count(TOPICS)
    name = f"a start on {count * CLIENTS:,} subscriptions over {count:,} topics"
    start = Line(SECTION, name, TIME)
    fanout = Line(SECTION, "any topic's first fan-out then, p50", TIME)
    with Bed() as bed:
        clients = [f"client-{n:015d}" for n in range(CLIENTS)]
        lists = [(f"t{topic:09d}", clients) for topic in range(count)]
        bed.write(lists)
        for _ in range(plan.rounds):
            began = time.perf_counter()
            worker = Worker([bed.address], bed.store.url, is_watched=False).ready()
            start.add(time.perf_counter() - began)
            worker.close()
        with Wire(bed.address) as wire, redis.Redis.from_url(bed.store.url) as store:
            before = _calls(store)
            times = []
            for topic, _ in lists[:: max(1, count // 100)]:
                began = time.perf_counter()
                wire.run(b"fanout", request(topic, background=True))
                times.append(time.perf_counter() - began)
            reads = (_calls(store) - before) / len(times)
        fanout.add(percentile(times, 50))
    start.target = Target(start.value or 0, START_ASKED_S, "s")
    fanout.note = f"{reads:.2f} round trips to the store each"
    return [start, fanout]


def _calls(store: redis.Redis) -> int:
    """How many transactions the store has had: a list is read in one."""
    return int(store.info("commandstats").get("cmdstat_exec", {}).get("calls", 0))
