"""Background fan-outs: replied to once every copy is accepted.

Theory of operation. Nearly all fan-outs are in the background, to a whole list that one server
carries, and nothing happens to them: the server accepts every copy. ``FastFanout`` is that case,
one object that is its own submission. Anything else that happens (a refused copy, a lost server,
copies that are held back) makes a ``Background`` of it, which takes over what the server has
answered.

What is dropped is counted only when the reply is made: a copy that one server refused may be sent
once more, through another server, after the first one goes.

Rules: runs on the event loop; small objects that count answers.
"""

from __future__ import annotations

from array import array
from collections.abc import Generator, Sequence
from typing import NamedTuple

from gearhorn.errors import InternalError
from gearhorn.fanout.copies import Block, Share, Subscribers
from gearhorn.fanout.outbox import Outbox
from gearhorn.fanout.running import Plan, RunningFanout, ServerBatch
from gearhorn.fanout.tally import exhaust
from gearhorn.gearman import packets
from gearhorn.gearman.results import Result
from gearhorn.gearman.submission import Submission
from gearhorn.gearman.worker import Job
from gearhorn.messages.fanout import Fanout
from gearhorn.messages.receipts import encode_receipt

_KINDS = packets.SUBMIT[False]

STEP = 200  # dropped copies that are counted and named in one step: 0.5 ms


class _Missing(NamedTuple):
    """The client_ids of copies that were not sent, or not kept."""

    dropped: list[str]
    expired: list[str]


class Background(RunningFanout):
    """A fan-out that replies once every copy is accepted.

    ``open`` falls with each answer of a server, and each copy for which room was found or was not;
    whatever lowers it asks ``maybe_reply`` whether it was the last.
    """

    __slots__ = ("expired",)

    def __init__(self, outbox: Outbox, plan: Plan) -> None:
        super().__init__(outbox, plan)
        self.expired = array("I")  # copies that were not sent any more

    def accepted(self, submission: Submission) -> None:
        assert isinstance(submission, ServerBatch)
        self.open -= 1
        submission.let_go()
        if submission.refused or self.is_watched:
            self.drop(submission)
        self.maybe_reply()

    def sent(self) -> None:
        self.open -= 1
        self.maybe_reply()

    def drop_held(self, index: int) -> None:
        self.open -= 1
        self.lose(index)
        self.maybe_reply()

    def expire(self, indexes: Sequence[int]) -> None:
        self.expired.extend(indexes)
        self.maybe_reply()

    def maybe_reply(self) -> None:
        """Reply if no copy is on its way any more.

        A server that accepted its batch may have gone while another one still owed answers, or
        copies waited for room. The copies that it took are sent again before the reply, which
        promises that they are kept.
        """
        if self.open:
            return
        if gone := self._gone():
            self._send_those_again(gone)
        elif len(self.dropped) + len(self.expired) <= STEP:
            self._complete(self._reply(exhaust(self._count_drops())))
        else:
            self.open += 1  # what comes meanwhile replies to nothing
            self.outbox.count_drops(
                self.job,
                self.subscribers,
                steps=self._count_drops(),
                make=self._reply,
                then=self._replied,
            )

    def _gone(self) -> list[ServerBatch]:
        """Return the parts whose server has gone."""
        return [part for part in self.parts if not part.is_held]

    def _send_those_again(self, gone: list[ServerBatch]) -> None:
        for part in gone:
            self._send_again(part)

    def _count_drops(self) -> Generator[None, None, _Missing]:
        """Count the copies that are dropped, ``STEP`` with each step; return the client_ids of
        those that were not sent, where the reply names them.

        They are counted only at the end, since some may have been sent once more before. Those that
        were counted already were dropped by a server that has gone since.
        """
        missing = _Missing([], [])
        self.dropped.sort()
        for at in range(0, len(self.dropped), STEP):
            step = self.dropped[at : at + STEP]
            for index in step:
                if index not in self.counted:
                    self.outbox.drops.dropped(self.subscribers, index)
            if self.message.receipt:
                missing.dropped.extend(self.clients(step))
            yield
        if self.message.receipt:
            for at in range(0, len(self.expired), STEP):
                missing.expired.extend(self.clients(self.expired[at : at + STEP]))
                yield
        return missing

    def _reply(self, missing: _Missing) -> bytes:
        """Return the reply ("The reply" in docs/protocol.rst): how many copies are kept, those of
        durable receivers among them, or a receipt that names what was dropped or has expired."""
        copies = self.total - len(self.dropped) - len(self.expired) + len(self.receivers)
        if self.message.receipt:
            dropped, expired = missing
            return encode_receipt(copies, dropped=dropped, expired=expired, logged=self.logged)
        return b"%d" % copies

    def _replied(self, data: bytes) -> None:
        """Many drops are counted; reply, unless a server has gone meanwhile.

        The loop turned while they were counted, so a server may have taken copies with it. They are
        sent again, and those that are counted are not counted twice.
        """
        self.open -= 1
        if gone := self._gone():
            self.counted |= frozenset(self.dropped)
            self._send_those_again(gone)
        else:
            self._complete(data)

    def _complete(self, data: bytes) -> None:
        self.job.complete(data)
        self.parts.clear()  # they point here, and payloads must not live until garbage is collected

    def take_over(self, fast: FastFanout) -> None:
        """Go on with a fast fan-out that its server has just answered.

        A batch without heads stands for its copies: nothing is sent, but where the server goes
        while some of them wait for room, those that it accepted are sent again.
        """
        part = ServerBatch(self, Block(fast.place, None, (), b""), False)
        self.parts.append(part)
        self.taken(fast, None)
        self.refuse([index for index, _ in fast.refused or ()])
        self.maybe_reply()

    def lost(self, submission: Submission) -> None:
        assert isinstance(submission, ServerBatch)
        self.open -= 1
        self._send_again(submission)

    def _send_again(self, part: ServerBatch) -> None:
        """Send copies whose server is gone, those too that it had refused."""
        self.parts.remove(part)
        indexes = range(self.total) if part.indexes is None else part.indexes
        again = set(indexes)
        self.dropped = [index for index in self.dropped if index not in again]
        self.send(indexes)

    def finished(self, submission: Submission, index: int, result: Result) -> None:
        """Raise ``AssertionError``: a job server tells the end of foreground copies only."""
        raise AssertionError("a background copy finished towards its submitter")


