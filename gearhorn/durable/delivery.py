"""Deliveries: what is known of one message, or a batch, on its way to receivers.

Rules: pure. A delivery holds payloads only until the round that made it or read it again is over;
what has to be sent once more is read again. What waits for it holds it until its state changes.
"""

from __future__ import annotations

from typing import Any, Self

from gearhorn.durable.states import State
from gearhorn.durable.window import Stateful
from gearhorn.messages.logs import FailureHistory
from gearhorn.messages.subscriptions import DurableOptions
from gearhorn.store.log import Entry

JITTER = 0.1  # of the wait before an attempt, at most (docs/protocol.rst, "Deliveries")
LARGEST_BATCH = 1000  # messages in one delivery, whatever ``batch`` allows
UNDER_WAY = 20_000  # messages in batches, whatever ``in_flight`` allows


def batches(options: DurableOptions) -> int:
    """Return how many batches may be under way at once."""
    return min(options.in_flight, max(1, UNDER_WAY // min(options.batch, LARGEST_BATCH)))


def rest_s(failures: int, limit_s: float, jitter: float) -> float:
    """Return the wait after the n-th failed attempt: 2, 3, 5, 9, 17 s … up to ``limit_s``, and a
    part of it more; ``jitter`` is random from 0 to 1 (docs/protocol.rst, "Deliveries")."""
    return min(2.0 ** min(failures - 1, 60) + 1, limit_s) * (1 + JITTER * jitter)


class Timer:
    """Waits for something to do with deliveries."""

    def drop(self, delivery: Any) -> None:
        """Do nothing with a delivery any more, and hold it no longer."""


class Attempts(Stateful):
    """The messages of a delivery, and how often they were tried.

    ``job`` is the caller's, of the present attempt; ``former`` are those of attempts that timed
    out, whose receivers may still acknowledge. The constructor of ``Delivery`` sets the attributes.
    """

    __slots__ = (
        "ask_s", "due_s", "entries", "envelope", "error", "failures", "first_at", "former",
        "is_acknowledged", "is_bare", "is_redriven", "job", "options", "sent_s", "since", "state",
        "timer",
    )  # fmt: skip

    entries: tuple[Entry, ...]
    options: DurableOptions  # of the subscription, when this was made
    envelope: bool
    is_bare: bool  # its entries are without their payloads
    state: State
    failures: int  # since the beginning
    since: int  # failures there had been when it was last put back
    first_at: float  # Unix time of the first failure
    error: str  # of the last failure, as the receiver gave it
    due_s: float  # when its rest is over
    sent_s: float
    ask_s: float  # when to ask next whether a receiver has taken it; 0: it was not asked yet
    is_redriven: bool
    is_acknowledged: bool  # by a late receiver, while it is set aside
    job: Any
    former: tuple[Any, ...]
    timer: Timer | None  # until its state changes

    @property
    def sequence(self) -> int:
        """The first message's."""
        return self.entries[0].sequence

    def ask_at(self, at_s: float) -> None:
        """Ask next at ``at_s`` whether a receiver has taken it."""
        self.ask_s = at_s

    def remember(self, history: FailureHistory) -> None:
        """Count the attempts that failed under a former owner."""
        self.failures, self.since = history.attempts, history.since
        self.first_at, self.error = history.first_at, history.error

    def redrive(self, parked: FailureHistory) -> None:
        """It was put back, with the attempts that it had before it was parked: these are kept, and
        count no more towards ``max_attempts``."""
        self.is_redriven = True
        self.failures = self.since = parked.attempts
        self.first_at, self.error = parked.first_at, parked.error

    def go_on_as(self, batch: Attempts) -> Self:
        """Go on as one message of a batch that failed, in the batch's state; return this one."""
        self.is_bare = True
        self.options, self.envelope = batch.options, batch.envelope
        self.state, self.due_s = batch.state, batch.due_s
        self.failures, self.since = batch.failures, batch.since
        self.first_at, self.error = batch.first_at, batch.error
        self.former = batch.former  # who still has the batch acknowledges each of it
        return self

    def acknowledge(self) -> None:
        """A late receiver acknowledges it while it is being set aside."""
        self.is_acknowledged = True

    def wait(self, timer: Timer) -> None:
        """Have ``timer`` told when the state changes."""
        self.timer = timer

    def end(self) -> None:
        """It is done, or its lane is another member's: nothing waits for it."""
        self.job = None
        if self.timer is not None:
            self.timer.drop(self)
            self.timer = None

    def keep_former(self, job: Any, limit: int) -> tuple[Any, ...]:
        """The receiver of a job that has timed out may still acknowledge; return the oldest jobs
        beyond the newest ``limit``, which count no more."""
        every = (*self.former, job)
        self.former = every[-limit:]
        return every[:-limit]

    def forget_former(self) -> tuple[Any, ...]:
        """Return the jobs of attempts that timed out, which count no more."""
        former, self.former = self.former, ()
        return former

    def strip(self) -> None:
        """Let go of the payloads."""
        if self.is_bare:
            return
        self.is_bare = True
        entries = self.entries
        if len(entries) == 1:  # as nearly always
            self.entries = (entries[0].bare(),)
        else:
            self.entries = tuple([entry.bare() for entry in entries])

    def keep_from(self, first: int) -> tuple[Entry, ...]:
        """Let go of the messages before the sequence ``first``, and return them."""
        lost = tuple(entry for entry in self.entries if entry.sequence < first)
        self.entries = self.entries[len(lost) :]
        return lost

    def count_failure(self, text: str, at: float) -> None:
        """Count a failed attempt, with the error's text; ``at`` is Unix time."""
        self.failures += 1
        self.first_at = self.first_at or at
        self.error = text
        self.job = None
