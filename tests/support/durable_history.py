"""What became of messages on durable topics, and whether anything of it must not have happened.

Rules: pure. It is told what publishers, receivers and faults did and when, and `violations` judges
it. Times are seconds of one monotonic clock. A delivery's start is noted after it
came and its end before its completion leaves, so that no claim rests on a delay.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple, Self

DEDUP_S = 120.0  # a unique tried again within this time is logged once
REPEATS_PER_FAULT = 2  # of one queue: one delivery is under way, and it may be lost twice
_ID = re.compile(r"([0-9a-f]{8}):([1-9]\d*):(\d+)\.(\d+)")

Key = tuple[str, int]  # the first eight digits of the epoch, and the sequence


class DeliveryId(NamedTuple):
    """The Gearman unique id of a delivery, `EPOCH8:SEQUENCE:TERM.N`."""

    epoch: str
    sequence: int
    term: int
    n: int

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read one; None if it is none."""
        match = _ID.fullmatch(text)
        return match and cls(match[1], int(match[2]), int(match[3]), int(match[4]))

    @property
    def key(self) -> Key:
        """What names the message."""
        return self.epoch, self.sequence


class Delivery(NamedTuple):
    """A job that a receiver took. `outcome`: "done"; "failed" on purpose; "died", the receiver
    with it; "cut", the job server went away; "dropped", completed without being processed."""

    queue: str
    server: str
    handle: str
    unique: str
    payload: str
    start_s: float
    end_s: float
    outcome: str


@dataclass
class Message:
    """What a publisher sends under one `unique`; its payload is its name here."""

    topic: str
    first_s: float  # when it was first tried
    last_s: float
    attempts: int = 1
    replies: list[Key] = field(default_factory=list)


@dataclass
class Fault:
    """Something was killed, frozen or restarted; it was well again at `end_s`. `died` is the
    address of a job server that went away and closed its connections."""

    kind: str
    begin_s: float
    end_s: float = math.inf
    died: str = ""


class _Taken(NamedTuple):
    """A delivery in the light of those before it on its queue."""

    delivery: Delivery
    id: DeliveryId
    stale: bool  # of a lower TERM than the queue had seen
    repeat: bool  # of a message that was finished, or under way

    @property
    def processed(self) -> bool:
        """Whether it counts as a run of the message."""
        return not self.stale and self.delivery.outcome != "dropped"


