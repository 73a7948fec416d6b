"""Line 11: one topic of a million subscriptions, and what others notice of it.

Law: one round, each step twice. First with a worker of its own process: the time of each step, the
worst of the fan-outs to another, cached topic meanwhile, the worker's memory. Then with a worker in
this process: the longest turn of its event loop, in its own processor time. Copies go to a fifth of
that, because gearmand looks functions up in chains that become long at a million.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from support.cluster import Cluster
from support.lists import Meanwhile, fill
from support.servers import Gearmand, Redis
from support.turns import InProcess, Turns

from benchmarks.bed import GEARMAND_OPTIONS, Bed
from benchmarks.lines import RATE, SIZE, TIME, Line, Plan, Target
from benchmarks.processes import resident_bytes
from gearhorn.config import Config, parse_server

SUBSCRIPTIONS = 1_000_000
SENT_TO = 200_000
TURN_S = 0.05
WAIT_S = 600.0
TOO_MUCH = "x" * 2000  # for each, so that a list is read and nothing is sent
Step = Callable[[Cluster, list[str]], bytes]


def measure(plan: Plan) -> list[Line]:
    """Each step, the memory of the list, and the longest turn."""
    count, sent_to = plan.count(SUBSCRIPTIONS), plan.count(SENT_TO)
    section = f"11 a list of {count:,}"
    lines = {name: Line(section, name, TIME) for name in STEPS}
    memory = Line(section, "memory a subscription that is cached", SIZE)
    sent = Line(section, f"copies of a fan-out to {sent_to:,}", RATE)
    with Bed("--max-fanout-bytes", f"{1000 * count}") as bed:
        clients = fill(bed.store.url, "large", count)
        fill(bed.store.url, "sent", sent_to)
        others = Meanwhile(bed, "small")
        before = resident_bytes(bed.pids["worker"])
        for name, step in STEPS.items():
            lines[name].add(_timed(others, bed, clients, step))
            lines[name].note = f"others' fan-outs take {others.worst * 1000:.0f} ms at most"
            if name == "read":
                memory.add((resident_bytes(bed.pids["worker"]) - before) / count)
        sent.add(sent_to / lines["fan out"].rounds[0])
    turns = _longest_turns(count, sent_to)
    for name, line in lines.items():
        line.target = Target(turns[name] * 1000, TURN_S * 1000, "ms a turn")
    return [*lines.values(), sent, memory]


def _timed(others: Meanwhile, bed: Cluster, clients: list[str], step: Step) -> float:
    began = time.perf_counter()
    others.during(lambda: step(bed, clients))
    return time.perf_counter() - began


def _longest_turns(count: int, sent_to: int) -> dict[str, float]:
    found = {}
    bed = Cluster([Gearmand(*GEARMAND_OPTIONS)], Redis(), 0)
    try:
        clients = fill(bed.store.url, "large", count)
        fill(bed.store.url, "sent", sent_to)
        config = Config(
            servers=(parse_server(bed.address),),
            redis=bed.store.url,
            max_fanout_bytes=1000 * count,
            max_backlog=100_000_000,
        )
        with Turns() as turns, InProcess(config):
            for name, step in STEPS.items():
                turns.reset()
                step(bed, clients)
                found[name] = turns.longest
    finally:
        bed.close()
    return found


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
