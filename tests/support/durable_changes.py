"""Subscriptions that are changed under fire, and what may come of it.

Each of them is a thread that asks for changes, and hosts that serve its queue at every job server.
They note what came; `violations` says what of it must not have happened, `owed` what has not come
yet.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from support.durable_history import DurableHistory
from support.wire import Assigned, Wire

ANSWER_S = 40.0  # a drain waits for fan-outs, and for servers that do not answer
RECONNECT_S = 0.05
FLIGHT_S = 5.0  # what a frozen worker had given to its sockets arrives within this time


class Host(threading.Thread):
    """Serves one queue at one job server, connecting anew whenever that is lost; `take` gets each
    job and says whether it is done well."""

    def __init__(self, queue: str, address: str, take: Callable[[Assigned], bool]) -> None:
        super().__init__(name=f"{queue} at {address}", daemon=True)
        self._queue, self._address, self._take = queue, address, take
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End soon."""
        self._stopping.set()

    def run(self) -> None:
        """The thread."""
        while not self._stopping.is_set():
            try:
                with Wire(self._address, 5.0) as wire:
                    wire.can_do(self._queue.encode())
                    while not self._stopping.is_set():
                        job = wire.grab(0.2)
                        if job is not None:
                            end = wire.complete if self._take(job) else wire.fail
                            end(job.handle)
            except (OSError, EOFError):
                time.sleep(RECONNECT_S)


class Changing(threading.Thread):
    """One subscription that is changed now and then until `stop`. Subclasses say how."""

    client = ""

    def __init__(
        self, history: DurableHistory, addresses: Sequence[str], topic: str, seed: int
    ) -> None:
        super().__init__(name=self.client, daemon=True)
        self.error: BaseException | None = None
        self.changes = 0
        self.unanswered = 0
        self.topic = topic
        self.done: set[str] = set()  # payloads
        self.dice = random.Random(f"{self.client} {seed}")
        self._history = history
        self._addresses = list(addresses)
        self._stopping = threading.Event()
        queue = f"{topic}_{self.client}"
        self._hosts = [Host(queue, address, self.take) for address in addresses]

    def begin(self) -> None:
        """Subscribe, and serve from now on."""
        self.subscribe()
        for host in self._hosts:
            host.start()
        self.start()

    def stop(self) -> None:
        """Change nothing more; `join` waits for the change in hand."""
        self._stopping.set()

    def close(self) -> None:
        """Serve no more."""
        self.stop()
        for host in self._hosts:
            host.stop()

    def run(self) -> None:
        """The thread."""
        try:
            while not self._stopping.wait(self.dice.uniform(0.5, 2.0)):
                self.change()
        except BaseException as error:  # for whoever looks at `error`
            self.error = error

    def subscribe(self, **durable: Any) -> None:
        """Subscribe, or change these options."""
        self.ask("subscribe_fanout", durable=durable or True)

    def ask(self, function: str, **request: Any) -> dict[str, Any]:
        """Ask until it is answered, here or there; return the reply."""
        body = {"topic": self.topic, "client_id": self.client, **request}
        while True:
            try:
                with Wire(self.dice.choice(self._addresses), ANSWER_S) as wire:
                    outcome = wire.run(function.encode(), json.dumps(body).encode(), ANSWER_S)
            except (OSError, EOFError):
                self.unanswered += 1
                continue
            if outcome.kind == "complete":
                return dict(json.loads(outcome.data))
            text = b"; ".join(outcome.warnings).decode()
            assert not text or text.startswith("unavailable:"), f"{function} {request}: {text}"
            self.unanswered += 1
            time.sleep(0.1)

    def owed(self) -> Iterator[str]:
        """Yield the messages that were replied to and have not come."""
        for payload, message in list(self._history.messages.items()):
            if message.replies and message.topic == self.topic and payload not in self.done:
                yield payload

    def violations(self) -> list[str]:
        """Return what must not have happened."""
        return []

    def take(self, job: Assigned) -> bool:
        """Take a delivery; return whether it is done."""
        self.done.add(job.payload.decode())
        return True

    def change(self) -> None:
        """Change something."""
        raise NotImplementedError


