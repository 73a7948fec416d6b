"""Shipping: the jobs that lanes make, in blocks to the job servers, and back from there.

Theory of operation. A delivery is a job of its own: it has its own unique id and often its own
arguments. Deliveries of one round that go to one job server are submitted together, as one
``Shipment`` of whole packets, since a write for each would cost more than everything else. A job is
then known by its shipment and its index there; the job server's handle is in the same place of
``handles`` once it has accepted the job.

A shipment stays in memory while any of its jobs is unfinished, which may be days. So it lets go of
its payloads when they are accepted or lost (``unload``), and of each delivery when its job is over
(``release``): ``OVER`` stands in its place. Otherwise one slow receiver would keep a hundred
messages.

A job that was withdrawn may still be acknowledged, since a receiver may have taken it just before.
``withdraw`` is told whether that is to be heard (``is_late``) or the job is forgotten at once.

Rules: runs on the event loop. Handles belong to one connection: after it has ended, its jobs cannot
be asked for or withdrawn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from gearhorn.durable.lanes import Delivery, Lane
from gearhorn.durable.states import LaneEvent
from gearhorn.durable.withdrawals import Withdrawal, Withdrawals
from gearhorn.gearman import packets
from gearhorn.gearman.job_servers import JobServers
from gearhorn.gearman.link import Connection
from gearhorn.gearman.submission import Outcome, Submission
from gearhorn.messages.codec import encode
from gearhorn.messages.logs import Info, durable_envelope
from gearhorn.messages.subscriptions import DurableOptions
from gearhorn.store.log import Entry

UNSENT_BYTES = 64 * 1024 * 1024  # handed to the job servers and not accepted; then lanes wait
TOGETHER = 100  # deliveries in one shipment, which stays while one of them does
_KIND = packets.SUBMIT[True]["normal"]
_PACKET_BYTES = 64  # besides the arguments


class Shipment(Submission):
    """Deliveries of one round to one job server.

    Arguments:
        outcome: is told what becomes of the jobs.
        place: the job server's, among those that are configured.
        connection: the one that the jobs are submitted on; None where there is none.
        deliveries: one for each job.
        blocks: the packets of the jobs, in the same order.
    """

    __slots__ = ("connection", "deliveries", "place", "recalled", "size")

    def __init__(
        self,
        outcome: Outcome,
        *,
        place: int,
        connection: Connection | None,
        deliveries: list[Delivery],
        blocks: list[bytes],
    ) -> None:
        super().__init__(outcome, blocks, b"", foreground=True)  # blocks are whole packets
        self.place = place
        self.connection = connection
        self.deliveries = deliveries
        self.recalled: list[int] = []  # jobs that are taken back once they are accepted
        self.size = sum(map(len, blocks))
        self.unit = self.size // len(blocks) + _PACKET_BYTES

    def release(self, index: int) -> None:
        """Nothing more is told of a job: let go of its delivery, which others of this shipment may
        outlast by days."""
        self.deliveries[index] = OVER
        if self.handles is not None and index < len(self.handles):
            self.handles[index] = b""

    def recall(self, index: int) -> None:
        """A job is taken back that the job server has not answered yet, if that is so."""
        if index >= self.answered:
            self.recalled.append(index)

    def unload(self) -> int:
        """Let go of the payloads; return their size in bytes."""
        size, self.size = self.size, 0
        self.heads = ()
        return size


_NOWHERE = Lane("", "", b"", DurableOptions(), False, 0, 0)
_NOWHERE.apply(LaneEvent.FENCE)
OVER = Delivery(_NOWHERE, (Entry(0, "", Info(0.0), b""),), 0)  # where a delivery was let go of

Job = tuple[Shipment, int]  # one attempt: where its job is


class Told(Protocol):
    """Takes the answer to a question about a job."""

    def __call__(self, is_known: bool, is_running: bool) -> None:
        """Take whether the job server knows the job, and whether a receiver has it."""


class Shipping:
    """Sends deliveries, asks for their jobs, and takes them back.

    Arguments:
        job_servers: where they are sent.
        outcome: is told what becomes of them.
        withdrawals: cancel jobs.
    """

    def __init__(self, job_servers: JobServers, outcome: Outcome, withdrawals: Withdrawals) -> None:
        self._job_servers = job_servers
        self._outcome = outcome
        self._withdrawals = withdrawals
        self._out: defaultdict[int, list[tuple[Delivery, bytes]]] = defaultdict(list)
        self._unsent = 0  # bytes

    @property
    def is_full(self) -> bool:
        """Whether more has to wait until the job servers accept what they were sent."""
        return self._unsent > UNSENT_BYTES

    def add(self, delivery: Delivery) -> None:
        """Have a delivery sent with the next shipment; a job server must be up."""
        lane = delivery.lane
        unique = b"%s%d.%d" % (delivery.entries[0].name, lane.term, lane.next_attempt())
        if delivery.envelope or delivery.options.batch > 1:
            arguments = _enveloped(lane, delivery)
        else:
            arguments = delivery.entries[0].payload
        block = packets.pack(_KIND, lane.queue, unique, arguments)
        self._unsent += len(block)
        self._out[self._job_servers.route(lane.queue)].append((delivery, block))

    def ship(self, at_s: float) -> None:
        """Submit what was added; ``at_s`` is now."""
        out, self._out = self._out, defaultdict(list)
        for place, pairs in out.items():
            for at in range(0, len(pairs), TOGETHER):
                self._submit(place, pairs[at : at + TOGETHER], at_s)

    def _submit(self, place: int, pairs: Sequence[tuple[Delivery, bytes]], at_s: float) -> None:
        """Submit deliveries with their packets. Deliveries know their job before it is submitted:
        a client without a connection tells of its loss at once."""
        deliveries = [delivery for delivery, _ in pairs]
        shipment = Shipment(
            self._outcome,
            place=place,
            connection=self._job_servers.clients[place].connection,
            deliveries=deliveries,
            blocks=[block for _, block in pairs],
        )
        for index, delivery in enumerate(deliveries):
            delivery.ship((shipment, index), at_s)
        self._job_servers.submit(place, shipment)

    def arrived(self, shipment: Shipment) -> None:
        """A shipment is accepted or lost: its payloads are needed no more, and jobs are withdrawn
        that could not be before."""
        self._unsent -= shipment.unload()
        if shipment.recalled:
            self.withdraw([(shipment, index) for index in shipment.recalled])

    def ask(self, job: Job, told: Told) -> None:
        """Ask whether the job server knows a job and a receiver has it (GET_STATUS); ``told`` is
        never called where the connection has ended, or ends first."""
        shipment, index = job
        client = self._job_servers.clients[shipment.place]
        if client.connection is shipment.connection and index < len(shipment.handles or ()):
            client.ask_status(shipment, index, told)

    def handle_of(self, job: Job) -> bytes:
        """Return a job's handle, b"" where its job server has not accepted it or its connection
        has ended."""
        shipment, index = job
        client = self._job_servers.clients[shipment.place]
        handles = shipment.handles or []
        if client.connection is not shipment.connection or index >= len(handles):
            return b""
        return handles[index]

    def withdraw(
        self,
        jobs: Iterable[Job],
        is_late: bool = False,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Take jobs back, as far as no receiver has them.

        Arguments:
            jobs: those that no job server has accepted yet are withdrawn once it has.
            is_late: whether a receiver that has one may still acknowledge it.
            then: is called when the job server has cancelled one, never if its connection ends
                first. A continuation for one call, so no object of its own.
        """
        for job in jobs:
            shipment, index = job
            handle = self.handle_of(job)
            if not handle:
                shipment.recall(index)
                continue
            queue = shipment.deliveries[index].lane.queue
            if is_late:
                self._job_servers.clients[shipment.place].expect_late(shipment, index)
            else:
                self.drop(job)
            self._withdrawals.add(
                shipment.place, Withdrawal(handle, queue, shipment.connection, then)
            )

    def drop(self, job: Job) -> None:
        """Hear no more of the receiver of a job; of one that has a batch which was split, not while
        any of its messages waits for that receiver."""
        shipment, index = job
        if self.handle_of(job) and not any(
            job in single.former for single in reversed(shipment.deliveries[index].singles)
        ):
            self._job_servers.clients[shipment.place].drop(shipment, index)
            shipment.release(index)

    def forget(self, delivery: Delivery) -> None:
        """Hear no more of the receivers of a delivery's former attempts."""
        for job in delivery.forget_former():
            self.drop(job)


def _enveloped(lane: Lane, delivery: Delivery) -> bytes:
    """Return what the receiver gets: an envelope, or with batches an array of them."""
    is_batch = delivery.options.batch > 1
    attempt = delivery.failures + 1
    envelopes = [
        durable_envelope(
            lane.topic,
            entry.sequence,
            entry.epoch,
            attempt=attempt,
            info=entry.info,
            payload=entry.payload,
        )
        for entry in delivery.entries
    ]
    return encode(envelopes if is_batch else envelopes[0])
