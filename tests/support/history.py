"""A history of changes and fan-outs, and whether any message went to the wrong subscribers.

`History` is pure: it is told what happened and when, and `violations` judges it. (`traffic` makes a
history of a running cluster.) Subscriptions are by topic or by pattern: the name of a pattern's has
a space in front, and which topics it matches is judged by the rule word for word (`matching`).
Times are seconds of `time.monotonic` in the test's process: what is sent is noted before it
leaves, what is answered after it came, so that no claim rests on a delay.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from support.matching import matches

LOST_S = 2.0  # copies answered for so shortly before a job server's death may have been unread
LAG_S = 30.0  # how long a receiver is waited for; what it has not read by then is lost

Pair = tuple[str, str]  # the name of a list (a topic, or a space and a pattern), client_id


@dataclass
class Change:
    """A subscribe or an unsubscribe. `succeeded`: None while nobody knows what became of it."""

    subscribes: bool
    invoked_s: float
    ended_s: float = math.inf
    succeeded: bool | None = None


@dataclass
class Message:
    """A fan-out: `copies` is what its reply says; `arrived` are those whose queues had a copy."""

    topic: str
    submitted_s: float
    replied_s: float = math.inf
    copies: int | None = None
    arrived: set[Pair] = field(default_factory=set)


class History:
    """What happened. Client_ids may have no underscore."""

    def __init__(self) -> None:
        self.changes: dict[str, dict[str, list[Change]]] = {}
        self.messages: list[Message] = []
        # when a job server was killed, and when it was dead for certain; its queues are lost
        self.crashes: list[tuple[float, float]] = []
        self.arrivals = 0
        self.behind = 0  # copies that were answered for and have not arrived, at most

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
        self.behind += copies

    def arrive(self, queue: bytes, payload: bytes) -> None:
        """A copy came out of a queue; those of patterns are envelopes."""
        name, _, client = queue.decode().rpartition("_")
        topic = name
        if is_wild(name):
            name, envelope = f" {name}", json.loads(payload)
            topic, payload = envelope["topic"], envelope["payload"]
        message = self.messages[int(payload)]
        assert message.topic == topic, f"message of {message.topic} on {queue!r}"
        message.arrived.add((name, client))
        self.arrivals += 1
        self.behind = max(0, self.behind - 1)

    def pairs(self, topic: str) -> Iterator[Pair]:
        """Yield the subscriptions that ever were and that a message of a topic concerns."""
        for name, clients in self.changes.items():
            if name == topic or (name[0] == " " and matches(name[1:], topic)):
                yield from ((name, client) for client in clients)

    def crash(self, kill: Callable[[], None]) -> None:
        """Kill a job server, once what was answered has been read: what a busy machine delays is
        not lost. In another thread than the one that reads."""
        give_up_s = time.monotonic() + LAG_S
        while self.unread(time.monotonic() - LOST_S / 4) and time.monotonic() < give_up_s:
            time.sleep(0.05)
        begun_s = time.monotonic()
        kill()
        self.crashes.append((begun_s, time.monotonic()))
        self.behind = 0  # what was is lost

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
            known = set(self.pairs(message.topic))
            for pair in known:
                expected = self.expected(pair, message)
                came, words = pair in message.arrived, f"{number}: {pair[1]} of {pair[0]}"
                if expected is True and owed and not came:
                    found.append(f"{words} is subscribed, got none of {message.topic}")
                elif expected is False and came:
                    found.append(f"{words} is not subscribed, got one of {message.topic}")
            if owed and message.copies is not None and len(message.arrived) < message.copies:
                found.append(f"{number}: answered {message.copies}, came {len(message.arrived)}")
            for name, client in message.arrived - known:
                found.append(f"{number}: {client} of {name} never was subscribed, got it")
        return found

    def checked(self) -> tuple[int, int, int]:
        """Return how often a client must have got a message, must not, and might."""
        counts = {True: 0, False: 0, None: 0}
        for message in self.messages:
            owed = message.copies is not None and not self._may_be_lost(message)
            for pair in self.pairs(message.topic):
                expected = self.expected(pair, message)
                counts[None if expected and not owed else expected] += 1
        return counts[True], counts[False], counts[None]

    def forgiven(self) -> int:
        """Return how many copies that were answered for died with a job server, unread."""
        return sum(
            self.expected(pair, message) is True
            for message in self.messages
            if message.copies is not None and self._may_be_lost(message)
            for pair in set(self.pairs(message.topic)) - message.arrived
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


def is_wild(name: str) -> bool:
    """Whether a name is a pattern's: here no topic looks like one, and no pattern like a topic."""
    return "*" in name or ">" in name


def queue_of(pair: Pair) -> str:
    """The queue of a subscription."""
    return f"{pair[0].strip()}_{pair[1]}"
