"""When a worker grabs, sleeps and stops, on a connection that goes nowhere."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

from gearhorn.gearman import packets
from gearhorn.gearman.link import Connection
from gearhorn.gearman.server import Server
from gearhorn.gearman.worker import GRABS, HELD_BYTES, Job, Worker


class Transport:
    """Counts the requests that were written, by type."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def abort(self) -> None:
        pass

    def kinds(self) -> list[int]:
        """Take the types written since the last call."""
        found, at = [], 0
        while at < len(self.written):
            _, kind, size = struct.unpack_from(">4sII", self.written, at)
            found.append(kind)
            at += 12 + size
        self.written = b""
        return found


class Bench:
    def __init__(self, most: int = 512) -> None:
        self.jobs: list[Job] = []
        self.take: Callable[[Job], None] = self.jobs.append
        self.worker = Worker(
            Server("nowhere"),
            None,
            b"t",
            limit=1 << 20,
            functions=[b"f"],
            handler=self._handle,
            in_hand=most,
        )
        self.transport = Transport()
        self.connect()

    def _handle(self, job: Job) -> None:
        self.take(job)

    def connect(self) -> None:
        self.connection = Connection(self.worker, 1 << 20)
        self.connection._transport = self.transport  # type: ignore[assignment]
        self.worker.connection = self.connection
        self.worker.went_up(self.connection)

    def flush(self) -> list[int]:
        self.connection.flush()
        return self.transport.kinds()

    def receive(self, *answers: tuple[int, bytes]) -> list[int]:
        data = b"".join(b"\0RES" + struct.pack(">II", k, len(b)) + b for k, b in answers)
        self.connection.data_received(data)
        return self.transport.kinds()

    def assign(self, count: int = 1) -> list[int]:
        job = (packets.JOB_ASSIGN_UNIQ, b"H:1\0f\0unique\0pay\0load")
        return self.receive(*[job] * count)


def on_bench(test: Callable[[Bench], None], most: int = 512) -> None:
    async def main() -> None:
        test(Bench(most))

    asyncio.run(main())


GRAB, SLEEP = packets.GRAB_JOB_UNIQ, packets.PRE_SLEEP


def test_it_registers_then_grabs_then_sleeps_and_wakes() -> None:
    def test(bench: Bench) -> None:
        assert bench.flush() == [packets.CAN_DO, GRAB, GRAB]
        assert bench.receive((packets.NO_JOB, b""), (packets.NO_JOB, b"")) == [SLEEP]
        assert bench.receive((packets.NOOP, b"")) == [GRAB, GRAB]

    on_bench(test)


def test_one_job_and_no_more_send_it_to_sleep_at_once() -> None:
    def test(bench: Bench) -> None:
        bench.flush()
        job = (packets.JOB_ASSIGN_UNIQ, b"H:1\0f\0unique\0payload")
        assert bench.receive(job, (packets.NO_JOB, b"")) == [SLEEP]

    on_bench(test)


def test_a_job_is_split_at_the_first_three_nuls() -> None:
    def test(bench: Bench) -> None:
        bench.flush()
        bench.assign()
        [job] = bench.jobs
        assert (job.handle, job.function, job.arguments) == (b"H:1", b"f", b"pay\0load")

    on_bench(test)


def test_grabs_grow_with_the_jobs_up_to_the_bound() -> None:
    def test(bench: Bench) -> None:
        out = bench.flush().count(GRAB)
        while out < GRABS:
            more = bench.assign(1).count(GRAB)
            assert more > 1
            out += more - 1
            bench.jobs.pop().complete()
        assert out == GRABS

    on_bench(test)


def test_what_is_in_hand_is_bounded_and_finishing_makes_room() -> None:
    def test(bench: Bench) -> None:
        out = bench.flush().count(GRAB)
        held = 0
        while out:
            out += bench.assign(1).count(GRAB) - 1
            held += 1
        assert held == 20
        assert bench.worker.held == 20
        bench.jobs.pop().complete(b"done")
        assert bench.flush() == [packets.WORK_COMPLETE, GRAB]
        bench.jobs.pop().release()
        assert bench.flush() == [GRAB]

    on_bench(test, most=20)


def test_heavy_jobs_leave_two_in_hand() -> None:
    def test(bench: Bench) -> None:
        bench.take = lambda job: (bench.jobs.append(job), job.weigh(1000))  # type: ignore[assignment, func-returns-value]
        out = bench.flush().count(GRAB)
        for _ in range(200):
            if out:
                out += bench.assign(1).count(GRAB) - 1
            else:
                bench.jobs.pop(0).complete()
                out += bench.flush().count(GRAB)
        assert len(bench.jobs) + out == 2

    on_bench(test)


def test_long_jobs_are_bounded_by_their_bytes() -> None:
    def test(bench: Bench) -> None:
        job = (packets.JOB_ASSIGN_UNIQ, b"H:1\0f\0unique\0" + b"x" * 1_000_000)
        out = bench.flush().count(GRAB)
        while out:
            out += bench.receive(job).count(GRAB) - 1
        held = sum(len(job.arguments) for job in bench.jobs)
        assert HELD_BYTES - 2_000_000 < held < HELD_BYTES + 4_000_000
        bench.jobs.pop().complete()
        bench.jobs.pop().complete()
        assert bench.flush().count(GRAB) in (1, 2)

    on_bench(test)


def test_a_job_in_hand_does_not_keep_the_worker_from_sleeping() -> None:
    def test(bench: Bench) -> None:
        out = bench.flush().count(GRAB) - 1
        out += bench.assign().count(GRAB)
        assert bench.receive(*[(packets.NO_JOB, b"")] * out) == [SLEEP]
        bench.jobs.pop().complete()
        assert bench.flush() == [packets.WORK_COMPLETE]

    on_bench(test)


def test_a_stopping_worker_takes_what_is_assigned_and_no_more() -> None:
    def test(bench: Bench) -> None:
        bench.flush()
        bench.worker.stop_grabbing()
        assert not bench.worker.is_idle
        assert bench.assign() == []
        assert bench.receive((packets.NO_JOB, b"")) == []
        assert not bench.worker.is_idle
        bench.jobs.pop().fail("no")
        assert bench.flush() == [packets.WORK_WARNING, packets.WORK_FAIL]
        assert bench.worker.is_idle

    on_bench(test)


def test_a_job_of_a_former_session_is_never_answered_on_the_next() -> None:
    def test(bench: Bench) -> None:
        bench.flush()
        bench.assign()
        old = bench.connection
        old.abort("lost")
        bench.worker.connection = None
        bench.worker.went_down(old)
        bench.connect()
        bench.flush()
        bench.jobs.pop().complete(b"late")
        assert bench.flush() == []
        assert bench.worker.held == 0

    on_bench(test)


def test_a_handler_that_breaks_fails_its_job_only() -> None:
    def test(bench: Bench) -> None:
        def take(job: Job) -> None:
            bench.jobs.append(job)
            if len(bench.jobs) == 1:
                raise ZeroDivisionError

        bench.take = take
        bench.flush()
        written = bench.assign(2)
        assert written[:2] == [packets.WORK_WARNING, packets.WORK_FAIL]
        assert len(bench.jobs) == 2

    on_bench(test)
