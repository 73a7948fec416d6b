"""What a process has received: counted, timed and checked, whoever sent it.

Rules: every queue is to get the sequences 1, 2, 3 ... in this order and each once; anything else is
a ``Disorder``. The clock runs from the first job or message to the last acknowledgement.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from benchmarks.processes import Busy

Queue = TypeVar("Queue", str, bytes)


class Disorder(Exception):
    """A queue got another sequence than the next one."""


class Reception(Generic[Queue]):
    """``each`` sequences on every one of the queues, or fewer if ``seconds`` pass before.

    ``pids`` are the processes whose share of a core is wanted, besides this one.
    """

    def __init__(
        self,
        queues: Sequence[Queue],
        each: int,
        pids: Mapping[str, int],
        seconds: float = float("inf"),
    ) -> None:
        self.left = len(queues) * each
        self._total = self.left
        self._last: dict[Queue, int] = dict.fromkeys(queues, 0)
        self._busy = Busy({"receiver": os.getpid(), **pids})
        self._seconds = seconds
        self._began = 0.0
        self._ended = 0.0
        self._shares: dict[str, float] = {}

    def took(self, queue: Queue, sequence: int) -> None:
        """Count one; the first one starts the clock."""
        if not self._began:
            self._began = time.perf_counter()
            self._busy.start()
        last = self._last[queue]
        if sequence != last + 1:
            raise Disorder(f"{queue!r} got {sequence} after {last}")
        self._last[queue] = sequence
        self.left -= 1

    def is_over(self) -> bool:
        """Whether all is here or the time is up; ask when what came is acknowledged."""
        if self._began and (not self.left or time.perf_counter() - self._began > self._seconds):
            self._ended = time.perf_counter()
            self._shares = self._busy.stop()
            return True
        return False

    def result(self, **more: object) -> dict[str, object]:
        """How many per second, in all, and on the queue that got least; and who was busy."""
        count = self._total - self.left
        rate = count / (self._ended - self._began)
        least = min(self._last.values())
        return {"rate": rate, "count": count, "least": least, "busy": self._shares, **more}

    def missing(self) -> str:
        """What did not come, for the one who waits in vain."""
        queue, last = min(self._last.items(), key=lambda item: item[1])
        return f"{self.left} of {self._total} did not come; {queue!r} has {last}"