class FastFanout(Submission):
    """A background fan-out in its most frequent shape, as cheap as it can be: to all of a list,
    with one server carrying all of it. Anything unusual makes a ``Background`` of it.

    Arguments:
        outbox: what the running fan-outs share.
        job: the ``fanout`` job.
        message: what is copied, without receipt and in the background.
        subscribers: the list.
        share: all of the list, as ``Subscribers.only_share`` has it.
    """

    __slots__ = ("job", "message", "outbox", "place", "subscribers")

    def __init__(
        self, outbox: Outbox, job: Job, message: Fanout, subscribers: Subscribers, *, share: Share
    ) -> None:
        if message.unique:
            tail = packets.tail(outbox.unique_id(message, False), message.payload)
        else:
            tail = packets.NO_UNIQUE + message.payload
        heads = share.heads(_KINDS[message.priority], len(tail))
        super().__init__(_FAST, heads, tail, False)
        self.outbox = outbox
        self.job = job
        self.message = message
        self.subscribers = subscribers
        self.place = share.place

    def general(self) -> Background:
        """Return the same fan-out in its general shape."""
        return Background(self.outbox, Plan(self.job, self.message, self.subscribers))


class _FastOutcome:
    """What becomes of fast fan-outs: one object for all of them.

    A submission that was its own outcome would be a cycle, and large payloads would live until the
    garbage collector came by.
    """

    def accepted(self, submission: Submission) -> None:
        assert isinstance(submission, FastFanout)
        full = submission.outbox.overflow.topics
        if submission.refused or submission.message.topic in full:
            submission.general().take_over(submission)
        else:
            submission.job.complete(b"%d" % len(submission.heads))

    def lost(self, submission: Submission) -> None:
        assert isinstance(submission, FastFanout)
        submission.general().send(None)

    def finished(self, submission: Submission, index: int, result: Result) -> None:
        """Raise ``AssertionError``: a job server tells the end of foreground copies only."""
        raise AssertionError("a background copy finished towards its submitter")

    def broke(self, submission: Submission) -> None:
        assert isinstance(submission, FastFanout)
        submission.job.fail(str(InternalError()))


_FAST = _FastOutcome()
