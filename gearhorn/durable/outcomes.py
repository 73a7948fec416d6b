"""Outcomes: what becomes of the jobs that lanes have sent.

Theory of operation. Everything that is heard of a job comes here: that its server took it, refused
it or went away, that a receiver was seen with it, that it ended, that it was cancelled. The
difficulty is that a delivery has more than one job in its life, and that answers come late. So a
job is compared with the delivery's present one first:

* It is the present one: the delivery's table (``states``) says what follows.
* It is a former one, which timed out, and its receiver acknowledges after all. The message counts
  as done, whatever the delivery is doing now: it may rest, be under way again (that job is then
  taken back), be about to be set aside, or be set aside. In the last case it is taken out again,
  for which ``PARKED_LATE`` such deliveries are kept.
* It is a former one of a batch that was split since: it acknowledges each of the single messages.
* The lane has ended: nothing follows, since the store would refuse to hear of it.

A job whose connection ends is the hard case. Its receiver may be working on it, and nothing will
be heard of that. So the lane is closed and taken again under another TERM, which waits for such
receivers as after the death of an owner; ``lanes`` says why there is no other way back.

Rules: runs on the event loop. Whatever happens, the delivery's own table says what follows; here it
is told to the store's side (``PendingWrites``), to the job servers (``Shipping``) and to the next
round. See docs/protocol.rst, "Deliveries".
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import structlog

from gearhorn.durable.endings import Endings
from gearhorn.durable.expiry import Expiry
from gearhorn.durable.held_lanes import HeldLanes
from gearhorn.durable.lanes import Delivery, Lane
from gearhorn.durable.pending_writes import PendingWrites
from gearhorn.durable.retries import Retries, Wait
from gearhorn.durable.shipping import Job, Shipment, Shipping
from gearhorn.durable.states import UNDER_WAY, Action, Event, LaneState, State
from gearhorn.durable.withdrawals import Withdrawals
from gearhorn.gearman.job_servers import JobServers
from gearhorn.gearman.results import Result
from gearhorn.gearman.submission import Submission
from gearhorn.messages.verdicts import verdict_of
from gearhorn.timing import MembersClock

REFUSED_S = 1.0  # until a job that its server refused is sent again
TOLD_BYTES = 200  # of a receiver's text that are kept with a failure
PARKED_LATE = 1000  # parked messages whose receivers may still acknowledge them

log = structlog.get_logger(__name__)


class Outcomes:
    """Decides what follows from what becomes of jobs: the ``Outcome`` of every shipment, and a
    ``LaneHolder``.

    Arguments:
        job_servers: where the jobs are.
        held: is told of every lane to which something happened.
        pending: is told what the store has to know.
        clock: says when an attempt that failed is to be repeated, whichever member does that.
        endings: has every lane taken anew where an answer could not be dealt with.
    """

    def __init__(
        self,
        *,
        job_servers: JobServers,
        held: HeldLanes,
        pending: PendingWrites,
        clock: MembersClock,
        endings: Endings,
    ) -> None:
        self._endings = endings
        self._held = held
        self._pending = pending
        self.withdrawals = Withdrawals(job_servers)
        self.shipping = Shipping(job_servers, self, self.withdrawals)
        self.expiry = Expiry(pending, self.shipping, held, clock)
        self.retries = Retries(self.shipping, pending, held, clock, expiry=self.expiry)
        self._parked: dict[Delivery, None] = {}  # with receivers that may still acknowledge
        self._held_up: dict[Lane, None] = {}  # wait for job servers to take more

    # From the job servers

    def accepted(self, submission: Submission) -> None:
        """Every job of a shipment was answered: accepted, or refused, since its queue is full."""
        assert isinstance(submission, Shipment)
        self._arrived(submission)
        self._rest_refused(submission)

    def lost(self, submission: Submission) -> None:
        """The connection ended before every job was answered. Those that were accepted have
        handles, and are told of by themselves (``finished``)."""
        assert isinstance(submission, Shipment)
        self._arrived(submission)
        self._rest_refused(submission)
        for index in range(submission.answered, len(submission.deliveries)):
            self._lose(submission.deliveries[index], submission, index)

    def _rest_refused(self, shipment: Shipment) -> None:
        """Go on with the deliveries of a shipment that were refused: a refusal was no attempt, and
        they rest for ``REFUSED_S``."""
        for index, code in shipment.refused or ():
            delivery = shipment.deliveries[index]
            queue = delivery.lane.queue.decode(errors="replace")
            log.warning("delivery refused", queue=queue, code=code.decode(errors="replace"))
            if _is_present(delivery, shipment, index):
                delivery.unship(Event.REFUSE)
                self.retries.rest([delivery], REFUSED_S)
            shipment.release(index)

    def finished(self, submission: Submission, index: int, result: Result) -> None:
        """A receiver has finished with a job, or is not heard of any more (``result.lost``)."""
        assert isinstance(submission, Shipment)
        delivery = submission.deliveries[index]
        submission.release(index)
        if delivery.lane.state is LaneState.CLOSED:
            return
        job = delivery.job  # as ``_is_present``, without a call for every message
        is_present = job is not None and job[0] is submission and job[1] == index
        if result.lost:
            self._lose(delivery, submission, index)
        elif not result.ok:
            if is_present:
                verdict = verdict_of(result.text, TOLD_BYTES)
                self.retries.fail(
                    delivery,
                    verdict.reason,
                    after_s=verdict.retry_after_s,
                    parks=verdict.parks,
                )
        elif is_present:
            delivery.apply(Event.COMPLETE)
            self.finish(delivery)
        else:
            self._finish_late(delivery)

    def broke(self, submission: Submission) -> None:
        """Handling an answer failed: the store is asked again what is to be delivered."""
        self._endings.start_over()

    def _arrived(self, shipment: Shipment) -> None:
        """Its bytes are gone: lanes that waited for room may send."""
        self.shipping.arrived(shipment)
        if self._held_up and not self.shipping.is_full:
            lanes, self._held_up = self._held_up, {}
            for lane in lanes:
                self._held.touch(lane)

    def hold_up(self, lane: Lane) -> None:
        """Work a lane off again when job servers have taken what they were sent: too much of it is
        in memory, so the lane may not take messages now."""
        self._held_up[lane] = None

    def _lose(self, delivery: Delivery, shipment: Shipment, index: int) -> None:
        """The connection ended with a job, and a receiver may still have it: what comes next needs
        another TERM, and waits for that receiver like after a hand-over. Of a former attempt
        nothing more is heard, and its delivery goes on as it is."""
        if _is_present(delivery, shipment, index):
            delivery.unship(Event.LOSE)
            self._held.close(delivery.lane)

    def _finish_late(self, delivery: Delivery) -> None:
        """A receiver acknowledged after its time; a batch may have been split meanwhile."""
        for late in delivery.singles or [delivery]:
            if late.state is State.PARKING:
                late.acknowledge()
            elif late.state is State.DONE:
                if late in self._parked:
                    del self._parked[late]
                    self._unpark(late)
            else:
                if Action.CANCEL in late.apply(Event.LATE):
                    self.shipping.withdraw([late.job])
                self.finish(late)

    def _unpark(self, delivery: Delivery) -> None:
        """A receiver acknowledged a message that was set aside: the store takes it out again, and
        counts it as done beyond the position if that has not passed it."""
        self.shipping.forget(delivery)
        if delivery.lane.state is not LaneState.CLOSED:
            delivery.lane.note_late(delivery.sequence)
            self._pending.late(delivery)
            self._held.touch(delivery.lane)

    # From the job watcher

    def watch(self, deliveries: Iterable[Delivery]) -> None:
        """Ask for deliveries that were just sent, and that expire, when their time is over: a job
        that no receiver has taken by then is withdrawn."""
        for delivery in deliveries:
            ask_in_s = self.expiry.ask_in_s(delivery)
            if ask_in_s is not None and delivery.state is State.SENT:  # else it is lost already
                Wait([delivery], ask_in_s, self.ask)

    def ask(self, delivery: Delivery) -> None:
        """Ask whether a receiver has taken a delivery. Without effect where its job server
        has not accepted it yet: the job watcher asks once more."""
        if delivery.job is not None:
            self.shipping.ask(delivery.job, partial(self.told, delivery, delivery.job))

    def told(self, delivery: Delivery, job: Job, is_known: bool, is_running: bool) -> None:
        """Take a job server's answer to whether it knows a job, and whether a receiver has it.
        Without effect where something else was heard of the delivery meanwhile."""
        if delivery.job is not job or delivery.state is not State.SENT:
            return
        if is_running:
            self.taken(delivery)
        elif is_known:
            self.waiting(delivery)
        else:
            self.unknown(delivery)

    def taken(self, delivery: Delivery) -> None:
        """A receiver was seen with the job: its time runs from now on. The time is that of the
        delivery's own options, with which it was made. Without effect where it runs already."""
        if delivery.state in UNDER_WAY and delivery.state is not State.TAKEN:
            delivery.apply(Event.TAKE)
            Wait([delivery], delivery.options.timeout, self._expire)

    def waiting(self, delivery: Delivery) -> None:
        """No receiver has the job. Withdraw it where the lane closes, which could not be given up
        before a receiver comes, perhaps days later; or where the message has expired. Otherwise it
        waits on the queue."""
        job = delivery.job
        if delivery.lane.state is LaneState.CLOSING or self.expiry.is_over(delivery):
            if Action.CANCEL in delivery.apply(Event.WITHDRAW):
                then = partial(self._cancelled, delivery, job)
                self.shipping.withdraw([job], is_late=True, then=then)

    def _cancelled(self, delivery: Delivery, job: Job) -> None:
        """A job was cancelled. A receiver may have taken it just before: its job server is asked
        once more before anything follows."""
        if delivery.job is job:
            self.shipping.ask(job, partial(self._withdrawn, delivery, job))
        else:
            self.shipping.drop(job)  # the receiver of a former attempt acknowledged meanwhile

    def _withdrawn(self, delivery: Delivery, job: Job, is_known: bool, is_running: bool) -> None:
        """The answer to that: where no receiver has the job, the delivery has been no attempt."""
        if delivery.job is not job or delivery.state is not State.WITHDRAWING:
            return
        if is_running:
            self.taken(delivery)
        else:
            self.shipping.drop(job)
            delivery.unship(Event.WITHDRAWN)
            self._held.touch(delivery.lane)

    def unknown(self, delivery: Delivery) -> None:
        """The job server does not know the job: it has ended unheard, so a receiver may have it."""
        if delivery.job is not None:
            self._lose(delivery, *delivery.job)

    def _expire(self, delivery: Delivery) -> None:
        """A receiver has had its time, which is a failed attempt."""
        if delivery.state is State.TAKEN:
            text = f"no answer in {delivery.options.timeout:g} s"
            self.retries.fail(delivery, text, is_late=True)

    # From the rounds

    def finish(self, delivery: Delivery, is_parked: bool = False) -> None:
        """A delivery is done.

        Arguments:
            delivery: in the state DONE.
            is_parked: whether it was set aside instead of acknowledged. Then its former receivers
                are still listened to.
        """
        # All of it happens in one turn of the loop, so that the round which writes the position
        # also writes what the delivery leaves. Former receivers come last: the lane may be given
        # up without them.
        lane = delivery.lane
        self._pending.finish(delivery, is_parked)
        lane.done(delivery, is_parked)
        if not lane.is_dirty:  # where many are under way, it nearly always is
            self._held.touch(lane)
        delivery.end()
        if delivery.former:
            if is_parked:
                self._keep(delivery)
            else:
                self.shipping.forget(delivery)

    def parked(self, delivery: Delivery, is_gone: bool) -> None:
        """A message was set aside, or could not be because the log does not have it any more
        (``is_gone``). Without effect where its lane has ended."""
        if delivery.lane.state is LaneState.CLOSED or delivery.state is not State.PARKING:
            return
        delivery.apply(Event.PARK)
        if is_gone and not delivery.is_acknowledged:
            self._vanish(delivery)
        else:
            self.finish(delivery, is_parked=not is_gone)

    def gone(self, delivery: Delivery) -> None:
        """The log does not have the messages any more that were to be sent again: they were dropped
        by a cap of the topic, and count as that."""
        delivery.apply(Event.VANISH)
        self._vanish(delivery)

    def gone_before(self, delivery: Delivery, first: int) -> None:
        """The log does not have the messages of a batch any more that are before ``first``."""
        self._pending.vanish(delivery, delivery.lane.lose_before(delivery, first))

    def _vanish(self, delivery: Delivery) -> None:
        """A delivery is over because its messages are gone; the lane counts them as dropped."""
        self._pending.vanish(delivery, delivery.entries)
        delivery.lane.vanish(delivery)
        self.shipping.forget(delivery)
        self._held.touch(delivery.lane)

    def _keep(self, delivery: Delivery) -> None:
        """Go on hearing of the receivers of a message that was set aside, until so many others
        were set aside since. One may have acknowledged while the store was told."""
        if delivery.is_acknowledged:
            self._unpark(delivery)
            return
        self._parked[delivery] = None
        if len(self._parked) > PARKED_LATE:
            oldest = next(iter(self._parked))
            del self._parked[oldest]
            self.shipping.forget(oldest)

    def end(self, lane: Lane) -> None:
        """A lane is not this member's any more: wait for nothing of it. Jobs that no receiver has
        taken are withdrawn."""
        jobs = []
        for delivery in lane.window:
            if delivery.job is not None:
                jobs.append(delivery.job)
            self.shipping.forget(delivery)
            delivery.end()
        self._pending.drop(lane)
        self.shipping.withdraw(jobs)
        lane.clear()


def _is_present(delivery: Delivery, shipment: Shipment, index: int) -> bool:
    """Whether this is the job of a delivery's present attempt."""
    job = delivery.job
    return job is not None and job[0] is shipment and job[1] == index
