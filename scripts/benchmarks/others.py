"""Line 2, what others feel: a stranger's foreground job while gearhorn copies.

Rules: nothing consumes the copies while it is measured. They pile up in gearmand, half a gigabyte
at most, and are drained before the next burst.
"""

from __future__ import annotations

import random
import time
from typing import NamedTuple

from benchmarks.bed import PAYLOAD, Bed, Ceiling
from benchmarks.lines import TIME, Line, Plan, Target, percentile
from benchmarks.load import Load, carry
from benchmarks.raw import Caller, foreground
from benchmarks.receiver import receiver

SECTION = "2 somebody else's foreground job meanwhile"
ECHO = b"echo"
PAUSE_S = 0.002  # at most, at random: between a stranger's jobs
IDLE_JOBS = 300
CEILING_COPIES = 100_000


class Meanwhile(NamedTuple):
    """What gearhorn does meanwhile: ``bursts`` in a round of ``burst`` fan-outs each."""

    name: str
    topic: str
    subscribers: int
    payload: bytes
    bursts: int
    burst: int
    most_s: float  # the target


LOADS = (
    Meanwhile("100 bytes to 100,000", "wide", 100_000, PAYLOAD, 1, 2, 0.010),
    Meanwhile("10 KB to 100", "middle", 100, b"x" * 10_000, 4, 300, 0.020),
    Meanwhile("1 MB to 100", "large", 100, b"x" * 1_000_000, 4, 5, 0.020),
)


def measure(plan: Plan) -> list[Line]:
    """Idle and every load in turn, round by round."""
    names = ["idle", *(load.name for load in LOADS)]
    lines = {
        (name, percent): Line(SECTION, f"{name}, p{percent}", TIME)
        for name in names
        for percent in (50, 99)
    }
    with Bed() as bed:
        queues = {load.topic: bed.subscribed(load.topic, load.subscribers) for load in LOADS}
        ceiling = Ceiling(bed, bed.subscribed("narrow", 100))
        with receiver(bed.address, [ECHO]):
            stranger = _Stranger(bed)
            for _ in range(plan.rounds):
                copies_s, _ = ceiling.measure(plan.count(CEILING_COPIES))
                taken = {"idle": [stranger.call() for _ in range(plan.count(IDLE_JOBS))]}
                for load in LOADS:
                    taken[load.name] = _under(bed, stranger, load, queues[load.topic], plan)
                for (name, percent), line in lines.items():
                    line.add(percentile(taken[name], percent), copies_s)
                    line.note = f"{len(taken[name]):,} jobs a round"
    for load in LOADS:
        line = lines[load.name, 99]
        assert line.value is not None
        line.target = Target(line.value * 1000, load.most_s * 1000, "ms")
    return list(lines.values())


class _Stranger:
    """Calls echo, one job at a time, with short pauses of random length."""

    def __init__(self, bed: Bed) -> None:
        self._caller = Caller(bed.address)
        self._job = [foreground(ECHO, PAYLOAD)]
        self._random = random.Random(1)

    def call(self) -> float:
        """Pause, then run a job; return the seconds it took."""
        time.sleep(self._random.uniform(0, PAUSE_S))
        return self._caller.run(self._job)


def _under(
    bed: Bed, stranger: _Stranger, what: Meanwhile, queues: list[bytes], plan: Plan
) -> list[float]:
    taken = []
    for _ in range(plan.count(what.bursts)):
        carry(bed, what.topic, what.subscribers, 1, what.payload)  # the worker reads the list
        load = Load(bed, what.topic, what.subscribers, what.burst, what.payload)
        load.start()
        while not load.is_over():
            taken.append(stranger.call())
        load.finish()
        bed.drain(queues, (what.burst + 1) * what.subscribers)
    return taken
