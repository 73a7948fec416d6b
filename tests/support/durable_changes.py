"""Subscriptions that are changed under fire, and what may come of it.

Each of them is a thread that asks for changes, and hosts that serve its queue at every job server.
They note what came; `violations` says what of it must not have happened, `owed` what has not come
yet.
"""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from support.changes_judge import (
    Away,
    Span,
    Taken,
    came_outdated,
    came_too_often,
    came_while_away,
    came_while_pulled,
    disordered,
    seek_order,
)
from support.durable_history import DeliveryId, DurableHistory, Message
from support.durable_traffic import VALUE, value_of
from support.wire import Assigned, Wire

ANSWER_S = 40.0  # a drain waits for fan-outs, and for servers that do not answer
RECONNECT_S = 0.05
LATE_S = 15.0  # a frozen worker may still do what was asked, after its answer was given up


class Host(threading.Thread):
    """Serves one queue at one job server, connecting anew whenever that is lost; `take` gets each
    job and says whether it is done well."""

    def __init__(self, queue: str, address: str, take: Callable[[Assigned], bool]) -> None:
        super().__init__(name=f"{queue} at {address}", daemon=True)
        self.error: BaseException | None = None
        self._queue, self._address, self._take = queue, address, take
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End soon."""
        self._stopping.set()

    def run(self) -> None:
        """The thread."""
        try:
            while not self._stopping.is_set():
                try:
                    self._serve()
                except (OSError, EOFError):
                    time.sleep(RECONNECT_S)
        except BaseException as error:  # for whoever looks at `error`
            self.error = error

    def _serve(self) -> None:
        with Wire(self._address, 5.0) as wire:
            wire.can_do(self._queue.encode())
            while not self._stopping.is_set():
                job = wire.grab(0.2)
                if job is not None:
                    end = wire.complete if self._take(job) else wire.fail
                    end(job.handle)


class Changing(threading.Thread):
    """One subscription that is changed now and then until `stop`. Subclasses say how."""

    client = ""

    def __init__(
        self, history: DurableHistory, addresses: Sequence[str], topic: str, seed: int
    ) -> None:
        super().__init__(name=self.client, daemon=True)
        self.changes = 0
        self.unanswered = 0
        self.topic = topic
        self.taken: list[Taken] = []
        self.done: set[str] = set()  # payloads
        self.dice = random.Random(f"{self.client} {seed}")
        self.history = history
        self._error: BaseException | None = None
        self._addresses = list(addresses)
        self._stopping = threading.Event()
        self._doubtful_s = -math.inf  # until then something may be done that was asked before
        queue = f"{topic}_{self.client}"
        self._hosts = [Host(queue, address, self.take) for address in addresses]

    @property
    def error(self) -> BaseException | None:
        """What ended the thread or a host."""
        errors = (self._error, *(host.error for host in self._hosts))
        return next((error for error in errors if error is not None), None)

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
            self._error = error

    def wait(self, shortest_s: float, longest_s: float) -> None:
        """Change nothing for a while, or until `stop`."""
        self._stopping.wait(self.dice.uniform(shortest_s, longest_s))

    def is_certain(self) -> bool:
        """Whether nothing that was asked before can still be done."""
        return time.monotonic() > self._doubtful_s

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
                self._doubtful_s = time.monotonic() + LATE_S
                continue
            if outcome.kind == "complete":
                return dict(json.loads(outcome.data))
            text = b"; ".join(outcome.warnings).decode()
            assert not text or text.startswith("unavailable:"), f"{function} {request}: {text}"
            self.unanswered += 1
            self._doubtful_s = time.monotonic() + LATE_S  # a store that was slow may write it yet
            time.sleep(0.1)

    def messages(self) -> dict[str, Message]:
        """Return those of the topic, by payload."""
        found = self.history.messages.copy().items()  # publishers add to it meanwhile
        return {payload: message for payload, message in found if message.topic == self.topic}

    def owed(self) -> Iterator[str]:
        """Yield the messages that were replied to and have not come."""
        for payload, message in self.messages().items():
            if message.replies and payload not in self.done:
                yield payload

    @property
    def noted(self) -> Sequence[object]:
        """What was asked, and when, as far as it is judged by that."""
        return []

    def violations(self) -> list[str]:
        """Return what must not have happened."""
        return [f"{self.topic}_{self.client}: {text}" for text in self.judge()]

    def take(self, job: Assigned) -> bool:
        """Take a delivery; return whether it is done."""
        at_s = time.monotonic()
        id = DeliveryId.parse(job.unique.decode())
        assert id is not None, job
        messages = {id.sequence: job.payload.decode()}
        if job.payload.startswith(b"["):
            envelopes = json.loads(job.payload)
            messages = {one["sequence"]: one["payload"] for one in envelopes}
        is_done = self.does(messages)
        self.taken.append(Taken(at_s, id, messages, time.monotonic() if is_done else math.inf))
        if is_done:
            self.done.update(messages.values())
        return is_done

    def does(self, messages: Mapping[int, str]) -> bool:
        """Process the messages of a delivery; return whether that went well."""
        return True

    def judge(self) -> Iterator[str]:
        """Yield what must not have happened."""
        raise NotImplementedError

    def change(self) -> None:
        """Change something."""
        raise NotImplementedError


class Drained(Changing):
    """Unsubscribes with a drain, and subscribes again: nothing comes in between, and what was
    logged by then does not come later."""

    client = "drained"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.aways: list[Away] = []
        self._subscribed_s = math.inf  # the last time, if that is certain

    def begin(self) -> None:
        """Subscribe, and serve from now on."""
        super().begin()
        self._subscribed_s = time.monotonic()

    def change(self) -> None:
        """Unsubscribe, and subscribe again."""
        self._subscribed_s = math.inf
        reply = self.ask("unsubscribe_fanout", drain=True)
        from_s, is_certain = time.monotonic(), self.is_certain()
        self.changes += 1
        self.wait(0.2, 2.0)
        replies = [place for message in self.messages().values() for place in message.replies]
        last = max((sequence for _, sequence in replies), default=0)
        to_s = time.monotonic()
        self.subscribe()
        if is_certain and not reply.get("undrained"):
            self.aways.append(Away(from_s, to_s, last))
        if self.is_certain():
            self._subscribed_s = time.monotonic()

    def owed(self) -> Iterator[str]:
        """Yield what was published since the last subscribe, and has not come."""
        messages = self.messages()
        return (one for one in super().owed() if messages[one].first_s > self._subscribed_s)

    def judge(self) -> Iterator[str]:
        """Yield what came although it was drained."""
        yield from came_while_away(self.taken, self.aways, self.messages(), self.history.faults)

    @property
    def came(self) -> int:
        """How much came in all."""
        return len(self.taken)


class Redriven(Changing):
    """Fails many a message, which is parked at once, and has it put back: it comes again, once."""

    client = "redriven"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.parked = 0
        self.redrives: list[tuple[float, float]] = []  # from when to when each may have been done

    def subscribe(self, **durable: Any) -> None:
        """One attempt only."""
        super().subscribe(max_attempts=1, timeout=5, in_flight=10, **durable)

    def does(self, messages: Mapping[int, str]) -> bool:
        """Fail one in three."""
        fails = self.dice.random() < 1 / 3
        self.parked += fails
        return not fails

    def change(self) -> None:
        """Put all back that is parked."""
        asked_s = time.monotonic()
        self.changes += self.ask("parked_fanout", action="redrive")["redriven"]
        self.redrives.append((asked_s, max(time.monotonic(), self._doubtful_s)))

    def judge(self) -> Iterator[str]:
        """Yield what came again without a reason."""
        history = self.history
        yield from came_too_often(self.taken, self.redrives, history.faults, history.near_s)


class Optioned(Changing):
    """Gets other options again and again, `pull` among them: everything comes, in order."""

    client = "optioned"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.batches = self.pulled = 0
        self.spans: list[Span] = []
        self.strange: list[str] = []  # sequences that were fetched
        self._acked = 0
        self._options: dict[str, Any] = {}
        self._from_s = math.inf  # since when they are in force
        self._are_certain = False

    def subscribe(self, **durable: Any) -> None:
        """With any options."""
        self._end_span()
        options = {
            "batch": self.dice.choice((1, 10, 1000)),
            "in_flight": self.dice.choice((1, 1, 8, 64)),
            "pull": self.dice.random() < 1 / 3,
            **durable,
        }
        super().subscribe(timeout=5, max_attempts=0, max_backoff=2, **options)
        self._options = options
        self._are_certain = self.is_certain()
        self._from_s = time.monotonic()

    def does(self, messages: Mapping[int, str]) -> bool:
        """Process one or a batch of them, of which some fail."""
        time.sleep(self.dice.uniform(0, 0.02))
        is_batch = len(messages) > 1
        if is_batch and self.dice.random() < 0.05:
            return False
        self.batches += is_batch
        return True

    def change(self) -> None:
        """Change the options, and read what is to be pulled."""
        self.subscribe()
        self.changes += 1
        if self._options["pull"]:
            self._pull()

    @property
    def noted(self) -> Sequence[object]:
        return self.spans

    @property
    def certain(self) -> int:
        """How often it is certain which options were in force."""
        return sum(span.is_certain for span in self.spans)

    def finish(self) -> None:
        """Have the rest delivered."""
        self.subscribe(pull=False)

    def judge(self) -> Iterator[str]:
        """Yield what came out of order, or was delivered while it was to be pulled."""
        messages = self.messages()
        yield from self.strange
        yield from disordered(self.taken, self.spans, messages)
        yield from came_while_pulled(self.taken, self.spans, messages)

    def _end_span(self) -> None:
        now_s = time.monotonic()
        if self._from_s < now_s:
            in_flight, is_pulled = self._options["in_flight"], self._options["pull"]
            self.spans.append(Span(self._from_s, now_s, in_flight, is_pulled, self._are_certain))

    def _pull(self) -> None:
        ack = None
        for _ in range(10):
            reply = self.ask("fetch_fanout", limit=100, **({} if ack is None else {"ack": ack}))
            self._acked = max(self._acked, ack or 0)
            sequences = [envelope["sequence"] for envelope in reply["messages"]]
            seek_order(sequences, self._acked, self.strange.append)
            if not sequences:
                return
            self.done.update(envelope["payload"] for envelope in reply["messages"])
            self.pulled += len(sequences)
            ack = sequences[-1]


class Latest(Changing):
    """Gets the newest message, or the newest of each value, and is slower than they come."""

    client = "latest"
    latest: bool | str = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.skipped = 0  # messages that it was told were passed by, when it was asked last
        self.strange: list[str] = []

    def value_of(self, payload: str) -> str:
        """Return which messages one takes the place of."""
        return ""

    def subscribe(self, **durable: Any) -> None:
        """With so many deliveries at once as the dice say."""
        in_flight = self.dice.choice((1, 1, 2, 4))
        super().subscribe(
            timeout=5, max_attempts=0, max_backoff=2, in_flight=in_flight, latest=self.latest
        )

    def change(self) -> None:
        """Change how many deliveries there are at once."""
        self.subscribe()
        self.changes += 1

    def does(self, messages: Mapping[int, str]) -> bool:
        """Take longer than it takes to publish; fail now and then."""
        time.sleep(self.dice.uniform(0, 0.5))
        return self.dice.random() > 0.1

    def owed(self) -> Iterator[str]:
        """Yield the newest of each value where it was replied to and has not come."""
        newest: dict[str, tuple[int, str]] = {}
        for payload, message in self.messages().items():
            for _, sequence in message.replies:
                value = self.value_of(payload)
                newest[value] = max(newest.get(value, (0, "")), (sequence, payload))
        return (payload for _, payload in newest.values() if payload not in self.done)

    def is_counted(self) -> bool:
        """Whether the lane has everything behind it: then each message has come, or counts as
        passed by. To be asked when nothing is published any more."""
        reply = self.ask("describe_fanout")
        durable = reply["topics"][self.topic]["subscriptions"][self.client]["durable"]
        self.skipped = durable["skipped"]
        came = {sequence for one in self.taken for sequence in one.messages}
        if not durable["lag"] and durable["position"] - len(came) > self.skipped:
            self.strange.append(f"{self.skipped} passed by, {len(came)} of {durable} came")
        return not durable["lag"]

    def judge(self) -> Iterator[str]:
        """Yield what came after something newer, and what is missing in the count."""
        yield from self.strange
        yield from came_outdated(self.taken, self.value_of)


class LatestOfEach(Latest):
    """Gets the newest message of each publisher."""

    client = "latest-of-each"
    latest = VALUE

    def value_of(self, payload: str) -> str:
        """Return which messages one takes the place of."""
        return value_of(payload)
