"""Line 9: messages that get into a durable topic's log, against the store's own appends."""

from __future__ import annotations

import os
import time

import redis

from benchmarks.bed import PAYLOAD
from benchmarks.durable_bed import AT_ONCE, DurableBed
from benchmarks.lines import RATE, Line, Plan, Target
from benchmarks.processes import Busy

SECTION = "9 durable, messages logged/s"
MESSAGES = 60_000  # in a round: about 2 s each way
PIPELINE = 500  # about as many as gearhorn's caller has unanswered
LEAST = 0.5  # of the appends
# epoch, time, unique id and options are about as long in a message's entry
_HEADER = b"h" * 60


def measure(plan: Plan) -> list[Line]:
    """Appends and fan-outs in turn, round by round."""
    raw = Line(SECTION, f"redis-py, {PIPELINE} XADDs a pipeline", RATE)
    ours = Line(SECTION, f"gearhorn, {AT_ONCE} fan-outs at once", RATE)
    ours.note = "a pull subscription: logged, not delivered"
    count = plan.count(MESSAGES)
    with DurableBed() as bed, redis.Redis.from_url(bed.store.url) as store:
        store_pids = {"client": os.getpid(), "redis": bed.store.pid}
        for number in range(plan.rounds):
            busy = Busy(store_pids).start()
            appends_s = count / _append(store, f"bench:log{number}", count)
            raw.add(appends_s, appends_s, busy.stop())
            store.delete(f"bench:log{number}")
            topic = f"topic{number}"
            bed.make_durable(topic, 1, pull=True)
            busy = Busy({"client": os.getpid(), **bed.pids}).start()
            ours.add(count / bed.log([topic], count), appends_s, busy.stop())
            bed.end_durable([topic], 1)
    ours.target = Target(ours.ratio or 0.0, LEAST, "of the XADDs", at_least=True)
    return [raw, ours]


def _append(store: redis.Redis, key: str, count: int) -> float:
    """Append with explicit ids; return the seconds it took."""
    began = time.perf_counter()
    for first in range(1, count + 1, PIPELINE):
        pipe = store.pipeline(transaction=False)
        for sequence in range(first, min(first + PIPELINE, count + 1)):
            pipe.execute_command("XADD", key, f"{sequence}-0", "h", _HEADER, "p", PAYLOAD)
        pipe.execute()
    return time.perf_counter() - began
