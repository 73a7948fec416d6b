"""Line 7, memory: what a cached subscription costs the worker.

Rules: one round, each line with a fresh worker. Lists are read and nothing is sent: each fan-out
excludes all of its topic's clients. For the other line one copy goes to every queue as well, for
what a list remembers of it; to fewer of them, because gearmand looks functions up in chains that
become long at a million (whatever its --hashtable-buckets).
"""

from __future__ import annotations

from benchmarks.bed import Bed
from benchmarks.lines import SIZE, Line, Plan, Target
from benchmarks.load import request
from benchmarks.processes import resident_bytes
from benchmarks.raw import Caller, foreground

SECTION = "7 resident memory a subscription"
TOPICS = 100_000
TOPICS_SENT_TO = 25_000
CLIENTS = 10  # of each topic
QUEUE_BYTES = 33
MOST_BYTES = 320
MAX_CACHED = "3000000"
AT_ONCE = 256


def measure(plan: Plan) -> list[Line]:
    """Two lines: cached, and cached and sent to."""
    return [
        _line(plan.count(TOPICS), "cached", is_sent_to=False),
        _line(plan.count(TOPICS_SENT_TO), "cached and sent to", is_sent_to=True),
    ]


def _line(count: int, state: str, is_sent_to: bool) -> Line:
    line = Line(SECTION, f"{count * CLIENTS:,} {state}", SIZE)
    # client_ids differ from topic to topic, as hosts' names do
    lists = [
        (f"t{topic:09d}", [f"client-{topic * CLIENTS + i:015d}" for i in range(CLIENTS)])
        for topic in range(count + 1)
    ]
    queues = [f"{topic}_{client}".encode() for topic, clients in lists[1:] for client in clients]
    assert len(queues[0]) == QUEUE_BYTES
    with Bed("--max-cached", MAX_CACHED) as bed:
        bed.write(lists)
        caller = Caller(bed.address)
        caller.run([_excluding(*lists[0])])  # nothing is done for the first time
        before = resident_bytes(bed.pids["worker"])
        took = caller.run([_excluding(*one) for one in lists[1:]], AT_ONCE)
        if is_sent_to:
            caller.run([_including(topic) for topic, _ in lists[1:]], AT_ONCE)
        line.add((resident_bytes(bed.pids["worker"]) - before) / len(queues))
        bed.drain(queues if is_sent_to else queues[:1], len(queues) if is_sent_to else 0)
        caller.close()
    line.note = f"{count / took:,.0f} lists read/s"
    line.target = Target(line.rounds[0], MOST_BYTES, "bytes")
    return line


def _excluding(topic: str, clients: list[str]) -> bytes:
    return foreground(b"fanout", request(topic, b"", background=True, exclude=clients))


def _including(topic: str) -> bytes:
    return foreground(b"fanout", request(topic, b"x", background=True))
