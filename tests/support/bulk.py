"""Many requests at once over one raw connection, as a pipelining client sends them."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Sequence

from support.wire import (
    JOB_CREATED,
    SUBMIT_JOB,
    WORK_COMPLETE,
    WORK_FAIL,
    WORK_STATUS,
    WORK_WARNING,
    Wire,
    packet,
)

Answer = tuple[str, bytes]  # ("complete" or "fail", result or last warning)


class Pipeline:
    """Submits foreground jobs on one connection, up to `window` unanswered."""

    def __init__(self, address: str, window: int = 256) -> None:
        self._wire = Wire(address, timeout=60.0)
        self._window = window
        self._created: list[int] = []  # submitted, no handle yet
        self._running: dict[bytes, int] = {}
        self._warnings: dict[bytes, bytes] = {}
        self._next = 0
        self.answers: dict[int, Answer] = {}

    def submit(self, function: str, body: bytes) -> int:
        """Submit one job and return its number; waits while the window is full."""
        while len(self._created) + len(self._running) >= self._window:
            self._receive(60.0)
        number = self._next
        self._next += 1
        self._created.append(number)
        self._wire.send_raw(packet(SUBMIT_JOB, function.encode(), b"", body))
        return number

    def finish(self, timeout: float = 60.0) -> list[Answer]:
        """Wait for every answer and return them in the order of the submits."""
        deadline = time.monotonic() + timeout
        while self._created or self._running:
            self._receive(max(0.01, deadline - time.monotonic()))
        return [self.answers[number] for number in range(self._next)]

    def settle(self, quiet: float = 0.2) -> None:
        """Take what has been answered, until nothing comes for `quiet` seconds."""
        with contextlib.suppress(TimeoutError):
            while True:
                self._receive(quiet)

    def close(self) -> None:
        """Leave."""
        self._wire.close()

    def _receive(self, timeout: float) -> None:
        kind, body = self._wire.recv(timeout)
        handle, _, data = body.partition(b"\0")
        if kind == JOB_CREATED:
            self._running[body] = self._created.pop(0)
        elif kind == WORK_WARNING:
            self._warnings[handle] = data
        elif kind in (WORK_COMPLETE, WORK_FAIL):
            number = self._running.pop(handle)
            failed = kind == WORK_FAIL
            text = self._warnings.pop(handle, b"") if failed else data
            self.answers[number] = ("fail" if failed else "complete", text)
        else:
            assert kind == WORK_STATUS, (kind, body)


def run_all(
    address: str, requests: Iterable[tuple[str, bytes]], window: int = 256, timeout: float = 60.0
) -> list[Answer]:
    """Run (function, body) requests side by side and return their answers in order."""
    pipeline = Pipeline(address, window)
    try:
        for function, body in requests:
            pipeline.submit(function, body)
        return pipeline.finish(timeout)
    finally:
        pipeline.close()


def subscribe_all(address: str, topic: str, clients: Sequence[str]) -> None:
    """Subscribe many clients to one topic."""
    bodies = (json.dumps({"topic": topic, "client_id": client}).encode() for client in clients)
    answers = run_all(address, (("subscribe_fanout", body) for body in bodies))
    assert all(kind == "complete" for kind, _ in answers), answers


def fanout_body(topic: str, payload: str, **options: object) -> bytes:
    """Return a fanout request, background unless told otherwise."""
    request = {"topic": topic, "payload": payload, "background": True} | options
    return json.dumps(request).encode()
