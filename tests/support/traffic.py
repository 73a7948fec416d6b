"""Traffic: makes a history of a running cluster.

Random changes, of subscriptions by topic and by pattern, beside a stream of fan-outs, on raw
connections. What is sent is noted before it leaves, what is answered after it came.
"""

from __future__ import annotations

import contextlib
import json
import random
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from support.history import LAG_S, History, Pair, queue_of
from support.matching import matches
from support.wire import (
    CAN_DO,
    GRAB_JOB_UNIQ,
    JOB_ASSIGN_UNIQ,
    JOB_CREATED,
    NO_JOB,
    NOOP,
    PRE_SLEEP,
    SUBMIT_JOB,
    WORK_COMPLETE,
    WORK_FAIL,
    WORK_STATUS,
    WORK_WARNING,
    packet,
)

GRABS = 32  # of the receiver, outstanding
STUCK_S = 0.3  # what is unanswered so long lies with a frozen worker and fills no window
PROBES = 3  # fan-outs that follow a change at once, so that they meet different workers
BEHIND = 1000  # copies that wait for the receiver; then nothing is sent that would make more
PATTERNS = ("g0.*", "g1.>", "*.2", "*.*", ">")


class _Line:
    """One connection to a job server, made anew for ever. `up` and `down` are called when it
    comes and goes, `take` with every packet."""

    def __init__(
        self,
        address: str,
        up: Callable[[], None],
        down: Callable[[], None],
        take: Callable[[int, bytes], None],
    ) -> None:
        host, _, port = address.rpartition(":")
        self._address = host, int(port)
        self._up, self._down, self._take = up, down, take
        self._input = b""
        self.socket: socket.socket | None = None

    def connect(self) -> None:
        """Try to connect, if it is not."""
        if self.socket is None:
            with contextlib.suppress(OSError):
                self.socket = socket.create_connection(self._address, timeout=5)
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._input = b""
                self._up()

    def send(self, data: bytes) -> None:
        """Send, or find that the connection is lost."""
        if self.socket is not None:
            try:
                self.socket.sendall(data)
            except OSError:
                self.close()

    def read(self) -> None:
        """Take what is there; something must be."""
        assert self.socket is not None
        try:
            chunk = self.socket.recv(1 << 18)
        except OSError:
            chunk = b""
        if not chunk:
            self.close()
            return
        data = self._input + chunk
        at = 0
        while len(data) - at >= 12:
            _, kind, size = struct.unpack_from(">4sII", data, at)
            if len(data) - at < 12 + size:
                break
            self._take(kind, data[at + 12 : at + 12 + size])
            at += 12 + size
        self._input = data[at:]

    def close(self) -> None:
        """Leave."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None
            self._down()


Answered = Callable[[bool | None, bytes], None]  # success, None if nobody knows, and result


class _Submitter:
    """Foreground jobs side by side on one connection."""

    def __init__(self, address: str) -> None:
        self._created: deque[tuple[float, Answered]] = deque()  # no handle yet
        self._running: dict[bytes, tuple[float, Answered]] = {}
        self.line = _Line(address, lambda: None, self._lost, self._take)

    @property
    def busy(self) -> int:
        """Jobs that are likely to be answered soon."""
        since_s = time.monotonic() - STUCK_S
        return sum(at_s > since_s for at_s, _ in [*self._created, *self._running.values()])

    @property
    def open(self) -> int:
        """Jobs that are not answered."""
        return len(self._created) + len(self._running)

    def submit(self, function: bytes, body: bytes, answered: Answered) -> None:
        self._created.append((time.monotonic(), answered))
        self.line.send(packet(SUBMIT_JOB, function, b"", body))

    def _take(self, kind: int, body: bytes) -> None:
        if kind == JOB_CREATED:
            self._running[body] = self._created.popleft()
            return
        handle, _, data = body.partition(b"\0")
        if kind in (WORK_COMPLETE, WORK_FAIL):
            _, answered = self._running.pop(handle)
            answered(kind == WORK_COMPLETE, data)
        else:
            assert kind in (WORK_WARNING, WORK_STATUS), (kind, body)

    def _lost(self) -> None:
        lost = [*self._created, *self._running.values()]
        self._created.clear()
        self._running.clear()
        for _, answered in lost:
            answered(None, b"")


class _Receiver:
    """Serves queues and completes what comes."""

    def __init__(self, address: str, history: History, queues: list[bytes]) -> None:
        self._history = history
        self._queues = queues
        self._grabs = 0
        self.line = _Line(address, self._up, lambda: None, self._take)

    def add(self, queue: bytes) -> None:
        """Serve one more."""
        self._queues.append(queue)
        self.line.send(packet(CAN_DO, queue))

    def _up(self) -> None:
        self._grabs = 0
        self.line.send(b"".join(packet(CAN_DO, queue) for queue in self._queues))
        self._grab()

    def _grab(self) -> None:
        self.line.send(packet(GRAB_JOB_UNIQ) * (GRABS - self._grabs))
        self._grabs = GRABS

    def _take(self, kind: int, body: bytes) -> None:
        if kind == JOB_ASSIGN_UNIQ:
            handle, queue, _, payload = body.split(b"\0", 3)
            self._history.arrive(queue, payload)
            self.line.send(packet(WORK_COMPLETE, handle, b"") + packet(GRAB_JOB_UNIQ))
        elif kind == NO_JOB:
            self._grabs -= 1
            if not self._grabs:
                self.line.send(packet(PRE_SLEEP))
        else:
            assert kind == NOOP, (kind, body)
            if not self._grabs:  # otherwise a late one of an earlier sleep
                self._grab()


class Traffic:
    """Random changes on a few topics and patterns and a stream of fan-outs, `per_s` each, with a
    history of both. Runs in one thread: the caller's. On a busy machine it waits for its receiver:
    copies that are never read would look like lost ones."""

    def __init__(
        self,
        address: str,
        seed: int,
        topics: int = 12,
        clients: int = 8,
        patterns: Sequence[str] = (),
    ) -> None:
        self.history = History()
        self.succeeded = self.failed = self.unknown = 0  # changes
        self._random = random.Random(seed)
        self._topics = [f"g{number % 4}.{number}" for number in range(topics)]
        names = [*self._topics, *(f" {pattern}" for pattern in patterns)]
        self._idle = [(name, f"c{number}") for name in names for number in range(clients)]
        self._subscribed: set[Pair] = set()
        self._busy = 0  # pairs with a change under way
        self._fresh = clients
        self._changes = _Submitter(address)
        self._fanouts = _Submitter(address)
        queues = [queue_of(pair).encode() for pair in self._idle]
        self._receiver = _Receiver(address, self.history, queues)
        self._lines = [self._receiver.line, self._fanouts.line, self._changes.line]

    def run(
        self,
        changes: int,
        changes_per_s: float,
        fanouts_per_s: float,
        timeout_s: float,
        is_over: Callable[[], bool] = lambda: True,
    ) -> None:
        """Go on until so many changes have succeeded and `is_over`; then wait for the answers and
        until every copy is read."""
        deadline_s = time.monotonic() + timeout_s
        due_s = stream_s = time.monotonic()
        with self._connected():
            while self.succeeded < changes or not is_over():
                now_s = time.monotonic()
                is_behind = self.history.behind > BEHIND
                assert now_s < deadline_s, f"{self} after {timeout_s} s"
                if now_s >= due_s:
                    due_s = max(due_s + 1 / changes_per_s, now_s - 0.1)
                    may_change = self._changes.line.socket and self._changes.busy < 16
                    if may_change and self._idle and not is_behind:
                        self._change()
                if now_s >= stream_s:
                    stream_s = max(stream_s + 1 / fanouts_per_s, now_s - 0.1)
                    if self._fanouts.line.socket and self._fanouts.busy < 64 and not is_behind:
                        self._publish(self._random.choice(self._topics))
                self._turn(min(due_s, stream_s) - now_s)
            self._settle(time.monotonic() + LAG_S)

    def __str__(self) -> str:
        history = self.history
        must, must_not, may = history.checked()
        told = sum(message.copies is not None for message in history.messages)
        return (
            f"changes: {self.succeeded} succeeded, {self.failed} failed, {self.unknown} unknown; "
            f"fan-outs: {told} answered, {len(history.messages) - told} unknown; "
            f"{history.arrivals} copies; must {must}, must not {must_not}, may {may}; "
            f"{history.forgiven()} copies lost with a job server"
        )

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        finally:
            for line in self._lines:
                line.close()

    def _turn(self, wait_s: float) -> None:
        """Take what comes in this time."""
        for line in self._lines:
            line.connect()
        lines = {line.socket: line for line in self._lines if line.socket}
        if not lines:
            time.sleep(0.02)
            return
        readable, _, _ = select.select(list(lines), [], [], max(0.0, min(wait_s, 0.05)))
        for one in readable:
            if lines[one].socket is one:
                lines[one].read()

    def _settle(self, deadline_s: float) -> None:
        """Wait for answers and for what they tell of, then until nothing more comes."""
        quiet_s = time.monotonic() + 0.5
        seen = -1
        while time.monotonic() < deadline_s:
            if time.monotonic() >= quiet_s and not self.history.unread():
                return
            self._turn(0.05)
            if self._changes.open or self._fanouts.open or self.history.arrivals != seen:
                seen = self.history.arrivals
                quiet_s = time.monotonic() + 0.5

    def _change(self) -> None:
        """Ask for a change of a pair that has none under way; mostly one that matters."""
        at = self._random.randrange(len(self._idle))
        self._idle[at], self._idle[-1] = self._idle[-1], self._idle[at]
        pair = self._idle.pop()
        subscribes = (pair not in self._subscribed) ^ (self._random.random() < 0.2)
        function = b"subscribe_fanout" if subscribes else b"unsubscribe_fanout"
        is_pattern = pair[0].startswith(" ")
        request = {"client_id": pair[1], "pattern": is_pattern}
        body = json.dumps(request | {"topic": pair[0].strip()}).encode()
        change = self.history.invoke(pair, subscribes)

        def answered(success: bool | None, data: bytes) -> None:
            if success is None:  # it may happen at any time: nothing can be said of that pair
                self.unknown += 1
                self._fresh += 1
                fresh = pair[0], f"c{self._fresh}"
                self._receiver.add(queue_of(fresh).encode())
                self._idle.append(fresh)
                return
            self.history.end(change, success)
            self._idle.append(pair)
            if not success:
                self.failed += 1
                return
            self.succeeded += 1
            (self._subscribed.add if subscribes else self._subscribed.discard)(pair)
            matched = [topic for topic in self._topics if matches(pair[0].strip(), topic)]
            for _ in range(PROBES):
                self._publish(self._random.choice(matched))

        self._changes.submit(function, body, answered)

    def _publish(self, topic: str) -> None:
        number = self.history.submit(topic)
        body = json.dumps({"topic": topic, "payload": str(number), "background": True}).encode()

        def answered(success: bool | None, data: bytes) -> None:
            if success:
                self.history.reply(number, int(data))

        self._fanouts.submit(b"fanout", body, answered)
