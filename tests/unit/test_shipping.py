"""The jobs that lanes make, in blocks to the job servers, and back from there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest
from support.delivering import Admin, Client, Connection
from support.proxy import on_loop
from support.windows import EPOCH, entries, entry, lane

from gearhorn.durable.lanes import Delivery, Lane
from gearhorn.durable.shipping import OVER, TOGETHER, UNSENT_BYTES, Shipment, Shipping
from gearhorn.durable.states import Event, LaneState, State
from gearhorn.durable.withdrawals import Withdrawals

HEADER_BYTES = 12  # of a packet: magic, type, length


class Cluster:
    """Two job servers; queues that end in "2" are carried by the second."""

    def __init__(self) -> None:
        self.clients: Any = [Client(), Client()]
        self.admins: Any = [Admin(), Admin()]
        self.submitted: list[tuple[int, Shipment]] = []
        self.jobs_at_submission: list[Any] = []

    def route(self, queue: bytes) -> int:
        return int(queue.endswith(b"2"))

    def submit(self, place: int, shipment: Shipment) -> None:
        self.submitted.append((place, shipment))
        self.jobs_at_submission += [delivery.job for delivery in shipment.deliveries]

    async def reap(self, place: int, queues: Iterable[bytes]) -> None:
        pass

    def accept(self) -> None:
        """Every job gets a handle."""
        for place, shipment in self.submitted:
            assert shipment.handles is not None
            count = len(shipment.deliveries)
            shipment.handles += [b"H:%d:%d" % (place, number) for number in range(count)]
            shipment.answered = count


class Bench:
    """Shipping to two job servers."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        parts: Any = self.cluster, object()
        job_servers, outcome = parts
        self.shipping = Shipping(job_servers, outcome, Withdrawals(job_servers))

    def send(self, of: Lane, count: int = 1) -> list[Delivery]:
        """Take messages of a lane and add them to the next shipment."""
        of.take(entries(of.next, of.next + count - 1), 0.0, 0)
        sent = of.sendable()
        for delivery in sent:
            self.shipping.add(delivery)
        return sent


def queued(name: str = "t_me", **options: Any) -> Lane:
    """A lane whose deliveries go to a queue."""
    made = lane(**options)
    made.queue = name.encode()
    return made


def arguments(shipment: Shipment) -> list[list[bytes]]:
    """The queue, unique id and payload of each job."""
    return [packet[HEADER_BYTES:].split(b"\0", 2) for packet in shipment.heads]


# On the way


@on_loop
async def test_what_a_round_sends_to_one_job_server_is_one_shipment() -> None:
    bench = Bench()
    first, second = queued("t_1", in_flight=3), queued("t_2")
    bench.send(first, 3)
    bench.send(second)
    assert bench.cluster.submitted == []
    bench.shipping.ship(7.0)
    shipments = dict(bench.cluster.submitted)
    assert len(bench.cluster.submitted) == 2
    assert [delivery.sequence for delivery in shipments[0].deliveries] == [1, 2, 3]
    assert [delivery.lane for delivery in shipments[1].deliveries] == [second]
    assert {delivery.sent_s for delivery in shipments[0].deliveries} == {7.0}
    bench.shipping.ship(8.0)
    assert len(bench.cluster.submitted) == 2, "it is sent once"


@on_loop
async def test_a_shipment_has_so_many_deliveries_and_no_more() -> None:
    bench = Bench()
    bench.send(queued(in_flight=500), TOGETHER + 1)
    bench.shipping.ship(0.0)
    counts = [len(shipment.deliveries) for _, shipment in bench.cluster.submitted]
    assert counts == [TOGETHER, 1]


@on_loop
async def test_a_delivery_knows_its_job_before_the_job_server_hears_of_it() -> None:
    bench = Bench()
    sent = bench.send(queued(in_flight=2), 2)
    bench.shipping.ship(0.0)
    [(_, shipment)] = bench.cluster.submitted
    assert bench.cluster.jobs_at_submission == [(shipment, 0), (shipment, 1)]
    assert {delivery.state for delivery in sent} == {State.SENT}


@on_loop
async def test_each_attempt_has_a_unique_id_that_names_its_message() -> None:
    bench = Bench()
    alice = queued()
    alice.term = 17
    [delivery] = bench.send(alice)
    bench.shipping.ship(0.0)
    delivery.unship(Event.LOSE)
    bench.shipping.add(delivery)
    bench.shipping.ship(0.0)
    uniques = [arguments(shipment)[0][1] for _, shipment in bench.cluster.submitted]
    assert uniques == [b"%s:1:17.%d" % (EPOCH[:8].encode(), number) for number in (1, 2)]


