"""Deliveries: what is known of one message, or a batch, on its way to receivers.

Rules: pure. A delivery holds payloads only until the round that made it or read it again is over;
what has to be sent once more is read again. What waits for it holds it until its state changes.
"""

from __future__ import annotations

from typing import Any

from gearhorn.durable.states import State
from gearhorn.messages.durable import DurableOptions
from gearhorn.store.log import Entry

_READY = State.READY
JITTER = 0.1  # of the wait before an attempt, at most (docs/protocol.rst, "Deliveries")
LARGEST_BATCH = 1000  # messages in one delivery, whatever ``batch`` allows
UNDER_WAY = 20_000  # messages in batches, whatever ``in_flight`` allows


def batches(options: DurableOptions) -> int:
    """Return how many batches may be under way at once."""
    return min(options.in_flight, max(1, UNDER_WAY // min(options.batch, LARGEST_BATCH)))


def rest_s(failures: int, most_s: float, jitter: float) -> float:
    """Return the wait after the n-th failed attempt: 2, 3, 5, 9, 17 s … up to ``most_s``, and a
    part of it more; ``jitter`` is random from 0 to 1 (docs/protocol.rst, "Deliveries")."""
    return min(2.0 ** min(failures - 1, 60) + 1, most_s) * (1 + JITTER * jitter)


class Timer:
    """Waits for something to do with deliveries."""

    def drop(self, delivery: Any) -> None:
        """Do nothing with a delivery any more, and hold it no longer."""


class Attempts:
    """The messages of a delivery, and how often they were tried.

    ``job`` is the caller's, of the present attempt; ``former`` are those of attempts that timed
    out, whose receivers may still acknowledge.
    """

    __slots__ = (
        "due_s", "entries", "error", "failures", "first_at", "former", "is_acknowledged",
        "is_bare", "is_redriven", "job", "look_s", "sent_s", "since", "state", "timer",
    )  # fmt: skip

    def __init__(self, entries: tuple[Entry, ...]) -> None:
        self.entries = entries
        self.is_bare = False  # its entries are without their payloads
        self.state = _READY
        self.failures = 0  # since the beginning
        self.since = 0  # failures there had been when it was last put back
        self.first_at = 0.0  # Unix time of the first failure
        self.error = ""
        self.due_s = 0.0
        self.sent_s = 0.0
        self.look_s = 0.0  # when to ask next whether somebody has taken it
        self.is_redriven = False
        self.is_acknowledged = False  # by a late receiver, while it is set aside
        self.job: Any = None
        self.former: tuple[Any, ...] = ()
        self.timer: Timer | None = None  # until its state changes

    @property
    def sequence(self) -> int:
        """The first message's."""
        return self.entries[0].sequence

    def look(self, at_s: float) -> None:
        """Ask next at ``at_s`` whether somebody has taken it."""
        self.look_s = at_s

    def acknowledge(self) -> None:
        """A late receiver acknowledges it while it is being set aside."""
        self.is_acknowledged = True

    def wait(self, timer: Timer) -> None:
        """Have ``timer`` told when the state changes."""
        self.timer = timer

    def end(self) -> None:
        """It is done, or its lane is not ours any more: nothing waits for it."""
        self.job = None
        if self.timer is not None:
            self.timer.drop(self)
            self.timer = None

    def keep_former(self, job: Any, most: int) -> tuple[Any, ...]:
        """The receiver of a job that has timed out may still acknowledge; return the oldest jobs
        beyond the newest ``most``, which count no more."""
        every = (*self.former, job)
        self.former = every[-most:]
        return every[:-most]

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

    def fails(self, words: str, at: float) -> None:
        """Count a failed attempt; ``at`` is Unix time."""
        self.failures += 1
        self.first_at = self.first_at or at
        self.error = words
        self.job = None
