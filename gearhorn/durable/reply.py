"""Replies: lists of messages that are made in pieces, up to a bound.

Rules: pure. ``Fetching`` and ``ParkedRequests`` fill replies with messages that are encoded one by
one. A long reply takes many turns of the event loop: ``is_long_turn`` says when to let others have
theirs. A first message is always taken, whatever its size, since no later reply could have it.
"""

from __future__ import annotations

from gearhorn.store.log import FETCH_BYTES

REPLY_BYTES = 16 * 1024 * 1024  # of messages as they are sent; escapes make them longer
REPLIES = 4  # made at once: each holds up to FETCH_BYTES of payloads and REPLY_BYTES besides
PIECE = 500  # messages encoded in one turn of the loop, or
PIECE_BYTES = 1024 * 1024


class Reply:
    """The messages of one reply.

    ``messages`` are encoded; ``size`` is what they count in bytes where reads of a log are bounded.
    """

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.size = 0
        self.is_full = False
        self._bytes = 0
        self._turn = 0, 0  # messages and bytes up to the present turn of the loop

    @property
    def count(self) -> int:
        """How many messages it has."""
        return len(self.messages)

    def add(self, message: bytes, size: int) -> bool:
        """Add a message and return whether there was room; there always is for the first.

        Arguments:
            message: as it is sent.
            size: what it counts in bytes: its payload, and what else the log keeps of it.
        """
        if self.messages and (
            self._bytes + len(message) > REPLY_BYTES or self.size + size > FETCH_BYTES
        ):
            self.is_full = True
            return False
        self.messages.append(message)
        self._bytes += len(message) + 1
        self.size += size
        self.is_full = self.size >= FETCH_BYTES or self._bytes >= REPLY_BYTES
        return True

    def is_long_turn(self) -> bool:
        """Return whether so much was added in this turn of the loop that others should have one."""
        count, size = self._turn
        if self.count - count < PIECE and self._bytes - size < PIECE_BYTES:
            return False
        self._turn = self.count, self._bytes
        return True
