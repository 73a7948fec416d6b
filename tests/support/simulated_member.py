"""A member that delivers, with everything around it simulated, and what it promises.

The parts are those that run in production, put together by ``Deliverer``. Besides, a member looks
after three things that this does as simply as can be: which lanes it holds (``ownership``), when
receivers of a former owner have ended (``quiet``), and which jobs are taken (``job_watch``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

from gearhorn import tasks, timing
from gearhorn.durable import outcomes, retries, rounds
from gearhorn.durable.changed_lanes import ChangedLanes
from gearhorn.durable.deliverer import Deliverer
from gearhorn.durable.latest_lanes import LatestLane, lane_class
from gearhorn.durable.states import LaneState, State
from gearhorn.messages.subscriptions import DurableOptions
from support.simulated import Clock, Job, JobServer, Judge, Loop
from support.simulated_store import ME, TOPIC, Store, Subscription


class Logs:
    """Keeps nothing but what should never be logged."""

    def __init__(self, errors: list[BaseException]) -> None:
        self._errors = errors

    def critical(self, event: str, exc_info: BaseException | None = None, **fields: Any) -> None:
        self._errors.append(exc_info or AssertionError(event))

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda event, **fields: None


class Member(Judge):
    """One member, its lanes, and what is promised of what it sends."""

    def __init__(self, options: Sequence[DurableOptions]) -> None:
        self.clock = Clock()
        self.loop = Loop(self.clock)
        self.store = Store(
            [Subscription(f"c{at}", some) for at, some in enumerate(options)], self.clock
        )
        self.server = JobServer(self, self.clock)
        self._patches: list[Any] = [mock.patch.object(timing, "time", self.clock)]
        for module in (outcomes, retries, rounds, tasks):
            self._patches.append(mock.patch.object(module, "log", Logs(self.store.errors)))
        for patch in self._patches:
            patch.start()
        self.loop.set_exception_handler(self._broke)
        self._run_id = ""
        self.known = 0  # messages that were logged before this step
        self.is_hasty = False  # a round may be under way that began before this step
        self._uniques: set[bytes] = set()
        self._on_its_way: set[Job] = set()  # sent under a former TERM, and accepted after its end
        self._inherited_s: dict[Job, float] = {}  # when a TERM began during which receivers have it
        # of messages that failed: how often since they were last put back, and until when they rest
        self._failures: dict[tuple[str, int], tuple[int, float]] = {}
        self.deliverer: Deliverer
        self.settle(self._begin)

    def _begin(self) -> None:
        lease = SimpleNamespace(until_s=float("inf"))
        clock = self.clock

        class Membership:
            id = ME

            @property
            def lease(self) -> Any:
                return lease

            @property
            def clock_ms(self) -> int:
                return clock.ms

        store: Any = self.store
        server: Any = self.server
        membership: Any = Membership()
        self.deliverer = Deliverer(
            store=store,
            job_servers=server,
            membership=membership,
            changed_lanes=ChangedLanes(),
            drops=mock.Mock(),
        )
        self._task = self.loop.create_task(self.deliverer.run())

    def settle(self, *steps: Callable[[], Any]) -> None:
        """Have something happen, and everything that follows at once."""

        async def take() -> None:
            for step in steps:
                step()

        self.loop.run_until_complete(take())
        self.loop.settle()
        if self.store.errors:
            raise self.store.errors[0]

    def _broke(self, loop: Any, context: dict[str, Any]) -> None:
        self.store.errors.append(context.get("exception") or AssertionError(context["message"]))

    def end(self) -> None:
        """Leave nothing behind."""

        async def stop() -> None:
            self._task.cancel()
            await self.deliverer.stop()

        self.store.is_slow = False
        self.store.answer()
        self.loop.run_until_complete(stop())
        self.loop.close()
        for patch in self._patches:
            patch.stop()

    # What a member does besides

    def own(self) -> None:
        """Take what is free, and forget what is not ours any more."""
        if self._run_id != self.store.run_id:
            if self._run_id:
                self.deliverer.abandon()
            self._run_id = self.store.run_id
            self.deliverer.begin_run(self._run_id)
        for kept in self.store.lanes.values():
            lane = self.deliverer.find(TOPIC).get(kept.client_id)
            if lane is not None and (kept.owner, kept.term) != (ME, lane.term):
                if lane.state is LaneState.CLOSING:
                    continue  # its release may be under way
                self.deliverer.fence(lane)
                lane = None
            if lane is None:
                self._acquire(kept)

    def _acquire(self, kept: Subscription) -> None:
        acquired = self.store.acquire(kept)
        for sequence in range(1, len(self.store.log) + 1):
            trouble = kept.troubles.get(sequence)
            count, due_s = self._failures.pop((kept.client_id, sequence), (0, 0.0))
            if trouble is not None:
                if trouble.attempts < kept.failed[sequence]:
                    due_s = 0.0  # the last failure is not known any more
                count = trouble.attempts - trouble.since
                self._failures[kept.client_id, sequence] = count, due_s
        for shipment, jobs in self.server.pending:  # nobody can take these back yet
            self._on_its_way.update(jobs[shipment.answered :])
        for job in self.server.taken + self.server.orphans:
            is_over = job.is_late or job.delivery.state is State.DONE or job in self._on_its_way
            if job.lane.client_id == kept.client_id and not is_over:
                self._inherited_s.setdefault(job, self.clock.s)
        queue = f"{TOPIC}_{kept.client_id}".encode()
        lane = lane_class(kept.options)(
            TOPIC,
            kept.client_id,
            queue,
            kept.options,
            False,
            acquired.term,
            acquired.position,
            keeper=self.deliverer.held,
            wait_until_s=self.clock.s + kept.options.timeout,
        )
        self.deliverer.open(lane, acquired)

    def quiet(self) -> None:
        """Open the lanes that wait for receivers of their former owners."""
        running = {job.queue for job in self.server.taken + self.server.orphans}
        for lane in self.deliverer.lanes():
            if lane.state is LaneState.TAKING_OVER:
                if lane.queue not in running or self.clock.s >= lane.wait_until_s:
                    self.deliverer.quiet(lane)

    def watch(self) -> None:
        """Ask which jobs are taken."""
        for lane in list(self.deliverer.held.busy):
            for delivery in lane.window:
                if delivery.state is State.SENT:
                    self.deliverer.outcomes.ask(delivery)

    def close(self, kept: Subscription) -> None:
        """Give a lane up: it is for another TERM."""
        lane = self.deliverer.find(TOPIC).get(kept.client_id)
        if lane is not None:
            self.deliverer.close(lane)

    def publish(
        self, excluded: Sequence[bool], is_told: bool, expires_s: int = 0, value: str = ""
    ) -> None:
        """Log messages; the second subscription is excluded from some. They expire after a while,
        unless that is 0."""
        expires_ms = self.clock.ms + 1000 * expires_s if expires_s else 0
        for is_excluded in excluded:
            self.store.publish(["c1"] if is_excluded else [], "process", expires_ms, value)
        if is_told:
            self.deliverer.appended(TOPIC, len(self.store.log))
        else:
            self.deliverer.missed()

    # What is promised

    def submitted(self, job: Job) -> None:
        """``Deliveries`` in docs/protocol.rst."""
        try:
            self._judge(job, self.store.lanes[job.lane.client_id])
        except AssertionError as error:
            self.store.errors.append(error)
            raise

    def _judge(self, job: Job, kept: Subscription) -> None:
        assert job.unique not in self._uniques, "a unique id comes twice"
        self._uniques.add(job.unique)
        assert job.lane.state is LaneState.OPEN
        assert job.term == job.lane.term
        assert job.term not in kept.fenced, "something is sent for a lane that is lost"
        if (kept.owner, kept.term) != (ME, job.term):
            return  # it is lost, and nothing has told the member
        for sequence in job.sequences:
            self._may_be_sent(kept, sequence)
            self._is_latest(job, kept, sequence)
            if sequence not in kept.redrives:
                kept.begun.add(sequence)
        self._is_alone(job, kept)
        self._is_in_order(job, kept)

    def _may_be_sent(self, kept: Subscription, sequence: int) -> None:
        assert kept.client_id not in self.store.log[sequence - 1].info.exclude
        assert not self.store.has_expired(sequence), "it has expired"
        if sequence not in kept.redrives:
            assert not kept.knows(sequence), "the store knows that it is done"
        failures, due_s = self._failures.get((kept.client_id, sequence), (0, 0.0))
        limit = kept.options.max_attempts
        assert not limit or failures < max(limit, 2 if kept.options.batch > 1 else 1)
        assert self.clock.s >= due_s - 0.001, "it rests"

    def _is_latest(self, job: Job, kept: Subscription, sequence: int) -> None:
        if not kept.options.latest or sequence in kept.redrives:
            return
        newer = [n for n in self.store.newer(kept, sequence) if not self.store.has_expired(n)]
        assert not kept.begun & set(newer), "something newer was sent before"
        for other in self._present(job):
            for older in set(other.sequences) - kept.redrives.keys():
                assert sequence not in self.store.newer(kept, older), "two of a value at once"
        lane = job.lane
        assert isinstance(lane, LatestLane)
        if not (self.is_hasty or lane.is_full):
            assert not any(n <= self.known for n in newer), "there is something newer"

    def _present(self, job: Job) -> list[Job]:
        """The jobs of a lane that are under way."""
        return [
            other
            for other in self.server.live
            if other.lane is job.lane
            and not other.is_late
            and other.is_listened_to
            and other.delivery.state is not State.DONE  # a late receiver was faster
        ]

    def _is_alone(self, job: Job, kept: Subscription) -> None:
        present = self._present(job)
        sent = [sequence for other in present for sequence in other.sequences]
        assert len(sent) == len(set(sent)), "a message is sent twice at once"
        shown = [(other.sequences, other.delivery.state) for other in present]
        assert len(present) <= kept.options.in_flight, f"more than may be are under way: {shown}"
        for other in self.server.taken + self.server.orphans:
            if self.clock.s < self._inherited_s.get(other, 0.0) + kept.options.timeout:
                assert other.queue != job.queue, (
                    "a receiver is at work for a former TERM",
                    (other.term, job.term, other.sequences, other.delivery.state.name),
                    (self._inherited_s[other], self.clock.s),
                )
        for other in self.server.orphans:
            is_over = other.is_late or other.delivery.state is State.DONE
            is_lost = other.lane is job.lane and other.is_listened_to and not is_over
            assert not is_lost, "a receiver may have the lost one, and the TERM is the same"

    def _is_in_order(self, job: Job, kept: Subscription) -> None:
        first = job.sequences[0]
        if kept.options.in_flight == 1 and first not in kept.redrives:
            for sequence in range(self.store.first, first):
                is_excluded = kept.client_id in self.store.log[sequence - 1].info.exclude
                is_over = is_excluded or self.store.has_expired(sequence)
                is_over = is_over or bool(self.store.newer(kept, sequence))
                assert is_over or kept.knows(sequence), (
                    "one before it is not done",
                    sequence,
                    [
                        (d.sequence, d.state.name, d.failures, d.is_redriven)
                        for d in job.lane.window
                    ],
                )

    def expired(self, job: Job) -> None:
        timeout = job.lane.options.timeout
        assert job.seen_s
        assert self.clock.s >= job.seen_s + timeout - 0.001
        self._count(job)

    def failed(self, job: Job) -> None:
        if job.lane.state is not LaneState.CLOSED:
            self._count(job)

    def _count(self, job: Job) -> None:
        kept = self.store.lanes[job.lane.client_id]
        for sequence in job.sequences:
            kept.failed[sequence] = kept.failed.get(sequence, 0) + 1
            count, _ = self._failures.get((kept.client_id, sequence), (0, 0.0))
            rest_s = min(2.0**count + 1, kept.options.max_backoff)
            self._failures[kept.client_id, sequence] = count + 1, self.clock.s + rest_s

    def acknowledged(self, job: Job) -> None:
        if job.lane.state is not LaneState.CLOSED:
            kept = self.store.lanes[job.lane.client_id]
            kept.acknowledged.update(job.sequences)
            kept.heard.update(job.sequences)
            is_over = job.is_late and any(map(self.store.has_expired, job.sequences))
            if (kept.owner, kept.term) != (ME, job.term) or is_over:
                # the store does not come to know of it, or has counted it as expired
                self.store.is_countable = False

    def holds(self) -> None:
        """What is promised at every time."""
        for lane in self.deliverer.lanes():
            states = [delivery.state for delivery in lane.window]
            assert State.DONE not in states
            assert lane.active == len(states)
            for state in State:
                assert state is State.DONE or lane.counts[state] == states.count(state)

    def is_done(self) -> bool:
        """Whether everything is delivered, and the store knows it."""
        return all(
            kept.position == len(self.store.log) and not kept.redrives
            for kept in self.store.lanes.values()
        ) and not any(lane.active for lane in self.deliverer.lanes())

    def _left(self) -> list[object]:
        """Return what is not done of each subscription."""
        left: list[object] = [("last", len(self.store.log))]
        for kept in self.store.lanes.values():
            left.append((kept.client_id, kept.owner, kept.term, kept.position, [*kept.redrives]))
        for lane in self.deliverer.lanes():
            window = [(delivery.sequence, delivery.state) for delivery in lane.window]
            left.append((lane.client_id, lane.state, lane.term, lane.position, window))
        return left

    def ends_well(self) -> None:
        """What is promised once all is quiet."""
        assert self.is_done(), f"something is never delivered: {self._left()}"
        for kept in self.store.lanes.values():
            for sequence in range(1, len(self.store.log) + 1):
                assert self.store.is_over(kept, sequence)
            assert kept.troubles == {}, "failed attempts are kept of what is done"
            assert not kept.acknowledged & kept.parked.keys(), "acknowledged late, and parked"
            expired = self.store.expired(kept)
            if kept.options.latest:
                self._ends_with_the_latest(kept)
                continue
            if self.store.is_countable and self.store.first == 1:
                assert sum(kept.counted.values()) == len(expired), "expired messages are miscounted"
            if self.store.is_calm:
                due = {
                    entry.sequence
                    for entry in self.store.log
                    if entry.sequence in kept.heard | kept.parked.keys() | expired
                }
                assert expired <= kept.lapsed, "the store does not know what expired"
                assert due <= kept.told, "who waits was not told"

    def _ends_with_the_latest(self, kept: Subscription) -> None:
        """``The latest only`` in docs/protocol.rst."""
        had = kept.heard | kept.parked.keys()
        left = set()
        for entry in self.store.log:
            sequence = entry.sequence
            if sequence in had or kept.client_id in entry.info.exclude:
                continue
            left.add(sequence)
            is_gone = sequence < self.store.first or self.store.has_expired(sequence)
            assert is_gone or self.store.newer(kept, sequence), "the newest was passed by"
        if self.store.is_countable and self.store.first == 1:
            counted = sum(kept.counted.values()) + sum(kept.skipped.values())
            assert counted == len(left), "what was passed by is miscounted"
