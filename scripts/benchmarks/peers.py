"""Lines 3 and 4: the same copies the way of gearhorn 0.0.5, and through RabbitMQ."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Sequence

import gear

from benchmarks.bed import PAYLOAD, Bed, Ceiling
from benchmarks.lines import RATE, Line, Plan
from benchmarks.processes import Busy
from benchmarks.rabbitmq import WINDOW, Broker, Fan

SUBSCRIBERS = 100
CEILING_COPIES = 400_000
COPIES_005 = 10_000
EACH = 1_000  # messages
BEHIND = 3_000
SECTION_3 = "3 gearhorn 0.0.5's way, copies/s"
SECTION_4 = "4 RabbitMQ fanout exchange, transient, copies/s"


def measure(plan: Plan) -> list[Line]:
    """Ceiling and peers in turn, round by round."""
    old = Line(SECTION_3, f"gear.Client.submitJob, {SUBSCRIBERS} queues", RATE)
    each = Line(SECTION_4, f"to {SUBSCRIBERS}, each confirmed before the next", RATE)
    behind = Line(SECTION_4, f"to {SUBSCRIBERS}, {WINDOW} messages unconfirmed", RATE)
    with contextlib.ExitStack() as stack:
        bed = stack.enter_context(Bed())
        queues = bed.subscribed("topic", SUBSCRIBERS)
        ceiling = Ceiling(bed, queues)
        rabbit = None
        if Broker.is_installed():
            broker = stack.enter_context(Broker())
            fan = Fan(broker, [queue.decode() for queue in queues])
            rabbit = stack.enter_context(contextlib.closing(fan))
            pids = {"client": os.getpid(), "broker": broker.pid}
        else:
            each.note = behind.note = "rabbitmq-server is not installed"
        for _ in range(plan.rounds):
            copies_s, _ = ceiling.measure(plan.count(CEILING_COPIES))
            count = plan.count(COPIES_005)
            busy = Busy({"client": os.getpid(), "gearmand": bed.pids["gearmand"]}).start()
            old.add(count / submit_each(bed.address, queues, count), copies_s, busy.stop())
            bed.drain(queues, count)
            if rabbit is None:
                continue
            ways = ((each, rabbit.confirm_each, EACH), (behind, rabbit.confirm_behind, BEHIND))
            for line, publish, full in ways:
                count = plan.count(full)
                busy = Busy(pids).start()
                line.add(count * SUBSCRIBERS / publish(PAYLOAD, count), copies_s, busy.stop())
                rabbit.purge(count)
            plan.versions["RabbitMQ"] = rabbit.version
    return [old, each, behind]


def submit_each(address: str, queues: Sequence[bytes], count: int) -> float:
    """Submit background jobs one after the other with gear; return the seconds it took."""
    logging.getLogger("gear").setLevel(logging.WARNING)  # what it formats anyway goes nowhere
    host, _, port = address.rpartition(":")
    client = gear.Client()
    client.addServer(host, int(port))
    client.waitForServer()
    began = time.perf_counter()
    for number in range(count):
        job = gear.Job(queues[number % len(queues)], PAYLOAD)
        client.submitJob(job, background=True)
    seconds = time.perf_counter() - began
    client.shutdown()
    return seconds
