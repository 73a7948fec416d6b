"""A client of one job server: blocks of copies out, acceptances and results back.

Law: runs on the event loop. Submissions go out in the order they were handed over, window by
window: gearmand serves one connection until its input is empty, so an unbounded pipeline would
starve everybody else (FACTS §0a). JOB_CREATED and ERROR answer submits in order (FACTS B1).
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import structlog

from gearhorn.errors import ProtocolError
from gearhorn.gearman import packets
from gearhorn.gearman.connection import Connection, Link, Server
from gearhorn.gearman.packets import Packet

WINDOW_COPIES = 256  # DESIGN §3: 95 % of the speed, others' p99 under 10 ms
WINDOW_BYTES = 1024 * 1024
CHUNK_COPIES = WINDOW_COPIES // 4  # a window is topped up in pieces of this, not in slivers
CHUNK_BYTES = WINDOW_BYTES // 4
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


class Result:
    """How a foreground copy ended: ``ok``, what it returned, or the receiver's own words."""

    __slots__ = ("data", "lost", "ok", "oversized", "text")

    def __init__(self, ok: bool, data: bytes, text: bytes, oversized: bool, lost: bool) -> None:
        self.ok = ok
        self.data = data
        self.text = text
        self.oversized = oversized
        self.lost = lost


class Submission:
    """Copies of one message for the queues of one server.

    ``heads`` and ``tail`` are the bytes of ``packets.heads`` and ``packets.tail``. Without heads
    it is a barrier: it is accepted once everything before it was answered.
    """

    __slots__ = (
        "answered", "foreground", "forgotten", "handles", "heads", "keeps_data", "outcome",
        "refused", "sent", "tail", "unit",
    )  # fmt: skip

    def __init__(
        self,
        outcome: Outcome,
        heads: Sequence[bytes],
        tail: bytes,
        foreground: bool,
        keeps_data: bool = False,
    ) -> None:
        self.outcome = outcome
        self.keeps_data = keeps_data  # whether anybody wants what receivers return
        self.heads = heads
        self.tail = tail
        self.unit = len(tail) + _PACKET_OVERHEAD  # bytes of the window that a copy takes
        self.foreground = foreground
        self.sent = 0  # copies written
        self.answered = 0  # copies that the server answered
        self.refused: list[tuple[int, bytes]] | None = None  # (index, gearmand's error code)
        # handles of foreground copies, in order; b"" where refused
        self.handles: list[bytes] | None = [] if foreground else None
        self.forgotten: int | None = None  # handles there were when nobody cared any more


class _Waiting:
    """A foreground copy that a receiver has not finished."""

    __slots__ = ("chunks", "index", "oversized", "size", "submission", "warning")

    def __init__(self, submission: Submission, index: int) -> None:
        self.submission: Submission | None = submission  # None: forgotten
        self.index = index
        self.chunks: list[bytes] = []
        self.size = 0
        self.warning = b""
        self.oversized = False

    def add(self, data: bytes, limit: int) -> None:
        """Keep what the receiver returned, up to ``limit`` bytes of it, if anybody wants it."""
        if self.submission is None or not self.submission.keeps_data:
            return
        self.size += len(data)
        if self.size > limit:
            self.oversized = True
        elif data:
            self.chunks.append(data)

    def finish(self, ok: bool, text: bytes = b"", lost: bool = False) -> None:
        if self.submission is not None:
            result = Result(ok, b"".join(self.chunks), text or self.warning, self.oversized, lost)
            self.submission.outcome.finished(self.submission, self.index, result)


