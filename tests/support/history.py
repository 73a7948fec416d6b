"""A history of changes and fan-outs, and whether any message went to the wrong subscribers.

`History` is pure: it is told what happened and when, and `violations` judges it. `Traffic` makes a
history of a running cluster: random changes beside a stream of fan-outs, on raw connections.
Times are seconds of `time.monotonic` in the test's process: what is sent is noted before it
leaves, what is answered after it came, so that no claim rests on a delay.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

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

LOST_S = 2.0  # copies answered for so shortly before a job server's death may have been unread
LAG_S = 30.0  # how long a receiver is waited for; what it has not read by then is lost
GRABS = 32  # of the receiver, outstanding
STUCK_S = 0.3  # what is unanswered so long lies with a frozen worker and fills no window
PROBES = 3  # fan-outs that follow a change at once, so that they meet different workers

Pair = tuple[str, str]  # topic, client_id


@dataclass
class Change:
    """A subscribe or an unsubscribe. `succeeded`: None while nobody knows what became of it."""

    subscribes: bool
    invoked_s: float
    ended_s: float = math.inf
    succeeded: bool | None = None


@dataclass
class Message:
    """A fan-out: `copies` is what its reply says; `arrived` are client_ids."""

    topic: str
    submitted_s: float
    replied_s: float = math.inf
    copies: int | None = None
    arrived: set[str] = field(default_factory=set)


class History:
    """What happened. Client_ids may have no underscore."""

    def __init__(self) -> None:
        self.changes: dict[str, dict[str, list[Change]]] = {}
        self.messages: list[Message] = []
        # when a job server was killed, and when it was dead for certain; its queues are lost
        self.crashes: list[tuple[float, float]] = []
        self.arrivals = 0

    def invoke(self, pair: Pair, subscribes: bool) -> Change:
        """A change is about to be asked for."""
        change = Change(subscribes, time.monotonic())
        self.changes.setdefault(pair[0], {}).setdefault(pair[1], []).append(change)
        return change

    def end(self, change: Change, succeeded: bool) -> None:
        """A change was answered."""
        change.succeeded = succeeded
        change.ended_s = time.monotonic()

    def submit(self, topic: str) -> int:
        """A fan-out is about to be submitted; return the number to send as its payload."""
        self.messages.append(Message(topic, time.monotonic()))
        return len(self.messages) - 1

    def reply(self, number: int, copies: int) -> None:
        """A fan-out was answered: so many copies."""
        self.messages[number].copies = copies
        self.messages[number].replied_s = time.monotonic()

    def arrive(self, queue: bytes, payload: bytes) -> None:
        """A copy came out of a queue."""
        topic, _, client = queue.decode().rpartition("_")
        message = self.messages[int(payload)]
        assert message.topic == topic, f"message of {message.topic} on {queue!r}"
        message.arrived.add(client)
        self.arrivals += 1

    def crash(self, kill: Callable[[], None]) -> None:
        """Kill a job server, once what was answered has been read: what a busy machine delays is
        not lost. In another thread than the one that reads."""
        give_up_s = time.monotonic() + LAG_S
        while self.unread(time.monotonic() - LOST_S / 4) and time.monotonic() < give_up_s:
            time.sleep(0.05)
        begun_s = time.monotonic()
        kill()
        self.crashes.append((begun_s, time.monotonic()))

    def unread(self, until_s: float = math.inf) -> int:
        """Return how many copies are to come of fan-outs that were answered until then."""
        return sum(
            max(message.copies - len(message.arrived), 0)
            for message in list(self.messages)
            if message.copies and message.replied_s <= until_s and not self._may_be_lost(message)
        )

    def expected(self, pair: Pair, message: Message) -> bool | None:
        """Return whether a client must (True) or must not (False) get a message; None: it may."""
        changes = self.changes.get(pair[0], {}).get(pair[1], [])
        before = []
        kinds = set()
        for change in changes:
            if change.invoked_s > message.replied_s:
                continue
            if _holds_until(change, changes) <= message.submitted_s:
                if change.succeeded:
                    before.append(change)
            else:
                kinds.add(change.subscribes)
        latest_s = max((change.invoked_s for change in before), default=-math.inf)
        last = [change.subscribes for change in before if change.ended_s > latest_s]
        kinds.update(last or [False])  # nobody is subscribed at first
        return kinds.pop() if len(kinds) == 1 else None

    def violations(self) -> list[str]:
        """Return what must not have happened, in words."""
        found = []
        for number, message in enumerate(self.messages):
            told = message.copies is not None
            owed = told and not self._may_be_lost(message)
            for client in self.changes.get(message.topic, {}):
                expected = self.expected((message.topic, client), message)
                came = client in message.arrived
                if expected is True and owed and not came:
                    found.append(f"{number}: {client} of {message.topic} is subscribed, got none")
                elif expected is False and came:
                    found.append(f"{number}: {client} of {message.topic} is not subscribed, got it")
            if owed and message.copies is not None and len(message.arrived) < message.copies:
                found.append(f"{number}: answered {message.copies}, came {len(message.arrived)}")
            for client in message.arrived - self.changes.get(message.topic, {}).keys():
                found.append(f"{number}: {client} of {message.topic} never was subscribed, got it")
        return found

    def checked(self) -> tuple[int, int, int]:
        """Return how often a client must have got a message, must not, and might."""
        counts = {True: 0, False: 0, None: 0}
        for message in self.messages:
            owed = message.copies is not None and not self._may_be_lost(message)
            for client in self.changes.get(message.topic, {}):
                expected = self.expected((message.topic, client), message)
                counts[None if expected and not owed else expected] += 1
        return counts[True], counts[False], counts[None]

    def forgiven(self) -> int:
        """Return how many copies that were answered for died with a job server, unread."""
        return sum(
            self.expected((message.topic, client), message) is True
            for message in self.messages
            if message.copies is not None and self._may_be_lost(message)
            for client in self.changes.get(message.topic, {}).keys() - message.arrived
        )

    def _may_be_lost(self, message: Message) -> bool:
        return any(
            message.submitted_s < dead_s and begun_s < message.replied_s + LOST_S
            for begun_s, dead_s in self.crashes
        )


def _holds_until(change: Change, changes: Iterable[Change]) -> float:
    """Until when a change may be seen to happen. One that failed may have been written, and count
    or not, until another one of the pair succeeds; one of unknown outcome may happen at any time.
    """
    if change.succeeded:
        return change.ended_s
    if change.succeeded is None:
        return math.inf
    later = (c.ended_s for c in changes if c.succeeded and c.invoked_s >= change.ended_s)
    return min(later, default=math.inf)


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
    """Random changes on a few topics and a stream of fan-outs, `per_s` each, with a history of
    both. Runs in one thread: the caller's."""

    def __init__(self, address: str, seed: int, topics: int = 12, clients: int = 8) -> None:
        self.history = History()
        self.succeeded = self.failed = self.unknown = 0  # changes
        self._random = random.Random(seed)
        self._topics = [f"t{number}" for number in range(topics)]
        self._idle = [(topic, f"c{number}") for topic in self._topics for number in range(clients)]
        self._subscribed: set[Pair] = set()
        self._busy = 0  # pairs with a change under way
        self._fresh = clients
        self._changes = _Submitter(address)
        self._fanouts = _Submitter(address)
        self._receiver = _Receiver(address, self.history, [_queue(pair) for pair in self._idle])
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
                assert now_s < deadline_s, f"{self} after {timeout_s} s"
                if now_s >= due_s:
                    due_s = max(due_s + 1 / changes_per_s, now_s - 0.1)
                    if self._changes.line.socket and self._changes.busy < 16 and self._idle:
                        self._change()
                if now_s >= stream_s:
                    stream_s = max(stream_s + 1 / fanouts_per_s, now_s - 0.1)
                    if self._fanouts.line.socket and self._fanouts.busy < 64:
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
        body = json.dumps({"topic": pair[0], "client_id": pair[1]}).encode()
        change = self.history.invoke(pair, subscribes)

        def answered(success: bool | None, data: bytes) -> None:
            if success is None:  # it may happen at any time: nothing can be said of that pair
                self.unknown += 1
                self._fresh += 1
                fresh = pair[0], f"c{self._fresh}"
                self._receiver.add(_queue(fresh))
                self._idle.append(fresh)
                return
            self.history.end(change, success)
            self._idle.append(pair)
            if not success:
                self.failed += 1
                return
            self.succeeded += 1
            (self._subscribed.add if subscribes else self._subscribed.discard)(pair)
            for _ in range(PROBES):
                self._publish(pair[0])

        self._changes.submit(function, body, answered)

    def _publish(self, topic: str) -> None:
        number = self.history.submit(topic)
        body = json.dumps({"topic": topic, "payload": str(number), "background": True}).encode()

        def answered(success: bool | None, data: bytes) -> None:
            if success:
                self.history.reply(number, int(data))

        self._fanouts.submit(b"fanout", body, answered)


def _queue(pair: Pair) -> bytes:
    return f"{pair[0]}_{pair[1]}".encode()
