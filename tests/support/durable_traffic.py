"""Publishers and receivers of durable topics that note what happened in a `DurableHistory`.

`Publisher` tries a message under one `unique` until it is replied to; a thread each. `Receivers`
serves every queue at every job server from one thread, as plain Gearman workers do that keep to
the rule for exact order; some deliveries they fail, and some they do not survive.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import itertools
import json
import random
import selectors
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from support.durable_history import Delivery, DeliveryId, DurableHistory, Key
from support.wire import (
    CAN_DO,
    ERROR,
    GRAB_JOB_UNIQ,
    JOB_ASSIGN_UNIQ,
    NO_JOB,
    NOOP,
    PRE_SLEEP,
    WORK_COMPLETE,
    WORK_FAIL,
    Assigned,
    Wire,
    packet,
)

RECONNECT_S = 0.05
ANSWER_S = 2.0  # a reply that takes longer is not waited for
GIVE_UP_S = 110.0  # after that the topic may have forgotten the unique (120 s)
VALUE = "publisher"  # a header, which has the publisher's name
AGAIN = 0.03  # of the messages that were replied to are published once more

FAILS = 0.01  # of the deliveries
DIES = 0.01
IS_SLOW = 0.02
QUICK_S = 0.0, 0.02
SLOW_S = 1.0, 4.0  # within the subscription's timeout, and longer than a lease


def value_of(payload: str) -> str:
    """Return the value of the header of a message: who published it."""
    return payload.rpartition("-")[0]


class Publisher(threading.Thread):
    """Publishes one message after the other, `pause_s` seconds apart on average."""

    def __init__(
        self,
        name: str,
        history: DurableHistory,
        addresses: Sequence[str],
        topics: Sequence[str],
        seed: int,
        pause_s: float,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.refusals: Counter[str] = Counter()  # by their text
        self.unanswered = 0  # tries that ended with the connection, or were too slow
        self.again = 0  # messages published once more after their reply
        self.error: BaseException | None = None
        self._history = history
        self._addresses = list(addresses)
        self._topics = list(topics)
        self._random = random.Random(seed)
        self._pause_s = pause_s
        self._wires: dict[str, Wire] = {}
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Finish the message in hand and publish no other; `join` waits for that."""
        self._stopping.set()

    def run(self) -> None:
        """The thread."""
        try:
            for number in itertools.count(1):
                if self._stopping.wait(self._random.uniform(0, 2 * self._pause_s)):
                    break
                self._publish(f"{self.name}-{number}", self._random.choice(self._topics))
        except BaseException as error:  # for whoever looks at `error`
            self.error = error
        finally:
            for wire in self._wires.values():
                wire.close()

    def _publish(self, payload: str, topic: str) -> None:
        request = {"topic": topic, "payload": payload, "unique": payload, "background": True}
        headers = {VALUE: value_of(payload)}
        body = json.dumps(request | {"receipt": True, "headers": headers}).encode()
        give_up_s = time.monotonic() + GIVE_UP_S
        tries = 2 if self._random.random() < AGAIN else 1
        self.again += tries - 1
        address = self._random.choice(self._addresses)
        while tries:
            assert time.monotonic() < give_up_s, f"{payload} was not replied to: {self.refusals}"
            self._history.publish(payload, topic, time.monotonic())
            data = self._try(address, body)
            if data is None:
                address = self._random.choice([one for one in self._addresses if one != address])
                time.sleep(self._random.uniform(0, 0.3))
                continue
            receipt = json.loads(data)
            self._history.reply(payload, receipt["epoch"], receipt["sequence"])
            tries -= 1

    def _try(self, address: str, body: bytes) -> bytes | None:
        """Ask a job server; None if there was no good answer."""
        try:
            wire = self._wires.get(address) or Wire(address, ANSWER_S)
            self._wires[address] = wire
            outcome = wire.run(b"fanout", body, ANSWER_S)
        except (OSError, EOFError):  # a timeout is an OSError
            self.unanswered += 1
            with contextlib.suppress(KeyError):
                self._wires.pop(address).close()
            return None
        if outcome.kind == "complete":
            return outcome.data
        self.refusals[b"; ".join(outcome.warnings).decode() or "no text"] += 1
        return None


@dataclass
class _Memory:
    """What the receivers of one queue remember together."""

    term: int = 0
    finished: set[Key] = field(default_factory=set)

    def wants(self, id: DeliveryId) -> bool:
        """Whether a delivery is to be processed, and not merely completed."""
        is_new = id.term >= self.term and id.key not in self.finished
        self.term = max(self.term, id.term)
        return is_new


