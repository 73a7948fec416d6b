"""Time, a job server and its receivers for the model of deliveries: nothing here waits for real.

A receiver takes a job, and ends it or not, when the test says so; so does the job server with what
it was sent. What it was asked is answered at the next ``answer``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import Any

from gearhorn.durable.lanes import Delivery, Lane
from gearhorn.durable.shipping import Shipment
from gearhorn.durable.states import State
from gearhorn.gearman.results import DONE, LOST, Result

HEADER = 12  # bytes in front of a packet's arguments


class Clock:
    """Seconds, which pass when the test says so."""

    def __init__(self) -> None:
        self.s = 1000.0

    def clock_gettime(self, clock: int) -> float:
        return self.s

    @property
    def ms(self) -> int:
        return int(self.s * 1000)


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose timers go by a simulated clock."""

    def __init__(self, clock: Clock) -> None:
        self._simulated = clock
        super().__init__()

    def time(self) -> float:
        return self._simulated.s

    def settle(self) -> None:
        """Let everything happen that can happen now."""

        async def turns() -> None:
            for _ in range(1000):
                await asyncio.sleep(0)
                if not self._ready:  # type: ignore[attr-defined]
                    return
            raise AssertionError("something goes on without end")

        self.run_until_complete(turns())


class Job:
    """One attempt, as the job server knows it."""

    def __init__(self, shipment: Shipment, index: int, packet: bytes) -> None:
        self.shipment, self.index = shipment, index
        self.delivery: Delivery = shipment.deliveries[index]
        self.lane: Lane = self.delivery.lane
        self.sequences = [entry.sequence for entry in self.delivery.entries]
        self.queue, self.unique, self.payload = packet[HEADER:].split(b"\0", 2)
        self.handle = b""
        self.is_taken = False
        self.seen_s = 0.0  # when the member came to know that a receiver has it; 0: it has not
        self.is_late = False  # it has had its time, and may still be acknowledged
        self.is_listened_to = True

    @property
    def term(self) -> int:
        return int(self.unique.split(b":")[2].split(b".")[0])


class Connection:
    is_open = True


class Client:
    """What the member sees of the job server: see ``gearhorn.gearman.client``."""

    def __init__(self, server: JobServer) -> None:
        self._server = server
        self.connection: Connection | None = Connection()

    @property
    def is_up(self) -> bool:
        return self.connection is not None

    def ask_status(
        self, shipment: Shipment, index: int, told: Callable[[bool, bool], None]
    ) -> None:
        assert shipment.handles is not None
        self._server.questions.append((shipment.handles[index], told))

    def expect_late(self, shipment: Shipment, index: int) -> None:
        job = self._server.find(shipment, index)
        if job is not None and job.delivery.state in (State.RESTING, State.PARKING):
            job.is_late = True
            self._server.judge.expired(job)

    def drop(self, shipment: Shipment, index: int) -> None:
        job = self._server.find(shipment, index)
        if job is not None:
            job.is_listened_to = False


class Admin:
    """The job server's text commands."""

    def __init__(self, server: JobServer) -> None:
        self._server = server

    async def cancel(self, handles: Iterable[bytes], are_valid: Callable[[], bool]) -> None:
        self._server.cancel(set(handles))

    async def waiting(self, queues: Collection[bytes]) -> dict[bytes, int]:
        return dict.fromkeys(queues, 0)


class Judge:
    """Is told what becomes of jobs, and raises where that is not what was promised."""

    def submitted(self, job: Job) -> None:
        """A job arrived at the job server."""
        raise NotImplementedError

    def expired(self, job: Job) -> None:
        """The member says that a receiver has had its time."""
        raise NotImplementedError

    def failed(self, job: Job) -> None:
        """A receiver said of a job's present attempt that it failed."""
        raise NotImplementedError

    def acknowledged(self, job: Job) -> None:
        """A receiver acknowledged, and the member is going to hear of it."""
        raise NotImplementedError


