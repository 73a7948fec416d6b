"""Answer streams: a caller is told of each receiver as it finishes.

A caller that reads nothing makes its job server's memory grow, not the member's: what is sent goes
to that server at once, and nothing of it is kept here. So what bounds a stream is what bounds a
receipt: the results of one message have ``places.RESULTS_BYTES`` in all, which are taken before a
result is read whole, and what JSON makes of them has ``REPLY_BYTES``.

Rules: runs on the event loop. Nothing is told after the reply, which ends the job.
"""

from __future__ import annotations

from collections.abc import Iterable

from gearhorn.fanout.copies import Subscribers
from gearhorn.fanout.tally import QUEUE_FULL, TOO_LATE, why_parked
from gearhorn.gearman.results import DISCARDED, Result
from gearhorn.gearman.worker import Job
from gearhorn.messages.answers import (
    encode_acknowledged,
    encode_error,
    encode_omitted,
    encode_result,
)
from gearhorn.messages.receipts import REPLY_BYTES
from gearhorn.timing import now_s


class AnswerStream:
    """Tells the caller of one fan-out.

    Arguments:
        job: the fan-out's, which is not finished yet.
        subscribers: the list that indexes refer to.
    """

    __slots__ = ("_began_s", "_job", "_room", "_subscribers")

    def __init__(self, job: Job, subscribers: Subscribers) -> None:
        self._job = job
        self._subscribers = subscribers
        self._began_s = now_s()
        self._room = REPLY_BYTES  # for what JSON makes of results

    def finished(self, index: int, result: Result) -> None:
        """The receiver of a copy has finished."""
        if not result.ok:
            reason = result.text.decode(errors="replace") or "failed"
            self._fail(index, QUEUE_FULL if result.text == DISCARDED else reason)
            return
        client_id, seconds = self._name(index), self._seconds
        answer = b""
        if not result.oversized:
            answer = encode_result(client_id, seconds, result.data)
            if result.data and len(answer) > self._room:
                answer = b""
            elif result.data:
                self._room -= len(answer)
        self._job.data(answer or encode_omitted(client_id, seconds))

    def dropped(self, index: int) -> None:
        """There was no room for a copy."""
        self._fail(index, QUEUE_FULL)

    def expired(self, indexes: Iterable[int]) -> None:
        """The message expired before these copies were sent."""
        for index in indexes:
            self._fail(index, TOO_LATE)

    def done(self, client_id: str, error: str, is_expired: bool) -> None:
        """A durable receiver has done with the message; see ``Waiter``."""
        if is_expired or error:
            reason = TOO_LATE if is_expired else why_parked(error)
            self._job.data(encode_error(client_id, self._seconds, reason))
        else:
            self._job.data(encode_acknowledged(client_id, self._seconds))

    def _fail(self, index: int, error: str) -> None:
        self._job.data(encode_error(self._name(index), self._seconds, error))

    def _name(self, index: int) -> str:
        [name] = self._subscribers.client_ids(index, index + 1)
        return name

    @property
    def _seconds(self) -> float:
        """How long ago the copies were begun."""
        return round(now_s() - self._began_s, 6)
