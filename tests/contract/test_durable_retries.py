"""What is promised of deliveries that fail or stay away, on both pairs of servers."""

from __future__ import annotations

import json
import threading
import time

from support.cluster import Cluster, eventually
from support.durable import (
    QUICK,
    fail,
    for_a_while,
    id_of,
    lane,
    on_queue,
    parked,
    position,
    publish,
    reaches,
    subscribe,
)
from support.foreign import Raw
from support.wire import Wire

pytest_plugins = ["support.foreign"]

SLACK_S = 0.5  # machines are shared


class Deaths(threading.Thread):
    """Receivers of a queue, one after the other, each of which dies on the first message."""

    def __init__(self, raw: Raw, queue: str, lives_s: float = 0.0, away_s: float = 0.0) -> None:
        super().__init__(daemon=True)
        self.uniques = set[bytes]()
        self.is_served = False  # whether the message behind it has come
        self._address, self._queue = raw.address, queue.encode()
        self._lives_s, self._away_s = lives_s, away_s

    def run(self) -> None:
        deadline = time.monotonic() + 14
        while time.monotonic() < deadline and not self.is_served:
            with Wire(self._address) as wire:
                wire.can_do(self._queue)
                job = wire.grab(1.0)
                if job is not None and job.payload == b"harmless":
                    wire.complete(job.handle)
                    wire.echo()
                    self.is_served = True
                elif job is not None:
                    assert job.payload == b"deadly"
                    self.uniques.add(job.unique)
                    time.sleep(self._lives_s)
            time.sleep(self._away_s)


def test_a_failed_attempt_is_tried_again_two_seconds_later_and_blocks_only_its_subscription(
    raw: Raw, topic: str
) -> None:
    clients = ["fails", "raises", "late", "capped", "well"]
    subscribe(raw, topic, "fails", "raises", "well", durable=True)
    subscribe(raw, topic, "late", durable={"timeout": 0.2})
    subscribe(raw, topic, "capped", durable={"max_backoff": 0.3})
    publish(raw, topic, "1", "2")
    takers = {client: raw.taker(f"{topic}_{client}") for client in clients}
    first = {client: takers[client].take() for client in clients}
    began = time.monotonic()
    takers["fails"].fail(first["fails"].handle)
    takers["raises"].exception(first["raises"].handle, b"disk full")
    takers["capped"].fail(first["capped"].handle)
    takers["well"].complete(first["well"].handle)
    takers["well"].finish()
    assert time.monotonic() - began < 0.2 + SLACK_S

    expected_s = {
        "capped": (0.3, 0.33),
        "fails": (2.0, 2.2),
        "raises": (2.0, 2.2),
        "late": (2.2, 2.4 + SLACK_S),  # its time begins when it is seen with its receiver
    }
    eventually(lambda: lane(raw, topic, "fails")["attempts"] == 1)
    for client, (least, most) in expected_s.items():
        again = takers[client].take()
        took_s = time.monotonic() - began
        assert least <= took_s <= most + SLACK_S, client
        assert again.payload == b"1"
        assert id_of(again)[:2] == id_of(first[client])[:2]
        assert again.unique != first[client].unique
        takers[client].complete(again.handle)
    for client in expected_s:
        assert takers[client].finish() == [b"2"]
        reaches(raw, topic, client, 2)
        assert lane(raw, topic, client)["attempts"] == 0


def test_a_delivery_that_nobody_takes_does_not_fail(raw: Raw, topic: str) -> None:
    options = {"timeout": 0.25, "max_attempts": 1}
    subscribe(raw, topic, "alice", durable=options, envelope=True)
    publish(raw, topic, "x")
    queue = f"{topic}_alice"
    eventually(lambda: on_queue(raw, queue) == (1, 0))
    for_a_while(lambda: on_queue(raw, queue) == (1, 0), 0.6)
    assert lane(raw, topic, "alice").items() >= {"attempts": 0, "parked": 0, "lag": 1}.items()
    job = raw.taker(queue).take(0.5)  # a returning host gets it at once
    assert json.loads(job.payload)["attempt"] == 1
    # it is parked once its receiver has had it for that long, not before
    for_a_while(lambda: not parked(raw, topic, "alice"), 0.15)
    [one] = eventually(lambda: parked(raw, topic, "alice"))
    assert (one["attempts"], bool(one["error"])) == (1, True)


