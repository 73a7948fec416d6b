"""A worker of one job server: several grabs outstanding, answers in batches.

Theory of operation. A worker that asks for a job, works and asks again does some 20,000 jobs a
second: each costs a round trip. So grabs are sent ahead, up to ``GRABS`` of them, and gearmand
answers what it has in one go. Three things bound how many:

* What is in hand. A job that is grabbed is taken away from other members, and is given to them late
  if this member dies. Jobs differ in weight (a fan-out weighs as much as it makes copies), so the
  sum of weights is bounded (``in_hand``), and since the weight of a job is known only when it has
  come, the mean of the last ones stands for those that are asked for.
* What they hold in memory: ``HELD_BYTES``, by the mean length of the last ones likewise.
* That an idle member does not ask 128 times for nothing. ``_ramp`` begins at two grabs, grows by
  two with every job, and falls back with the first NO_JOB.

When a grab is answered with NO_JOB, the other grabs are waited for, and then the worker sleeps
(PRE_SLEEP) until the server wakes it (NOOP). gearmand answers a PRE_SLEEP with NOOP at once if a
job has come meanwhile, so none is overlooked between the two.

Rules: runs on the event loop. ``handler`` is called for every job, in the order they were assigned,
and must not block; it finishes the job at once or later. A job that only waits (``Job.release``) is
not counted, so that waiting never stops the member from taking other work.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence

from gearhorn.errors import InternalError, ProtocolError
from gearhorn.gearman import packets
from gearhorn.gearman.link import Connection, Link
from gearhorn.gearman.packets import MAX_UNIQUE_BYTES, Packet, pack
from gearhorn.gearman.server import Server
from gearhorn.logger import get_logger

GRABS = 128  # outstanding: gearmand hands out 64 at a time in 7 us each, 128 in 5 us (measured)
FEWEST = 2  # jobs in hand, whatever they weigh: one is grabbed while the other is worked on
HELD_BYTES = 64 * 1024 * 1024  # of requests in hand; above, grabbing pauses

log = get_logger(__name__)


class Job:
    """One assigned job. Finish it with ``complete`` or ``fail``; the first of them counts.

    It belongs to the session on which it was assigned: once that has ended, the server has given
    the job to another worker, and whatever is said here goes nowhere. So a handler may finish a job
    late without asking whether its session is still there.

    Attributes:
        handle: the server's name of the job, unique within one session.
        function: which of the worker's functions was called.
        unique: the id that its submitter gave it, empty where it gave none.
        arguments: the request; empty once it was taken.
        oversized: the request was longer than the worker's limit, and ``arguments`` is cut.
        weight: what the job takes of the worker's hand; 0 once it is released or finished.
        is_finished: ``complete`` or ``fail`` was called.
    """

    __slots__ = (
        "_connection", "_size", "_worker", "arguments", "function", "handle", "is_finished",
        "oversized", "unique", "weight",
    )  # fmt: skip

    def __init__(self, worker: Worker, connection: Connection, body: bytes, cut: bool) -> None:
        self.handle, self.function, self.unique, self.arguments = body.split(b"\0", 3)
        if len(self.unique) == MAX_UNIQUE_BYTES and self.arguments[:1] == b"\0":
            # gearmand hands an id of 64 bytes out as 63, and a NUL more ahead of the arguments
            self.arguments = self.arguments[1:]
        self.oversized = cut
        self._worker = worker
        self._connection = connection
        self._size = len(body)
        self.weight = 1
        self.is_finished = False

    @property
    def is_given_back(self) -> bool:
        """Whether this member closed the session, so that another one takes the job."""
        return self._connection.given_back

    @property
    def is_lost(self) -> bool:
        """Whether its session has ended: an answer would reach no caller."""
        return not self._connection.is_open

    def complete(self, data: bytes = b"") -> None:
        """Finish the job with ``data`` as its result; without effect once its session is gone."""
        if self.is_finished:
            return
        self.is_finished = True
        self._connection.write(pack(packets.WORK_COMPLETE, self.handle, data))
        weight = self.weight
        if weight:
            self.weight = 0
            self._worker._released(self._connection, self._size, weight)

    def fail(self, text: str | bytes = b"") -> None:
        """Finish the job as failed.

        ``text`` goes ahead as a warning, never as an exception: gearmand turns an exception into a
        bare failure for clients that did not ask for exceptions, and the text would be lost. A
        warning reaches every client ("Requests, replies, errors" in docs/protocol.rst).
        """
        if self.is_finished:
            return
        self.is_finished = True
        if text:
            data = text.encode() if isinstance(text, str) else text
            self._connection.write(pack(packets.WORK_WARNING, self.handle, data))
        self._connection.write(pack(packets.WORK_FAIL, self.handle))
        self._worker.refused()
        self.release()

    def status(self, done: int, total: int) -> None:
        """Tell the caller how far the job is: ``done`` parts of ``total``."""
        self._connection.write(pack(packets.WORK_STATUS, self.handle, b"%d" % done, b"%d" % total))

    def data(self, data: bytes) -> None:
        """Send the caller a part of the result, or what else it is to have before the job ends;
        without effect once the job is finished or its session is gone."""
        if not self.is_finished:
            self._connection.write(pack(packets.WORK_DATA, self.handle, data))

    def weigh(self, weight: int) -> None:
        """Say what the job weighs, where it is not 1: a handler learns it when it has decoded it.

        Without effect on a job that is released already.
        """
        if self.weight:
            self._worker._weighed(self._connection, weight - self.weight)
            self.weight = weight

    def release(self) -> None:
        """Let the worker grab another job while this one goes on waiting. May be repeated."""
        weight = self.weight
        if weight:
            self.weight = 0
            self._worker._released(self._connection, self._size, weight)
            self._connection.wake()

    def take_arguments(self) -> bytes:
        """Return the arguments, which the job keeps no longer: a payload may be 8 MiB, and the
        job lives until the last receiver has answered."""
        arguments, self.arguments = self.arguments, b""
        return arguments

    def wait(self) -> None:
        """Release the job, which is decoded and waits for long: its arguments go."""
        self.release()
        self.arguments = b""


Handler = Callable[[Job], None]


class Worker(Link):
    """Serves functions of one server.

    gearmand serves the function of a connection that was registered last until it is empty. What
    must not starve has a ``Worker`` of its own (``broker.intake``).

    Arguments:
        limit: the longest request in bytes; longer ones are cut, and still handed over.
        functions: their names, the one to be served first last.
        handler: takes each job, which it finishes sooner or later. If it raises, the job fails with
            ``internal error``.
        in_hand: the sum of the weights of the jobs that may be in hand; two jobs always may.

    Attributes:
        taken: jobs that came since the beginning, all sessions together.
        failed: those of them that were refused or failed.
        held: jobs in hand now, released ones left out.
        is_asleep: the server will say when it has a job.
    """

    def __init__(
        self,
        server: Server,
        tls: ssl.SSLContext | None,
        client_id: bytes,
        *,
        limit: int,
        functions: Sequence[bytes],
        handler: Handler,
        in_hand: int,
    ) -> None:
        super().__init__(server, tls, client_id, limit)
        self._functions = functions
        self._handler = handler
        self._in_hand = in_hand
        self._stopping = False
        self._mean = 1.0  # weight of the last jobs
        self._mean_bytes = 1.0  # and how long they were
        self.taken = 0
        self._answers = 0  # to grabs, since the beginning
        self.failed = 0
        self._reset()

    def _reset(self) -> None:
        """Begin the books of a session. What was in hand is another worker's now; the means stay,
        since the jobs of the next session will be like those of the last."""
        self._grabs = 0  # sent and unanswered
        # How many grabs may be out: grows with every job, so that an idle worker does not ask
        # many times for nothing. Of the first two the second tells at once if there is no more.
        self._ramp = FEWEST
        self._dry = True  # the server has no job for us
        self.is_asleep = False
        self.held = 0
        self._weight = 0  # of all of them
        self._held_bytes = 0

    def refused(self) -> None:
        """One of its jobs was refused or failed."""
        self.failed += 1

    def stop_grabbing(self) -> None:
        """Take no more jobs. Grabs that are out are still answered with jobs: see ``is_idle``."""
        self._stopping = True

    def start_grabbing(self) -> None:
        """Take jobs, after ``stop_grabbing``."""
        self._stopping = False
        if self.connection is not None:
            self.connection.wake()

    def leave(self) -> None:
        """Serve no function any more on the present connection; jobs in hand can be finished."""
        if self.connection is not None:
            for function in self._functions:
                self.connection.write(pack(packets.CANT_DO, function))

    async def give_back(self) -> None:
        """Close the connection, so that the server gives what is in hand to other members.

        A member that cannot serve does so (``broker.serving``); ``start`` begins anew.
        """
        if self.connection is not None:
            self.connection.give_back()
        await self.stop()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in hand and nothing more can arrive: a stop waits for this."""
        return self.connection is None or (self._stopping and not self._grabs and not self.held)

    def debt(self) -> tuple[int, int]:
        return self._answers, self._grabs

    def went_up(self, connection: Connection) -> None:
        self._reset()
        for function in self._functions:
            connection.write(pack(packets.CAN_DO, function))
        self._dry = False
        connection.wake()

    def went_down(self, connection: Connection) -> None:
        self._reset()

    def handle(self, connection: Connection, batch: list[Packet]) -> None:
        """Take what answers grabs, and hand the jobs to the handler.

        All of the batch is counted before any job is handed over: a handler finishes jobs at once,
        and the worker grabs more by what is counted. Where several came, the next grabs leave
        first, so that the server has something to do while these jobs are worked on.

        Raises ``ProtocolError`` for what is no job, and for more answers than grabs.
        """
        jobs = []
        ramp, dry, size, nothing = self._ramp, self._dry, 0, 0
        for kind, body in batch:
            if kind == packets.JOB_ASSIGN_UNIQ or kind == -packets.JOB_ASSIGN_UNIQ:
                try:
                    jobs.append(Job(self, connection, body, kind < 0))
                except ValueError:
                    raise ProtocolError("JOB_ASSIGN_UNIQ without a job") from None
                size += len(body)
                ramp += 2
                dry = False
            elif kind == packets.NO_JOB:
                nothing += 1
                ramp, dry = FEWEST, True
            elif kind == packets.NOOP:
                self.is_asleep = dry = False
            elif kind == packets.ERROR:
                # JOB_NOT_FOUND for a job that was taken back: no grab waits for that answer
                log.debug("job server reports an error", server=str(self.server), body=body)
        self._ramp, self._dry = ramp, dry
        self._grabs -= len(jobs) + nothing
        self._answers += len(jobs) + nothing
        if self._grabs < 0:
            raise ProtocolError("more answers than jobs that were asked for")
        self.held += len(jobs)
        self.taken += len(jobs)
        self._weight += len(jobs)
        self._held_bytes += size
        if jobs:
            self._mean_bytes += (size / len(jobs) - self._mean_bytes) / 4
        batch.clear()  # each job has its arguments, which may be long
        body = b""
        if len(jobs) > 1:
            connection.wake()  # first: more jobs are handed out while these are worked on
        for job in jobs:
            try:
                self._handler(job)
            except Exception as error:  # it must not take the others of this batch with it
                log.critical("job failed", function=job.function, exc_info=error)
                job.fail(str(InternalError()))
        connection.wake()

    def _weighed(self, connection: Connection, more: int) -> None:
        """A job of a session weighs so much more than was counted."""
        if connection is self.connection:
            self._weight += more

    def _released(self, connection: Connection, size: int, weight: int) -> None:
        """A job is not in hand any more; jobs of former sessions are counted nowhere.

        Its weight goes into the mean here and not when it came, since it was not known then.
        """
        if connection is self.connection:
            self.held -= 1
            self._weight -= weight
            if weight != self._mean:
                self._mean += (weight - self._mean) / 16
            self._held_bytes -= size

    def fill(self, connection: Connection) -> None:
        """Grab as many jobs as may be in hand, or sleep when there are none.

        ``FEWEST`` jobs may be in hand whatever they weigh, or one large fan-out would have the next
        wait for its last receiver. PRE_SLEEP waits for the answers to all grabs: one of them may be
        a job, and then there is no reason to sleep.
        """
        if connection is not self.connection or self.is_asleep or self._stopping:
            return
        if self._dry:
            if not self._grabs:
                connection.write(pack(packets.PRE_SLEEP))
                self.is_asleep = True
        elif self._held_bytes <= HELD_BYTES:
            more = int((self._in_hand - self._weight) / self._mean)
            fit = int((HELD_BYTES - self._held_bytes) / self._mean_bytes)
            room = min(GRABS, self._ramp, max(min(more, fit), FEWEST - self.held)) - self._grabs
            if room > 0:
                connection.write(_GRAB * room)
                self._grabs += room


_GRAB = pack(packets.GRAB_JOB_UNIQ)
