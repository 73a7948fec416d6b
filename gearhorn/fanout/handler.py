"""Fan-outs: takes ``fanout`` jobs and begins what their messages ask for.

Rules: runs on the event loop; nothing waits. A job whose list is cached is worked on at once;
others wait in the directory.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import structlog

from gearhorn.config import Config
from gearhorn.durable.appends import Appends
from gearhorn.errors import RequestError, TooLarge, Unavailable
from gearhorn.fanout.background import Background, FastFanout
from gearhorn.fanout.copies import Subscribers
from gearhorn.fanout.directory import Directory
from gearhorn.fanout.foreground import Foreground
from gearhorn.fanout.outbox import Outbox
from gearhorn.fanout.places import Place
from gearhorn.gearman.worker import Job
from gearhorn.messages.fanout import Fanout, decode_fanout
from gearhorn.messages.logs import Logged
from gearhorn.messages.receipts import encode_receipt
from gearhorn.names import check_publish

log = structlog.get_logger(__name__)


class Fanouts:
    """Begins the fan-outs of this member."""

    def __init__(
        self, config: Config, directory: Directory, outbox: Outbox, appends: Appends
    ) -> None:
        self._appends = appends
        self._config = config
        self._directory = directory
        self._outbox = outbox

    def handle(self, job: Job) -> None:
        """Take one ``fanout`` job."""
        try:
            if job.oversized:
                most = self._config.max_payload
                raise TooLarge(f"the request is longer than any that --max-payload {most} allows")
            message = decode_fanout(job.arguments, self._config.max_payload)
            job.arguments = b""  # as large as the payload, which is kept
            subscribers = self._directory.get(message.topic)
            if subscribers is not None:
                self._begin(job, message, subscribers)
            else:
                check_publish(message.topic)
                waiter = partial(self._begin_later, job, message)
                self._directory.when_known(message.topic, waiter)
        except RequestError as error:
            job.fail(str(error))

    def _begin_later(self, job: Job, message: Fanout, found: Subscribers | RequestError) -> None:
        if job.is_given_back:
            return
        try:
            if isinstance(found, RequestError):
                raise found
            self._begin(job, message, found)
        except RequestError as error:
            job.fail(str(error))
        except Exception:  # a bug must not take those with it that wait for the same list
            log.exception("fan-out failed", topic=message.topic)
            job.fail("internal error")

    def _begin(self, job: Job, message: Fanout, subscribers: Subscribers) -> None:
        chosen = subscribers.chosen(message.exclude) if message.exclude else None
        total = len(subscribers.queues if chosen is None else chosen)
        config = self._config
        if len(message.payload) * total > config.max_fanout_bytes:
            raise TooLarge(
                f"{total} copies of {len(message.payload)} bytes are over --max-fanout-bytes "
                f"{config.max_fanout_bytes}"
            )
        if total > 1:
            job.weigh(total)
        if message.background or not (total or subscribers.has_log):
            place = None
        else:
            place = self._outbox.places.enter(len(message.payload), total)
        if not subscribers.has_log:
            self._copy(job, message, subscribers, total, chosen, place)
            return
        then = partial(self._logged, job, message, subscribers, total, chosen, place)
        self._appends.add(job, message, then)

    def _logged(
        self,
        job: Job,
        message: Fanout,
        subscribers: Subscribers,
        total: int,
        chosen: Sequence[int] | None,
        place: Place | None,
        logged: Logged | Unavailable | None,
    ) -> None:
        """Go on with a message that is in its topic's log; None: there is no log any more."""
        if job.is_given_back:
            _leave(place)
            return
        try:
            if isinstance(logged, Unavailable):
                raise logged
            receivers: Sequence[str] = ()
            if logged is not None:
                receivers = subscribers.receivers(message.exclude)
            self._copy(job, message, subscribers, total, chosen, place, logged, receivers)
        except RequestError as error:
            _leave(place)
            job.fail(str(error))
        except Exception:  # a bug must not take those with it that were logged in the same round
            _leave(place)
            log.exception("fan-out failed", topic=message.topic)
            job.fail("internal error")

    def _copy(
        self,
        job: Job,
        message: Fanout,
        subscribers: Subscribers,
        total: int,
        chosen: Sequence[int] | None,
        place: Place | None,
        logged: Logged | None = None,
        receivers: Sequence[str] = (),
    ) -> None:
        """Send the copies; ``receivers`` have the message in the log."""
        outbox = self._outbox
        if not total and (message.background or not receivers):
            _leave(place)
            count = len(receivers)
            job.complete(encode_receipt(count, logged=logged) if message.receipt else b"%d" % count)
            return
        subscribers.unlooked -= 1
        if subscribers.unlooked < 0:
            outbox.backlog.look_soon(subscribers, self._directory)
        if message.background:
            is_held_up = outbox.overflow.concerns(message.topic)
            if chosen is None and not (message.receipt or is_held_up or logged):
                share = subscribers.only_share(outbox.job_servers)
                if share is not None and message.topic not in outbox.portions.topics:
                    FastFanout(outbox, job, message, subscribers, share)
                    return
            background = Background(
                outbox, job, message, subscribers, total=total, logged=logged, receivers=receivers
            )
            background.send(chosen)
            return
        assert place is not None
        foreground = Foreground(
            outbox,
            job,
            message,
            subscribers,
            total=total,
            chosen=chosen,
            place=place,
            logged=logged,
            receivers=receivers,
        )
        if total:
            foreground.send(chosen)


def _leave(place: Place | None) -> None:
    """Nothing comes of a fan-out that may have had a place."""
    if place is not None:
        place.leave()
