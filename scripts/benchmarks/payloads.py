"""Line 7, payloads: copies per second of larger payloads, beside the ceiling at the same size."""

from __future__ import annotations

from benchmarks.bed import Bed, Ceiling
from benchmarks.lines import RATE, Line, Plan
from benchmarks.load import carry

SECTION = "7 by payload, to 100, copies/s"
SUBSCRIBERS = 100
# payload in bytes -> (name, fan-outs in a round): at most 0.5 GB wait in gearmand
SIZES = {
    1_000: ("1 KB", 2_500),
    10_000: ("10 KB", 500),
    100_000: ("100 KB", 50),
    1_000_000: ("1 MB", 5),
}


def measure(plan: Plan) -> list[Line]:
    """Ceiling and gearhorn alternate, size by size, round by round."""
    raw = {size: Line(SECTION, f"{name}, raw socket", RATE) for size, (name, _) in SIZES.items()}
    ours = {size: Line(SECTION, f"{name}, gearhorn", RATE) for size, (name, _) in SIZES.items()}
    with Bed() as bed:
        queues = bed.subscribed("topic", SUBSCRIBERS)
        for _ in range(plan.rounds):
            for size, (_, full) in SIZES.items():
                payload = b"x" * size
                count = max(2, plan.count(full))
                carry(bed, "topic", SUBSCRIBERS, 1, payload)  # the worker reads the list
                bed.drain(queues, SUBSCRIBERS)
                ceiling, busy = Ceiling(bed, queues, payload).measure(count * SUBSCRIBERS)
                raw[size].add(ceiling, ceiling, busy)
                took = carry(bed, "topic", SUBSCRIBERS, count, payload)
                bed.drain(queues, count * SUBSCRIBERS)
                ours[size].add(count * SUBSCRIBERS / took.seconds, ceiling, took.busy)
    for size, line in ours.items():
        line.note = f"{(line.value or 0) * size / 1e6:,.0f} MB/s"
    return [line for pair in zip(raw.values(), ours.values(), strict=True) for line in pair]
