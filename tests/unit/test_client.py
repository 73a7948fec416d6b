"""The client's windows and books, on a connection that goes nowhere."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from gearhorn.gearman import packets
from gearhorn.gearman.client import CHUNK_COPIES, WINDOW_BYTES, WINDOW_COPIES, Client
from gearhorn.gearman.link import Connection
from gearhorn.gearman.results import Bound, Result
from gearhorn.gearman.server import Server
from gearhorn.gearman.submission import Submission

_SUBMITS = {kind for kinds in packets.SUBMIT.values() for kind in kinds.values()}


class Transport:
    """Counts the submits that were written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def abort(self) -> None:
        pass

    def submits(self) -> list[bytes]:
        """Take the queues of the submits written since the last call."""
        found, at, data = [], 0, self.written
        while at < len(data):
            _, kind, size = struct.unpack_from(">4sII", data, at)
            if kind in _SUBMITS:
                found.append(data[at + 12 : at + 12 + size].split(b"\0")[0])
            at += 12 + size
        self.written = b""
        return found


class Outcome:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Submission]] = []
        self.results: list[tuple[int, Result]] = []

    def accepted(self, submission: Submission) -> None:
        self.events.append(("accepted", submission))

    def lost(self, submission: Submission) -> None:
        self.events.append(("lost", submission))

    def finished(self, submission: Submission, index: int, result: Result) -> None:
        self.results.append((index, result))

    def broke(self, submission: Submission) -> None:
        raise AssertionError("nothing raises here")


class Bench:
    def __init__(self) -> None:
        self.client = Client(Server("nowhere"), None, b"test", 1 << 20)
        self.transport = Transport()
        self.connection = Connection(self.client, 1 << 20)
        self.connection._transport = self.transport  # type: ignore[assignment]
        self.client.connection = self.connection
        self.client.went_up(self.connection)
        self.connection.flush()
        self.transport.submits()
        self.outcome = Outcome()
        self._handle = 0

    def submit(self, count: int, payload: int = 10, foreground: bool = False) -> Submission:
        tail = packets.tail(b"", b"x" * payload)
        kind = packets.SUBMIT[foreground]["normal"]
        heads = packets.heads([b"q%d" % n for n in range(count)], kind, len(tail))
        submission = Submission(self.outcome, heads, tail, foreground, results=Bound(1 << 20))
        self.client.submit(submission)
        return submission

    def flush(self) -> list[bytes]:
        self.connection.flush()
        return self.transport.submits()

    def answer(self, count: int) -> list[bytes]:
        """The server accepts this many; return the handles."""
        handles = []
        for _ in range(count):
            self._handle += 1
            handles.append(b"H:%d" % self._handle)
        self.receive(*((packets.JOB_CREATED, handle) for handle in handles))
        return handles

    def receive(self, *answers: tuple[int, bytes]) -> None:
        data = b"".join(b"\0RES" + struct.pack(">II", k, len(b)) + b for k, b in answers)
        self.connection.data_received(data)


def on_bench(test: Callable[[Bench], None]) -> None:
    async def main() -> None:
        test(Bench())

    asyncio.run(main())


@given(
    st.lists(
        st.tuples(st.integers(0, 700), st.sampled_from([1, 5000, WINDOW_BYTES + 1])), max_size=8
    ),
    st.lists(st.integers(1, 300), min_size=1, max_size=8),
)
def test_no_more_than_a_window_is_out_and_all_is_accepted_in_order(
    sizes: list[tuple[int, int]], answers: list[int]
) -> None:
    def test(bench: Bench) -> None:
        submissions = [bench.submit(min(c, 3) if p > WINDOW_BYTES else c, p) for c, p in sizes]
        out, bytes_out, turn = 0, 0, 0
        expected = [(len(one.heads), one.unit) for one in submissions]
        owed = [unit for count, unit in expected for _ in range(count)]
        sent = answered = 0
        while True:
            written = len(bench.flush())
            sent += written
            out, bytes_out = sent - answered, sum(owed[answered:sent])
            assert out <= WINDOW_COPIES
            assert bytes_out <= WINDOW_BYTES or out == 1
            if answered == len(owed):
                break
            assert out, "nothing is out, yet not all is answered"
            count = min(out, answers[turn % len(answers)])
            turn += 1
            answered += count
            bench.answer(count)
        accepted = [one for kind, one in bench.outcome.events if kind == "accepted"]
        assert accepted == submissions

    on_bench(test)


def test_a_barrier_waits_for_what_is_before_it_and_for_nothing_else() -> None:
    def test(bench: Bench) -> None:
        before, barrier, after = bench.submit(2), bench.submit(0), bench.submit(1)
        bench.flush()
        assert bench.outcome.events == []
        bench.answer(2)
        assert bench.outcome.events == [("accepted", before), ("accepted", barrier)]
        bench.answer(1)
        assert bench.outcome.events[-1] == ("accepted", after)

    on_bench(test)