def test_a_delivery_that_times_out_is_withdrawn_and_tried_again_under_another_id(
    raw: Raw, topic: str
) -> None:
    subscribe(raw, topic, "alice", durable={"timeout": 0.2, "max_backoff": 0.5})
    subscribe(raw, topic, "bob", durable={"timeout": 0.2, "max_backoff": 0.05})
    publish(raw, topic, "x", "y")
    alice, bob = raw.taker(f"{topic}_alice"), raw.taker(f"{topic}_bob")
    former = alice.take(), bob.take()
    other = raw.taker(f"{topic}_bob")
    second = other.take()
    assert (second.payload, id_of(second).sequence) == (b"x", 1)
    assert second.unique != former[1].unique
    bob.close()  # gives the job back, which is nobody's any more
    other.complete(second.handle)
    assert other.finish() == [b"y"]
    reaches(raw, topic, "bob", 2)

    eventually(lambda: lane(raw, topic, "alice")["attempts"] == 1)
    alice.close()
    other = raw.taker(f"{topic}_alice")
    again = other.take()
    assert (again.payload, id_of(again).sequence) == (b"x", 1)
    assert again.unique != former[0].unique
    other.complete(again.handle)
    assert other.finish() == [b"y"]
    reaches(raw, topic, "alice", 2)
    assert on_queue(raw, f"{topic}_alice") == on_queue(raw, f"{topic}_bob") == (0, 0)


def test_an_acknowledgement_after_the_timeout_counts(raw: Raw, topic: str) -> None:
    options = {"timeout": 0.2, "max_backoff": 0.5}
    subscribe(raw, topic, "rests", "again", durable=options)
    publish(raw, topic, "x")
    rests, again = raw.taker(f"{topic}_rests"), raw.taker(f"{topic}_again")
    late = rests.take(), again.take()
    eventually(lambda: lane(raw, topic, "rests")["attempts"] == 1)
    rests.complete(late[0].handle)  # before the next attempt
    reaches(raw, topic, "rests", 1)
    second = raw.taker(f"{topic}_again").take()
    assert second.unique != late[1].unique
    again.complete(late[1].handle)  # while another receiver has the next attempt
    reaches(raw, topic, "again", 1)
    for_a_while(lambda: on_queue(raw, f"{topic}_rests") == (0, 0), 0.1)  # nothing more for it
    publish(raw, topic, "y")
    assert rests.finish() == [b"y"]
    assert again.finish() == [b"y"]
    for client in ("rests", "again"):
        reaches(raw, topic, client, 2)
        assert lane(raw, topic, client).items() >= {"attempts": 0, "parked": 0}.items()


def test_a_message_on_which_every_receiver_dies_is_parked_and_not_looped(
    raw: Raw, topic: str
) -> None:
    attempts = {"holds": 2, "dies": 2, "restarts": 1}
    for client, most in attempts.items():
        subscribe(raw, topic, client, durable=QUICK | {"max_attempts": most})
    publish(raw, topic, "deadly", "harmless")
    deaths = [
        Deaths(raw, f"{topic}_holds", lives_s=0.3),
        Deaths(raw, f"{topic}_dies"),
        Deaths(raw, f"{topic}_restarts", away_s=0.2),
    ]
    for one in deaths:
        one.start()
    for one, (client, most) in zip(deaths, attempts.items(), strict=True):
        one.join(15)
        assert one.is_served, client
        [found] = parked(raw, topic, client)
        assert (found["sequence"], found["attempts"], found["payload"]) == (1, most, "deadly")
        assert len(one.uniques) == most
        reaches(raw, topic, client, 2)


def test_without_max_attempts_a_message_blocks_until_it_succeeds(
    cluster: Cluster, raw: Raw, topic: str
) -> None:
    subscribe(raw, topic, "alice", durable={"max_attempts": 0, "max_backoff": 0.01})
    publish(raw, topic, "1", "2")
    alice = raw.taker(f"{topic}_alice")
    jobs = fail(alice, *[b"no"] * 25)  # more than the default of 20
    assert {job.payload for job in jobs} == {b"1"}
    assert len({job.unique for job in jobs}) == 25
    eventually(lambda: lane(raw, topic, "alice")["attempts"] == 25)
    assert (position(raw, topic, "alice"), parked(raw, topic, "alice")) == (0, [])
    assert alice.finish(2) == [b"1", b"2"]