class Client(Link):
    """Submits to one server. ``limit`` is the longest result in bytes that is read whole."""

    def __init__(
        self, server: Server, tls: ssl.SSLContext | None, client_id: bytes, limit: int
    ) -> None:
        super().__init__(server, tls, client_id, limit)
        self._queued: deque[Submission] = deque()  # not written whole
        self._written: deque[Submission] = deque()  # written, at least in part; unanswered
        self._out_copies = 0
        self._out_bytes = 0
        self._settling = False
        # One handle has several waiting copies where gearmand coalesced them.
        self._waiting: dict[bytes, list[_Waiting]] = {}

    @property
    def running(self) -> int:
        """Foreground copies that receivers have not finished."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether every copy that was handed over is answered."""
        return not self._queued and not self._written

    def submit(self, submission: Submission) -> None:
        """Queue a submission; its outcome is told when it is answered or lost.

        The link must be up (``is_up``), or the submission is lost at once.
        """
        if self.connection is None:
            submission.outcome.lost(submission)
            return
        self._queued.append(submission)
        self.connection.wake()

    def forget(self, submission: Submission) -> list[bytes]:
        """Send no more of a foreground submission and wait no more for its receivers.

        Returns the handles that nobody else waits for: their jobs can be withdrawn. To be called
        once more when a forgotten submission is accepted, for what was on its way.
        """
        assert submission.handles is not None
        first = submission.forgotten is None
        fresh = submission.handles[submission.forgotten or 0 :]
        submission.forgotten = len(submission.handles)
        alone = []
        for handle in fresh:
            chain = self._waiting.get(handle)
            if chain is None:
                if not first and handle:
                    alone.append(handle)
                continue
            for one in chain:
                if one.submission is submission:
                    one.submission = None  # it stays, to take its turn with the packets
            if all(one.submission is None for one in chain):
                del self._waiting[handle]
                alone.append(handle)
        submission.heads = submission.heads[: submission.sent]
        self._settle()
        if self.connection is not None:
            self.connection.wake()
        return alone

    def went_up(self, connection: Connection) -> None:
        connection.write(packets.pack(packets.OPTION_REQ, b"exceptions"))

    def went_down(self, connection: Connection) -> None:
        lost = [*self._written, *(one for one in self._queued if not one.sent)]
        waiting = [one for chain in self._waiting.values() for one in chain]
        self._written.clear()
        self._queued.clear()
        self._waiting.clear()
        self._out_copies = self._out_bytes = 0
        for one in waiting:
            one.finish(False, lost=True)
        for submission in lost:
            submission.outcome.lost(submission)

    def fill(self, connection: Connection) -> None:
        """Write as much as the window has room for."""
        queued, written = self._queued, self._written
        while queued:
            submission = queued[0]
            heads, tail, at = submission.heads, submission.tail, submission.sent
            room = WINDOW_COPIES - self._out_copies
            room_bytes = WINDOW_BYTES - self._out_bytes
            take = left = len(heads) - at
            if left > room or left * submission.unit > room_bytes:
                take = min(left, room, room_bytes // submission.unit)
                is_sliver = room < CHUNK_COPIES or room_bytes < CHUNK_BYTES
                if self._out_copies and (take <= 0 or is_sliver):
                    return
                take = max(take, 1)  # one copy may always be out, whatever its size
                heads = heads[at : at + take]
            elif at:
                heads = heads[at:]
            if not at:
                written.append(submission)
            if take:
                connection.write(tail.join((*heads, b"")))
                submission.sent = at + take
                self._out_copies += take
                self._out_bytes += take * submission.unit
            if take < left:
                return
            queued.popleft()
        if not self._out_copies:
            self._settle()

    def _settle(self) -> None:
        """Tell the outcome of what stands answered at the front."""
        if self._settling:
            return  # called by an outcome: the loop below goes on
        self._settling = True
        written = self._written
        try:
            while written and written[0].answered == len(written[0].heads):
                submission = written.popleft()
                submission.outcome.accepted(submission)
        finally:
            self._settling = False

    def handle(self, connection: Connection, batch: list[Packet]) -> None:
        for kind, body in batch:
            if kind == packets.JOB_CREATED:
                self._created(body)
            elif kind == packets.ERROR:
                self._refused(body)
            else:
                self._work(abs(kind), body, oversized=kind < 0)
        if self._queued:
            connection.wake()

    def _created(self, run: bytes) -> None:
        """Take a run of acceptances, which answer what was written in order."""
        step = packets.stride(run)
        at = 0
        written = self._written
        while at < len(run):
            if not written:
                raise ProtocolError("JOB_CREATED for nothing that was submitted")
            submission = written[0]
            take = min((len(run) - at) // step, submission.sent - submission.answered)
            if not take and submission.heads:
                raise ProtocolError("JOB_CREATED for nothing that was submitted")
            if submission.foreground:
                self._wait(submission, packets.handles(run[at : at + take * step]))
            at += take * step
            self._answered(submission, take)

    def _wait(self, submission: Submission, handles: list[bytes]) -> None:
        """Wait for the receivers of foreground copies that were just accepted."""
        assert submission.handles is not None
        submission.handles += handles
        if submission.forgotten is None:
            for index, handle in enumerate(handles, submission.answered):
                self._waiting.setdefault(handle, []).append(_Waiting(submission, index))

    def _refused(self, body: bytes) -> None:
        """Take an ERROR, which answers the first copy that is not answered."""
        code = body.partition(b"\0")[0]
        self._settle()  # what has no copies is not meant
        if not self._written:
            log.warning("job server reports an error", server=str(self.server), code=code)
            return
        submission = self._written[0]
        if submission.refused is None:
            submission.refused = []
        submission.refused.append((submission.answered, code))
        if submission.handles is not None:
            submission.handles.append(b"")
        self._answered(submission, 1)

    def _answered(self, submission: Submission, count: int) -> None:
        submission.answered += count
        self._out_copies -= count
        self._out_bytes -= count * submission.unit
        if submission.answered == len(submission.heads):
            self._settle()

    def _work(self, kind: int, body: bytes, oversized: bool) -> None:
        """Take what a receiver says of a foreground copy."""
        handle, _, data = body.partition(b"\0")
        chain = self._waiting.get(handle)
        if chain is None:
            return  # withdrawn, or finished already: a cancelled running job finishes twice
        # gearmand sends each packet once per waiting copy: they take turns
        one = chain.pop(0)
        one.oversized |= oversized
        if oversized:
            data = b""
        if kind == packets.WORK_DATA or kind == packets.WORK_WARNING:
            if kind == packets.WORK_WARNING:
                one.warning = data
            else:
                one.add(data, self._limit)
            chain.append(one)
            return
        if kind not in (packets.WORK_COMPLETE, packets.WORK_FAIL, packets.WORK_EXCEPTION):
            chain.insert(0, one)  # a status, or a packet that this client never asked for
            return
        if not chain:
            del self._waiting[handle]
        if kind == packets.WORK_COMPLETE:
            one.add(data, self._limit)
            one.finish(True)
        elif kind == packets.WORK_FAIL:
            one.finish(False)
        else:
            one.finish(False, text=data)
