"""What of one lane has expired: counted, and what that leaves to be written.

A message that its publisher gave an end (``expires``) is not begun once that is over. Most of them
are passed over where the lane takes messages from the log, as those are that exclude it; a delivery
that was made before, and has waited since, is done in its place (``Expiry``).

The count is that of one TERM, and the store adds it to the counts of former ones together with the
position (``advance.lua``). So a round that is written twice counts once, and a message that a new
owner meets again is one whose count was not written either.

Rules: pure.
"""

from __future__ import annotations

from collections.abc import MutableMapping

from gearhorn.messages.logs import FailureHistory
from gearhorn.store.log import Entry


class Expired:
    """The messages of a lane that have expired under its TERM.

    ``count`` is how many they are, ``stored`` as many as the store knows of. ``is_possible`` says
    whether the lane has taken a message that expires: until then nothing has to be looked at.
    """

    __slots__ = ("_left", "count", "is_possible", "stored")

    def __init__(self) -> None:
        self.count = 0
        self.stored = 0
        self.is_possible = False
        self._left: list[tuple[Entry, bool]] = []

    @property
    def unwritten(self) -> int:
        """The count, where the store does not know it; 0 where it does."""
        return self.count if self.count > self.stored else 0

    def expect(self, entry: Entry) -> None:
        """The lane takes a message, which may expire."""
        if entry.info.expires_ms:
            self.is_possible = True

    def add(self, count: int = 1) -> None:
        """Count messages of a delivery."""
        self.count += count

    def passes(
        self, entry: Entry, clock_ms: int, failures: MutableMapping[int, FailureHistory]
    ) -> bool:
        """Return whether the lane passes over a message because it has expired; count it then.

        Arguments:
            entry: the message, which the lane would take now.
            clock_ms: the members' clock.
            failures: of messages under former owners, by sequence; what was passed over goes.
        """
        info = entry.info
        if not info.expires_ms:
            return False
        self.is_possible = True
        if not info.is_expired(clock_ms):
            return False
        self.count += 1
        has_failed = failures.pop(entry.sequence, None) is not None
        if has_failed or info.waiter or info.unique:
            self._left.append((entry, has_failed))
        return True

    def take_left(self) -> list[tuple[Entry, bool]]:
        """Return messages that were passed over and had failed, or that a publisher may wait for,
        also one that repeats a ``unique``; and whether they had failed; each once."""
        left, self._left = self._left, []
        return left

    def note_written(self, count: int) -> None:
        """The store knows so many of them; 0 is nothing new."""
        self.stored = max(self.stored, count)
