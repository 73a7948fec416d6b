"""Lines 15 and 16: what publishing costs through the library, beside the same requests on a socket.

Rules: the topic has one subscriber, whose queue is drained after each round, so that the library
weighs most. One by one the library and the socket alternate, job by job, with the same request; in
rows they alternate round by round, with the same window.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from statistics import median

import gearhorn
import gearhorn.aio
from benchmarks.bed import PAYLOAD, Bed
from benchmarks.lines import RATE, TIME, Line, Plan, Target, percentile
from benchmarks.load import request
from benchmarks.processes import Busy
from benchmarks.raw import Caller, foreground

SECTION = "15 library, publish one by one, time to the answer"
SECTION_MANY = "16 library, publish_many, messages/s"
TOPIC = "published"
COUNT, MANY = 1_000, 20_000
WARM_UP = 20
WINDOW = 256
MOST, LEAST = 1.5, 0.5
FACES = ("gearhorn", "gearhorn.aio")


class _Faces:
    """A publisher of each face; ``asyncio``'s belongs to a loop that runs while it is used."""

    def __init__(self, address: str) -> None:
        self.blocking = gearhorn.Publisher(address)
        self.runner = asyncio.Runner()
        self.aio = gearhorn.aio.Publisher(address)

    def close(self) -> None:
        """End the connections."""
        self.blocking.close()
        self.runner.run(self.aio.close())
        self.runner.close()


def measure(plan: Plan) -> list[Line]:
    """One by one and in rows, both faces and the socket."""
    raw = Line(SECTION, "a raw fanout job, p50", TIME)
    ones = {face: Line(SECTION, f"{face}.Publisher.publish, p50", TIME) for face in FACES}
    rows_raw = Line(SECTION_MANY, f"raw fanout jobs, {WINDOW} unanswered", RATE)
    rows = {face: Line(SECTION_MANY, f"{face}.Publisher.publish_many", RATE) for face in FACES}
    times: dict[str, list[float]] = {face: [] for face in FACES}
    with Bed() as bed:
        queues = bed.subscribed(TOPIC, 1)
        caller, faces = Caller(bed.address), _Faces(bed.address)
        for _ in range(plan.rounds):
            count = plan.count(COUNT)
            taken = (
                _blocking(faces, caller, count),
                faces.runner.run(_asyncio(faces, caller, count)),
            )
            raw.add(percentile([pair[0] for pairs in taken for pair in pairs], 50))
            for face, pairs in zip(FACES, taken, strict=True):
                socket, library = (percentile([p[way] for p in pairs], 50) for way in (0, 1))
                ones[face].add(library)
                times[face].append(library / socket)
            bed.drain(queues, 2 * 2 * (count + WARM_UP))
            _rows(bed, queues, caller, faces, plan.count(MANY), (rows_raw, *rows.values()))
        faces.close()
        caller.close()
    for face, line in ones.items():
        line.target = Target(median(times[face]), MOST, "x raw")
        line.note = f"{median(times[face]):.2f} x raw"
    for line in rows.values():
        line.aim(LEAST)
    return [raw, *ones.values(), rows_raw, *rows.values()]


_JOB = [foreground(b"fanout", request(TOPIC, background=True, receipt=True))]  # what publish sends


def _blocking(faces: _Faces, caller: Caller, count: int) -> list[tuple[float, float]]:
    """Pairs of seconds: by the socket, and by the library."""
    taken = []
    for _ in range(WARM_UP + count):
        by_socket = caller.run(_JOB)
        began = time.perf_counter()
        faces.blocking.publish(TOPIC, PAYLOAD)
        taken.append((by_socket, time.perf_counter() - began))
    return taken[WARM_UP:]


async def _asyncio(faces: _Faces, caller: Caller, count: int) -> list[tuple[float, float]]:
    taken = []
    for _ in range(WARM_UP + count):
        by_socket = caller.run(_JOB)
        began = time.perf_counter()
        await faces.aio.publish(TOPIC, PAYLOAD)
        taken.append((by_socket, time.perf_counter() - began))
    return taken[WARM_UP:]


def _rows(
    bed: Bed,
    queues: list[bytes],
    caller: Caller,
    faces: _Faces,
    count: int,
    lines: tuple[Line, ...],
) -> None:
    """Add a round to the lines: by the socket, blocking, asyncio."""
    jobs = [foreground(b"fanout", request(TOPIC, background=True))] * count
    messages = [(TOPIC, PAYLOAD)] * count

    def by_asyncio() -> None:
        faces.runner.run(faces.aio.publish_many(messages, window=WINDOW)).raise_any()

    ways: tuple[Callable[[], object], ...] = (
        lambda: caller.run(jobs, WINDOW),
        lambda: faces.blocking.publish_many(messages, window=WINDOW).raise_any(),
        by_asyncio,
    )
    ceiling = None
    for line, send in zip(lines, ways, strict=True):
        busy = Busy({"client": os.getpid(), **bed.pids}).start()
        began = time.perf_counter()
        send()
        rate = count / (time.perf_counter() - began)
        ceiling = ceiling or rate
        line.add(rate, ceiling, busy.stop())
        bed.drain(queues, count)
