"""Lines 11 and 12: what a worker needs for messages that wait, and for subscriptions that idle.

Rules: one round, each with a fresh bed: memory and CPU of one worker that does nothing else.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from benchmarks.durable_bed import DurableBed
from benchmarks.lines import RATE, SIZE, TIME, Line, Plan, Target
from benchmarks.processes import Busy
from benchmarks.programs import Program

SECTION_11 = "11 durable, a backlog: memory of the worker"
TOPICS, CLIENTS = 10, 100  # 1,000 lanes
MESSAGES = 100_000  # in each topic
MOST_BYTES = 300e6
CATCH_UP_S, LEAST_S = 10.0, 3.0  # all of it, and with --quick

SECTION_12 = "12 durable, nothing published: CPU of the worker"
IDLE_TOPICS, IDLE_CLIENTS = 100, 100
SETTLE_S = 5.0  # more than a renewal of the lease, and several rounds of gossip
IDLE_S = 20.0
MOST_SHARE = 0.05


def measure(plan: Plan) -> list[Line]:
    """The backlog, then the idle worker."""
    return [*_backlog(plan), *_idle(plan)]


def _backlog(plan: Plan) -> list[Line]:
    each = plan.count(MESSAGES)
    seconds = max(LEAST_S, CATCH_UP_S * plan.amount)
    lanes = f"{TOPICS * CLIENTS:,} lanes"
    peak = Line(SECTION_11, f"{TOPICS * each:,} messages, {lanes}, peak", SIZE)
    rate = Line(SECTION_11, f"catching up for {seconds:g} s, deliveries/s", RATE)
    with DurableBed() as bed:
        topics = [f"waiting{number}" for number in range(TOPICS)]
        queues = []
        for topic in topics:
            queues += bed.make_durable(topic, CLIENTS, start="all")
        before = peak_bytes(bed.worker_pid)
        took = bed.log(topics, each)
        bed.until_waiting(queues, len(queues))
        waiting = peak_bytes(bed.worker_pid)
        told = {"address": bed.address, "queues": queues, "each": each, "seconds": seconds}
        with Program("acknowledger", {**told, "pids": bed.pids}) as receiver:
            result = receiver.result()
        rate.add(result["rate"], busy=result["busy"])
        peak.add(peak_bytes(bed.worker_pid))
    rate.note = f"{result['count']:,} of {len(queues) * each:,}, {result['least']:,} or more a lane"
    logged = f"{TOPICS * each / took:,.0f} messages logged/s"
    peak.note = f"{before / 1e6:.0f} MB empty, {waiting / 1e6:.0f} before catching up; {logged}"
    peak.target = Target(peak.rounds[0] / 1e6, MOST_BYTES / 1e6, "MB")
    return [peak, rate]


def _idle(plan: Plan) -> list[Line]:
    topics = plan.count(IDLE_TOPICS)
    count = topics * IDLE_CLIENTS
    line = Line(SECTION_12, f"in a second, {count:,} lanes", TIME)
    with DurableBed() as bed:
        began = time.perf_counter()
        for number in range(topics):
            bed.make_durable(f"idle{number}", IDLE_CLIENTS)
        rate = count / (time.perf_counter() - began)
        time.sleep(SETTLE_S)
        busy = Busy(bed.pids).start()
        time.sleep(max(SETTLE_S, IDLE_S * plan.amount))
        shares = busy.stop()
        line.add(shares["worker"], busy=shares)
        line.note = f"{rate:,.0f} subscribes/s; {peak_bytes(bed.worker_pid) / 1e6:.0f} MB at most"
    line.target = Target(shares["worker"], MOST_SHARE, "of a core")
    return [line]


def peak_bytes(pid: int) -> int:
    """The most memory that was ever resident of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
