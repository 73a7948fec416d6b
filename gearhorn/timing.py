"""Back-off: how long to wait before the next try.

Law: time and randomness are passed in; nothing here sleeps.
"""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Exponential delays with jitter, so that a fleet does not return in step.

    The n-th delay is between half and all of ``min(first_s * 2**n, most_s)``
    ("equal jitter", AWS Architecture Blog, *Exponential Backoff And Jitter*, 2015).
    """

    def __init__(
        self,
        first_s: float = 0.1,
        most_s: float = 5.0,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._uniform = uniform
        self._tries = 0

    def next_s(self) -> float:
        """Return the next delay in seconds and count the try."""
        whole = min(self._first_s * 2.0 ** min(self._tries, 30), self._most_s)
        self._tries += 1
        return self._uniform(whole / 2, whole)

    def reset(self) -> None:
        """Start over: the last try succeeded."""
        self._tries = 0