class DurableHistory:
    """What happened. `queues` says which topic each queue belongs to; a message may be repeated
    up to `near_s` seconds after a fault."""

    def __init__(self, queues: Mapping[str, str], near_s: float) -> None:
        self.queues = dict(queues)
        self.near_s = near_s
        self.messages: dict[str, Message] = {}
        self.deliveries: list[Delivery] = []
        self.faults: list[Fault] = []

    def publish(self, payload: str, topic: str, at_s: float) -> None:
        """A message is about to be submitted, for the first time or again."""
        message = self.messages.setdefault(payload, Message(topic, at_s, at_s, 0))
        message.attempts += 1
        message.last_s = at_s

    def reply(self, payload: str, epoch: str, sequence: int) -> None:
        """The publisher was told the message's place in the log."""
        self.messages[payload].replies.append((epoch[:8], sequence))

    def deliver(self, delivery: Delivery) -> None:
        """A delivery is over."""
        self.deliveries.append(delivery)

    def fault(self, kind: str, begin_s: float) -> Fault:
        """Something is about to be broken; the caller notes the end."""
        self.faults.append(Fault(kind, begin_s))
        return self.faults[-1]

    def owed(self) -> Iterator[tuple[str, str]]:
        """Yield (queue, payload) for what was replied to and is not finished."""
        finished = {(d.queue, d.payload) for d in list(self.deliveries) if d.outcome == "done"}
        for payload, message in self.messages.copy().items():
            for queue, topic in self.queues.items():
                if message.replies and message.topic == topic and (queue, payload) not in finished:
                    yield queue, payload

    def violations(self) -> list[str]:
        """Return what must not have happened, in words."""
        found = [f"{queue}: {payload} was replied to, got lost" for queue, payload in self.owed()]
        found += self._strange()
        found += self._misnumbered()
        found += self._reused_ids()
        for queue in self.queues:
            taken = self._taken(queue)
            found += _disordered(taken)
            found += self._overlapping(taken)
            found += self._repeated(queue, taken)
            found += [
                f"{_name(one)} was dropped by its receiver for no reason"
                for one in taken
                if one.delivery.outcome == "dropped" and not one.stale and not one.repeat
            ]
        return found

    def counts(self) -> dict[str, int]:
        """Return how much of what happened."""
        outcomes = Counter(delivery.outcome for delivery in self.deliveries)
        taken = [one for queue in self.queues for one in self._taken(queue)]
        owed = sum(
            message.topic == topic
            for message in self.messages.values()
            if message.replies
            for topic in self.queues.values()
        )
        return {
            "messages published": len(self.messages),
            "replied": sum(bool(message.replies) for message in self.messages.values()),
            "tried again": sum(message.attempts > 1 for message in self.messages.values()),
            "deliveries": len(self.deliveries),
            "owed": owed,
            "acknowledged": owed - sum(1 for _ in self.owed()),
            "purposely failed": outcomes["failed"],
            "receiver deaths": outcomes["died"],
            "cut off": outcomes["cut"],
            "duplicates": sum(one.repeat and not one.stale for one in taken),
            "stale dropped": sum(one.stale for one in taken),
            "epochs seen": len({(self.queues[t.delivery.queue], t.id.epoch) for t in taken}),
            "take-overs": sum(
                len({one.id.term for one in taken if one.delivery.queue == queue}) - 1
                for queue in {one.delivery.queue for one in taken}
            ),
            "faults": len(self.faults),
        }

    def _taken(self, queue: str) -> list[_Taken]:
        """The deliveries of a queue in the order in which they began."""
        found: list[_Taken] = []
        highest = 0
        going: dict[Key, float] = {}  # until when one is under way; done: for ever
        mine = (delivery for delivery in self.deliveries if delivery.queue == queue)
        for delivery in sorted(mine, key=lambda delivery: delivery.start_s):
            id = DeliveryId.parse(delivery.unique)
            if id is None:
                continue  # `_strange` tells
            stale = id.term < highest
            highest = max(highest, id.term)
            repeat = delivery.start_s < going.get(id.key, -math.inf)
            found.append(_Taken(delivery, id, stale, repeat))
            if not stale:
                until_s = math.inf if delivery.outcome == "done" else delivery.end_s
                going[id.key] = max(going.get(id.key, -math.inf), until_s)
        return found

    def _strange(self) -> Iterator[str]:
        """What nobody published, and ids that are none."""
        for one in self.deliveries:
            message = self.messages.get(one.payload)
            if message is None or message.topic != self.queues[one.queue]:
                yield f"{one.queue}: {one.unique} is unknown: {one.payload[:80]!r}"
            if DeliveryId.parse(one.unique) is None:
                yield f"{one.queue}: {one.payload} came under the id {one.unique!r}"

    def _misnumbered(self) -> Iterator[str]:
        """Two payloads under one number, or two numbers for one payload. What is kept is never
        lost here, so that a number is not given again under another epoch either."""
        keys: dict[str, set[Key]] = defaultdict(set)
        for payload, message in self.messages.items():
            keys[payload].update(message.replies)
        for delivery in self.deliveries:
            id = DeliveryId.parse(delivery.unique)
            if id is not None and delivery.payload in self.messages:
                keys[delivery.payload].add(id.key)
        named: dict[tuple[str, int], set[tuple[str, str]]] = defaultdict(set)
        for payload, its_keys in keys.items():
            message = self.messages[payload]
            if len(its_keys) > 1 and message.last_s - message.first_s <= DEDUP_S:
                yield f"{payload} was logged more than once: {_places(its_keys)}"
            for epoch, sequence in its_keys:
                named[message.topic, sequence].add((epoch, payload))
        for (topic, sequence), names in named.items():
            if len({payload for _, payload in names}) > 1:
                who = ", ".join(f"{payload} under {epoch}" for epoch, payload in sorted(names))
                yield f"{topic}: sequence {sequence} was given more than once: {who}"

    def _reused_ids(self) -> Iterator[str]:
        """TERM.N that two jobs had: gearmand may swallow the second, and the TERM of another
        member's attempts is a higher one."""
        jobs: dict[tuple[str, int, int], set[tuple[str, str, str]]] = defaultdict(set)
        for one in self.deliveries:
            id = DeliveryId.parse(one.unique)
            if id is not None:
                jobs[one.queue, id.term, id.n].add((one.unique, one.server, one.handle))
        for (queue, term, n), its_jobs in jobs.items():
            if len(its_jobs) > 1:
                yield f"{queue}: {term}.{n} was used for several jobs: {sorted(its_jobs)}"

    def _overlapping(self, taken: list[_Taken]) -> Iterator[str]:
        """Different messages that ran at once, none of them stale when it began."""
        running: list[_Taken] = []
        for one in taken:
            if one.processed:
                start_s = one.delivery.start_s
                running = [other for other in running if self._ran_until(other) > start_s]
                for other in running:
                    if other.id.key != one.id.key:
                        yield (
                            f"{_name(one)} began at {start_s:.3f} while {_name(other)} ran "
                            f"from {other.delivery.start_s:.3f} to {other.delivery.end_s:.3f}"
                        )
                running.append(one)

    def _ran_until(self, one: _Taken) -> float:
        """When a run was over for everybody but its receiver: a job server that goes away closes
        its connections one after the other, and the receiver's may be the last."""
        delivery = one.delivery
        deaths_s = (fault.begin_s for fault in self.faults if fault.died == delivery.server)
        mine = (at_s for at_s in deaths_s if delivery.start_s <= at_s <= delivery.end_s)
        return min(mine, default=delivery.end_s)

    def _repeated(self, queue: str, taken: list[_Taken]) -> Iterator[str]:
        """Repeats away from any fault, and more of them than the faults can explain."""
        repeats = [one for one in taken if one.repeat and not one.stale]
        for one in repeats:
            at_s = one.delivery.start_s
            if not any(f.begin_s <= at_s <= f.end_s + self.near_s for f in self.faults):
                yield f"{_name(one)} was repeated at {at_s:.3f}, away from any fault"
        most = REPEATS_PER_FAULT * len(self.faults)
        if len(repeats) > most and self.faults:
            yield f"{queue}: {len(repeats)} repeats with {len(self.faults)} faults"


def _disordered(taken: list[_Taken]) -> Iterator[str]:
    """Messages that began before the one before them in the log was first finished."""
    first: dict[int, _Taken] = {}
    done_s: dict[int, float] = {}
    for one in taken:
        if one.processed:
            sequence = one.id.sequence
            first.setdefault(sequence, one)
            if one.delivery.outcome == "done":
                done_s[sequence] = min(done_s.get(sequence, math.inf), one.delivery.end_s)
    for before, after in pairwise(sorted(first)):
        end_s = done_s.get(before, math.inf)
        start_s = first[after].delivery.start_s
        if start_s < end_s:
            yield (
                f"{_name(first[after])} began at {start_s:.3f}, "
                f"sequence {before} was finished at {end_s:.3f}"
            )


def _name(one: _Taken) -> str:
    return f"{one.delivery.queue}: {one.delivery.unique} ({one.delivery.payload[:40]})"


def _places(keys: set[Key]) -> str:
    return ", ".join(f"{epoch}:{sequence}" for epoch, sequence in sorted(keys))
