"""Answers as they come, against a receipt of the same answers."""

from __future__ import annotations

from contextlib import ExitStack
from statistics import median

from benchmarks.bed import Bed
from benchmarks.lines import TIME, Line, Plan, Target
from benchmarks.load import request
from benchmarks.raw import Caller, foreground
from benchmarks.receiver import receiver

SECTION = "5 foreground, answers of 1 KB"
RECEIVERS = 1000
ANSWER_BYTES = 1024
SERVED = 100  # queues of one receiving process: gearmand looks through them at each grab
COUNT = 40  # fan-outs of each kind in a round
MOST = 1.3  # times the receipt
WARM_UP = 3


def measure(plan: Plan) -> list[Line]:
    """Both kinds in turn, fan-out by fan-out, to the same receivers."""
    requests = {
        "receipt": request("answers", receipt=True),
        "streamed": request("answers", stream=True),
    }
    lines = {
        way: Line(SECTION, f"{RECEIVERS} answers, {text}, p50", TIME)
        for way, text in (("receipt", "in a receipt"), ("streamed", "as they come"))
    }
    with Bed() as bed, ExitStack() as stack:
        queues = bed.subscribed("answers", RECEIVERS)
        for at in range(0, RECEIVERS, SERVED):
            serving = receiver(bed.address, queues[at : at + SERVED], ANSWER_BYTES)
            stack.enter_context(serving)
        caller = Caller(bed.address)
        stack.callback(caller.close)
        jobs = {way: [foreground(b"fanout", body)] for way, body in requests.items()}
        for _ in range(plan.rounds):
            for job in jobs.values():
                for _ in range(WARM_UP):
                    caller.run(job)
            taken = [
                {way: caller.run(job) for way, job in jobs.items()}
                for _ in range(plan.count(COUNT))
            ]
            for way, line in lines.items():
                line.add(median(one[way] for one in taken))
    streamed = lines["streamed"]
    pairs = zip(streamed.rounds, lines["receipt"].rounds, strict=True)
    times = median(stream / receipt for stream, receipt in pairs)
    streamed.target = Target(times, MOST, "x the receipt")
    return list(lines.values())
