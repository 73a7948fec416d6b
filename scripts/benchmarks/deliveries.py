"""Line 10: deliveries of a durable topic to 100 subscribers, against a driver without a log.

Rules: everything is published before the receiver starts, and one process receives. Every queue
gets every sequence in order, or there is no figure. The driver, gearhorn and peers alternate.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks import jetstream
from benchmarks.bed import PAYLOAD
from benchmarks.durable_bed import DurableBed, client_ids
from benchmarks.lines import RATE, Line, Plan, Target
from benchmarks.programs import Program
from benchmarks.rabbitmq import Broker

SUBSCRIBERS = 100
SECTION = f"10 durable, deliveries/s to {SUBSCRIBERS}"
# in flight a queue -> messages: what waits already is little of it, and it takes a second or more
EACH = {1: 1_000, 64: 2_000}
EACH_RABBITMQ, EACH_JETSTREAM = 300, 1_000  # about a second
BESIDE = 0.95  # of the speed without one that fails
LEAST = 0.4  # of the driver with one job in flight a queue
CLIENTS = client_ids(SUBSCRIBERS)


class _Way:
    """A way to deliver: ``run`` takes the number in flight and returns a ``Reception``'s result."""

    def __init__(self, name: str, run: Callable[[int], Any]) -> None:
        self.run = run
        self.lines = {n: Line(SECTION, name.format(n), RATE) for n in EACH}

    @staticmethod
    def absent(name: str, program: str) -> _Way:
        """One that cannot be measured here."""
        way = _Way(name, lambda _: None)
        for line in way.lines.values():
            line.note = f"{program} is not installed"
        return way

    def measure(self, in_flight: int, ceiling: float | None) -> float:
        """Add a round; without a ceiling this is the ceiling. Returns deliveries/s."""
        result = self.run(in_flight)
        if result is None:
            return 0.0
        rate = float(result["rate"])
        self.lines[in_flight].add(rate, ceiling or rate, result["busy"])
        return rate

    def times(self, other: _Way, in_flight: int) -> float:
        """The median of how many times the other's rate this one's is in the same round."""
        pairs = zip(self.lines[in_flight].rounds, other.lines[in_flight].rounds, strict=True)
        return median(mine / theirs for mine, theirs in pairs)


def measure(plan: Plan) -> list[Line]:
    """Every way in turn, round by round."""
    with contextlib.ExitStack() as stack:
        # beds of their own: what one leaves behind in gearmand would weigh on the other
        bed, drivers = (stack.enter_context(DurableBed()) for _ in range(2))
        raw = _Way("driver, no log, {} in flight", _driver(drivers, plan, ""))
        name = "and a Redis write each, {} in flight"
        written = _Way(name, _driver(drivers, plan, drivers.store.address))
        ours = _Way("gearhorn, in_flight {}", _gearhorn(bed, plan))
        beside = _Way(
            "one more beside them fails everything, in_flight {}", _gearhorn(bed, plan, True)
        )
        rabbitmq = _rabbitmq(stack, plan)
        nats = _jetstream(stack, plan)
        for _ in range(plan.rounds):
            ceiling = None
            for way in (raw, written, ours, beside, rabbitmq, nats):
                for in_flight in EACH:
                    rate = way.measure(in_flight, ceiling)
                    ceiling = ceiling or rate  # line 1: the driver with one in flight
    _judge(ours, raw, rabbitmq, nats)
    for in_flight, line in beside.lines.items():
        times = beside.times(ours, in_flight)
        line.target = Target(times, BESIDE, "of that", at_least=True)
        line.note = f"{times:.3f} of the line above"
    ways = (raw, written, ours, beside, rabbitmq, nats)
    return [way.lines[n] for way in ways for n in EACH]


