"""Foreground fan-outs: replied to once the receivers have finished, or a quorum of them.

Theory of operation. Three numbers decide when to reply. ``open`` is what is on its way to job
servers; while there is any, nothing is decided. ``_left`` is how many receivers have not finished,
durable ones among them. ``_needed`` is how many have to succeed: all, or the quorum. The reply is
due when enough have succeeded, or when those that are left cannot make it enough any more.

A reply says what is so. It waits until a job server has accepted every copy, quorum or not; only
the timeout ends that, and what was not accepted by then is counted as neither accepted nor
finished. Each copy is in one of these at most: delivered, failed, dropped; the others are pending.

A quorum's reply does not end the fan-out. The other copies stay out until the timeout, and count
against the member's places; the payload is needed no more, since nothing is sent again for a
caller that has its reply.

At the timeout, copies that no receiver has taken are withdrawn before the reply: a caller that is
told of a timeout may publish the same again, and those copies must not be there then. Withdrawing
takes a round trip to each server, in which nothing else may reply; ``over`` marks that.

Rules: runs on the event loop; no task and no thread waits, so a slow receiver delays no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial

from gearhorn.fanout.answer_stream import AnswerStream
from gearhorn.fanout.outbox import Outbox
from gearhorn.fanout.places import REASONS_BYTES, RESULTS_BYTES, Share
from gearhorn.fanout.running import Plan, RunningFanout, ServerBatch
from gearhorn.fanout.tally import ALL, ENDED, LATE, Named, Tally, exhaust
from gearhorn.gearman.results import DISCARDED, Result
from gearhorn.gearman.submission import Submission
from gearhorn.messages.fanout import copies_needed
from gearhorn.requests import attempt

STATUS_INTERVAL_S = 0.05  # between two WORK_STATUS of one fan-out


class Foreground(RunningFanout):
    """A fan-out that replies once its receivers have finished, or a quorum of them.

    Arguments:
        outbox: what the running fan-outs share.
        plan: has a place, which is left at the end.

    Events come from three sides: what became of copies (``accepted``, ``finished``, ``lost`` …), of
    durable receivers (``done``), and of time (``_time_out``). Each changes the numbers, and then
    asks ``_maybe_reply`` whether they decide it.
    """

    __slots__ = (
        "_again", "_awaited", "_discarded", "_is_composing", "_left", "_lost", "_needed", "_place",
        "_status_at", "_status_timer", "_stream", "_tally", "_timer", "over", "reasons", "replied",
        "results",
    )  # fmt: skip
    foreground = True

    def __init__(self, outbox: Outbox, plan: Plan) -> None:
        # The timer and the durable receivers' wait come last: both call what is set before them.
        super().__init__(outbox, plan)
        assert plan.place is not None
        job, message, receivers, place = plan.job, plan.message, plan.receivers, plan.place
        loop = asyncio.get_running_loop()
        self._place = place
        has_results = message.receipt or message.stream
        self.results = Share(place, RESULTS_BYTES) if has_results else None
        self.reasons = Share(place, REASONS_BYTES)
        self._tally = Tally(plan.subscribers, plan.chosen)
        self._stream = AnswerStream(job, plan.subscribers) if message.stream else None
        self._needed = copies_needed(message.quorum, plan.total + len(receivers))
        self._left = plan.total + len(receivers)  # that have not finished
        # Durable ones among them. Garbage collection walks through sets, not through such dicts,
        # and there may be hundreds of fan-outs to 10,000 receivers each.
        self._awaited = dict.fromkeys(receivers)
        self._lost = 0  # copies that were accepted by servers that went away
        self._discarded = 0  # copies that were accepted, and dropped for younger ones
        self._again: list[int] = []  # copies whose server went down, to be sent together
        self._status_at = 0.0
        self._status_timer: asyncio.TimerHandle | None = None
        self.replied = False
        self._is_composing = False  # the reply is being made
        self.over = False  # timed out: nothing is sent or waited for any more
        self._timer = loop.call_later(message.timeout_s, attempt, job, self._time_out)
        if plan.logged is not None and receivers:
            outbox.waiting.add(message.topic, plan.logged, self)
            if not plan.total:
                job.release()

    def done(self, client_id: str, error: str, is_expired: bool = False) -> None:
        """A durable receiver has done with the message; see ``Waiter``.

        It may be told twice: by the member that delivered, and by a reading of positions.
        """
        if client_id not in self._awaited or self.over:
            return
        del self._awaited[client_id]
        self._left -= 1
        if not self.replied:
            self._tally.acknowledge(client_id, error, is_expired)
            if self._stream is not None:
                self._stream.done(client_id, error, is_expired)
        self._progress()

    def missing(self) -> Sequence[str]:
        """Return the durable receivers that are waited for."""
        return list(self._awaited)

    def misses(self, client_id: str) -> bool:
        """Return whether a durable receiver is waited for."""
        return client_id in self._awaited

    def send(self, indexes: Sequence[int] | None) -> None:
        if not self.over:
            super().send(indexes)

    def send_portion(self, indexes: Sequence[int] | None) -> None:
        if not self.over:
            super().send_portion(indexes)

    def sent(self) -> None:
        self.open -= 1
        self._went()

    def accepted(self, submission: Submission) -> None:
        """A server answered every copy of a batch. After the timeout those that it took are
        withdrawn now: they were still on their way when the others were withdrawn."""
        assert isinstance(submission, ServerBatch)
        self.open -= 1
        submission.let_go()
        if self.over:
            self.taken(submission, submission.indexes)
            self._withdraw(submission)
            self._went()
        else:
            self._went(self._count_refused(submission))

    def _count_refused(self, part: ServerBatch) -> int:
        """Count the copies of a part that its server refused; return how many they are."""
        return self.drop(part) if part.refused or self.is_watched else 0

    def _went(self, lost: int = 0) -> None:
        """Something is no longer on its way; of that, so many copies are dropped for good.

        Once nothing is, the worker may grab another job: from here on this one only waits.
        """
        if not self.open:
            self._tails.clear()  # receivers may take long
            self.job.release()
        if lost:
            self._progress()
        else:
            self._maybe_reply()

    def hold(self, index: int) -> None:
        """A copy waits for room; at the timeout it counts as dropped."""
        super().hold(index)
        self._tally.hold(index)

    def lose(self, index: int) -> None:
        """Count a dropped copy at once: a receipt may tell the caller of it, and the receivers that
        are left may not be enough for a quorum any more."""
        self._tally.drop(index)
        if self._stream is not None:
            self._stream.dropped(index)
        self.outbox.drops.dropped(self.subscribers, index)
        self._left -= 1

    def expire(self, indexes: Sequence[int]) -> None:
        if self.over:
            self._went()
            return
        self._tally.expire(indexes)
        if self._stream is not None:
            self._stream.expired(indexes)
        self._left -= len(indexes)
        self._went(len(indexes))

    def send_stranded(self, indexes: Sequence[int] | None) -> None:
        super().send_stranded(indexes)
        self._went()  # at the timeout nothing was sent

    def send_held(self, index: int) -> None:
        if self.over:
            self.open -= 1
        else:
            self._tally.send(index)
            super().send_held(index)

    def drop_held(self, index: int) -> None:
        self.open -= 1
        if not self.over:
            self.lose(index)
            self._went(1)

    def lost(self, submission: Submission) -> None:
        """The server of a batch went away before it had answered every copy: send again those
        without an answer. Those that it had accepted come back one by one, by ``finished``."""
        assert isinstance(submission, ServerBatch)
        self.open -= 1
        submission.let_go()
        if self.over:
            self._went()
            return
        lost = self._count_refused(submission)
        count = len(submission.heads)
        self.send([submission.index(at) for at in range(submission.answered, count)])
        self._went(lost)

    def finished(self, submission: Submission, index: int, result: Result) -> None:
        """A receiver finished a copy, or the server that had accepted it went away.

        After the reply only numbers change, and the room that a result took is given back: the
        caller has its answer.
        """
        assert isinstance(submission, ServerBatch)
        index = submission.index(index)
        if result.lost:
            self._lost_accepted(index)
            return
        self._left -= 1
        if self.replied:
            if self.results is not None and result.data:
                self.results.give(len(result.data))
        elif result.ok:
            self._deliver(index, result)
        elif result.text == DISCARDED:  # by a member that made room, which has counted it
            self._discarded += 1
            self._tally.drop(index)
        else:
            self._tally.fail(index, result.text.decode(errors="replace"))
        if self._stream is not None and not self.replied:
            self._stream.finished(index, result)
        self._progress()

    def _deliver(self, index: int, result: Result) -> None:
        """A receiver has completed a copy; keep what it returned where a receipt tells of that."""
        self._tally.deliver(index)
        if result.oversized:
            self._tally.omit(index)
        elif self.message.receipt:
            self._tally.keep(index, result.data)

    def _lost_accepted(self, index: int) -> None:
        """The server that had accepted a copy is gone: send the copy once more, unless the caller
        has its reply already.

        A server takes all its copies with it, in one turn of the loop. They are gathered until that
        turn is over, so that they leave as one block.
        """
        if self.replied:
            self._left -= 1
            self._progress()
            return
        self._lost += 1
        if not self._again:
            self.open += 1
            asyncio.get_running_loop().call_soon(attempt, self.job, self._send_again)
        self._again.append(index)

    def _send_again(self) -> None:
        """Send what was gathered, in the place of the one that ``open`` counts for it."""
        indexes, self._again = self._again, []
        self.open -= 1
        self.send(indexes)
        self._went()

    def _progress(self) -> None:
        """A receiver finished: reply if that decides it, else tell how far the fan-out is.

        The caller is told by a WORK_STATUS every ``STATUS_INTERVAL_S`` at most: 10,000 receivers
        that finish at once make one, not 10,000.
        """
        self._maybe_reply()
        if not self.replied and self._status_timer is None:
            loop = asyncio.get_running_loop()
            due = self._status_at + STATUS_INTERVAL_S
            self._status_timer = loop.call_at(max(due, loop.time()), self._status)

    def _maybe_reply(self) -> None:
        """Reply if every copy is accepted and it is decided what to say; end if all is done.

        The end may come with the reply, or long after it: a quorum leaves others at work.
        """
        if self.open or self.over:
            return  # at the timeout the reply waits for the withdrawals
        if not self.replied:
            if self.message.quorum is None:
                decided = not self._left
            else:
                delivered = self._tally.succeeded
                decided = delivered >= self._needed or delivered + self._left < self._needed
            if decided:
                self._reply()
        if self.replied and not self._left:
            self._close()

    @property
    def _done(self) -> tuple[int, int]:
        """How many have finished, and of how many."""
        whole = self.total + len(self.receivers)
        return whole - self._left, whole

    def _status(self) -> None:
        self._status_timer = None
        self._status_at = asyncio.get_running_loop().time()
        if not self.replied:
            self.job.status(*self._done)

    def _time_out(self) -> None:
        """Withdraw what no receiver has taken, then reply: the caller can rely on that."""
        self.over = True
        self.outbox.unstrand(self)
        self.outbox.withdraw(self)

    def withdrawals(self) -> Iterator[asyncio.Task[None] | None]:
        """See ``Withdrawing``."""
        for part in list(self.parts):
            yield self._withdraw(part)

    def _withdraw(self, part: ServerBatch) -> asyncio.Task[None] | None:
        """Begin to withdraw what of a batch no receiver has taken; None where there is nothing.

        A batch of a former connection has nothing: gearmand does not run a foreground job that its
        submitter left while it waited.
        """
        client = self.outbox.job_servers.clients[part.place]
        if part.connection is not client.connection:
            return None
        return self.outbox.maybe_withdraw(part, client.forget(part))

    def withdrawn(self) -> None:
        """Reply to a fan-out that timed out, and end it.

        Copies that wait for room, and those refused of batches that are not answered whole, are
        dropped now: nothing is going to try them again. The fan-out ends even if there is a fault
        in making the reply.
        """
        if not self.replied:
            for part in self.parts:  # those that are not answered whole were not counted yet
                for index in part.take_refused():
                    self.lose(index)
            for index in self._tally.held():
                self.lose(index)
            try:
                self._reply()
            finally:
                self._close()
            return
        self._close()

    def _close(self) -> None:
        """Let go of all that the fan-out holds; called again without harm.

        Batches are cleared because they point back here: what is in a cycle lives until garbage is
        collected, payload included.
        """
        if self._is_composing:
            return  # until it is replied
        self._timer.cancel()
        if self._status_timer is not None:
            self._status_timer.cancel()
        if self.logged is not None:
            self.outbox.waiting.remove(self.message.topic, self.logged.sequence, self)
        self.parts.clear()  # they point here
        self._tails.clear()
        if not self.replied:
            self.message = self.message.without_payload()
        self._place.leave()

    def _reply(self) -> None:
        """Say what became of the copies ("The reply" in docs/protocol.rst), once.

        A receipt is always a success: it says what failed. Without one, the reply is the number of
        those that succeeded, or the reasons of those that did not, each by its client_id. Where all
        are waited for, a durable receiver that is late is no failure: it gets the message from the
        log all the same. Where a quorum is, it is named among those that are missing from it.
        """
        self.replied = True
        self.job.status(*self._done)
        self.message = self.message.without_payload()
        tally, awaited = self._tally, sorted(self._awaited)
        if self.message.receipt:
            copies = self._count_accepted() + len(self.receivers)
            make = partial(tally.receipt, copies=copies, awaited=awaited, logged=self.logged)
            self._compose(tally.steps(ALL), make, self.job.complete)
        elif self._is_success():
            self._replied(self.job.complete, b"%d" % tally.succeeded)
        else:
            late = f"no answer in {self.message.timeout_s:g} s"
            is_late = self.over and self.message.quorum is not None
            make = partial(tally.failures, late=late, awaited=awaited if is_late else ())
            steps = tally.steps(LATE if self.over else ENDED, f'[,"{late}"]')
            self._compose(steps, make, self.job.fail)

    def _compose(
        self,
        steps: Generator[None, None, Named],
        make: Callable[[Named], bytes],
        answer: Callable[[bytes], None],
    ) -> None:
        """Answer with what is made of the copies' names: at once unless the list is long."""
        if self.subscribers.is_long:
            self._is_composing = True
            self.outbox.compose(
                self.job,
                steps,
                make=make,
                then=partial(self._replied, answer),
                over=self._composed,
            )
        else:
            self._replied(answer, make(exhaust(steps)))

    def _replied(self, answer: Callable[[bytes], None], data: bytes) -> None:
        """Answer the job; from here on the fan-out lingers, if copies are still out."""
        answer(data)
        self._place.answer()

    def _composed(self) -> None:
        """The reply is made, or could not be: what waited for that is let go."""
        self._is_composing = False
        if self.over or not self._left:
            self._close()

    def _is_success(self) -> bool:
        """Return whether enough receivers succeeded, and every copy was accepted or dropped, or not
        sent because the message had expired."""
        needed = self._needed
        if self.message.quorum is None:  # a late durable receiver gets the message all the same
            needed -= len(self._awaited)
        tally = self._tally
        if tally.succeeded < needed:
            return False
        # before the timeout a reply is made only when every copy is answered
        return not self.over or self._count_accepted() + tally.unsent == self.total

    def _count_accepted(self) -> int:
        """Return how many copies a job server has accepted, and neither lost nor dropped.

        Before the timeout a reply is made only when all are answered, so those are all but the
        dropped and expired ones; at the timeout what each batch was answered has to be counted.
        """
        if not self.over:
            return self.total - self._tally.unsent
        accepted = sum(part.answered - len(part.refused or ()) for part in self.parts)
        return accepted - self._lost - self._discarded
