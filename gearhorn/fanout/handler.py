"""Fan-outs: takes ``fanout`` jobs and begins what their messages ask for.

Theory of operation. Copies on one queue must keep the order in which their fan-outs were taken. A
job whose list is cached goes out at once. A job whose list is not waits for it in the directory,
and one whose topic has a log waits in ``Appends`` until its message is written. Both serve those
who wait in the order in which they came, and a list is cached only when those who waited for it
are served. A topic whose log ends may have messages in ``Appends``: its next fan-outs wait for
these. So no later fan-out of the topic passes an earlier one.

The most frequent fan-out (in the background, to a whole list that one server carries, no receipt,
no log) takes a shorter way than the others: ``_send_fast``. Everything else becomes a ``Plan``,
which each step completes, and which a ``Background`` or a ``Foreground`` is made from at the end.

A foreground fan-out takes its place before it is logged: a message that is refused as ``busy`` must
not be in the log. Where nothing comes of it after that, the place is given back (``Plan.abandon``).

Rules: runs on the event loop, and nothing waits. Each job is finished, whatever happens.
"""

from __future__ import annotations

import time

import structlog

from gearhorn.config import Config
from gearhorn.durable.appends import Appends
from gearhorn.errors import InternalError, RequestError, TooLarge, Unavailable
from gearhorn.fanout.background import Background, FastFanout
from gearhorn.fanout.copies import Subscribers
from gearhorn.fanout.directory import Directory
from gearhorn.fanout.foreground import Foreground
from gearhorn.fanout.outbox import Outbox
from gearhorn.fanout.running import Plan
from gearhorn.gearman.worker import Job
from gearhorn.messages.fanout import PLAIN_NAMES_BYTES, Fanout, decode_fanout
from gearhorn.messages.logs import Logged
from gearhorn.messages.receipts import encode_receipt
from gearhorn.names import check_publish

log = structlog.get_logger(__name__)


class _ListWaiter:
    """A ``fanout`` job that waits for its list: see ``directory.Waiter``.

    Arguments:
        fanouts: goes on with the job.
        job: the job. Where it was given back meanwhile, another member has it, and nothing is done.
        message: what it asks for.
    """

    __slots__ = ("_fanouts", "_job", "_message")

    def __init__(self, fanouts: Fanouts, job: Job, message: Fanout) -> None:
        self._fanouts = fanouts
        self._job = job
        self._message = message

    def listed(self, subscribers: Subscribers) -> None:
        """Begin the fan-out. A fault costs this job only: others wait for the same list."""
        job = self._job
        if job.is_given_back:
            return
        try:
            self._fanouts.begin(job, self._message, subscribers)
        except RequestError as error:
            job.fail(str(error))
        except Exception:
            log.exception("fan-out failed", topic=self._message.topic)
            job.fail(str(InternalError()))

    def refused(self, error: RequestError) -> None:
        """Refuse the job with why there is no list."""
        if not self._job.is_given_back:
            self._job.fail(str(error))


