"""Outcomes: what becomes of the jobs that lanes have sent.

Rules: runs on the event loop. Whatever happens, the delivery's own table says what follows; here it
is told to the store's side (``PendingWrites``), to the job servers (``Shipping``) and to the next
round.
"""

from __future__ import annotations

from functools import partial

import structlog

from gearhorn.durable.endings import Endings
from gearhorn.durable.held_lanes import HeldLanes
from gearhorn.durable.lanes import Delivery, Lane
from gearhorn.durable.pending_writes import PendingWrites
from gearhorn.durable.retries import Retries, Wait
from gearhorn.durable.shipping import OVER, Job, Shipment, Shipping
from gearhorn.durable.states import UNDER_WAY, Action, Event, LaneState, State
from gearhorn.durable.withdrawals import Withdrawals
from gearhorn.gearman.job_servers import JobServers
from gearhorn.gearman.results import Result
from gearhorn.gearman.submission import Submission
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
        self.retries = Retries(self.shipping, pending, held, clock)
        self._parked: dict[Delivery, None] = {}  # with receivers that may still acknowledge
        self._held_up: dict[Lane, None] = {}  # wait for job servers to take more

    # From the job servers

    def accepted(self, submission: Submission) -> None:
        """Every job was answered."""
        assert isinstance(submission, Shipment)
        self._arrived(submission)
        for index, delivery in enumerate(submission.deliveries):
            if delivery.lane.state is LaneState.CLOSED and delivery is not OVER:
                # nobody could take it back before
                self.shipping.withdraw([(submission, index)])
        for index, code in submission.refused or ():
            delivery = submission.deliveries[index]
            queue = delivery.lane.queue.decode(errors="replace")
            log.warning("delivery refused", queue=queue, code=code.decode(errors="replace"))
            if _is_present(delivery, submission, index):
                delivery.unship(Event.REFUSE)
                self.retries.rest([delivery], REFUSED_S)
            submission.release(index)

    def lost(self, submission: Submission) -> None:
        """The connection ended before every job was answered."""
        assert isinstance(submission, Shipment)
        self._arrived(submission)
        for index in range(submission.answered, len(submission.deliveries)):
            self._lose(submission.deliveries[index], submission, index)

    def finished(self, submission: Submission, index: int, result: Result) -> None:
        """A receiver has finished, or nobody hears of it any more."""
        assert isinstance(submission, Shipment)
        delivery = submission.deliveries[index]
        submission.release(index)
        if delivery.lane.state is LaneState.CLOSED:
            return
        is_present = _is_present(delivery, submission, index)
        if result.lost:
            self._lose(delivery, submission, index)
        elif not result.ok:
            if is_present:
                text = result.text[:TOLD_BYTES].decode(errors="replace")
                self.retries.fail(delivery, text or "failed")
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
        """Work a lane off again when job servers have taken what they were sent."""
        self._held_up[lane] = None

    def _lose(self, delivery: Delivery, shipment: Shipment, index: int) -> None:
        """The connection ended with a job, and a receiver may still have it: what comes next needs
        another TERM, and waits for that receiver like after a hand-over."""
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
        """A receiver acknowledged a message that was set aside."""
        self.shipping.forget(delivery)
        if delivery.lane.state is not LaneState.CLOSED:
            delivery.lane.is_late(delivery.sequence)
            self._pending.late(delivery)
            self._held.touch(delivery.lane)

    # From those who look at the job servers

    def taken(self, delivery: Delivery) -> None:
        """A receiver was seen with the job: its time runs."""
        if delivery.state in UNDER_WAY and delivery.state is not State.TAKEN:
            delivery.apply(Event.TAKE)
            Wait([delivery], delivery.options.timeout, self._expire)

    def waiting(self, delivery: Delivery) -> None:
        """No receiver has the job: where the lane closes, withdraw it."""
        job = delivery.job
        if delivery.lane.state is LaneState.CLOSING:
            if Action.CANCEL in delivery.apply(Event.WITHDRAW):
                then = partial(self._cancelled, delivery, job)
                self.shipping.withdraw([job], is_late=True, then=then)

    def _cancelled(self, delivery: Delivery, job: Job) -> None:
        """A job was cancelled; a receiver may have taken it just before."""
        if delivery.job is job:
            self.shipping.ask(job, partial(self._withdrawn, delivery, job))

    def _withdrawn(self, delivery: Delivery, job: Job, is_known: bool, is_running: bool) -> None:
        if delivery.job is not job or delivery.state is not State.WITHDRAWING:
            return
        if is_running:
            self.taken(delivery)
        else:
            self.shipping.drop(job)
            delivery.unship(Event.WITHDRAWN)

    def unknown(self, delivery: Delivery) -> None:
        """The job server does not know the job."""
        if delivery.job is not None:
            self._lose(delivery, *delivery.job)

    def _expire(self, delivery: Delivery) -> None:
        if delivery.state is State.TAKEN:
            text = f"no answer in {delivery.options.timeout:g} s"
            self.retries.fail(delivery, text, is_late=True)

    # From the rounds

    def finish(self, delivery: Delivery, is_parked: bool = False) -> None:
        """A delivery is done."""
        lane = delivery.lane
        self._pending.finish(delivery, is_parked)
        lane.done(delivery, is_parked)
        self._held.touch(lane)
        delivery.end()
        if delivery.former:
            if is_parked:
                self._keep(delivery)
            else:
                self.shipping.forget(delivery)

    def parked(self, delivery: Delivery, is_gone: bool) -> None:
        """A message was set aside, or could not be because the log does not have it any more."""
        if delivery.lane.state is LaneState.CLOSED or delivery.state is not State.PARKING:
            return
        delivery.apply(Event.PARK)
        if is_gone:
            self._vanish(delivery)
        else:
            self.finish(delivery, is_parked=True)

    def gone(self, delivery: Delivery) -> None:
        """The log does not have a message any more that was to be sent again."""
        delivery.apply(Event.VANISH)
        self._vanish(delivery)

    def _vanish(self, delivery: Delivery) -> None:
        self._pending.finish(delivery, is_parked=False)
        delivery.lane.vanish(delivery)
        self.shipping.forget(delivery)
        self._held.touch(delivery.lane)

    def _keep(self, delivery: Delivery) -> None:
        """Go on hearing of the receivers of a message that was set aside."""
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
