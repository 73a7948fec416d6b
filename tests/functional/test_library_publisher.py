"""Publishing from Python, against real servers that come and go."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.cluster import Cluster, eventually
from support.lossy import Lossy

import gearhorn

MakeCluster = Callable[..., Cluster]
CLOSED = "127.0.0.1:1"


@pytest.fixture
def made() -> Iterator[list[gearhorn.Publisher]]:
    """Publishers to be closed after the test."""
    publishers: list[gearhorn.Publisher] = []
    yield publishers
    for publisher in publishers:
        publisher.close()


Made = list[gearhorn.Publisher]


def publisher_of(made: Made, *addresses: str, **settings: Any) -> gearhorn.Publisher:
    made.append(gearhorn.Publisher(*addresses, **settings))
    return made[-1]


def addresses_of(cluster: Cluster) -> list[str]:
    return [server.address for server in cluster.job_servers]


def test_bytes_texts_and_objects_arrive(cluster: Cluster, topic: str, made: Made) -> None:
    publisher = publisher_of(made, cluster.address)
    cluster.subscribe(topic, "a")
    receiver = cluster.receiver(f"{topic}_a")
    for payload in (b"\xff\0", "é", {"a": [1]}, bytearray(b"x")):
        assert publisher.publish(topic, payload).copies == 1
    assert receiver.wait(4) == [b"\xff\0", "é".encode(), b'{"a":[1]}', b"x"]


def test_what_is_logged_has_a_position(cluster: Cluster, topic: str, made: Made) -> None:
    publisher = publisher_of(made, cluster.address)
    cluster.subscribe(topic, "a", durable=True)
    first = publisher.publish(topic, "x", unique="one")
    assert first.position is not None
    assert first.position.sequence == 1
    assert publisher.publish(topic, "x", unique="one").position == first.position
    log = gearhorn.Log(topic, cluster.address)
    [message] = log.read().messages
    assert (message.text, message.unique, message.position) == ("x", "one", first.position)
    log.close()


def test_a_refusal_says_what_was_wrong(cluster: Cluster, made: Made) -> None:
    publisher = publisher_of(made, cluster.address)
    with pytest.raises(gearhorn.BadName, match="space"):
        publisher.publish("a b")
    with pytest.raises(gearhorn.Reserved):
        publisher.publish("__gossip")
    with pytest.raises(gearhorn.TooLarge):
        publisher.publish("t", b"x" * (9 * 1024 * 1024))
    results = publisher.publish_many([("t", "x"), ("a b", "x"), ("t", "y")])
    assert list(results.failed) == [1]


def test_answers_and_those_that_do_not_come(cluster: Cluster, topic: str, made: Made) -> None:
    publisher = publisher_of(made, cluster.address)
    cluster.subscribe(topic, "a", "b", "c")
    cluster.receiver(f"{topic}_a", behave=lambda wire, job: wire.complete(job.handle, b"\xff!"))
    cluster.receiver(f"{topic}_b", behave=lambda wire, job: wire.fail(job.handle))
    answers = publisher.ask(topic, "how are you?", timeout=1.0)
    assert {name: answer.data for name, answer in answers.items()} == {"a": b"\xff!"}
    assert list(answers.failed) == ["b"]
    assert answers.missing == ("c",)
    with pytest.raises(gearhorn.NotDelivered, match="1 of 3") as caught:
        publisher.deliver(topic, "x", timeout=1.0)
    receipt = caught.value.receipt
    assert isinstance(receipt, gearhorn.Receipt)
    assert receipt.pending == ("c",)
    assert publisher.deliver(topic, "x", quorum=1).succeeded == 1


def test_a_killed_job_server_costs_nothing_where_there_is_another(
    make_cluster: MakeCluster, made: Made
) -> None:
    cluster = make_cluster(job_servers=2)
    cluster.subscribe("t", "a")
    publisher = publisher_of(made, *addresses_of(cluster))
    publisher.publish("t", "before")
    cluster.job_servers[0].kill()
    eventually(lambda: publisher.publish("t", "after", timeout=20).copies)
    cluster.job_servers[0].restart()
    assert publisher.publish("t", "again").copies == 1


def test_what_was_sent_to_a_frozen_job_server_is_unsure_unless_it_may_be_repeated(
    make_cluster: MakeCluster, made: Made
) -> None:
    cluster = make_cluster(job_servers=2)
    cluster.subscribe("t", "a", durable=True)
    publisher = publisher_of(made, *addresses_of(cluster))
    publisher.publish("t", "before")
    cluster.job_servers[0].freeze()
    began_s = time.monotonic()
    with pytest.raises(gearhorn.Unsure) as caught:
        publisher.publish("t", "unsure")
    assert not isinstance(caught.value, gearhorn.TimedOut)
    assert time.monotonic() - began_s < 25
    assert publisher.publish("t", "through the other one").copies == 1
    cluster.job_servers[0].thaw()
    eventually(lambda: publisher.connected)


def test_under_a_unique_it_is_logged_once(make_cluster: MakeCluster, made: Made) -> None:
    cluster = make_cluster(job_servers=2)
    cluster.subscribe("t", "a", durable=True)
    publisher = publisher_of(made, *addresses_of(cluster))
    publisher.publish("t", "before")
    cluster.job_servers[0].freeze()
    position = publisher.publish("t", "once", unique="u", timeout=60).position
    cluster.job_servers[0].thaw()
    eventually(lambda: publisher.publish("t", "last", timeout=30).position)
    log = gearhorn.Log("t", *addresses_of(cluster))
    found = [message for message in log.read().messages if message.text == "once"]
    assert [message.position for message in found] == [position]
    log.close()


def test_a_reply_that_is_swallowed_is_unsure(make_cluster: MakeCluster, made: Made) -> None:
    cluster = make_cluster()
    cluster.subscribe("t", "a", durable=True)
    with contextlib.closing(Lossy(cluster.address)) as lossy:
        publisher = publisher_of(made, lossy.address)
        assert publisher.publish("t", "before").copies == 1
        lossy.lose(b"unsure")
        with pytest.raises(gearhorn.Unsure):
            publisher.publish("t", "unsure", timeout=60)
        with contextlib.closing(gearhorn.Log("t", cluster.address)) as log:
            eventually(lambda: [one.text for one in log.read().messages] == ["before", "unsure"])


def test_a_message_waits_for_a_worker_and_says_so_when_none_comes(
    make_cluster: MakeCluster, made: Made
) -> None:
    cluster = make_cluster()
    cluster.subscribe("t", "a")
    publisher = publisher_of(made, cluster.address)
    publisher.publish("t", "before")
    cluster.workers[0].kill()
    with pytest.raises(gearhorn.TimedOut, match="gearhorn-worker"):
        publisher.publish("t", "late", timeout=0.5)
    waiting = threading.Thread(target=publisher.publish, args=("t", "in time"))
    waiting.start()
    cluster.add_worker()
    waiting.join(30)
    assert not waiting.is_alive()


def test_without_a_job_server_nothing_was_sent(made: Made) -> None:
    publisher = publisher_of(made, CLOSED, timeout=0.5)
    with pytest.raises(gearhorn.NotConnected, match="nothing was sent"):
        publisher.publish("t")
    assert not publisher.connected


def test_eight_threads_share_the_connection(cluster: Cluster, topic: str, made: Made) -> None:
    publisher = publisher_of(made, cluster.address)
    cluster.subscribe(topic, "a")
    receiver = cluster.receiver(f"{topic}_a")
    errors: list[BaseException] = []

    def publish(thread: int) -> None:
        try:
            for number in range(50):
                publisher.publish(topic, f"{thread} {number}")
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=publish, args=(number,)) for number in range(8)]
    for one in running:
        one.start()
    for one in running:
        one.join()
    assert errors == []
    found = [payload.decode().split() for payload in receiver.wait(400)]
    for thread in range(8):
        mine = [int(number) for who, number in found if who == str(thread)]
        assert mine == list(range(50))


def test_a_forked_child_publishes_on_a_connection_of_its_own(
    cluster: Cluster, topic: str, made: Made
) -> None:
    publisher = publisher_of(made, cluster.address)
    cluster.subscribe(topic, "a")
    receiver = cluster.receiver(f"{topic}_a")
    publisher.publish(topic, "parent")
    children = []
    for number in range(3):
        child = os.fork()
        if not child:
            try:
                publisher.publish(topic, f"child {number}", timeout=20)
                os._exit(0)
            except BaseException:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    publisher.publish(topic, "parent again")
    expected = [b"child 0", b"child 1", b"child 2", b"parent", b"parent again"]
    assert sorted(receiver.wait(5)) == expected


def test_many_arrive_in_order(cluster: Cluster, topic: str, made: Made) -> None:
    publisher = publisher_of(made, cluster.address)
    cluster.subscribe(topic, "a")
    receiver = cluster.receiver(f"{topic}_a")
    results = publisher.publish_many((topic, str(number)) for number in range(3000))
    results.raise_any()
    assert receiver.wait(3000, 30) == [str(number).encode() for number in range(3000)]


def test_the_administrator_sees_and_changes(cluster: Cluster, topic: str, made: Made) -> None:
    with gearhorn.Admin(cluster.address) as admin:
        reply = admin.subscribe(topic, "a", durable=gearhorn.Durable(max_attempts=1))
        assert reply["queue"] == f"{topic}_a"
        publisher = publisher_of(made, cluster.address)
        cluster.receiver(f"{topic}_a", behave=lambda wire, job: wire.fail(job.handle))
        for number in range(3):
            publisher.publish(topic, str(number))
        eventually(lambda: len(list(admin.parked(topic, "a"))) == 3)
        assert [parked["payload"] for parked in admin.parked(topic, "a")] == ["0", "1", "2"]
        assert admin.purge(topic, "a", 1) == 1
        assert admin.redrive(topic, "a") == 2
        eventually(lambda: len(list(admin.parked(topic, "a"))) == 2)
        described = admin.describe(topic)
        assert described["subscriptions"]["a"]["durable"]["parked"] == 2
        assert [member["state"] for member in admin.members()] == ["solitary"]
        admin.retain(topic, max_messages=1)
        assert admin.describe(topic)["log"]["max_messages"] == 1
        admin.unsubscribe(topic, "a", drain=True)
        with pytest.raises(gearhorn.Unknown):
            list(admin.parked(topic, "a"))