class JobServer:
    """One job server, its receivers, and what a member has of both (as ``JobServers``)."""

    def __init__(self, judge: Judge, clock: Clock) -> None:
        self.judge = judge
        self._clock = clock
        self.client = Client(self)
        self.clients = [self.client]
        self.admins = [Admin(self)]
        self.pending: list[tuple[Shipment, list[Job]]] = []  # sent, and not answered whole
        self.waiting: list[Job] = []
        self.taken: list[Job] = []
        self.orphans: list[Job] = []  # taken over a connection that has ended
        self.cancelled: list[Job] = []  # whose ends are told with the connection's
        self.questions: list[tuple[bytes, Callable[[bool, bool], None]]] = []
        self._listeners: list[Callable[[], None]] = []
        self._handles = 0

    # As JobServers

    @property
    def is_up(self) -> bool:
        return self.client.is_up

    def on_change(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def route(self, queue: bytes) -> int:
        return 0

    def submit(self, place: int, submission: Any) -> None:
        assert self.is_up, "something was submitted to a server that is away"
        jobs = [Job(submission, index, head) for index, head in enumerate(submission.heads)]
        self.pending.append((submission, jobs))
        for job in jobs:
            self.judge.submitted(job)

    async def reap(self, place: int, queues: Iterable[bytes]) -> None:
        """Cancelled jobs are gone already."""

    # What the test makes happen

    @property
    def live(self) -> list[Job]:
        """The jobs that the job server has, or is to have."""
        sent = [job for shipment, jobs in self.pending for job in jobs[shipment.answered :]]
        return sent + self.waiting + self.taken

    def find(self, shipment: Shipment, index: int) -> Job | None:
        """Return a job that the job server has."""
        for job in self.live + self.cancelled:
            if job.shipment is shipment and job.index == index:
                return job
        return None

    def accept(self, limit: int, refused: int = -1) -> None:
        """Answer ``limit`` jobs that were sent; the one of this number among them is refused."""
        for number in range(limit):
            if not self.pending:
                return
            shipment, jobs = self.pending[0]
            job = jobs[shipment.answered]
            if number == refused:
                shipment.refuses(b"queue_full")
            else:
                self._handles += 1
                job.handle = b"H:%d" % self._handles
                assert shipment.handles is not None
                shipment.handles.append(job.handle)
                self.waiting.append(job)
            if shipment.answers(1):
                self.pending.pop(0)
                shipment.outcome.accepted(shipment)

    def take(self, limit: int) -> None:
        """Receivers take the jobs that have waited longest."""
        self.taken += self.waiting[:limit]
        del self.waiting[:limit]

    def end(self, which: int, is_ok: bool) -> None:
        """A receiver ends one of the jobs that are taken."""
        if not self.taken:
            return
        job = self.taken.pop(which % len(self.taken))
        if not job.is_listened_to:
            return
        if is_ok:
            self.judge.acknowledged(job)
        elif not job.is_late:
            self.judge.failed(job)
        result = DONE if is_ok else Result(False, text=b"disk full")
        job.shipment.outcome.finished(job.shipment, job.index, result)

    def cancel(self, handles: set[bytes]) -> None:
        """Forget jobs that no receiver has."""
        self.cancelled += [job for job in self.waiting if job.handle in handles]
        self.waiting = [job for job in self.waiting if job.handle not in handles]

    def answer(self) -> None:
        """Answer what was asked about jobs."""
        questions, self.questions = self.questions, []
        for handle, told in questions:
            is_running = False
            for job in self.taken:
                if job.handle == handle:
                    is_running = True
                    job.seen_s = job.seen_s or self._clock.s
            told(is_running or any(job.handle == handle for job in self.waiting), is_running)

    def go_down(self) -> None:
        """The connection ends: jobs that wait are gone, receivers go on with theirs."""
        if not self.is_up:
            return
        self.client.connection = None
        pending, self.pending = self.pending, []
        gone = [*self.waiting, *self.cancelled, *self.taken]
        self.orphans += self.taken
        self.waiting, self.cancelled, self.taken = [], [], []
        self.questions.clear()
        self._changed()
        for job in gone:
            if job.is_listened_to:
                job.shipment.outcome.finished(job.shipment, job.index, LOST)
        for shipment, _ in pending:
            shipment.outcome.lost(shipment)

    def come_up(self) -> None:
        """The member is connected again."""
        if not self.is_up:
            self.client.connection = Connection()
            self._changed()

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()