def test_a_barrier_alone_is_accepted_at_once() -> None:
    def test(bench: Bench) -> None:
        barrier = bench.submit(0)
        bench.flush()
        assert bench.outcome.events == [("accepted", barrier)]

    on_bench(test)


def test_a_refused_copy_is_named_by_its_place() -> None:
    def test(bench: Bench) -> None:
        submission = bench.submit(3)
        bench.flush()
        bench.answer(1)
        bench.receive((packets.ERROR, b"QUEUE_ERROR\0full"))
        bench.answer(1)
        assert bench.outcome.events == [("accepted", submission)]
        assert submission.refused == [(1, b"QUEUE_ERROR")]

    on_bench(test)


def test_a_refusal_and_acceptances_of_what_is_behind_come_in_one_read() -> None:
    def test(bench: Bench) -> None:
        refused, barrier, behind = bench.submit(2), bench.submit(0), bench.submit(1)
        bench.flush()
        bench.receive(
            (packets.JOB_CREATED, b"H:1"),
            (packets.ERROR, b"QUEUE_ERROR\0full"),
            (packets.JOB_CREATED, b"H:2"),
        )
        told = [("accepted", one) for one in (refused, barrier, behind)]
        assert bench.outcome.events == told
        assert (refused.refused, behind.refused) == ([(1, b"QUEUE_ERROR")], None)
        assert bench.client.is_idle

    on_bench(test)


def test_a_lost_connection_loses_what_is_unanswered_in_order_and_nothing_else() -> None:
    def test(bench: Bench) -> None:
        done, part, untouched = bench.submit(1), bench.submit(300), bench.submit(1)
        bench.flush()
        bench.answer(2)
        bench.client.connection = None
        bench.client.went_down(bench.connection)
        events = bench.outcome.events
        assert events == [("accepted", done), ("lost", part), ("lost", untouched)]
        assert part.answered == 1

    on_bench(test)


def test_copies_of_which_nothing_had_come_are_lost_without_an_object_for_each() -> None:
    def test(bench: Bench) -> None:
        count = 200
        bench.submit(count, foreground=True)
        bench.flush()
        first, warned, *_ = bench.answer(count)
        bench.receive((packets.WORK_WARNING, warned + b"\0careful"))
        bench.receive((packets.WORK_COMPLETE, first + b"\0"))
        bench.outcome.results.clear()
        bench.client.connection = None
        bench.client.went_down(bench.connection)
        told = bench.outcome.results
        assert [index for index, _ in told] == list(range(1, count))
        assert all(result.lost and not result.ok for _, result in told)
        assert len({id(result) for _, result in told[1:]}) == 1
        assert bench.client.running == 0

    on_bench(test)


def test_results_reach_the_copy_they_belong_to() -> None:
    def test(bench: Bench) -> None:
        bench.submit(2, foreground=True)
        bench.flush()
        first, second = bench.answer(2)
        bench.receive(
            (packets.WORK_DATA, second + b"\0da"),
            (packets.WORK_WARNING, first + b"\0careful"),
            (packets.WORK_STATUS, first + b"\x001\x002"),
            (packets.WORK_COMPLETE, second + b"\0ta"),
            (packets.WORK_FAIL, first),
            (packets.WORK_FAIL, first),
        )
        [(index, result), (other, failure)] = bench.outcome.results
        assert (index, result.ok, result.data) == (1, True, b"data")
        assert (other, failure.ok, failure.text) == (0, False, b"careful")
        assert bench.client.running == 0

    on_bench(test)


def test_handles_go_to_the_foreground_copies_of_a_mixed_run() -> None:
    def test(bench: Bench) -> None:
        bench.submit(2)
        first = bench.submit(1, foreground=True)
        bench.submit(1)
        second = bench.submit(2, foreground=True)
        bench.flush()
        handles = bench.answer(6)
        assert first.handles == handles[2:3]
        assert second.handles == handles[4:]

    on_bench(test)


def test_coalesced_copies_take_turns_with_the_packets_of_one_handle() -> None:
    def test(bench: Bench) -> None:
        bench.submit(1, foreground=True)
        bench.submit(1, foreground=True)
        bench.flush()
        bench.receive((packets.JOB_CREATED, b"H:same"), (packets.JOB_CREATED, b"H:same"))
        twice = [(packets.WORK_DATA, b"H:same\0a")] * 2 + [
            (packets.WORK_COMPLETE, b"H:same\0b")
        ] * 2
        bench.receive(*twice)
        assert [result.data for _, result in bench.outcome.results] == [b"ab", b"ab"]

    on_bench(test)


