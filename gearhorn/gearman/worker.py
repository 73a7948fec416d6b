"""A worker of one job server: several grabs outstanding, answers in batches.

Rules: runs on the event loop. ``handler`` is called for every job, in the order they were assigned,
and must not block; it finishes the job at once or later. Jobs differ in weight, and ``most`` bounds
the sum of weights in hand: many small jobs fill the pipeline that few large ones fill too, and what
is not in hand is free for other members. A job that only waits (``Job.release``) is not counted, so
that waiting never stops the member from taking other work.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence

import structlog

from gearhorn.errors import InternalError, ProtocolError
from gearhorn.gearman import packets
from gearhorn.gearman.link import Connection, Link
from gearhorn.gearman.packets import MAX_UNIQUE_BYTES, Packet, pack
from gearhorn.gearman.server import Server

GRABS = 128  # outstanding: gearmand hands out 64 at a time in 7 us each, 128 in 5 us (measured)
FEWEST = 2  # jobs in hand, whatever they weigh: one is grabbed while the other is worked on
HELD_BYTES = 64 * 1024 * 1024  # of arguments in hand; above, grabbing pauses

log = structlog.get_logger(__name__)


class Job:
    """One assigned job. Finish it with ``complete`` or ``fail``; the first of them counts."""

    __slots__ = (
        "_connection", "_size", "_worker", "arguments", "function", "handle", "is_finished",
        "oversized", "weight",
    )  # fmt: skip

    def __init__(self, worker: Worker, connection: Connection, body: bytes, cut: bool) -> None:
        self.handle, self.function, unique, self.arguments = body.split(b"\0", 3)
        if len(unique) == MAX_UNIQUE_BYTES and self.arguments[:1] == b"\0":
            # gearmand hands an id of 64 bytes out as 63, and a NUL more ahead of the arguments
            self.arguments = self.arguments[1:]
        self.oversized = cut  # the arguments were longer than the worker's limit, and cut
        self._worker = worker
        self._connection = connection
        self._size = len(body)
        self.weight = 1  # in the worker's hand; 0: released
        self.is_finished = False

    @property
    def is_given_back(self) -> bool:
        """Whether this member closed the session, so that another one takes the job."""
        return self._connection.given_back

    @property
    def is_lost(self) -> bool:
        """Whether its session has ended: what answers it is heard by nobody."""
        return not self._connection.is_open

    def complete(self, data: bytes = b"") -> None:
        """Finish the job with a result; without effect once its session is gone."""
        if self.is_finished:
            return
        self.is_finished = True
        self._connection.write(pack(packets.WORK_COMPLETE, self.handle, data))
        weight = self.weight
        if weight:
            self.weight = 0
            self._worker._released(self._connection, self._size, weight)

    def fail(self, text: str | bytes = b"") -> None:
        """Finish the job as failed. ``text`` goes ahead as a warning, never as an exception:
        clients without the ``exceptions`` option break on one."""
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
        """Tell the caller how far the job is."""
        self._connection.write(pack(packets.WORK_STATUS, self.handle, b"%d" % done, b"%d" % total))

    def weigh(self, weight: int) -> None:
        """Say what the job weighs, where it is not 1."""
        if self.weight:
            self._worker._weighed(self._connection, weight - self.weight)
            self.weight = weight

    def release(self) -> None:
        """Let the worker grab another job while this one goes on waiting."""
        weight = self.weight
        if weight:
            self.weight = 0
            self._worker._released(self._connection, self._size, weight)
            self._connection.wake()

    def take_arguments(self) -> bytes:
        """Return the arguments, which the job keeps no longer."""
        arguments, self.arguments = self.arguments, b""
        return arguments

    def wait(self) -> None:
        """Release the job, which is decoded and waits for long: its arguments go."""
        self.release()
        self.arguments = b""


Handler = Callable[[Job], None]


class Worker(Link):
    """Serves functions of one server.

    Arguments:
        limit: the longest request in bytes; longer ones are cut.
        functions: their names.
        handler: takes each job, which it finishes sooner or later.
        in_hand: how many jobs may be in hand, by weight.
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
        self.taken = 0  # jobs since the beginning
        self._answers = 0  # to grabs, since the beginning
        self.failed = 0  # of those, that were refused or failed
        self._reset()

    def _reset(self) -> None:
        self._grabs = 0  # sent and unanswered
        # How many grabs may be out: grows with every job, so that an idle worker does not ask
        # many times for nothing. Of the first two the second tells at once if there is no more.
        self._ramp = FEWEST
        self._dry = True  # the server has no job for us
        self.is_asleep = False  # it will say when it has
        self.held = 0  # jobs in hand
        self._weight = 0  # of all of them
        self._held_bytes = 0

    def refused(self) -> None:
        """One of its jobs was refused or failed."""
        self.failed += 1

    def stop_grabbing(self) -> None:
        """Take no more jobs; those that are assigned already still arrive."""
        self._stopping = True

    async def give_back(self) -> None:
        """Close the connection, so that the server gives what is in hand to other members.

        ``start`` begins anew."""
        if self.connection is not None:
            self.connection.give_back()
        await self.stop()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in hand and nothing more can arrive."""
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
                # JOB_NOT_FOUND for a job that was taken back: nobody waits for that answer
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
        if connection is self.connection:
            self._weight += more

    def _released(self, connection: Connection, size: int, weight: int) -> None:
        if connection is self.connection:
            self.held -= 1
            self._weight -= weight
            if weight != self._mean:
                self._mean += (weight - self._mean) / 16
            self._held_bytes -= size

    def fill(self, connection: Connection) -> None:
        """Grab as many jobs as may be in hand, or sleep when there are none."""
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
