"""Lines 13 and 14: what one subscriber of many topics receives and weighs, beside its peers.

Rules: everything is published before a consumer starts where it is kept; what is not kept is sent
in one go to a consumer that listens. One process receives, with 100 topics, and its handler counts.
Every topic gets every sequence in order, or there is no figure. All of them alternate.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Callable
from statistics import median
from typing import Any

from support.servers import Redis

from benchmarks import blasts, jetstream
from benchmarks.bed import Bed
from benchmarks.durable_bed import AT_ONCE, SUBSCRIBE_AT_ONCE
from benchmarks.lines import RATE, SIZE, Line, Plan, Target
from benchmarks.load import request
from benchmarks.numbered import SIZE as PAYLOAD_BYTES
from benchmarks.programs import Program
from benchmarks.rabbitmq import Broker
from benchmarks.raw import Caller, foreground

TOPICS = 100
SECTION = f"13 library, a subscriber of {TOPICS} topics, messages/s"
SECTION_MEMORY = "14 library, resident memory of a subscriber"
CLIENT = "bench"
NAMES = [f"topic{number:06d}" for number in range(TOPICS)]
# messages a topic: what waits in a peer already when the clock starts is little of it
EACH, EACH_CELERY = 1_500, 40
PREFETCH = 100  # of peers: unacknowledged, of each queue
LEAST, JETSTREAM, RABBITMQ = 0.5, 1.5, 4.0
MANY_TOPICS = 1_000
MOST_MIB = 60.0
MIB = 1024 * 1024
FACES = {"blocking": "gearhorn.Subscriber, a function", "asyncio": "gearhorn.aio, a coroutine"}
Run = Callable[[], Any]


def measure(plan: Plan) -> list[Line]:
    """The raw consumer, both faces and the peers in turn, round by round; then the memory."""
    with contextlib.ExitStack() as stack:
        bed = stack.enter_context(Bed())
        ways: dict[str, Run | None] = {"raw consumer, 16 grabs outstanding": _raw(bed, plan)}
        ways |= {name: _gearhorn(bed, plan, face) for face, name in FACES.items()}
        peers = _peers(stack, plan)
        lines = {name: Line(SECTION, name, RATE) for name in (*ways, *peers)}
        for _ in range(plan.rounds):
            ceiling = None
            for name, run in (ways | peers).items():
                if run is not None:
                    result = run()
                    if name == _PIKA:
                        plan.versions["RabbitMQ"] = result["version"]
                    ceiling = ceiling or float(result["rate"])
                    lines[name].add(float(result["rate"]), ceiling, result["busy"])
        memory = [_memory(bed, face) for face in FACES]
    for name, run in peers.items():
        if run is None:
            lines[name].note = "not installed"
    _judge(lines)
    return [*lines.values(), *memory]


def _judge(lines: dict[str, Line]) -> None:
    """Set the targets: a part of the raw consumer, and times the peers by the slower face."""
    faces = [lines[name] for name in FACES.values()]
    for line in faces:
        line.aim(LEAST)
    asked = {_NATS_KEPT: JETSTREAM, _PIKA: RABBITMQ}
    for name, line in lines.items():
        if line.rounds and name in _PEERS:
            times = [_times(face, line) for face in faces]
            line.note = f"gearhorn {times[0]:.2f} x, gearhorn.aio {times[1]:.2f} x"
            if name in asked:
                bound = asked[name]
                line.target = Target(min(times), bound, "x by gearhorn", at_least=True)


def _times(mine: Line, other: Line) -> float:
    """The median of how many times the other's rate this one's is in the same round."""
    return median(a / b for a, b in zip(mine.rounds, other.rounds, strict=True))


def _fill(bed: Bed, topics: list[str], each: int) -> list[str]:
    """Subscribe the client to the topics, and publish; return the queues, which hold it all."""
    caller = Caller(bed.address)
    changes = [json.dumps({"topic": t, "client_id": CLIENT, "envelope": True}) for t in topics]
    subscribes = [foreground(b"subscribe_fanout", body.encode()) for body in changes]
    caller.run(subscribes, SUBSCRIBE_AT_ONCE)
    bodies = (
        request(topic, payload.encode(), background=True)
        for topic, payload in blasts.messages(topics, each)
    )
    caller.run([foreground(b"fanout", body) for body in bodies], AT_ONCE)
    caller.close()
    return [f"{topic}_{CLIENT}" for topic in topics]


def _raw(bed: Bed, plan: Plan) -> Run:
    def run() -> Any:
        each = plan.count(EACH)
        told = {"address": bed.address, "queues": _fill(bed, NAMES, each), "each": each}
        told |= {"is_copied": True, "pids": {"gearmand": bed.pids["gearmand"]}}
        with Program("acknowledger", told) as program:
            return program.result()

    return run


def _gearhorn(bed: Bed, plan: Plan, face: str) -> Run:
    return lambda: _received(bed, face, NAMES, plan.count(EACH))


def _received(bed: Bed, face: str, topics: list[str], each: int) -> Any:
    """Have a subscriber receive; RuntimeError unless everything was acknowledged."""
    queues = _fill(bed, topics, each)
    told = {"address": bed.address, "client_id": CLIENT, "topics": topics, "each": each}
    told |= {"face": face, "envelope": True, "pids": {"gearmand": bed.pids["gearmand"]}}
    with Program("subscriber", told) as program:
        result = program.result()
    bed.drain([queue.encode() for queue in queues], 0)
    return result


def _memory(bed: Bed, face: str) -> Line:
    """The process's memory when it has received a message on each of many topics."""
    line = Line(SECTION_MEMORY, f"{MANY_TOPICS:,} topics, {FACES[face].split(',')[0]}", SIZE)
    topics = [f"many{number:06d}" for number in range(MANY_TOPICS)]
    resident = _received(bed, face, topics, 1)["resident"]
    line.add(resident)
    line.target = Target(resident / MIB, MOST_MIB, "MiB")
    return line


