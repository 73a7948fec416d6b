"""What lanes send and hear, for tests without any server."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from types import SimpleNamespace
from typing import Any

from gearhorn.durable.changed_lanes import ChangedLanes
from gearhorn.durable.endings import Endings
from gearhorn.durable.held_lanes import HeldLanes
from gearhorn.durable.lanes import Delivery, Lane
from gearhorn.durable.log_cache import LogCache
from gearhorn.durable.outcomes import Outcomes
from gearhorn.durable.pending_writes import PendingWrites
from gearhorn.durable.shipping import Shipment
from gearhorn.gearman.results import DONE
from support.windows import entries, lane


class Connection:
    """One that stays."""

    is_open = True


class Client:
    """A job server that is asked, and answers when the test says so."""

    def __init__(self) -> None:
        self.connection = Connection()
        self.is_up = True
        self.asked: list[Callable[[bool, bool], None]] = []
        self.late: list[int] = []  # jobs whose late ends are listened to
        self.dropped: list[int] = []

    def ask_status(
        self, shipment: Shipment, index: int, told: Callable[[bool, bool], None]
    ) -> None:
        self.asked.append(told)

    def expect_late(self, shipment: Shipment, index: int) -> None:
        self.late.append(index)

    def drop(self, shipment: Shipment, index: int) -> None:
        self.dropped.append(index)


class Admin:
    """Its text commands."""

    def __init__(self) -> None:
        self.cancelled: list[bytes] = []
        self.tables = 0
        self.busy: set[bytes] = set()  # queues whose jobs receivers have
        self.queued: dict[bytes, int] = {}  # jobs that wait
        self.dead: set[bytes] = set()  # jobs on which receivers died
        self.meanwhile: Callable[[], None] = lambda: None  # while the list of jobs is read

    async def cancel(self, handles: Iterable[bytes], are_valid: Callable[[], bool]) -> None:
        self.cancelled += handles

    async def running(self) -> dict[bytes, int]:
        self.tables += 1
        return dict.fromkeys(self.busy, 1)

    async def returned(self) -> set[bytes]:
        self.meanwhile()
        return self.dead

    async def waiting(self, queues: Collection[bytes]) -> dict[bytes, int]:
        return {queue: self.queued.get(queue, 0) for queue in queues}


class Cluster:
    """One job server."""

    def __init__(self) -> None:
        self.clients: Any = [Client()]
        self.admins: Any = [Admin()]
        self.is_up = True
        self.reaped: list[bytes] = []
        self.submitted: list[Shipment] = []
        self.listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        self.listeners.append(listener)

    def turn(self, is_up: bool) -> None:
        """The job server comes or goes."""
        self.is_up = is_up
        for listener in self.listeners:
            listener()

    def route(self, queue: bytes) -> int:
        return 0

    def submit(self, place: int, shipment: Shipment) -> None:
        self.submitted.append(shipment)

    async def reap(self, place: int, queues: Iterable[bytes]) -> None:
        self.reaped += queues

    def accept(self) -> None:
        """The job server accepts what it was sent."""
        shipments, self.submitted = self.submitted, []
        for shipment in shipments:
            count = len(shipment.deliveries)
            assert shipment.handles is not None
            shipment.handles += [b"H:%d" % number for number in range(count)]
            shipment.answered = count
            shipment.outcome.accepted(shipment)


class Bed:
    """A lane whose deliveries are sent to a job server."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.client: Client = self.cluster.clients[0]
        self.admin: Admin = self.cluster.admins[0]
        self.held = HeldLanes()
        self.pending = PendingWrites()
        self.changed_lanes = ChangedLanes()
        self.log_cache = LogCache()
        self.endings = Endings(
            held=self.held, log_cache=self.log_cache, changed_lanes=self.changed_lanes
        )
        cluster: Any = self.cluster
        clock: Any = SimpleNamespace(clock_ms=0)
        self.outcomes = Outcomes(
            job_servers=cluster,
            held=self.held,
            pending=self.pending,
            clock=clock,
            endings=self.endings,
        )
        self.endings.attach(self.outcomes)

    def lane(self, topic: str = "t", **options: Any) -> Lane:
        """One that is held."""
        one = lane(**options)
        one.topic, one.queue = topic, b"%s_me" % topic.encode()
        one.keeper = self.held
        self.held.add(one)
        return one

    def send(self, one: Lane, count: int = 1) -> list[Delivery]:
        """Take messages and send them; the job server accepts them."""
        one.take(entries(one.next, one.next + count - 1), 0.0, 0)
        sent = one.sendable()
        for delivery in sent:
            self.outcomes.shipping.add(delivery)
        self.outcomes.shipping.ship(0.0)
        one.end_round()
        self.held.mark((one,))
        self.cluster.accept()
        return sent

    def complete(self, delivery: Delivery, job: Any) -> None:
        """A receiver acknowledges one of a delivery's jobs."""
        shipment, index = job
        self.outcomes.finished(shipment, index, DONE)