class Fanouts:
    """Begins the fan-outs of this member.

    Arguments:
        config: has the limits on a request: ``max_payload`` and ``max_fanout_bytes``, in bytes.
        directory: has the lists.
        outbox: what the running fan-outs share.
        appends: writes the messages of topics that have a log.
    """

    def __init__(
        self, config: Config, directory: Directory, outbox: Outbox, appends: Appends
    ) -> None:
        self._appends = appends
        self._config = config
        self._directory = directory
        self._outbox = outbox
        # so many copies may be made of the largest message there is
        largest = config.max_payload + PLAIN_NAMES_BYTES
        self._never_too_large = config.max_fanout_bytes // largest

    def handle(self, job: Job) -> None:
        """Take one ``fanout`` job ("fanout" in docs/protocol.rst); it is finished sooner or later.

        A topic's name is checked only where its list is not cached: a list that was read proves
        that the name is a good one.
        """
        try:
            if job.oversized:
                limit = self._config.max_payload
                text = f"the request is longer than any that --max-payload {limit} allows"
                job.fail(str(TooLarge(text)))
                return
            # The job lets go of its arguments: they are as large as the payload, which is kept.
            message = decode_fanout(job.take_arguments(), self._config.max_payload)
            if message.expires_s:
                message = message.expiring(self._outbox.clock.clock_ms, time.time())
            subscribers = self._directory.get(message.topic)
            if subscribers is not None:
                self.begin(job, message, subscribers)
            else:
                check_publish(message.topic)
                self._directory.when_known(message.topic, _ListWaiter(self, job, message))
        except RequestError as error:
            job.fail(str(error))

    def begin(self, job: Job, message: Fanout, subscribers: Subscribers) -> None:
        """Send the copies of a message whose list is known, or have the message logged first.

        The size is checked first, since nothing may have been done for a message that is refused.
        A job weighs as many copies as it makes from here on, so that the worker grabs fewer others
        while a large one is in hand. The place comes before the log: see above.

        Raises ``RequestError``: ``TooLarge``, or ``Busy`` where no place is left.
        """
        chosen = subscribers.chosen(message.exclude) if message.exclude else None
        total = len(subscribers.queues if chosen is None else chosen)
        if total > self._never_too_large:
            self._check_size(message, total)
        if total > 1:
            job.weigh(total)
        has_log, topic = subscribers.has_log, message.topic
        waits = has_log or topic in self._appends.topics
        is_plain = message.background and chosen is None and not (message.receipt or waits)
        if message.expires_ms and self._outbox.has_expired(message):
            is_plain = False  # it waited for its list: who gets no copy has to be told
        if is_plain and self._send_fast(job, message, subscribers):
            return
        plan = Plan(job, message, subscribers, chosen)
        if not message.background and (total or has_log):
            plan.enter(self._outbox.places)
        if has_log:
            self._appends.add(job, message, self, plan)
        elif waits:
            self._appends.follow(topic, job, self, plan)
        else:
            self._copy(plan)

    def _check_size(self, message: Fanout, total: int) -> None:
        """Raise ``TooLarge`` for a message whose copies together are over ``max_fanout_bytes``."""
        config = self._config
        if message.size * total > config.max_fanout_bytes:
            raise TooLarge(
                f"{total} copies of {message.size} bytes are over --max-fanout-bytes "
                f"{config.max_fanout_bytes}"
            )

    def _send_fast(self, job: Job, message: Fanout, subscribers: Subscribers) -> bool:
        """Send a fan-out in its most frequent shape; return False where it does not have it.

        It has not where several servers carry the list or none is up, where envelopes are asked
        for, where copies of the topic are held back for room, or where a long fan-out of the topic
        is under way, behind which this one has to wait.
        """
        outbox = self._outbox
        share = subscribers.only_share(outbox.job_servers)
        topic = message.topic
        if share is None or topic in outbox.portions.topics or topic in outbox.overflow.topics:
            return False
        if subscribers.carries():
            self._read_backlog(subscribers)
        copies = FastFanout(outbox, job, message, subscribers, share=share)
        outbox.job_servers.clients[share.place].submit(copies)
        return True

    def _read_backlog(self, subscribers: Subscribers) -> None:
        """Have the backlog of a list read, which has carried as many fan-outs as it may."""
        self._outbox.backlog.poll_soon(subscribers, self._directory)

    def logged(self, plan: Plan, place: Logged | Unavailable | None) -> None:
        """Go on with a message that waited for its topic's log: as ``Origin`` of ``Appends``.

        Arguments:
            plan: of the fan-out, whose place is left where nothing comes of it.
            place: where the message stands; why it does not; None: there is no log any more, and
                the direct receivers get their copies all the same.
        """
        if plan.job.is_given_back:
            plan.abandon()
            return
        try:
            if isinstance(place, Unavailable):
                raise place
            if place is not None:
                plan.note_logged(place)
            self._copy(plan)
        except RequestError as error:
            plan.abandon()
            plan.job.fail(str(error))
        except Exception:  # a bug must not take those with it that were logged in the same round
            plan.abandon()
            log.exception("fan-out failed", topic=plan.message.topic)
            plan.job.fail(str(InternalError()))

    def _copy(self, plan: Plan) -> None:
        """Send the copies. Durable receivers have the message in the log by now.

        A fan-out with nothing to send and no receiver to wait for is replied to here. One in the
        foreground that only durable receivers get has nothing to send, but waits for them.
        """
        message = plan.message
        if not plan.total and (message.background or not plan.receivers):
            plan.abandon()
            count, logged = len(plan.receivers), plan.logged
            receipt = encode_receipt(count, logged=logged) if message.receipt else b"%d" % count
            plan.job.complete(receipt)
            return
        if plan.subscribers.carries():
            self._read_backlog(plan.subscribers)
        if message.background:
            Background(self._outbox, plan).send(plan.chosen)
            return
        foreground = Foreground(self._outbox, plan)
        if plan.total:
            foreground.send(plan.chosen)