class Receivers:
    """Receivers of all queues at all job servers. `serve` until `close`."""

    def __init__(
        self, history: DurableHistory, queues: Sequence[str], addresses: Sequence[str], seed: int
    ) -> None:
        self.history = history
        self.random = random.Random(seed)
        self.selector = selectors.DefaultSelector()
        self.error: BaseException | None = None
        self.errors: Counter[str] = Counter()  # that job servers answered
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._stopping = False
        memories = {queue: _Memory() for queue in queues}
        self._receivers = [
            _Receiver(self, queue, memories[queue], address)
            for queue in queues
            for address in addresses
        ]
        self._thread = threading.Thread(target=self._run, name="receivers", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Leave every job server."""
        self._stopping = True
        self._thread.join(10)
        for receiver in self._receivers:
            receiver.close()
        self.selector.close()

    def later(self, wait_s: float, action: Callable[[], None]) -> None:
        """Have something done."""
        heapq.heappush(self._timers, (time.monotonic() + wait_s, next(self._numbers), action))

    def _run(self) -> None:
        try:
            for receiver in self._receivers:
                receiver.connect()
            while not self._stopping:
                wait_s = self._timers[0][0] - time.monotonic() if self._timers else 0.1
                for key, _ in self.selector.select(min(max(wait_s, 0.0), 0.1)):
                    key.data()
                while self._timers and self._timers[0][0] <= time.monotonic():
                    heapq.heappop(self._timers)[2]()
        except BaseException as error:  # for whoever looks at `error`
            self.error = error


class _Receiver:
    """One connection to one job server that serves one queue, made anew for ever."""

    def __init__(self, all: Receivers, queue: str, memory: _Memory, address: str) -> None:
        self._all = all
        self._queue = queue
        self._memory = memory
        self._address = address
        self._socket: socket.socket | None = None
        self._input = b""
        self._asks = False  # a grab is not answered
        self._held: tuple[Assigned, DeliveryId | None, float] | None = None

    def connect(self) -> None:
        """Begin to connect. It waits for nothing: a frozen server accepts nobody, and the others
        are to be served meanwhile."""
        host, _, port = self._address.rpartition(":")
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._socket.connect_ex((host, int(port))) in (0, errno.EINPROGRESS):
            self._all.selector.register(self._socket, selectors.EVENT_WRITE, self._connected)
        else:
            self._socket.close()
            self._socket = None
            self._all.later(RECONNECT_S, self.connect)

    def close(self) -> None:
        """Leave."""
        if self._socket is not None:
            self._all.selector.unregister(self._socket)
            self._socket.close()
            self._socket = None
            self._input, self._asks = b"", False

    def _connected(self) -> None:
        assert self._socket is not None
        if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._lost(RECONNECT_S)
            return
        self._all.selector.modify(self._socket, selectors.EVENT_READ, self._read)
        self._send(packet(CAN_DO, self._queue.encode()))
        self._grab()

    def _lost(self, wait_s: float) -> None:
        """The connection is gone, and what was in hand."""
        self.close()
        if self._held is not None:
            self._end("cut")
        self._all.later(wait_s, self.connect)

    def _send(self, data: bytes) -> None:
        """Send; a loss is found by the next read."""
        if self._socket is not None:
            with contextlib.suppress(ConnectionError):
                self._socket.sendall(data)

    def _grab(self) -> None:
        if not self._asks and self._held is None:
            self._asks = True
            self._send(packet(GRAB_JOB_UNIQ))

    def _read(self) -> None:
        assert self._socket is not None
        try:
            chunk = self._socket.recv(1 << 16)
        except ConnectionError:
            chunk = b""
        if not chunk:
            self._lost(RECONNECT_S)
            return
        self._input += chunk
        while len(self._input) >= 12:
            magic, kind, size = struct.unpack_from(">4sII", self._input)
            assert magic == b"\0RES", magic
            if len(self._input) < 12 + size:
                break
            body = self._input[12 : 12 + size]
            self._input = self._input[12 + size :]
            self._take(kind, body)

    def _take(self, kind: int, body: bytes) -> None:
        if kind == JOB_ASSIGN_UNIQ:
            self._asks = False
            self._begin(Assigned(*body.split(b"\0", 3)))
        elif kind == NO_JOB:
            self._asks = False
            self._send(packet(PRE_SLEEP))
        elif kind == NOOP:
            self._grab()
        else:
            assert kind == ERROR, (kind, body)
            self._all.errors[body.partition(b"\0")[0].decode()] += 1

    def _begin(self, job: Assigned) -> None:
        assert self._held is None, f"two jobs on one connection of {self._queue}"
        id = DeliveryId.parse(job.unique.decode(errors="replace"))
        held = self._held = job, id, time.monotonic()
        if id is not None and not self._memory.wants(id):
            self._end("dropped")
            return
        dice = self._all.random
        takes_s = dice.uniform(*(SLOW_S if dice.random() < IS_SLOW else QUICK_S))
        fate = dice.random()
        outcome = "failed" if fate < FAILS else "died" if fate < FAILS + DIES else "done"

        def finish() -> None:
            if self._held is held:  # otherwise the job server went away
                self._end(outcome)

        self._all.later(takes_s, finish)

    def _end(self, outcome: str) -> None:
        """Note how the job in hand ended, then tell the job server."""
        assert self._held is not None
        (job, id, start_s), self._held = self._held, None
        end_s = start_s if outcome == "dropped" else time.monotonic()
        if outcome == "done" and id is not None:
            self._memory.finished.add(id.key)
        unique, payload = (one.decode(errors="replace") for one in (job.unique, job.payload))
        self._all.history.deliver(
            Delivery(
                *(self._queue, self._address, job.handle.decode(), unique, payload),
                *(start_s, end_s, outcome),
            )
        )
        if outcome == "died":
            self._lost(self._all.random.uniform(0.02, 0.3))
        elif outcome != "cut":
            self._send(packet(WORK_FAIL if outcome == "failed" else WORK_COMPLETE, job.handle, b""))
            self._grab()
