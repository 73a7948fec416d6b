"""Line 17: asking 100 hosts through the library, beside a foreground fan-out on a socket.

Rules: one process answers for all hosts. The library, which is told by whom each answer is, and the
socket, which gets the number of receivers only, alternate job by job.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from statistics import median

import gearhorn
import gearhorn.aio
from benchmarks.bed import PAYLOAD, Bed
from benchmarks.lines import TIME, Line, Plan, Target, percentile
from benchmarks.load import request
from benchmarks.raw import Caller, foreground
from benchmarks.receiver import receiver

HOSTS = 100
SECTION = f"17 library, ask {HOSTS} hosts, time to the answers"
TOPIC = "asked"
COUNT = 150
WARM_UP = 20
MOST = 2.0


def measure(plan: Plan) -> list[Line]:
    """The socket with each face in turn, round by round."""
    raw = Line(SECTION, "a raw foreground fan-out, p50", TIME)
    faces = ("gearhorn", "gearhorn.aio")
    lines = {face: Line(SECTION, f"{face}.Publisher.ask, p50", TIME) for face in faces}
    times: dict[str, list[float]] = {face: [] for face in faces}
    with contextlib.ExitStack() as stack:
        bed = stack.enter_context(Bed())
        queues = bed.subscribed(TOPIC, HOSTS)
        stack.enter_context(receiver(bed.address, queues))
        caller = stack.enter_context(contextlib.closing(Caller(bed.address)))
        blocking = stack.enter_context(gearhorn.Publisher(bed.address))
        runner = stack.enter_context(asyncio.Runner())
        aio = gearhorn.aio.Publisher(bed.address)
        for _ in range(plan.rounds):
            count = plan.count(COUNT)
            taken = {
                "gearhorn": _blocking(blocking, caller, count),
                "gearhorn.aio": runner.run(_asyncio(aio, caller, count)),
            }
            raw.add(percentile([pair[0] for pairs in taken.values() for pair in pairs], 50))
            for face, pairs in taken.items():
                socket, library = (percentile([p[way] for p in pairs], 50) for way in (0, 1))
                lines[face].add(library)
                times[face].append(library / socket)
        runner.run(aio.close())
    for face, line in lines.items():
        line.target = Target(median(times[face]), MOST, "x raw")
        line.note = f"{median(times[face]):.2f} x raw"
    return [raw, *lines.values()]


_JOB = [foreground(b"fanout", request(TOPIC))]


def _blocking(
    publisher: gearhorn.Publisher, caller: Caller, count: int
) -> list[tuple[float, float]]:
    """Pairs of seconds: by the socket, and by the library."""
    taken = []
    for _ in range(WARM_UP + count):
        by_socket = caller.run(_JOB)
        began = time.perf_counter()
        answers = publisher.ask(TOPIC, PAYLOAD)
        taken.append((by_socket, time.perf_counter() - began))
        _check(answers)
    return taken[WARM_UP:]


async def _asyncio(
    publisher: gearhorn.aio.Publisher, caller: Caller, count: int
) -> list[tuple[float, float]]:
    taken = []
    for _ in range(WARM_UP + count):
        by_socket = caller.run(_JOB)
        began = time.perf_counter()
        answers = await publisher.ask(TOPIC, PAYLOAD)
        taken.append((by_socket, time.perf_counter() - began))
        _check(answers)
    return taken[WARM_UP:]


def _check(answers: gearhorn.Answers) -> None:
    if len(answers) != HOSTS:
        raise RuntimeError(f"expected {HOSTS} answers, got {answers}")
