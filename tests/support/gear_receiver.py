"""gear's own worker as a receiver of one queue."""

from __future__ import annotations

import threading
from collections.abc import Callable

import gear


class GearReceiver:
    """A ``gear.Worker`` in a thread; ``behave`` ends each job."""

    def __init__(self, address: str, queue: str, behave: Callable[[gear.WorkerJob], None]) -> None:
        self._behave = behave
        self._worker = gear.Worker("a subscriber")
        host, port = address.split(":")
        self._worker.addServer(host, int(port))
        self._worker.waitForServer()
        self._worker.registerFunction(queue)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                job = self._worker.getJob()
            except gear.InterruptedError:
                return
            self._behave(job)

    def close(self) -> None:
        """Stop it."""
        self._worker.stopWaitingForJobs()
        self._thread.join(10)
        self._worker.shutdown()
