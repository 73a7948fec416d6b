"""Line 11: one topic of a million subscriptions, and what others notice of it.

Rules: one round. Of each step the time, the worst of the fan-outs to another, cached topic
meanwhile, the worker's peak of resident memory, and the longest standstill of its event loop, as
the watch of the tests measures it (``support.watched``). Copies go to a fifth of the million,
because gearmand looks functions up in chains that become long at that.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from support.cluster import Cluster
from support.lists import Meanwhile, fill

from benchmarks.bed import Bed
from benchmarks.lines import RATE, SIZE, TIME, Line, Plan, Target
from benchmarks.processes import resident_bytes

SUBSCRIPTIONS = 1_000_000
SENT_TO = 200_000
STANDSTILL_S = 0.05
MIB = 1024 * 1024
WAIT_S = 600.0
TOO_MUCH = "x" * 2000  # for each, so that a list is read and nothing is sent
Step = Callable[[Cluster, list[str]], bytes]


def measure(plan: Plan) -> list[Line]:
    """Each step, and the memory of the list."""
    count, sent_to = plan.count(SUBSCRIPTIONS), plan.count(SENT_TO)
    section = f"11 a list of {count:,}"
    lines = {name: Line(section, name, TIME) for name in STEPS}
    memory = Line(section, "memory a subscription that is cached", SIZE)
    sent = Line(section, f"copies of a fan-out to {sent_to:,}", RATE)
    with Bed("--max-fanout-bytes", f"{1000 * count}", is_watched=True) as bed:
        clients = fill(bed.store.url, "large", count)
        fill(bed.store.url, "sent", sent_to)
        others = Meanwhile(bed, "small")
        before = resident_bytes(bed.pids["worker"])
        for name, step in STEPS.items():
            bed.worker.peak_bytes()  # from now on
            bed.worker.standstill.reset()
            lines[name].add(_timed(others, bed, clients, step))
            stood_s = bed.worker.standstill.longest_s
            lines[name].target = Target(stood_s * 1000, STANDSTILL_S * 1000, "ms of standstill")
            lines[name].note = (
                f"at most {bed.worker.peak_bytes() / MIB:.0f} MiB resident; "
                f"others' fan-outs take {others.worst * 1000:.0f} ms at most"
            )
            if name == "read":
                memory.add((resident_bytes(bed.pids["worker"]) - before) / count)
        sent.add(sent_to / lines["fan out"].rounds[0])
    return [*lines.values(), sent, memory]


def _timed(others: Meanwhile, bed: Cluster, clients: list[str], step: Step) -> float:
    began = time.perf_counter()
    others.during(lambda: step(bed, clients))
    return time.perf_counter() - began


def _refused(bed: Cluster, clients: list[str]) -> bytes:
    outcome = bed.run("fanout", WAIT_S, topic="large", payload=TOO_MUCH, background=True)
    return _checked(outcome.warnings[-1], b"too_large")


def _exclude(bed: Cluster, clients: list[str]) -> bytes:
    request = {"topic": "large", "payload": TOO_MUCH, "exclude": clients[:1000]}
    return _checked(bed.run("fanout", WAIT_S, background=True, **request).warnings[-1], b"too_")


def _describe(bed: Cluster, clients: list[str]) -> bytes:
    return _checked(bed.run("describe_fanout", WAIT_S, topic="large", limit=10_000).data, b"{")


def _change(bed: Cluster, clients: list[str]) -> bytes:
    request = {"topic": "large", "client_id": clients[-1]}
    return _checked(bed.run("unsubscribe_fanout", WAIT_S, **request).data, b"{")


def _send(bed: Cluster, clients: list[str]) -> bytes:
    outcome = bed.run("fanout", WAIT_S, topic="sent", payload="x", background=True)
    return _checked(outcome.data, b"")


def _checked(answer: bytes, begins: bytes) -> bytes:
    if not answer.startswith(begins):
        raise RuntimeError(f"expected {begins!r}, got {answer[:200]!r}")
    return answer


STEPS: dict[str, Step] = {
    "read": _refused,
    "use the cached list": _refused,
    "exclude 1,000": _exclude,
    "describe 10,000": _describe,
    "unsubscribe one": _change,
    "read again": _refused,
    "fan out": _send,
    "describe 10,000 afterwards": _describe,
}
