"""Time: the clock that leases are measured by, and how long to wait before the next try.

Rules: nothing here sleeps, and no wall clock decides anything (docs/protocol.rst, "Between
workers").
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Protocol

# Linux: goes on while the machine sleeps, as the other members' clocks do. CLOCK_MONOTONIC stands
# still then, and a member that wakes would believe in a lease that is long over.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now_s() -> float:
    """Return seconds on a clock that cannot be set. Only differences mean anything."""
    return time.clock_gettime(_CLOCK)


class MembersClock(Protocol):
    """The clock that all members share, since the store keeps it.

    Times that outlive a member are on it: when a subscription with a ``ttl`` ends, how old a log's
    messages are. It goes on while any member lives.
    """

    @property
    def clock_ms(self) -> int:
        """Its present reading in milliseconds, as far as this member knows."""


class Backoff:
    """Exponential delays with jitter, so that a fleet does not return in step.

    The n-th delay is between half and all of ``min(first_s * 2**n, limit_s)``
    ("equal jitter", AWS Architecture Blog, *Exponential Backoff And Jitter*, 2015).

    Arguments:
        first_s: the longest that the first delay can be, in seconds.
        limit_s: the longest that any can be.
        uniform: draws a number between two others; tests have it draw what they want.
    """

    def __init__(
        self,
        first_s: float = 0.1,
        limit_s: float = 5.0,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._first_s = first_s
        self._limit_s = limit_s
        self._uniform = uniform
        self._tries = 0

    def next_s(self) -> float:
        """Return the next delay in seconds and count the try."""
        whole = min(self._first_s * 2.0 ** min(self._tries, 30), self._limit_s)
        self._tries += 1
        return self._uniform(whole / 2, whole)

    def reset(self) -> None:
        """Start over: the last try succeeded."""
        self._tries = 0
