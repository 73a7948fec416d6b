"""Line 5: a foreground fan-out against foreground jobs put straight on the same queues."""

from __future__ import annotations

from statistics import median

from benchmarks import streams
from benchmarks.bed import PAYLOAD, Bed, Ceiling
from benchmarks.lines import TIME, Line, Plan, Target, percentile
from benchmarks.load import request
from benchmarks.raw import Caller, foreground
from benchmarks.receiver import receiver

SECTION = "5 foreground, time to the answer"
SIZES = {1: 600, 100: 150}  # subscribers -> pairs in a round
MOST = 3.0  # times the direct job's p50, at 1 subscriber
CEILING_COPIES = 200_000
WARM_UP = 20


class _Pair:
    """Both ways to the same receivers; they alternate job by job, on one connection."""

    def __init__(self, bed: Bed, n: int) -> None:
        self.queues = bed.subscribed(f"topic{n}", n)
        self._direct = [foreground(queue, PAYLOAD) for queue in self.queues]
        self._fanned = [foreground(b"fanout", request(f"topic{n}"))]
        names = (
            "1 direct job" if n == 1 else f"{n} direct jobs at once",
            f"fan-out to {n} subscriber{'s' * (n > 1)}",
        )
        self.lines = {
            (name, percent): Line(SECTION, f"{name}, p{percent}", TIME)
            for name in names
            for percent in (50, 99)
        }
        self._times: list[float] = []  # fanned out, p50: times the direct one's

    def measure(self, caller: Caller, count: int, copies_s: float) -> None:
        """Add a round."""
        for _ in range(WARM_UP):
            caller.run(self._direct)
            caller.run(self._fanned)
        taken = [(caller.run(self._direct), caller.run(self._fanned)) for _ in range(count)]
        direct, fanned = ([pair[way] for pair in taken] for way in (0, 1))
        figures = [percentile(way, percent) for way in (direct, fanned) for percent in (50, 99)]
        for line, figure in zip(self.lines.values(), figures, strict=True):
            line.add(figure, copies_s)
        self._times.append(figures[2] / figures[0])

    def judge(self, is_asked: bool) -> None:
        """Set what the fan-out's p50 is in direct jobs, as a target where one is asked for."""
        times = median(self._times)
        line = list(self.lines.values())[2]
        line.note = f"{times:.2f} x direct p50"
        if is_asked:
            line.target = Target(times, MOST, "x direct p50")


def measure(plan: Plan) -> list[Line]:
    """Ceiling, 1 and 100 receivers in turn, round by round."""
    with Bed() as bed:
        ceiling = Ceiling(bed, bed.subscribed("narrow", 100))
        pairs = {n: _Pair(bed, n) for n in SIZES}
        queues = [queue for pair in pairs.values() for queue in pair.queues]
        caller = Caller(bed.address)
        with receiver(bed.address, queues):
            for _ in range(plan.rounds):
                copies_s, _ = ceiling.measure(plan.count(CEILING_COPIES))
                for n, pair in pairs.items():
                    pair.measure(caller, plan.count(SIZES[n]), copies_s)
        caller.close()
    for n, pair in pairs.items():
        pair.judge(is_asked=n == 1)
    lines = [line for pair in pairs.values() for line in pair.lines.values()]
    return lines + streams.measure(plan)
