"""A cluster whose members are spoken to one by one, without one of the rules between workers."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType

import pytest

from support import without
from support.cluster import Cluster, Worker, eventually
from support.history import History, queue_of
from support.wire import Outcome, Wire, admin

TOPIC = "t"


class Proxy:
    """Carries connections to a server, and can hold back what the server says.

    ``forgets_s``: a connection that is idle for longer carries nothing any more, and nobody is
    told: so do middleboxes.
    """

    def __init__(self, address: str, forgets_s: float = float("inf")) -> None:
        self.move(address)
        self.forgotten = 0  # connections
        self._forgets_s = forgets_s
        self._spoken_s: dict[frozenset[socket.socket], float] = {}
        self._open = threading.Event()
        self._open.set()
        self._word = b""
        self.said = b""  # by the server since `hold`, where it is held back
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def move(self, address: str) -> None:
        """Carry connections that come from now on to another server."""
        host, _, port = address.rpartition(":")
        self._target = host, int(port)

    def forget(self) -> int:
        """Carry nothing more on the connections there are, and tell nobody; return their number."""
        flows = [flow for flow, at_s in list(self._spoken_s.items()) if at_s > 0]
        for flow in flows:
            self._spoken_s[flow] = float("-inf")
        self.forgotten += len(flows)
        return len(flows)

    def hold(self, word: bytes = b"") -> None:
        """Let nothing through that the server says from now on; with a word, no answer that has
        it, and nothing behind that on its connection."""
        self._word, self.said = word, b""
        self._open.clear()

    def release(self) -> None:
        """Let everything through, late."""
        self._open.set()

    def close(self) -> None:
        """Close every connection."""
        self._open.set()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(self._target)
                except OSError:
                    near.close()
                    continue
                self._sockets += near, far
                threading.Thread(target=self._serve, args=(near, far), daemon=True).start()

    def _serve(self, near: socket.socket, far: socket.socket) -> None:
        bringing = threading.Thread(target=self._bring, args=(far, near), daemon=True)
        bringing.start()
        self._carry(near, far)
        bringing.join()
        for one in (near, far):
            one.close()
            with contextlib.suppress(ValueError):  # it is closing
                self._sockets.remove(one)
        self._spoken_s.pop(frozenset((near, far)), None)

    def _is_known(self, near: socket.socket, far: socket.socket) -> bool:
        flow, at_s = frozenset((near, far)), time.monotonic()
        spoken_s = self._spoken_s.get(flow, at_s)
        if spoken_s < 0:
            return False
        if at_s - spoken_s > self._forgets_s:
            self.forgotten += 1
            self._spoken_s[flow] = float("-inf")
            return False
        self._spoken_s[flow] = at_s
        return True

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(1 << 16):
                if self._is_known(near, far):
                    far.sendall(data)
            far.shutdown(socket.SHUT_RDWR)

    def _bring(self, far: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(1 << 16):
                if not self._is_known(near, far):
                    continue
                if not self._open.is_set() and self._word in data:
                    self.said += data
                    self._open.wait()
                near.sendall(data)
            near.shutdown(socket.SHUT_RDWR)


class Breaker(Worker):
    """A worker without one of the rules, or with all of them."""

    def __init__(self, rule: str | None, servers: list[str], redis: str, *options: str) -> None:
        if rule:
            self.program = without.__file__, rule
        super().__init__(servers, redis, *options)


class Trial:
    """A cluster whose members can be spoken to one by one, each with functions of its own, and
    the history of one topic. `rule` is switched off; None: all hold. Subscriptions are to the list
    `name`: the topic, or a space and a pattern that matches it."""

    def __init__(
        self, cluster: Cluster, rule: str | None, lease_s: float, name: str = TOPIC
    ) -> None:
        self.cluster = cluster
        self.history = History()
        self.rule = rule
        self.name = name
        self._lease_s = lease_s
        self._proxies: list[Proxy] = []

    def __enter__(self) -> Trial:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self.cluster.workers:
            worker.kill()
        for proxy in self._proxies:
            proxy.close()

    def add(self, *options: str, port: int | None = None) -> Worker:
        """Start a worker; `port` is where it finds the store."""
        url = f"redis://127.0.0.1:{port or self.cluster.store.port}/0"
        options = "--lease", f"{self._lease_s}", *options
        worker = Breaker(self.rule, [self.cluster.address], url, *options)
        self.cluster.workers.append(worker)
        return worker.ready()

    def member(self, proxy: Proxy | None = None) -> Member:
        """Start a member."""
        return Member(self, len(self.cluster.workers), proxy)

    def proxy(self) -> Proxy:
        """Stand before the store."""
        self._proxies.append(Proxy(self.cluster.store.address))
        return self._proxies[-1]

    def waiting(self, queue: str) -> int:
        """Jobs that wait or run on a queue."""
        for line in admin(self.cluster.address, "status"):
            name, total, _, _ = line.rsplit("\t", 3)
            if name == queue:
                return int(total)
        return 0

    def queue(self, client: str) -> str:
        """The queue of a client's subscription."""
        return queue_of((self.name, client))

    def finish(self, request: Request) -> None:
        """Wait for a change that is answered too early where the rule is off, and waits for a
        peer's lease otherwise: longer than any test."""
        if self.rule:
            request.finish()
            return
        with pytest.raises(TimeoutError):
            request.finish(0.5)

    def violations(self) -> list[str]:
        """Read every copy and judge."""
        queues = [
            queue_of((name, client))
            for name, clients in self.history.changes.items()
            for client in clients
        ]
        receiver = self.cluster.receiver(*queues)
        owed = sum(message.copies or 0 for message in self.history.messages)
        with contextlib.suppress(AssertionError):  # the checker will say so
            eventually(lambda: len(receiver.jobs) >= owed, 1)
        eventually(lambda: not any(self.waiting(queue) for queue in queues))
        for job in list(receiver.jobs):
            self.history.arrive(job.function, job.payload)
        return self.history.violations()


