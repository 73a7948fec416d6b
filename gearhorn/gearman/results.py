"""What comes back of foreground copies, and how much of it is kept.

Rules: pure. Receivers may send what they like for as long as they like, so every byte that is kept
until they finish is taken from a room first, which all copies of one message share.

A copy of which nothing has come costs no object here: ``Client`` keeps it as a pair, and makes an
``Awaited`` of it with its first packet. A fan-out to 100,000 receivers that answer with nothing
but WORK_COMPLETE never makes one.
"""

from __future__ import annotations

from typing import Any, Protocol

REASON_BYTES = 4096  # of a receiver's warning or exception, that are kept
DISCARDED = b"\0gearhorn: the queue is full"  # the warning ahead of a discarded job's failure


class Room(Protocol):
    """Bytes that may be kept of what the receivers of one message send, of all its copies."""

    def take(self, size: int) -> bool:
        """Take ``size`` bytes; without effect and False if there are not so many left."""

    def give(self, size: int) -> None:
        """Give back what was taken: it is kept no more."""


class Bound:
    """A room of ``size`` bytes that is part of no larger one.

    ``fanout.places`` has rooms that are parts of the member's.
    """

    __slots__ = ("_left",)

    def __init__(self, size: int) -> None:
        self._left = size

    def take(self, size: int) -> bool:
        if size > self._left:
            return False
        self._left -= size
        return True

    def give(self, size: int) -> None:
        self._left += size


class Result:
    """How a foreground copy ended: ``ok`` and what it returned, or the receiver's own reason.

    What the room of its submission had no place for is missing: of ``data`` all of it, then it is
    ``oversized``. Half a result would look like a whole one to a caller that parses it. The bytes
    that are here are still taken from that room, until who is told gives them back.

    Attributes:
        ok: the receiver finished the job (WORK_COMPLETE).
        data: what it returned, pieces of WORK_DATA and the end joined. Empty unless ``ok``.
        text: the last warning, or the text of the exception, at most ``REASON_BYTES``.
        oversized: it returned more than was kept. Never together with ``data``.
        lost: the job server went down, and nothing is known of the receiver. Then not ``ok``.
    """

    __slots__ = ("data", "lost", "ok", "oversized", "text")

    def __init__(
        self,
        ok: bool,
        data: bytes = b"",
        text: bytes = b"",
        *,
        oversized: bool = False,
        lost: bool = False,
    ) -> None:
        self.ok = ok
        self.data = data
        self.text = text
        self.oversized = oversized
        self.lost = lost


DONE = Result(True)  # what most are
LOST = Result(False, lost=True)  # what most are whose server went down


class Submitted(Protocol):
    """What was submitted, as far as results concern it (see ``submission.Submission``).

    ``results`` and ``reasons`` are rooms for what receivers return, and for their warnings and
    exceptions. Without the first nothing is kept; without the second a bounded text is. Where it
    ``is_streamed``, pieces that come before the end are not kept but handed on.
    """

    results: Room | None
    reasons: Room | None
    is_streamed: bool
    outcome: Any  # is told: finished(submission, index, result), came(submission, index, data)


class Awaited:
    """A foreground copy that a receiver has not finished, and of which something has come."""

    __slots__ = (
        "data", "index", "is_withdrawn", "oversized", "size", "submission", "warning",
    )  # fmt: skip

    def __init__(self, submission: Submitted, index: int) -> None:
        self.submission: Submitted | None = submission  # None: forgotten
        self.index = index
        # What came in one piece stays as it is. Of many small pieces each object would take many
        # times the bytes that the room is charged with.
        self.data: bytes | bytearray = b""
        self.size = 0
        self.warning = b""
        self.oversized = False
        self.is_withdrawn = False  # the server will say that it failed, and a receiver may finish

    def piece(self, data: bytes) -> None:
        """Take a piece that comes before the end. It is the outcome's own to keep where it is
        handed on, and takes no room here. Whatever the outcome raises reaches the caller."""
        submission = self.submission
        if submission is None or not submission.is_streamed:
            self.add(data)
        elif not self.oversized:
            submission.outcome.came(submission, self.index, data)

    def add(self, data: bytes) -> None:
        """Keep a piece of what the receiver returned, if its submission has a room for results."""
        room = None if self.submission is None else self.submission.results
        if room is None or self.oversized or not data:
            return
        if room.take(len(data)):
            self.size += len(data)
            if not self.data:
                self.data = data
                return
            if isinstance(self.data, bytes):
                self.data = bytearray(self.data)
            self.data += data
        else:
            self.cut()

    def cut(self) -> None:
        """Keep nothing of what the receiver returned, since it cannot be kept whole.

        Pieces that come later are dropped as well, though they might fit: ``oversized`` stays.
        """
        self.oversized = True
        if self.submission is not None and self.submission.results is not None and self.size:
            self.submission.results.give(self.size)
        self.size = 0
        self.data = b""

    def warn(self, text: bytes) -> None:
        """Keep this warning instead of the former one; "" only drops the former.

        The former gives its bytes back first, so that a receiver that repeats a long warning does
        not run out of room by itself. Of a copy that was forgotten none is kept.
        """
        if self.submission is None:
            return
        room = self.submission.reasons
        if room is not None and self.warning:
            room.give(len(self.warning))
        text = text[:REASON_BYTES]
        self.warning = text if room is None or room.take(len(text)) else b""

    def withdraw(self, is_withdrawn: bool) -> None:
        """Note whether a failure that the server was asked for is still to come.

        To cancel a job makes gearmand say WORK_FAIL at once. A receiver that had it already may
        still finish it, and that end counts: so the first failure after a withdrawal is none.
        """
        self.is_withdrawn = is_withdrawn

    def forget(self) -> None:
        """Give up what is kept: the submission is not interested any more.

        The object itself stays where it is. gearmand sends every packet once for each copy that it
        joined under one handle, so a forgotten copy still has to take its turn.
        """
        self.warn(b"")
        self.cut()
        self.submission = None

    def finish(self, ok: bool, text: bytes = b"", lost: bool = False) -> None:
        """Tell the outcome how the copy ended, unless it was forgotten.

        ``text`` is that of an exception, and takes the place of a warning. Where the receiver
        succeeded or its server was lost, its absence does so too, since a warning explains neither.
        With a failure the last warning stays: it is the only reason that WORK_FAIL can have.
        Whatever the outcome raises reaches the caller (``submission.finish`` handles it).
        """
        if self.submission is None:
            return
        if ok and not (self.data or self.oversized or self.warning):
            self.submission.outcome.finished(self.submission, self.index, DONE)
            return
        if text or ok or lost:
            self.warn(text)
        if not ok:
            self.cut()
        result = Result(
            ok,
            bytes(self.data),
            self.warning,
            oversized=ok and self.oversized,
            lost=lost,
        )
        self.submission.outcome.finished(self.submission, self.index, result)