def test_a_forgotten_submission_sends_no_more_and_tells_what_to_withdraw() -> None:
    def test(bench: Bench) -> None:
        submission = bench.submit(600, foreground=True)
        behind = bench.submit(1)
        assert len(bench.flush()) == WINDOW_COPIES
        handles = bench.answer(100)
        assert len(bench.transport.submits()) == CHUNK_COPIES
        bench.receive((packets.WORK_COMPLETE, handles[0] + b"\0"))
        assert bench.client.forget(submission) == handles[1:]
        assert bench.flush() == [b"q0"]  # of the one behind
        late = bench.answer(WINDOW_COPIES - 100 + CHUNK_COPIES)
        assert bench.outcome.events == [("accepted", submission)]
        assert bench.client.forget(submission) == late
        bench.flush()
        bench.answer(1)
        assert bench.outcome.events[-1] == ("accepted", behind)
        assert bench.client.running == 0

    on_bench(test)


def test_of_a_withdrawn_copy_the_failure_is_no_outcome_and_what_comes_late_is() -> None:
    def test(bench: Bench) -> None:
        submission = bench.submit(3, foreground=True)
        bench.flush()
        late, failing, other = bench.answer(3)
        for index in range(2):
            bench.client.expect_late(submission, index)
        bench.receive(*((packets.WORK_FAIL, handle) for handle in (late, failing, other)))
        assert [(index, result.ok) for index, result in bench.outcome.results] == [(2, False)]
        bench.receive((packets.WORK_COMPLETE, late + b"\0done"), (packets.WORK_FAIL, failing))
        [(index, result), (second, failure)] = bench.outcome.results[1:]
        assert (index, result.ok, result.data) == (0, True, b"done")
        assert (second, failure.ok) == (1, False)
        assert bench.client.running == 0

    on_bench(test)


def test_of_coalesced_copies_the_withdrawn_one_alone_is_expected_late() -> None:
    def test(bench: Bench) -> None:
        withdrawn, kept = bench.submit(1, foreground=True), bench.submit(1, foreground=True)
        bench.flush()
        bench.receive((packets.JOB_CREATED, b"H:same"), (packets.JOB_CREATED, b"H:same"))
        assert withdrawn.handles == kept.handles
        bench.client.expect_late(withdrawn, 0)
        bench.receive(*[(packets.WORK_FAIL, b"H:same")] * 2)
        assert [result.ok for _, result in bench.outcome.results] == [False]
        bench.receive(*[(packets.WORK_COMPLETE, b"H:same\0")] * 2)
        assert [result.ok for _, result in bench.outcome.results] == [False, True]

    on_bench(test)


def test_of_a_dropped_copy_nothing_is_told() -> None:
    def test(bench: Bench) -> None:
        submission = bench.submit(2, foreground=True)
        bench.flush()
        dropped, kept = bench.answer(2)
        bench.client.expect_late(submission, 0)
        bench.client.drop(submission, 0)
        bench.client.drop(submission, 0)
        assert bench.client.running == 1
        bench.receive((packets.WORK_FAIL, dropped), (packets.WORK_COMPLETE, dropped + b"\0"))
        assert bench.outcome.results == []
        bench.receive((packets.WORK_COMPLETE, kept + b"\0"))
        assert [index for index, _ in bench.outcome.results] == [1]

    on_bench(test)


def test_what_the_server_knows_of_copies_is_told_in_the_order_of_the_questions() -> None:
    def test(bench: Bench) -> None:
        told: list[tuple[int, bool, bool]] = []
        submission = bench.submit(3, foreground=True)
        bench.flush()
        handles = bench.answer(3)
        for index in (2, 0, 1, 2):
            look = partial(lambda at, known, running: told.append((at, known, running)), index)
            bench.client.ask_status(submission, index, look)
        bench.connection.flush()
        asked = [b"\0REQ" + struct.pack(">II", 15, len(handle)) + handle for handle in handles]
        assert bench.transport.written == asked[2] + asked[0] + asked[1] + asked[2]
        bench.receive(
            (packets.STATUS_RES, handles[2] + b"\x001\x000\x000\x000"),
            (packets.STATUS_RES, handles[0] + b"\x001\x001\x003\x004"),
            (packets.WORK_COMPLETE, handles[2] + b"\0"),
            (packets.STATUS_RES, handles[1] + b"\x000\x000\x000\x000"),
        )
        assert told == [(2, True, False), (0, True, True), (1, False, False)]
        bench.client.connection = None
        bench.client.went_down(bench.connection)
        assert len(told) == 3, "an answer that went away with its connection is never told"

    on_bench(test)


def test_what_was_accepted_before_a_broken_answer_counts() -> None:
    def test(bench: Bench) -> None:
        submission = bench.submit(1)
        bench.flush()
        bench.receive((packets.JOB_CREATED, b"H:1"), (packets.JOB_CREATED, b"H:2"))
        assert not bench.connection.is_open
        bench.client.connection = None
        bench.client.went_down(bench.connection)
        assert bench.outcome.events == [("accepted", submission)]

    on_bench(test)


def test_an_acceptance_of_nothing_ends_the_connection() -> None:
    def test(bench: Bench) -> None:
        bench.receive((packets.JOB_CREATED, b"H:1"))
        assert not bench.connection.is_open

    on_bench(test)