_NATS_KEPT = f"JetStream, nats-py, {PREFETCH} unacknowledged"
_PIKA = f"RabbitMQ, pika, prefetch {PREFETCH}, each acknowledged"
_NATS, _PUBSUB = "NATS, nats-py, nothing kept", "Redis pub/sub, redis-py, nothing kept"
_CELERY = "Celery, Broadcast over Redis, nothing kept"
_PEERS = (_NATS_KEPT, _PIKA, _NATS, _PUBSUB, _CELERY)


def _peers(stack: contextlib.ExitStack, plan: Plan) -> dict[str, Run | None]:
    """The peers by name, each with a server of its own; None: not installed."""
    each = plan.count(EACH)
    ways: dict[str, Run | None] = dict.fromkeys(_PEERS)
    told = {"queues": NAMES, "topics": NAMES, "each": each, "payload": "x" * PAYLOAD_BYTES}
    told |= {"in_flight": PREFETCH, "is_each": True}
    if jetstream.is_installed():
        server = stack.enter_context(jetstream.server())
        nats = told | {"port": server.port, "pids": {"server": server.pid}}
        ways[_NATS_KEPT] = lambda: _run("jetstream", nats)
        ways[_NATS] = lambda: _listened(nats | {"peer": "nats"}, blasts.publish_nats)
    if Broker.is_installed():
        broker = stack.enter_context(Broker())
        rabbit = told | {"port": broker.parameters.port, "pids": {"broker": broker.pid}}
        ways[_PIKA] = lambda: _run("persistent", rabbit)
    store = Redis().start()
    stack.callback(store.stop)
    redis = told | {"port": store.port, "pids": {"redis": store.pid}}
    ways[_PUBSUB] = lambda: _listened(redis | {"peer": "redis"}, blasts.publish_redis)
    if importlib.util.find_spec("celery"):
        celery = redis | {"each": plan.count(EACH_CELERY)}
        ways[_CELERY] = lambda: _run("broadcast", celery)
    return ways


def _run(module: str, told: dict[str, Any]) -> Any:
    with Program(module, told) as program:
        result = program.result()
        if module == "jetstream":
            program.result()  # the stream is gone
        return result


def _listened(
    told: dict[str, Any], publish: Callable[[str, list[tuple[bytes, bytes]]], None]
) -> Any:
    """Publish to a process that listens; return what it received."""
    published = [(t.encode(), p.encode()) for t, p in blasts.messages(NAMES, told["each"])]
    with Program("listener", told) as program:
        publish(f"127.0.0.1:{told['port']}", published)
        return program.result()