@pytest.mark.parametrize(
    ("options", "envelope", "kind"),
    [({}, False, bytes), ({}, True, dict), ({"batch": 3}, False, list), ({"batch": 3}, True, list)],
)
def test_a_receiver_gets_the_payload_an_envelope_or_a_list_of_them(
    options: dict[str, Any], envelope: bool, kind: type
) -> None:
    async def main() -> None:
        bench = Bench()
        alice = queued(**options)
        alice.adopt(alice.options, envelope)
        bench.send(alice, alice.options.batch)
        bench.shipping.ship(0.0)
        [[queue, _, body]] = [job for _, made in bench.cluster.submitted for job in arguments(made)]
        assert queue == b"t_me"
        if kind is bytes:
            assert body == b"1"
            return
        decoded = json.loads(body)
        assert type(decoded) is kind
        found: Any = decoded if kind is list else [decoded]
        assert [each["sequence"] for each in found] == list(range(1, len(found) + 1))
        assert {each["attempt"] for each in found} == {1}

    asyncio.run(main())


# What is held


@on_loop
async def test_so_many_bytes_are_handed_over_and_more_waits_until_they_are_accepted() -> None:
    bench = Bench()
    alice = queued(in_flight=2)
    alice.take([entry(1, payload=b"x" * UNSENT_BYTES), entry(2)], 0.0, 0)
    for delivery in alice.sendable():
        bench.shipping.add(delivery)
    assert bench.shipping.is_full
    bench.shipping.ship(0.0)
    [(_, shipment)] = bench.cluster.submitted
    bench.shipping.arrived(shipment)
    assert not bench.shipping.is_full
    assert (shipment.heads, shipment.size) == ((), 0)
    bench.shipping.arrived(shipment)
    assert bench.shipping._unsent == 0, "it is counted once"


@on_loop
async def test_a_shipment_lets_go_of_a_delivery_whose_job_is_over() -> None:
    bench = Bench()
    bench.send(queued(in_flight=2), 2)
    bench.shipping.ship(0.0)
    [(_, shipment)] = bench.cluster.submitted
    shipment.release(1)
    assert shipment.deliveries[1] is OVER, "also before it has a handle"
    bench.cluster.accept()
    shipment.release(0)
    assert shipment.deliveries == [OVER, OVER]
    assert shipment.handles == [b"", b"H:0:1"]
    assert OVER.lane.state is LaneState.CLOSED, "nothing follows from what is heard of it"


# Back from there


@on_loop
async def test_a_job_has_a_handle_from_its_acceptance_to_the_end_of_its_connection() -> None:
    bench = Bench()
    [delivery] = bench.send(queued())
    bench.shipping.ship(0.0)
    assert bench.shipping.handle_of(delivery.job) == b""
    bench.cluster.accept()
    assert bench.shipping.handle_of(delivery.job) == b"H:0:0"
    bench.cluster.clients[0].connection = Connection()
    assert bench.shipping.handle_of(delivery.job) == b"", "another job may have it now"


@on_loop
async def test_only_what_is_on_its_connection_still_is_asked_for() -> None:
    bench = Bench()
    [delivery] = bench.send(queued())
    bench.shipping.ship(0.0)
    client = bench.cluster.clients[0]

    def told(is_known: bool, is_running: bool) -> None:
        raise AssertionError

    bench.shipping.ask(delivery.job, told)
    assert client.asked == [], "it has no handle"
    bench.cluster.accept()
    bench.shipping.ask(delivery.job, told)
    assert client.asked == [told]
    client.connection = Connection()
    bench.shipping.ask(delivery.job, told)
    assert client.asked == [told]


@pytest.mark.parametrize("is_late", [False, True])
def test_a_job_that_is_taken_back_is_listened_to_only_if_it_may_end_late(is_late: bool) -> None:
    async def main() -> None:
        bench = Bench()
        [delivery] = bench.send(queued())
        bench.shipping.ship(0.0)
        bench.shipping.withdraw([delivery.job], is_late=is_late)
        await asyncio.sleep(0.01)
        client, admin = bench.cluster.clients[0], bench.cluster.admins[0]
        assert admin.cancelled == [], "no job server has accepted it"
        bench.cluster.accept()
        shipment, index = delivery.job
        bench.shipping.withdraw([delivery.job], is_late=is_late)
        await asyncio.sleep(0.01)
        assert admin.cancelled == [b"H:0:0"]
        assert (client.late, client.dropped) == (([0], []) if is_late else ([], [0]))
        assert (shipment.deliveries[index] is OVER) is not is_late

    asyncio.run(main())


@on_loop
async def test_former_attempts_are_forgotten_with_their_deliveries() -> None:
    bench = Bench()
    [delivery] = bench.send(queued())
    bench.shipping.ship(0.0)
    bench.cluster.accept()
    delivery.keep_former(delivery.job, 16)
    bench.shipping.forget(delivery)
    bench.shipping.forget(delivery)
    assert (delivery.former, bench.cluster.clients[0].dropped) == ((), [0])
