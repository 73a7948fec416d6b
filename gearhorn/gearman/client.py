"""A client of one job server: blocks of copies out, acceptances and results back.

Theory of operation. Copies are submitted without waiting for the answers to those before: a
submission waits in ``_queued``, is cut into pieces of bytes, and the pieces are written as far as
the *window* has room, ``WINDOW_COPIES`` and ``WINDOW_BYTES`` that the server has not answered. It
cannot be unbounded: gearmand serves one connection until its input is empty, and would starve all
others meanwhile.

gearmand answers when it has worked off a whole window, and is idle until the next one is there. So
the next one is cut while it works (``_cut_ahead``), and when answers come it leaves before the
outcomes are told of them (``handle``). Telling first was tried: then every microsecond that the
caller takes is one in which the server has nothing to do.

JOB_CREATED and ERROR bear no number. They answer submits in the order in which these were written,
so the books are kept by counting: each answer is for the first copy of ``_written`` that has none.
A miscount would credit one message with the answers of another, so an answer that fits nothing
breaks the connection.

A receiver's result names the handle of its job. gearmand joins copies that have the same unique id,
and sends each result once for each of them: they wait in a chain under one handle, and take turns.

When the server goes away, what was written and not answered is *lost*: it may have been taken or
not, and its submitter sends it again elsewhere. What the server had accepted is finished as lost.

Rules: runs on the event loop. Submissions go out in the order they were handed over; an outcome
that raises costs its own submission only ("Links and packets" in docs/gearmand.rst).
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gearhorn.errors import ProtocolError
from gearhorn.gearman import packets
from gearhorn.gearman.link import Connection, Link
from gearhorn.gearman.packets import Packet
from gearhorn.gearman.results import DONE, LOST, Awaited
from gearhorn.gearman.server import Server
from gearhorn.gearman.submission import Submission, broke, finish, hand_on, tell
from gearhorn.logger import get_logger

WINDOW_COPIES = 256  # 95 % of the speed, others' p99 under 10 ms
WINDOW_BYTES = 1024 * 1024
CHUNK_COPIES = WINDOW_COPIES // 4  # of a piece: a window is topped up in these, not in slivers
CHUNK_BYTES = WINDOW_BYTES // 4

_Told = Callable[[bool, bool], None]  # whether a job is known, and whether a receiver has it

log = get_logger(__name__)


class _Piece(NamedTuple):
    """Copies that are written in one go: ``parts`` are submissions, each with how many of its.

    ``data`` is one block, or the blocks of one copy that is too large to be copied once more.
    """

    data: Sequence[bytes]
    parts: list[tuple[Submission, int]]
    copies: int
    size: int  # bytes of the window


class Client(Link):
    """Submits to one server. ``limit`` is the longest result in bytes that is read whole."""

    def __init__(
        self, server: Server, tls: ssl.SSLContext | None, client_id: bytes, limit: int
    ) -> None:
        super().__init__(server, tls, client_id, limit)
        # A submission goes through these in order; it may stand in two, cut or written in part.
        self._queued: deque[Submission] = deque()  # not cut whole
        self._queued_copies = 0  # of those, that are not cut
        self._cut_copies = (
            0  # of the first of those, that are cut: only the first may be so in part
        )
        self._pieces: deque[_Piece] = deque()  # cut and not written
        self._is_cutting = False  # the next pieces are to be cut soon
        self._written: deque[Submission] = deque()  # written, at least in part; unanswered
        self._done: deque[Submission] = deque()  # answered, and not told yet
        self.accepted = 0  # copies since the beginning
        self._answers = 0  # to copies and questions, refusals among them, since the beginning
        self._out_copies = 0  # written and not answered
        self._out_bytes = 0
        self._is_telling = False  # an outcome is being told, and may call back
        self._questions: deque[_Told] = deque()  # in the order they were asked
        # By handle. A list, since gearmand may have joined several copies under one handle. A pair
        # is a single copy of which nothing has come yet: nearly all of them until they finish.
        self._waiting: dict[bytes, tuple[Submission, int] | list[Awaited]] = {}

    @property
    def running(self) -> int:
        """Foreground copies that receivers have not finished."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether every copy that was handed over is answered."""
        return not (self._queued or self._pieces or self._written or self._done)

    def submit(self, submission: Submission) -> None:
        """Queue a submission; its outcome is told when it is answered or lost.

        The link must be up (``is_up``), or the submission is lost at once.
        """
        if self.connection is None:
            submission.outcome.lost(submission)
            return
        self._queued.append(submission)
        self._queued_copies += len(submission.heads)
        self.connection.wake()

    def forget(self, submission: Submission) -> list[bytes]:
        """Send no more of a foreground submission and wait no more for its receivers.

        Returns the handles that no other submission waits for: their jobs can be withdrawn. To be
        called once more when a forgotten submission is accepted, for what was on its way.

        What is cut and not written is put back before the submission is shortened, since a piece
        may hold copies of it beside those of others.
        """
        first, fresh = submission.forget()
        alone = []
        for handle in fresh:
            chain = self._chain(handle)
            if chain is None:
                if not first and handle:
                    alone.append(handle)
                continue
            for awaited in chain:
                if awaited.submission is submission:
                    awaited.forget()
            if all(awaited.submission is None for awaited in chain):
                del self._waiting[handle]
                alone.append(handle)
        self._take_back()
        self._queued_copies -= submission.shorten()
        self._tell()
        if self.connection is not None:
            self.connection.wake()
        return alone

    def ask_status(self, submission: Submission, index: int, told: _Told) -> None:
        """Ask whether the server knows an accepted foreground copy, and whether a receiver has
        it; ``told`` is never called if the connection ends first."""
        assert submission.handles is not None
        if self.connection is not None:
            self.connection.write(packets.pack(packets.GET_STATUS, submission.handles[index]))
            self._questions.append(told)

    def expect_late(self, submission: Submission, index: int) -> None:
        """A foreground copy is withdrawn now; its outcome is told if a receiver finishes it all
        the same, until ``drop``."""
        assert submission.handles is not None
        for awaited in self._chain(submission.handles[index]) or ():
            if awaited.submission is submission and awaited.index == index:
                awaited.withdraw(True)

    def drop(self, submission: Submission, index: int) -> None:
        """Wait no more for the receiver of one foreground copy."""
        assert submission.handles is not None
        self._waiting.pop(submission.handles[index], None)

    def debt(self) -> tuple[int, int]:
        return self._answers, self._out_copies + len(self._questions)

    def went_up(self, connection: Connection) -> None:
        connection.write(packets.pack(packets.OPTION_REQ, b"exceptions"))

    def went_down(self, connection: Connection) -> None:
        # Answers that came are told first. Then the books are emptied before any loss is told, for
        # an outcome may submit anew; and receivers' copies go before submissions, so that a fan-out
        # that sends again knows of all that were lost.
        self._tell()
        self._take_back()
        lost = [*self._written, *(queued for queued in self._queued if not queued.sent)]
        waiting, self._waiting = self._waiting, {}
        self._written.clear()
        self._queued.clear()
        self._questions.clear()
        self._queued_copies = self._cut_copies = self._out_copies = self._out_bytes = 0
        for chain in waiting.values():  # there may be a million
            if isinstance(chain, tuple):
                tell(chain, LOST)
                continue
            for awaited in chain:
                finish(awaited, False, lost=True)
        for submission in lost:
            try:
                submission.outcome.lost(submission)
            except Exception as error:
                broke(submission, error)

    def fill(self, connection: Connection) -> None:
        """Write as much as the window has room for.

        Pieces are cut here only when none is ready. Then cutting goes on behind this turn's send,
        while the server works.
        """
        pieces = self._pieces
        while pieces or self._queued:
            if self._out_copies >= WINDOW_COPIES or self._out_bytes >= WINDOW_BYTES:
                break
            if not pieces:
                self._cut()
            copies, size = self._out_copies + pieces[0].copies, self._out_bytes + pieces[0].size
            # one copy may always be out, whatever its size
            if self._out_copies and (copies > WINDOW_COPIES or size > WINDOW_BYTES):
                break
            piece = pieces.popleft()
            for submission, count in piece.parts:
                if submission.writes(count):
                    self._written.append(submission)
            self._out_copies, self._out_bytes = copies, size
            if len(piece.data) > 1:
                for block in piece.data:
                    connection.write_large(block)
            elif copies:
                connection.write(piece.data[0])
        if self._queued and not self._is_cutting:  # go on when this has left
            self._is_cutting = True
            asyncio.get_running_loop().call_soon(self._cut_ahead)
        if not self._out_copies:
            self._tell()

    def _cut_ahead(self) -> None:
        """Make whole pieces of what is queued, up to a window of them.

        What would be a sliver waits: more may be submitted before the window has room for it.
        """
        self._is_cutting = False
        queued = self._queued
        while queued and sum(piece.copies for piece in self._pieces) < WINDOW_COPIES:
            left = len(queued[0].heads) - self._cut_copies
            is_sliver = left * queued[0].unit < CHUNK_BYTES and self._queued_copies < CHUNK_COPIES
            if is_sliver or sum(piece.size for piece in self._pieces) >= WINDOW_BYTES:
                return
            self._cut()

    def _cut(self) -> None:
        """Make one piece of what is queued; something must be.

        As many submissions as fit go in whole, then a part of the next. Copies of one are joined by
        their common tail in one call, which costs nothing for each copy. One copy may be larger
        than a piece; it makes one by itself, and its payload is not joined with anything.
        """
        queued = self._queued
        data: list[bytes] = []
        parts: list[tuple[Submission, int]] = []
        copies = size = 0
        while queued:
            submission = queued[0]
            heads, at = submission.heads, self._cut_copies
            take = left = len(heads) - at
            if copies + left > CHUNK_COPIES or size + left * submission.unit > CHUNK_BYTES:
                take = min(left, CHUNK_COPIES - copies, (CHUNK_BYTES - size) // submission.unit)
                if take <= 0:
                    if copies:
                        break
                    take = 1
            if take == 1:
                data += heads[at], submission.tail
            else:
                data.append(submission.tail.join((*heads[at : at + take], b"")))
            parts.append((submission, take))
            copies += take
            size += take * submission.unit
            if take < left:
                self._cut_copies += take
                break
            queued.popleft()
            self._cut_copies = 0
        self._queued_copies -= copies
        blocks = data if copies == 1 and size >= CHUNK_BYTES else (b"".join(data),)
        self._pieces.append(_Piece(blocks, parts, copies, size))

    def _take_back(self) -> None:
        """Queue again what was cut and not written, last piece first, so that order is kept."""
        queued = self._queued
        while self._pieces:
            piece = self._pieces.pop()
            self._queued_copies += piece.copies
            for submission, _ in reversed(piece.parts):
                if not queued or queued[0] is not submission:
                    queued.appendleft(submission)
        self._cut_copies = queued[0].sent if queued else 0  # what is written stays cut

    def _tell(self) -> None:
        """Tell the outcomes of what is answered, barriers at the front included."""
        if self._is_telling:
            return  # called by an outcome: the loop below goes on
        self._is_telling = True
        written, done = self._written, self._done
        try:
            while True:
                while written and written[0].answered == len(written[0].heads):
                    done.append(written.popleft())
                if not done:
                    break
                submission = done.popleft()
                try:
                    submission.outcome.accepted(submission)
                except Exception as error:
                    broke(submission, error)
        finally:
            self._is_telling = False

    def handle(self, connection: Connection, batch: list[Packet]) -> None:
        for kind, body in batch:
            if kind == packets.JOB_CREATED:
                self._created(body)
                continue
            # A result may be of a copy whose acceptance is in the same batch: that is told first.
            # A barrier at the front is told too, or an ERROR would find it instead of a copy.
            if self._done or (self._written and not self._written[0].heads):
                self._tell()
            if kind == packets.ERROR:
                self._refused(body)
            elif kind == packets.STATUS_RES:
                self._status(body)
            else:
                self._work(abs(kind), body, oversized=kind < 0)
        if self._pieces or self._queued:
            connection.wake()
            connection.flush()
        self._tell()

    def _status(self, body: bytes) -> None:
        """Take the answer to the first question that is not answered."""
        fields = body.split(b"\0")
        if len(fields) < 3 or not self._questions:
            raise ProtocolError("STATUS_RES that answers nothing")
        told = self._questions.popleft()
        self._answers += 1
        try:
            told(fields[1] == b"1", fields[2] == b"1")
        except Exception as error:
            log.critical("what a job server answered was not handled", exc_info=error)

    def _created(self, run: bytes) -> None:
        """Take a run of acceptances, which answer what was written in order.

        A run may span submissions, so each takes its part. Handles are looked at for foreground
        copies only. Raises ``ProtocolError`` where more come than are out.
        """
        step = packets.stride(run)
        left = len(run) // step
        self.accepted += left
        written = self._written
        while left:
            if not written:
                raise ProtocolError("JOB_CREATED for nothing that was submitted")
            submission = written[0]
            take = min(left, submission.sent - submission.answered)
            if not take and submission.heads:
                raise ProtocolError("JOB_CREATED for nothing that was submitted")
            if submission.foreground:
                end = len(run) - (left - take) * step
                self._wait(submission, packets.handles(run[end - take * step : end]))
            left -= take
            self._answered(submission, take)

    def _wait(self, submission: Submission, handles: list[bytes]) -> None:
        """Wait for the receivers of foreground copies that were just accepted."""
        submission.takes(handles)
        if submission.forgotten is None:
            waiting = self._waiting
            for index, handle in enumerate(handles, submission.answered):
                chain = self._chain(handle) if handle in waiting else None
                if chain is None:
                    waiting[handle] = submission, index
                else:
                    chain.append(Awaited(submission, index))

    def _chain(self, handle: bytes) -> list[Awaited] | None:
        """Return the copies that wait under a handle, to be changed; a pair becomes a list."""
        chain = self._waiting.get(handle)
        if isinstance(chain, tuple):
            chain = self._waiting[handle] = [Awaited(*chain)]
        return chain

    def _refused(self, body: bytes) -> None:
        """Take an ERROR, which answers the first copy that is not answered."""
        code = body.partition(b"\0")[0]
        if not self._written or self._written[0].answered == self._written[0].sent:
            log.warning("job server reports an error", server=str(self.server), code=code)
            return
        submission = self._written[0]
        submission.refuses(code)
        self._answered(submission, 1)

    def _answered(self, submission: Submission, count: int) -> None:
        """Count answers to the first submission that is not answered whole."""
        self._answers += count
        self._out_copies -= count
        self._out_bytes -= count * submission.unit
        if submission.answers(count):
            self._done.append(self._written.popleft())

    def _work(self, kind: int, body: bytes, oversized: bool) -> None:
        """Take what a receiver says of a foreground copy.

        The usual end, of a copy of which nothing has come, goes first and makes no object. Then the
        copy whose turn it is, is taken off the chain; what does not end it puts it back behind the
        others. The first failure of a withdrawn copy is the server's own, and ends nothing.
        """
        handle, _, data = body.partition(b"\0")
        if kind == packets.WORK_COMPLETE and not oversized:
            pair = self._waiting.get(handle)
            if isinstance(pair, tuple) and not (data and pair[0].results):
                del self._waiting[handle]
                try:
                    pair[0].outcome.finished(*pair, DONE)
                except Exception as error:
                    broke(pair[0], error)
                return
        chain = self._chain(handle)
        if chain is None:
            return  # withdrawn, or finished already: a cancelled running job finishes twice
        # gearmand sends each packet once per waiting copy: they take turns
        awaited = chain.pop(0)
        if oversized and kind in (packets.WORK_DATA, packets.WORK_COMPLETE):
            awaited.cut()
        if kind == packets.WORK_DATA or kind == packets.WORK_WARNING:
            chain.append(awaited)  # first: an outcome that is told may call back
            if kind == packets.WORK_WARNING:
                awaited.warn(data)
            else:
                hand_on(awaited, data)
            return
        if kind not in (packets.WORK_COMPLETE, packets.WORK_FAIL, packets.WORK_EXCEPTION):
            chain.insert(0, awaited)  # a status, or a packet that this client never asked for
            return
        if awaited.is_withdrawn and kind == packets.WORK_FAIL:
            awaited.withdraw(False)
            chain.append(awaited)
            return
        if not chain:
            del self._waiting[handle]
        if kind == packets.WORK_COMPLETE:
            awaited.add(data)
            finish(awaited, True)
        elif kind == packets.WORK_FAIL:
            finish(awaited, False)
        else:
            finish(awaited, False, text=data)
