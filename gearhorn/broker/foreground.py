"""Foreground fan-outs: replied to once the receivers have finished, or a quorum of them.

Law: runs on the event loop; no task and no thread waits, so a slow receiver delays nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gearhorn.broker.copies import Subscribers
from gearhorn.broker.outbox import Copying, Outbox, Part
from gearhorn.gearman.client import Result, Submission
from gearhorn.gearman.worker import Job
from gearhorn.messages import Fanout, Logged, copies_needed, encode, encode_receipt

RESULTS_BYTES = 8 * 1024 * 1024  # of results in one receipt (PROTOCOL §5)
STATUS_INTERVAL_S = 0.05  # between two WORK_STATUS of one fan-out
_QUEUE_FULL = "queue full"


class Foreground(Copying):
    """A fan-out that replies once its receivers have finished, or a quorum of them."""

    __slots__ = (
        "_acknowledged", "_again", "_awaited", "_chosen", "_delivered", "_failed", "_left",
        "_needed", "_omitted", "_parked", "_results", "_results_bytes", "_status_at",
        "_status_timer", "_timer", "over", "replied",
    )  # fmt: skip
    foreground = True

    def __init__(
        self,
        outbox: Outbox,
        job: Job,
        message: Fanout,
        subscribers: Subscribers,
        total: int,
        chosen: list[int] | None,
        logged: Logged | None = None,
        receivers: Sequence[str] = (),
    ) -> None:
        super().__init__(outbox, job, message, subscribers, total, logged, receivers)
        loop = asyncio.get_running_loop()
        self._chosen: Sequence[int] = range(total) if chosen is None else chosen
        self._needed = copies_needed(message.quorum, total + len(receivers))
        self._left = total + len(receivers)  # that have not finished
        self._awaited = set(receivers)  # durable ones among them
        self._acknowledged: list[str] = []
        self._parked: dict[str, str] = {}
        self._delivered: list[int] = []
        self._failed: dict[int, str] = {}
        self._results: dict[str, bytes] = {}
        self._results_bytes = 0
        self._omitted: list[str] = []
        self._again: list[int] = []  # copies whose server went down, to be sent together
        self._status_at = 0.0
        self._status_timer: asyncio.TimerHandle | None = None
        self.replied = False
        self.over = False  # timed out: nothing is sent or waited for any more
        self._timer = loop.call_later(message.timeout_s, self._time_out)
        outbox.callers += 1
        outbox.caller_bytes += len(message.payload)
        if logged is not None and receivers:
            outbox.waiting.add(message.topic, logged.sequence, self)
            if not total:
                job.release()

    def done(self, client_id: str, error: str) -> None:
        """A durable receiver has done with the message, or it was parked."""
        if client_id not in self._awaited or self.over:
            return
        self._awaited.remove(client_id)
        self._left -= 1
        if error:
            self._parked[client_id] = f"parked: {error}"
        else:
            self._acknowledged.append(client_id)
        self._progress()

    def missing(self) -> Sequence[str]:
        """Return the durable receivers that are waited for."""
        return list(self._awaited)

    def send(self, indexes: Sequence[int] | None) -> None:
        if not self.over:
            super().send(indexes)

    def accepted(self, submission: Submission) -> None:
        assert isinstance(submission, Part)
        self.open -= 1
        if not self.open:
            self.job.release()
        if self._count_refused(submission):
            self._progress()
        if self.over:
            self._withdraw(submission)

    def _count_refused(self, part: Part) -> int:
        """Count the copies of a part that its server refused; return how many they are."""
        if not part.refused and not self.subscribers.overflow:
            return 0
        lost = self.drop(part)
        self._left -= lost
        return lost

    def send_held(self, index: int) -> None:
        if self.over:
            self.open -= 1
        else:
            super().send_held(index)

    def drop_held(self, index: int) -> None:
        self.open -= 1
        self.lose(index)
        self._left -= 1
        self._progress()

    def lost(self, submission: Submission) -> None:
        assert isinstance(submission, Part)
        self.open -= 1
        self._count_refused(submission)
        count = len(submission.heads)
        self.send([submission.index(at) for at in range(submission.answered, count)])
        self._progress()

    def finished(self, submission: Submission, index: int, result: Result) -> None:
        assert isinstance(submission, Part)
        index = submission.index(index)
        if result.lost:
            if not self._again:
                asyncio.get_running_loop().call_soon(self._send_again)
            self._again.append(index)
            return
        self._left -= 1
        if result.ok:
            self._delivered.append(index)
            if self.message.receipt and not self.replied:
                self._keep(self.subscribers.client_id(index), result)
        else:
            self._failed[index] = result.text.decode(errors="replace") or "failed"
        self._progress()

    def _send_again(self) -> None:
        indexes, self._again = self._again, []
        self.send(indexes)

    def _keep(self, client_id: str, result: Result) -> None:
        size = len(result.data)
        if result.oversized or self._results_bytes + size > RESULTS_BYTES:
            self._omitted.append(client_id)
        else:
            self._results[client_id] = result.data
            self._results_bytes += size

    def _progress(self) -> None:
        """A receiver finished: reply if that decides it, else tell how far the fan-out is."""
        if not self.replied:
            delivered = self._succeeded
            if self.message.quorum is None:
                decided = not self._left
            else:
                decided = delivered >= self._needed or delivered + self._left < self._needed
            if decided:
                self._reply()
            elif self._status_timer is None:
                loop = asyncio.get_running_loop()
                due = self._status_at + STATUS_INTERVAL_S
                self._status_timer = loop.call_at(max(due, loop.time()), self._status)
        if not self._left:
            self._close()

    @property
    def _succeeded(self) -> int:
        return len(self._delivered) + len(self._acknowledged)

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
        """Withdraw what nobody has taken, then reply: who hears of the timeout can rely on it."""
        self.over = True
        withdrawals = [task for part in self.parts if (task := self._withdraw(part)) is not None]
        if withdrawals:
            self.outbox.when_done(withdrawals, self._end)
        else:
            self._end()

    def _end(self) -> None:
        if not self.replied:
            self._reply()
        self._close()

    def _withdraw(self, part: Part) -> asyncio.Task[None] | None:
        client = self.outbox.cluster.clients[part.place]
        if part.connection is not client.connection:
            return None
        return self.outbox.maybe_withdraw(part, client.forget(part))

    def _close(self) -> None:
        self._timer.cancel()
        if self._status_timer is not None:
            self._status_timer.cancel()
        if self.logged is not None:
            self.outbox.waiting.remove(self.message.topic, self.logged.sequence, self)
        self.parts.clear()  # they point here

    def _reply(self) -> None:
        self.replied = True
        self.outbox.callers -= 1
        self.outbox.caller_bytes -= len(self.message.payload)
        self.job.status(*self._done)
        succeeded = self._succeeded
        if self.message.quorum is None:  # a late durable receiver gets the message all the same
            late_ones, needed = [], self._needed - len(self._awaited)
        else:
            late_ones, needed = sorted(self._awaited), self._needed
        if self.message.receipt:
            self.job.complete(self._receipt())
        elif succeeded >= needed:
            self.job.complete(b"%d" % succeeded)
        else:
            late = f"no answer in {self.message.timeout_s:g} s"
            reasons = [
                *((index, _QUEUE_FULL) for index in self.dropped),
                *self._failed.items(),
                *(((index, late) for index in self._pending()) if self.over else ()),
            ]
            named = [(self.subscribers.client_id(i), text) for i, text in reasons]
            named += self._parked.items()
            named += [(client_id, late) for client_id in late_ones if self.over]
            self.job.fail(encode(named))

    def _pending(self) -> list[int]:
        done = {*self._delivered, *self._failed, *self.dropped}
        return [index for index in self._chosen if index not in done]

    def _receipt(self) -> bytes:
        return encode_receipt(
            self.total - len(self.dropped) + len(self.receivers),
            [*self.clients(self._delivered), *self._acknowledged],
            {self.subscribers.client_id(i): words for i, words in self._failed.items()}
            | self._parked,
            [*self.clients(self._pending()), *sorted(self._awaited)],
            self.clients(self.dropped),
            self._results,
            self._omitted,
            self.logged,
        )
