"""What a durable subscription promises, whatever happens in whatever order.

A lane is driven as its member drives it, against a store that holds what the real one would. The
model beside it knows only what was published, acknowledged, parked, put back, and what failed.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)
from support.windows import CLIENT, entry, trouble

from gearhorn.durable.delivery import rest_s
from gearhorn.durable.lanes import SPAN, Delivery, Lane
from gearhorn.durable.states import UNDER_WAY, Action, Event, LaneEvent, LaneState, State
from gearhorn.messages.logs import FailureHistory
from gearhorn.messages.subscriptions import DurableOptions
from gearhorn.store.inherited import Sequences
from gearhorn.store.lanes import Acquired
from gearhorn.store.log import Entry

EXCLUDED = st.sampled_from([False, False, False, True])
ANSWERS = st.sampled_from(["complete", "fail", "fail", "expire", "take"])
RARE = ["late", "late", "redrive", "redrive", "drop", "die", "close", "lose", "withdraw"]
ALSO = st.sampled_from(["", *RARE, *[""] * len(RARE)])


class Store:
    """What is kept of one subscription."""

    def __init__(self) -> None:
        self.position = 0
        self.troubles: dict[int, FailureHistory] = {}
        self.parked: dict[int, FailureHistory] = {}
        self.redrives: dict[int, FailureHistory] = {}
        self.ahead: list[tuple[int, int]] = []  # done beyond the position


class Promise(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.log: list[Entry] = []
        self.first = 1  # what is before was dropped by the log's caps
        self.store = Store()
        self.clock_ms = 0
        # the model
        self.excluded: set[int] = set()
        self.done: set[int] = set()  # acknowledged
        self.known: set[int] = set()  # as the store knows
        self.failed: dict[int, int] = {}  # since it was last put back, as the store knows it
        self.fresh: dict[int, int] = {}  # and what the store does not know yet

    @initialize(
        in_flight=st.integers(1, 4), batch=st.integers(1, 3), max_attempts=st.integers(0, 3)
    )
    def begin(self, in_flight: int, batch: int, max_attempts: int) -> None:
        self.publish([False, False, True, False, False])
        self.options = DurableOptions(
            in_flight=in_flight, batch=batch, max_attempts=max_attempts, max_backoff=20.0
        )
        self.acquire()

    # What a member does

    def acquire(self) -> None:
        """Another member takes the lane, with what the store holds."""
        store = self.store
        self.lane = Lane("t", CLIENT, b"t_me", self.options, False, 1, store.position)
        for number in list(store.troubles):
            if number <= store.position and number not in store.redrives:
                del store.troubles[number]
        redrives = Sequences(sorted(store.redrives))
        parked = Sequences(sorted(store.parked)).behind(store.position)
        store.ahead = [one for one in store.ahead if one[1] > store.position]
        self.lane.inherit(
            Acquired(
                CLIENT,
                1,
                store.position,
                "?",
                dict(store.troubles),
                [parked, redrives.behind(store.position)],
                redrives,
                0,
                sorted(store.ahead),
                max((last for _, last in store.ahead), default=0),
            )
        )
        self.notes: dict[int, FailureHistory | None] = {}
        self.parkings: list[Delivery] = []
        self.redriven: set[int] = set()
        self.late: list[Delivery] = []  # receivers that have had their time
        self.fresh.clear()
        self.most = 0

    def write(self) -> None:
        """A round: the store has everything that came up to now."""
        store, lane = self.store, self.lane
        assert lane.position >= store.position
        store.position = lane.position
        store.ahead += [(first, last) for first, last, _ in lane.ahead]
        lane.is_written(lane.position, len(lane.ahead))
        for one in self.parkings:
            kept = trouble(one.failures)
            store.parked[one.sequence] = kept
            store.troubles.pop(one.sequence, None)
            store.redrives.pop(one.sequence, None)
            self.failed.pop(one.sequence, None)
            self.fresh.pop(one.sequence, None)
            one.apply(Event.PARK)
            assert one.state is State.DONE
            lane.done(one, is_parked=True)
        self.parkings.clear()
        for number, left in self.notes.items():
            if left is None:
                store.troubles.pop(number, None)
            else:
                store.troubles[number] = left
        self.notes.clear()
        self.failed.update(self.fresh)
        self.fresh.clear()
        self.known |= self.done
        for number in self.redriven:
            del store.redrives[number]
        self.redriven.clear()

    def release(self) -> None:
        """A lane that closes is given up as soon as it is idle, and taken anew."""
        lane = self.lane
        for one in self.of(State.WITHDRAWING):
            one.apply(Event.WITHDRAWN)
        if lane.is_releasable:
            assert not self.of(*UNDER_WAY, State.PARKING)
            self.write()
            assert lane.apply(LaneEvent.IDLE)
            self.acquire()

    def close(self) -> None:
        self.lane.apply(LaneEvent.CLOSE)
        self.release()

    def finish(self, one: Delivery) -> None:
        for message in one.entries:
            self.done.add(message.sequence)
            self.fresh[message.sequence] = 0
            if one.failures:
                self.notes[message.sequence] = None
            if one.is_redriven:
                self.redriven.add(message.sequence)
        self.lane.done(one)

    def fails(self, one: Delivery, is_expired: bool) -> None:
        """As ``Retries.fail``; parks exactly when the failures are as many as are allowed."""
        is_batch = len(one.entries) > 1
        gives_up = one.is_last and not is_batch
        count = self.failures(one.sequence) + 1
        most = self.options.max_attempts
        assert gives_up == (bool(most) and count >= most and not is_batch)
        # a batch is tried one by one, also where it had its only attempt
        assert not most or count <= max(most, 2 if self.options.batch > 1 else 1)
        if is_expired:
            actions = one.apply(Event.EXPIRE_LAST if gives_up else Event.EXPIRE)
            assert Action.CANCEL in actions
            self.late.append(one)
        else:
            actions = one.apply(Event.GIVE_UP if gives_up else Event.FAIL)
            assert Action.CANCEL not in actions
        one.failures += 1
        for message in one.entries:
            self.fresh[message.sequence] = count
        if gives_up:
            assert Action.PARK in actions
            self.parkings.append(one)
            return
        assert Action.STORE in actions
        wait_s = rest_s(one.failures - one.since, 20.0, 0.0)
        one.due_s = self.clock_ms / 1000 + wait_s
        for message in one.entries:
            due_ms = self.clock_ms + int(wait_s * 1000)
            self.notes[message.sequence] = trouble(one.failures, due_ms, one.since)
        if is_batch:
            self.lane.split(one)

    # What the model knows

    def failures(self, number: int) -> int:
        """How often a message failed since it was last put back."""
        return self.fresh.get(number, self.failed.get(number, 0))

    def is_over(self, number: int) -> bool:
        """Whether a message needs no delivery, or is to come from those that were put back."""
        return (
            number in self.done
            or number in self.store.parked
            or number in self.store.redrives
            or number in self.excluded
            or number < self.first
        )

    def of(self, *states: State) -> list[Delivery]:
        return [one for one in self.lane.window if one.state in states]

    # What happens

    @rule(
        published=st.lists(EXCLUDED, max_size=4),
        answers=st.lists(ANSWERS, max_size=4),
        also=ALSO,
        which=st.integers(0, 10**6),
        few=st.integers(1, 20),
        seconds=st.sampled_from([0, 3, 20]),
    )
    def go_on(
        self,
        published: list[bool],
        answers: list[str],
        also: str,
        which: int,
        few: int,
        seconds: int,
    ) -> None:
        """Publishers and receivers do something each, perhaps there is an accident, time passes,
        and a round follows."""
        self.publish(published)
        for one, what in zip(self.of(*UNDER_WAY), answers, strict=False):
            if what in ("take", "expire"):
                one.apply(Event.TAKE)
            if what == "complete":
                one.apply(Event.COMPLETE)
                self.finish(one)
            elif what in ("fail", "expire"):
                self.fails(one, is_expired=what == "expire")
        self.release()
        if also == "late" and self.late:
            self.complete_late(self.late.pop(which % len(self.late)))
        elif also == "redrive" and self.store.parked:
            for number in sorted(self.store.parked)[: 1 + which % 3]:
                self.store.redrives[number] = self.store.parked.pop(number)
            self.close()
        elif also == "drop" and len(self.log) > self.first:
            # the log reaches its cap; what was put back is kept apart from it
            self.first += 1 + which % min(3, len(self.log) - self.first)
        elif also == "die":
            self.done &= self.known  # the member dies with everything that it has not written
            self.acquire()
        elif also == "close":
            self.close()
        elif also == "lose" and (lost := self.of(*UNDER_WAY)):
            self.lose(lost[which % len(lost)])
        elif also == "withdraw" and (waiting := self.of(State.SENT)):
            if self.lane.state is LaneState.CLOSING:
                waiting[which % len(waiting)].apply(Event.WITHDRAW)
                self.release()
        self.the_promise_holds()
        self.clock_ms += 1000 * seconds
        for one in self.of(State.RESTING):
            if one.due_s <= self.clock_ms / 1000:
                one.apply(Event.DUE)
        self.work(few)

    def publish(self, excluded: list[bool]) -> None:
        for is_excluded in excluded:
            number = len(self.log) + 1
            if is_excluded:
                self.excluded.add(number)
                self.log.append(entry(number, CLIENT))
            else:
                self.log.append(entry(number))

    def complete_late(self, former: Delivery) -> None:
        """As ``Deliverer._finish_late``."""
        for one in former.singles or [former]:
            if one.state not in (State.DONE, State.PARKING):
                one.apply(Event.LATE)
                assert one.state is State.DONE  # type: ignore[comparison-overlap]
                self.finish(one)
        self.release()

    def lose(self, one: Delivery) -> None:
        """A job server goes away: no attempt, and another TERM."""
        before = one.failures
        one.apply(Event.LOSE)
        assert (one.state, one.failures) == (State.READY, before)
        self.close()

    def work(self, few: int) -> None:
        """A round: write, read (perhaps not all that was asked for), send."""
        self.write()
        self.release()
        lane = self.lane
        lane.apply(LaneEvent.RELEASED)
        for _ in range(lane.redrive_room):
            number = lane.redrives.popleft()
            message, left = self.log[number - 1], self.store.redrives[number]
            lane.take_redriven(message, left, self.clock_ms / 1000, self.clock_ms)
        if lane.room:
            if self.first > lane.next:
                self.notes.update(dict.fromkeys(lane.pass_gap(self.first)))
            found = self.log[lane.next - 1 : lane.next - 1 + min(lane.room, few)]
            resting = lane.take(found, self.clock_ms / 1000, self.clock_ms)
            assert all(one.state is State.RESTING for one in resting)
        for one in list(lane.sendable()):
            one.ship("job", 0.0)
            sent = {message.sequence for message in one.entries}
            assert not sent & self.known, "a receiver acknowledged it, and the store knows"
        lane.end_round()
        assert all(one.is_bare for one in lane.window)

    # What holds all the time

    @invariant()
    def the_promise_holds(self) -> None:
        self.no_more_than_in_flight_are_under_way()
        self.with_in_flight_1_everything_before_what_is_sent_is_done()
        self.no_message_is_under_way_twice()
        self.the_position_only_grows_and_passes_nothing_that_is_not_done()
        self.a_lane_knows_how_many_are_not_done_and_how_many_can_be_sent()
        self.the_window_is_bounded()

    def no_more_than_in_flight_are_under_way(self) -> None:
        assert len(self.of(*UNDER_WAY)) <= self.options.in_flight

    def with_in_flight_1_everything_before_what_is_sent_is_done(self) -> None:
        if self.options.in_flight == 1:
            for one in self.of(*UNDER_WAY):
                if not one.is_redriven:
                    assert all(self.is_over(number) for number in range(1, one.sequence))

    def no_message_is_under_way_twice(self) -> None:
        sent = [message.sequence for one in self.of(*UNDER_WAY) for message in one.entries]
        assert len(sent) == len(set(sent))
        assert not self.excluded & set(sent)
        assert not self.store.parked.keys() & set(sent)

    def the_position_only_grows_and_passes_nothing_that_is_not_done(self) -> None:
        assert self.most <= self.lane.position <= len(self.log)
        assert self.store.position <= self.lane.position
        self.most = self.lane.position
        assert all(self.is_over(number) for number in range(1, self.lane.position + 1))

    def a_lane_knows_how_many_are_not_done_and_how_many_can_be_sent(self) -> None:
        assert self.lane.ready == len(self.of(State.READY))
        assert self.lane.active == len(list(self.lane.window))
        assert not self.of(State.DONE)
        counted = {state: len(self.of(state)) for state in State if state is not State.DONE}
        assert counted == {state: self.lane.counts[state] for state in counted}

    def the_window_is_bounded(self) -> None:
        in_flight, batch = self.options.in_flight, self.options.batch
        # full but for one, then what there is room for one by one, and every batch of it split
        assert self.lane.active + self.lane.beyond < SPAN * in_flight + 2 * in_flight * batch

    def teardown(self) -> None:
        """When everything succeeds in the end, everything is done in the end."""
        if not hasattr(self, "lane"):
            return
        for _ in range(20 + 2 * len(self.log)):
            is_done = self.store.position == len(self.log)
            if is_done and not self.lane.active and not self.store.redrives:
                break
            self.go_on([], ["complete"] * 20, "", 0, 20, 20)
        self.write()
        assert self.store.position == len(self.log)
        assert all(self.is_over(number) for number in range(1, len(self.log) + 1))
        assert (self.store.redrives, self.store.troubles) == ({}, {})
        assert not list(self.lane.window)
        assert self.lane.active == self.lane.beyond == self.lane.under_way == 0


Promise.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestPromise: Any = Promise.TestCase
