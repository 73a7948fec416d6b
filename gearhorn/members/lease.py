"""The lease: until when this member may use what it has cached.

Rules: no I/O. The invariant of gearhorn: a member that renewed its lease after a change knows the
change; one that did not has stopped using its cache at most one lease after it ("Between workers"
in docs/protocol.rst; Gray and Cheriton, *Leases*, SOSP 1989).
"""

from __future__ import annotations

from gearhorn.timing import now_s

# A member counts its lease as this much of what others wait for: clocks of two machines may differ
# by 0.05 % at worst, and a slow timer by a millisecond or two.
SAFE_PART = 0.99


class Lease:
    """Times are of ``timing.now_s``. ``length_s`` is what others wait for; with ``stale_s`` lists
    are used for so much longer while the store cannot be reached."""

    def __init__(self, length_s: float, stale_s: float = 0.0) -> None:
        self.length_s = length_s
        self.until_s = self.usable_until_s = float("-inf")
        self._stale_s = stale_s

    @property
    def is_usable(self) -> bool:
        """Whether what is cached may be used now. To be asked right before something is sent: a
        member that was frozen finds that it may not."""
        return now_s() <= self.usable_until_s

    @property
    def length_ms(self) -> int:
        """The length as the store keeps it."""
        return int(self.length_s * 1000)

    def grant(self, asked_s: float) -> None:
        """The store granted what was asked for at ``asked_s``."""
        self.until_s = self.usable_until_s = asked_s + self.length_s * SAFE_PART

    def store_is_lost(self) -> None:
        """A renewal was tried and failed: lists may be used stale, if that was asked for."""
        self.usable_until_s = self.until_s + self._stale_s

    def end(self) -> None:
        """It is over."""
        self.until_s = self.usable_until_s = float("-inf")