class Drained(Changing):
    """Unsubscribes with a drain, and subscribes again: nothing comes in between."""

    client = "drained"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._came: list[tuple[float, str]] = []
        self._away: list[tuple[float, float]] = []  # from a drain's answer to the next subscribe

    def take(self, job: Assigned) -> bool:
        """Note when something came."""
        self._came.append((time.monotonic(), job.payload.decode()))
        return True

    def change(self) -> None:
        """Unsubscribe, and subscribe again."""
        reply = self.ask("unsubscribe_fanout", drain=True)
        drained_s = time.monotonic()
        self.changes += 1
        self._stopping.wait(self.dice.uniform(0.2, 1.0))
        if not reply.get("undrained"):
            self._away.append((drained_s, time.monotonic()))
        self.subscribe()

    def owed(self) -> Iterator[str]:
        """Nothing is: what comes depends on when it was subscribed."""
        return iter(())

    def violations(self) -> list[str]:
        """What came while nothing was subscribed; a worker that was frozen meanwhile may have had
        it in its sockets."""
        thaws = [
            (fault.begin_s, fault.end_s + FLIGHT_S)
            for fault in self._history.faults
            if "worker" in fault.kind and "frozen" in fault.kind
        ]
        return [
            f"{self.topic}_{self.client}: {payload} came at {at_s:.3f}, drained at {from_s:.3f}"
            for from_s, to_s in self._away
            for at_s, payload in self._came
            if from_s < at_s < to_s and not any(b < at_s and from_s < e for b, e in thaws)
        ]

    @property
    def came(self) -> int:
        """How much came in all."""
        return len(self._came)


class Redriven(Changing):
    """Fails many a message, which is parked at once, and has it put back."""

    client = "redriven"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.parked = 0

    def subscribe(self, **durable: Any) -> None:
        """One attempt only."""
        super().subscribe(max_attempts=1, timeout=5, in_flight=10, **durable)

    def take(self, job: Assigned) -> bool:
        """Fail one in three."""
        if self.dice.random() < 1 / 3:
            self.parked += 1
            return False
        return super().take(job)

    def change(self) -> None:
        """Put all back that is parked."""
        self.changes += self.ask("parked_fanout", action="redrive")["redriven"]


class Optioned(Changing):
    """Gets other options again and again, `pull` among them."""

    client = "optioned"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.batches = self.pulled = 0
        self._is_pulled = False

    def subscribe(self, **durable: Any) -> None:
        """With any options."""
        options = {
            "batch": self.dice.choice((1, 10, 1000)),
            "in_flight": self.dice.choice((1, 8, 64)),
            "pull": self.dice.random() < 1 / 3,
            **durable,
        }
        super().subscribe(timeout=5, max_attempts=0, max_backoff=2, **options)
        self._is_pulled = bool(options["pull"])

    def take(self, job: Assigned) -> bool:
        """Take a message, or a batch of them."""
        if job.payload.startswith(b"["):
            if self.dice.random() < 0.05:
                return False
            self.batches += 1
            self.done |= {envelope["payload"] for envelope in json.loads(job.payload)}
            return True
        return super().take(job)

    def change(self) -> None:
        """Change the options, and read what is to be pulled."""
        self.subscribe()
        self.changes += 1
        if self._is_pulled:
            self._pull()

    def finish(self) -> None:
        """Have the rest delivered."""
        self.subscribe(pull=False)

    def _pull(self) -> None:
        ack = None
        for _ in range(10):
            reply = self.ask("fetch_fanout", limit=100, **({} if ack is None else {"ack": ack}))
            if not reply["messages"]:
                return
            for envelope in reply["messages"]:
                self.done.add(envelope["payload"])
                self.pulled += 1
            ack = reply["messages"][-1]["sequence"]
