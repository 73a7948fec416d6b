"""Line 6: subscriptions per second through one worker."""

from __future__ import annotations

import json

from benchmarks.bed import Bed, Ceiling
from benchmarks.lines import RATE, Line, Plan
from benchmarks.processes import Busy
from benchmarks.raw import Caller, foreground

SECTION = "6 subscriptions/s"
WAYS = {1: ("one after the other", 1_500), 16: ("16 at once", 6_000)}  # at once -> name, how many
CEILING_COPIES = 200_000


def measure(plan: Plan) -> list[Line]:
    """New subscriptions to a new topic in every round."""
    lines = {at_once: Line(SECTION, name, RATE) for at_once, (name, _) in WAYS.items()}
    with Bed() as bed:
        ceiling = Ceiling(bed, bed.subscribed("narrow", 100))
        pids = {**bed.pids, "redis": bed.store.pid}
        caller = Caller(bed.address)
        for number in range(plan.rounds):
            copies_s, _ = ceiling.measure(plan.count(CEILING_COPIES))
            for at_once, (_, full) in WAYS.items():
                topic, count = f"topic{number}-{at_once}", plan.count(full)
                jobs = [subscription(topic, f"c{client}") for client in range(count)]
                busy = Busy(pids).start()
                lines[at_once].add(count / caller.run(jobs, at_once), copies_s, busy.stop())
        caller.close()
    return list(lines.values())


def subscription(topic: str, client_id: str) -> bytes:
    """The packet that submits a subscribe."""
    body = json.dumps({"topic": topic, "client_id": client_id})
    return foreground(b"subscribe_fanout", body.encode())