def _judge(ours: _Way, raw: _Way, rabbitmq: _Way, nats: _Way) -> None:
    for in_flight, line in ours.lines.items():
        assert line.ratio is not None
        line.target = Target(line.ratio, LEAST, "of line 1", at_least=True)
        if in_flight > 1:
            line.note = f"{ours.times(raw, in_flight):.2f} of the driver, {in_flight} in flight"
    for peer in (rabbitmq, nats):
        for in_flight, line in peer.lines.items():
            if line.rounds:
                times = ours.times(peer, in_flight)
                line.note = f"gearhorn {times:.2f} x"
                if peer is rabbitmq:
                    line.target = Target(times, 1, "x by gearhorn", at_least=True)


def _driver(bed: DurableBed, plan: Plan, store: str) -> Callable[[int], Any]:
    """The driver; with a store it writes there."""
    queues = [f"driven_{client}" for client in CLIENTS]
    pids = {"gearmand": bed.pids["gearmand"]} | ({"redis": bed.store.pid} if store else {})

    def run(in_flight: int) -> Any:
        each = plan.count(EACH[in_flight])
        told = {"address": bed.address, "queues": queues, "each": each, "redis": store}
        told |= {"in_flight": in_flight, "payload": PAYLOAD.decode()}
        with Program("driver", told) as driver:
            bed.until_waiting(queues, min(in_flight, each) * len(queues))
            result = received(bed, queues, each, {**pids, "driver": driver.pid})
            driver.result()
        return result

    return run


def _gearhorn(bed: DurableBed, plan: Plan, is_one_failing: bool = False) -> Callable[[int], Any]:
    """A topic of its own for each run; it goes away afterwards."""
    numbers = itertools.count()

    def run(in_flight: int) -> Any:
        topic, each = f"delivered{next(numbers)}", plan.count(EACH[in_flight])
        queues = bed.make_durable(topic, SUBSCRIBERS, in_flight=in_flight)
        if is_one_failing:
            bed.make_failing(topic)
        bed.log([topic], each)
        bed.until_waiting(queues, min(in_flight, each) * len(queues))
        result = received(bed, queues, each, bed.pids)
        bed.until_acknowledged(topic, each)
        if is_one_failing:
            bed.end_failing(topic)
        bed.end_durable([topic], SUBSCRIBERS)
        return result

    return run


def received(bed: DurableBed, queues: list[str], each: int, pids: dict[str, int]) -> Any:
    """Serve the queues with one process; return what it received."""
    told = {"address": bed.address, "queues": queues, "each": each, "pids": pids}
    with Program("acknowledger", told) as receiver:
        return receiver.result()


def _rabbitmq(stack: contextlib.ExitStack, plan: Plan) -> _Way:
    name = "RabbitMQ, pika, prefetch {}"
    if not Broker.is_installed():
        return _Way.absent(name, "rabbitmq-server")
    broker = stack.enter_context(Broker())
    told = {"port": broker.parameters.port, "pids": {"broker": broker.pid}, "queues": CLIENTS}
    told |= {"each": plan.count(EACH_RABBITMQ), "payload": PAYLOAD.decode()}

    def run(in_flight: int) -> Any:
        with Program("persistent", {**told, "in_flight": in_flight}) as program:
            result = program.result()
        plan.versions["RabbitMQ"] = result["version"]
        return result

    return _Way(name, run)


def _jetstream(stack: contextlib.ExitStack, plan: Plan) -> _Way:
    name = "JetStream, nats-py, {} unacknowledged"
    if not jetstream.is_installed():
        return _Way.absent(name, "nats-server")
    server = stack.enter_context(jetstream.server())
    told = {"port": server.port, "pids": {"server": server.pid}, "queues": CLIENTS}
    told |= {"each": plan.count(EACH_JETSTREAM), "payload": PAYLOAD.decode()}

    def run(in_flight: int) -> Any:
        with Program("jetstream", {**told, "in_flight": in_flight}) as program:
            result = program.result()
            program.result()  # the stream is gone
        return result

    return _Way(name, run)
