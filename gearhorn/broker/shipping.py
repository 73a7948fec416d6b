"""Shipping: the jobs that lanes make, in blocks to the job servers, and back from there.

Law: runs on the event loop. A delivery is a job of its own: it has its own unique id and often its
own arguments. What was withdrawn may still be acknowledged, until it is forgotten.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import structlog

from gearhorn.broker.lanes import Delivery, Lane
from gearhorn.gearman import packets
from gearhorn.gearman.client import Outcome, Submission
from gearhorn.gearman.cluster import Cluster
from gearhorn.gearman.connection import Connection
from gearhorn.messages.codec import encode
from gearhorn.messages.durable import durable_envelope
from gearhorn.tasks import Tasks

UNSENT_BYTES = 64 * 1024 * 1024  # handed to the job servers and not accepted
_KIND = packets.SUBMIT[True, "normal"]
_PACKET_BYTES = 64  # besides the arguments

log = structlog.get_logger(__name__)


class Shipment(Submission):
    """Deliveries of one round to one job server."""

    __slots__ = ("connection", "deliveries", "place", "size")

    def __init__(
        self,
        outcome: Outcome,
        place: int,
        connection: Connection | None,
        deliveries: list[Delivery],
        blocks: list[bytes],
    ) -> None:
        super().__init__(outcome, blocks, b"", foreground=True)  # blocks are whole packets
        self.place = place
        self.connection = connection
        self.deliveries = deliveries
        self.size = sum(map(len, blocks))
        self.unit = self.size // len(blocks) + _PACKET_BYTES


Job = tuple[Shipment, int]  # one attempt: where its job is


class Shipping:
    """Sends deliveries; ``outcome`` is told what becomes of them."""

    def __init__(self, cluster: Cluster, outcome: Outcome) -> None:
        self._cluster = cluster
        self._outcome = outcome
        self._out: defaultdict[int, list[tuple[Delivery, bytes]]] = defaultdict(list)
        self._unsent = 0  # bytes
        self._tasks = Tasks()

    @property
    def is_full(self) -> bool:
        """Whether more has to wait until the job servers accept what they were sent."""
        return self._unsent > UNSENT_BYTES

    def add(self, one: Delivery) -> None:
        """Have a delivery sent with the next shipment; a job server must be up."""
        lane = one.lane
        lane.counter += 1
        unique = b"%s%d.%d" % (one.entries[0].name, lane.term, lane.counter)
        block = packets.pack(_KIND, lane.queue, unique, _arguments(lane, one))
        self._unsent += len(block)
        self._out[self._cluster.route(lane.queue)].append((one, block))

    def ship(self) -> None:
        """Submit what was added."""
        out, self._out = self._out, defaultdict(list)
        for place, some in out.items():
            connection = self._cluster.clients[place].connection
            deliveries = [one for one, _ in some]
            blocks = [block for _, block in some]
            shipment = Shipment(self._outcome, place, connection, deliveries, blocks)
            for at, one in enumerate(deliveries):
                one.job = (shipment, at)
            self._cluster.submit(place, shipment)

    def arrived(self, shipment: Shipment) -> None:
        """A shipment is accepted or lost: its payloads are needed no more."""
        self._unsent -= shipment.size
        shipment.heads = ()

    def withdraw(self, jobs: Iterable[Job], is_late: bool = False) -> None:
        """Take jobs back, as far as no receiver has them; ``is_late``: who has one may still
        acknowledge it."""
        by_place: defaultdict[int, list[bytes]] = defaultdict(list)
        for shipment, at in jobs:
            client = self._cluster.clients[shipment.place]
            handles = shipment.handles or []
            if client.connection is not shipment.connection or at >= len(handles):
                continue
            if is_late:
                client.expect_late(shipment, at)
            else:
                client.drop(shipment, at)
            by_place[shipment.place].append(handles[at])
        for place, handles in by_place.items():
            self._tasks.spawn(self._cancel(place, handles), "withdraw")

    def forget(self, one: Delivery) -> None:
        """Wait no more for the receivers of a delivery's former attempts."""
        for shipment, at in one.former:
            client = self._cluster.clients[shipment.place]
            if client.connection is shipment.connection and shipment.handles:
                client.drop(shipment, at)
        one.former.clear()

    async def _cancel(self, place: int, handles: list[bytes]) -> None:
        connection = self._cluster.clients[place].connection
        if connection is None:
            return
        try:
            await self._cluster.admins[place].cancel(handles, lambda: connection.is_open)
        except OSError as error:
            words = str(error) or type(error).__name__
            log.debug("deliveries are not withdrawn", error=words)


def _arguments(lane: Lane, one: Delivery) -> bytes:
    """Return what the receiver gets: bytes, an envelope, or an array of envelopes."""
    if lane.options.batch == 1 and not lane.envelope:
        return one.entries[0].payload
    attempt = one.failures + 1
    envelopes = [
        durable_envelope(
            lane.topic, entry.sequence, entry.epoch, attempt, entry.info, entry.payload
        )
        for entry in one.entries
    ]
    return encode(envelopes if lane.options.batch > 1 else envelopes[0])
