"""Lines 1 and 2: copies per second of a raw socket and of gearhorn, to the same queues."""

from __future__ import annotations

import os
import time

from benchmarks.bed import PAYLOAD, Bed, Ceiling
from benchmarks.lines import RATE, Line, Plan
from benchmarks.load import carry
from benchmarks.processes import Busy
from benchmarks.raw import Copies, pipeline

# subscribers -> (copies in a round, the target)
SIZES = {
    1: (150_000, 0.2),
    10: (300_000, 0.6),
    100: (300_000, 0.85),
    1_000: (300_000, 0.85),
    10_000: (300_000, 0.85),
}
HAND_OUT_GRABS = 128  # as many as gearhorn has outstanding
HAND_OUT_JOBS = 150_000
SECTION_1 = "1 ceiling: a raw socket, copies/s"
SECTION_2 = "2 gearhorn, background, copies/s"


def measure(plan: Plan) -> list[Line]:
    """Ceiling and gearhorn alternate, size by size, round by round."""
    raw = {n: Line(SECTION_1, f"to {n:,} queue{'s' * (n > 1)}", RATE) for n in SIZES}
    ours = {n: Line(SECTION_2, f"to {n:,} subscriber{'s' * (n > 1)}", RATE) for n in SIZES}
    name = f"gearmand hands out, {HAND_OUT_GRABS} grabs outstanding"
    handed = Line(SECTION_1, name, RATE, note="jobs/s, raw worker, 1 queue")
    with Bed() as bed:
        queues = {n: bed.subscribed(f"topic{n}", n) for n in SIZES}
        ceilings = {n: Ceiling(bed, queues[n]) for n in SIZES}
        for _ in range(plan.rounds):
            for n, (full, _) in SIZES.items():
                count = max(2, plan.count(full) // n)  # fan-outs
                carry(bed, f"topic{n}", n, 1)  # the worker reads the list
                bed.drain(queues[n], n)
                ceiling, busy = ceilings[n].measure(count * n)
                raw[n].add(ceiling, ceiling, busy)
                if n == 1:
                    _hand_out(bed, queues[n], plan.count(HAND_OUT_JOBS), handed, ceiling)
                took = carry(bed, f"topic{n}", n, count)
                bed.drain(queues[n], count * n)
                ours[n].add(count * n / took.seconds, ceiling, took.busy)
    for n, (_, bound) in SIZES.items():
        ours[n].aim(bound)
    return [*raw.values(), handed, *ours.values()]


def _hand_out(bed: Bed, queue: list[bytes], count: int, line: Line, ceiling: float) -> None:
    pipeline(bed.address, Copies(queue, PAYLOAD), count)
    busy = Busy({"client": os.getpid(), "gearmand": bed.pids["gearmand"]}).start()
    began = time.perf_counter()
    bed.drain(queue, count, HAND_OUT_GRABS)
    line.add(count / (time.perf_counter() - began), ceiling, busy.stop())
