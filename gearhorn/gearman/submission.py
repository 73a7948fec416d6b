"""Submissions: copies of one message for one server, and how who submitted is told of them.

Rules: an outcome that raises costs its own submission only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import structlog

from gearhorn.gearman.results import Awaited, Result, Room

_PACKET_OVERHEAD = 64  # bytes of header and a typical queue name

log = structlog.get_logger(__name__)


class Outcome(Protocol):
    """Who submitted, and is told what became of it."""

    def accepted(self, submission: Submission) -> None:
        """Every copy was answered; ``submission.refused`` lists those that were not taken."""

    def lost(self, submission: Submission) -> None:
        """The connection ended first; the copies from ``submission.answered`` on are unknown."""

    def finished(self, submission: Submission, index: int, result: Result) -> None:
        """The receiver of foreground copy ``index`` finished, or its server went down."""

    def broke(self, submission: Submission) -> None:
        """One of these raised: a fault in gearhorn. Finish what waits for the submission."""


class Submission:
    """Copies of one message for the queues of one server.

    ``heads`` and ``tail`` are the bytes of ``packets.heads`` and ``packets.tail``. Without heads
    it is a barrier: it is accepted once everything before it was answered. ``results`` is the room
    for what receivers of foreground copies return, without which nothing is kept; ``reasons`` that
    for their warnings and exceptions, without which ``REASON_BYTES`` of each copy's are.
    """

    __slots__ = (
        "answered", "cut", "foreground", "forgotten", "handles", "heads", "outcome", "reasons",
        "refused", "results", "sent", "tail", "unit",
    )  # fmt: skip

    def __init__(
        self,
        outcome: Outcome,
        heads: Sequence[bytes],
        tail: bytes,
        foreground: bool,
        results: Room | None = None,
        reasons: Room | None = None,
    ) -> None:
        self.outcome = outcome
        self.results = results
        self.reasons = reasons
        self.heads = heads
        self.tail = tail
        self.unit = len(tail) + _PACKET_OVERHEAD  # bytes of the window that a copy takes
        self.foreground = foreground
        self.cut = 0  # copies in pieces
        self.sent = 0  # copies written
        self.answered = 0  # copies that the server answered
        self.refused: list[tuple[int, bytes]] | None = None  # (index, gearmand's error code)
        # handles of foreground copies, in order; b"" where refused
        self.handles: list[bytes] | None = [] if foreground else None
        self.forgotten: int | None = None  # handles there were when nobody cared any more

    def let_go(self) -> None:
        """Drop the payload of a submission that is answered or lost."""
        self.tail = b""


def broke(submission: Any, error: Exception) -> None:
    """An outcome raised: no other submission may suffer for it, and somebody waits for this one."""
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


def tell(pair: tuple[Submission, int], result: Result) -> None:
    """Tell how a copy ended of which nothing had come."""
    submission, index = pair
    try:
        submission.outcome.finished(submission, index, result)
    except Exception as error:
        broke(submission, error)
