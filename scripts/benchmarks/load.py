"""A load of fan-outs: they wait in gearmand until the frozen worker is let go.

Rules: the clock starts when the worker is let go, and ends when the last fanout job, the only
foreground one, is answered: gearmand hands a function's jobs out in order and the worker
completes them in order, so every copy before it is accepted by then.
"""

from __future__ import annotations

import json
import select
import time
from typing import NamedTuple

from support.wire import WORK_COMPLETE, Wire

from benchmarks.bed import PAYLOAD, Bed
from benchmarks.processes import Busy
from benchmarks.raw import Copies, pipeline

END_S = 120.0


class Carried(NamedTuple):
    """What a load took: seconds, and the share of a core that each process used."""

    seconds: float
    busy: dict[str, float]


def request(topic: str, payload: bytes = PAYLOAD, **options: object) -> bytes:
    """The body of a ``fanout`` job."""
    return json.dumps({"topic": topic, "payload": payload.decode(), **options}).encode()


class Load:
    """``count`` background fan-outs of one payload to one topic of ``subscribers``."""

    def __init__(
        self, bed: Bed, topic: str, subscribers: int, count: int, payload: bytes = PAYLOAD
    ) -> None:
        self._bed = bed
        self._expected = b"%d" % subscribers
        body = request(topic, payload, background=True)
        bed.worker.freeze()
        if count > 1:
            pipeline(bed.address, Copies([b"fanout"], body), count - 1)
        self._wire = Wire(bed.address, END_S)
        self._wire.submit(b"fanout", body)
        self._busy = Busy(bed.pids)
        self._began = 0.0

    def start(self) -> None:
        """Let the worker go."""
        self._busy.start()
        self._began = time.perf_counter()
        self._bed.worker.thaw()

    def is_over(self) -> bool:
        """Whether every fanout job is answered."""
        return bool(select.select([self._wire.socket], [], [], 0)[0])

    def finish(self) -> Carried:
        """Wait for the end; RuntimeError if the last job was not answered as it should be."""
        body = self._wire.expect(WORK_COMPLETE)
        seconds = time.perf_counter() - self._began
        busy = self._busy.stop()
        self._wire.close()
        if body.partition(b"\0")[2] != self._expected:
            raise RuntimeError(f"expected {self._expected!r} copies, got {body!r}")
        return Carried(seconds, busy)


def carry(bed: Bed, topic: str, subscribers: int, count: int, payload: bytes = PAYLOAD) -> Carried:
    """Carry a load from its beginning to its end."""
    load = Load(bed, topic, subscribers, count, payload)
    load.start()
    return load.finish()
