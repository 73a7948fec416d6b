"""Submissions: copies of one message for one server, and how who submitted is told of them.

A submission is written by its ``Client`` alone, which counts how far it is written and
answered. Its ``outcome`` is told in this order: ``accepted`` or ``lost`` once, and for foreground
copies ``finished`` once each. A result may be in the same batch as the acceptance, never before it.

Rules: an outcome that raises costs its own submission only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from gearhorn.gearman.results import Awaited, Result, Room
from gearhorn.logger import get_logger

_PACKET_OVERHEAD = 64  # bytes of header and a typical queue name

log = get_logger(__name__)


class Outcome(Protocol):
    """Who submitted, and is told what became of it. Each is called on the event loop, and may
    submit again at once."""

    def accepted(self, submission: Submission) -> None:
        """Every copy was answered; ``submission.refused`` lists those that were not taken."""

    def lost(self, submission: Submission) -> None:
        """The connection ended first; the copies from ``submission.answered`` on are unknown.

        Each of them may have been taken or not. Where the server took it and lived, a repeat is a
        second job, unless a unique id joins them.
        """

    def finished(self, submission: Submission, index: int, result: Result) -> None:
        """The receiver of foreground copy ``index`` finished, or its server went down."""

    def broke(self, submission: Submission) -> None:
        """One of these raised: a fault in gearhorn. Finish what waits for the submission."""


class StreamedOutcome(Outcome, Protocol):
    """An outcome of streamed submissions: it is handed pieces of results as they come."""

    def came(self, submission: Submission, index: int, data: bytes) -> None:
        """The receiver of foreground copy ``index`` has sent a piece of its result (WORK_DATA),
        which will be missing in the result that ``finished`` brings."""


class Submission:
    """Copies of one message for the queues of one server.

    Arguments:
        outcome: is told what becomes of it.
        heads: the bytes of ``packets.heads``, one for each copy. Without any it is a barrier: it is
            accepted once everything before it was answered.
        tail: the bytes of ``packets.tail``.
        foreground: the server tells how receivers finish, and the copies have handles.
        results: the room for what receivers of foreground copies return, without which nothing is
            kept.
        reasons: that for their warnings and exceptions, without which ``REASON_BYTES`` of each
            copy's are.

    Attributes:
        unit: the bytes of the window that one copy takes.
        sent, answered: how many copies have come so far; never more answered than sent.
        refused: index and gearmand's error code of each copy that the server did not take.
        handles: of foreground copies that were answered, in order; b"" where refused.
        forgotten: how many handles there were when its submitter gave it up.
    """

    __slots__ = (
        "answered", "foreground", "forgotten", "handles", "heads", "outcome", "reasons",
        "refused", "results", "sent", "tail", "unit",
    )  # fmt: skip
    is_streamed = False

    def __init__(
        self,
        outcome: Outcome,
        heads: Sequence[bytes],
        tail: bytes,
        foreground: bool,
        *,
        results: Room | None = None,
        reasons: Room | None = None,
    ) -> None:
        self.outcome = outcome
        self.results = results
        self.reasons = reasons
        self.heads = heads
        self.tail = tail
        self.unit = len(tail) + _PACKET_OVERHEAD
        self.foreground = foreground
        self.sent = 0
        self.answered = 0
        self.refused: list[tuple[int, bytes]] | None = None  # most have none: no list for those
        self.handles: list[bytes] | None = [] if foreground else None
        self.forgotten: int | None = None

    def writes(self, copies: int) -> bool:
        """So many more copies are written; return whether they are the first ones."""
        is_first = not self.sent
        self.sent += copies
        return is_first

    def answers(self, copies: int) -> bool:
        """The server answered so many more copies; return whether these were the last ones."""
        self.answered += copies
        return self.answered == len(self.heads)

    def takes(self, handles: list[bytes]) -> None:
        """The server takes so many more foreground copies, under these handles."""
        assert self.handles is not None
        self.handles += handles

    def refuses(self, code: bytes) -> None:
        """The server does not take the first copy that it has not answered."""
        if self.refused is None:
            self.refused = []
        self.refused.append((self.answered, code))
        if self.handles is not None:
            self.handles.append(b"")

    def forget(self) -> tuple[bool, list[bytes]]:
        """Its submitter waits for receivers no more, and what is not written never will be.

        Return whether that is news, and the handles that have come since the last call: copies that
        are on their way are accepted later, and have to be withdrawn then.
        """
        assert self.handles is not None
        is_first, start = self.forgotten is None, self.forgotten or 0
        self.forgotten = len(self.handles)
        return is_first, self.handles[start:]

    def shorten(self) -> int:
        """Drop the copies that are not written; return how many these were."""
        dropped = len(self.heads) - self.sent
        self.heads = self.heads[: self.sent]
        return dropped

    def let_go(self) -> None:
        """Drop the payload of a submission that is answered or lost: it lives on until its last
        receiver has finished."""
        self.tail = b""


class StreamedSubmission(Submission):
    """A submission whose outcome, a ``StreamedOutcome``, gets pieces of results as they come."""

    __slots__ = ()
    is_streamed = True


def broke(submission: Any, error: Exception) -> None:
    """An outcome raised: no other submission may suffer for it, and a caller waits for this one."""
    log.critical("what a job server answered was not handled", exc_info=error)
    try:
        submission.outcome.broke(submission)
    except Exception as again:
        log.critical("a fault was not handled", exc_info=again)


def finish(awaited: Awaited, ok: bool, text: bytes = b"", lost: bool = False) -> None:
    """Tell how a copy ended of which something may have come."""
    submission = awaited.submission
    try:
        awaited.finish(ok, text, lost)
    except Exception as error:
        broke(submission, error)


def hand_on(awaited: Awaited, data: bytes) -> None:
    """Take a piece of a result."""
    submission = awaited.submission
    try:
        awaited.piece(data)
    except Exception as error:
        broke(submission, error)


def tell(pair: tuple[Submission, int], result: Result) -> None:
    """Tell how a copy ended of which nothing had come."""
    submission, index = pair
    try:
        submission.outcome.finished(submission, index, result)
    except Exception as error:
        broke(submission, error)