class Request:
    """A job under way. `told` notes in the history how it ended."""

    def __init__(self, wire: Wire, handle: bytes, told: Callable[[Outcome], None]) -> None:
        self._wire = wire
        self._handle = handle
        self._told = told

    def finish(self, timeout_s: float = 15.0) -> Outcome:
        """Wait for the end; TimeoutError leaves it under way."""
        outcome = self._wire.outcome(self._handle, timeout_s)
        self._told(outcome)
        return outcome


class Member:
    """A worker that alone serves `fanout_N`, `subscribe_N` and `unsubscribe_N`."""

    def __init__(self, trial: Trial, number: int, proxy: Proxy | None) -> None:
        self._trial = trial
        self._number = number
        options = []
        for function in ("fanout", "subscribe", "unsubscribe", "register"):
            options += [f"--{function}-function", f"{function}_{number}"]
        self.worker = trial.add(*options, port=proxy.port if proxy else None)
        log = self.worker.log()
        self.queue = "__matchmaking_" + log.partition("event=starting member=")[2].split()[0]

    def _begin(self, function: str, told: Callable[[Outcome], None], **request: object) -> Request:
        wire = self._trial.cluster.wire()
        body = json.dumps({"topic": TOPIC} | request).encode()
        return Request(wire, wire.submit(f"{function}_{self._number}".encode(), body), told)

    def change(
        self, client: str, subscribes: bool = True, name: str = "", **options: object
    ) -> Request:
        """Begin to subscribe or unsubscribe, to the trial's list or another."""
        history = self._trial.history
        name = name or self._trial.name
        change = history.invoke((name, client), subscribes)

        def told(outcome: Outcome) -> None:
            assert outcome.kind == "complete", outcome
            history.end(change, True)

        function = "subscribe" if subscribes else "unsubscribe"
        names = {"topic": name.strip(), "client_id": client, "pattern": name.startswith(" ")}
        return self._begin(function, told, **names | options)

    def publish(self, background: bool = True) -> Request:
        """Begin a fan-out."""
        history = self._trial.history
        number = history.submit(TOPIC)

        def told(outcome: Outcome) -> None:
            if outcome.kind == "complete":
                history.reply(number, int(outcome.data))

        return self._begin("fanout", told, payload=str(number), background=background)

    def intercept(self, ask: Callable[[], Request]) -> tuple[Request, Wire, bytes]:
        """Take the message away that a peer sends to this member on account of `ask`; the member
        stays frozen. Returns what was asked, and who has the message under which handle."""
        self.worker.freeze()
        thief = self._trial.cluster.wire()
        thief.can_do(self.queue.encode())
        request = ask()
        message = thief.grab()
        assert message is not None
        return request, thief, message.handle
