"""What a subscriber asks for, and where its handlers run."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import pytest
from support.made_jobs import Made
from support.proxy import on_loop

import gearhorn
from gearhorn.client import sync
from gearhorn.client.deliveries import Deliveries
from gearhorn.client.message import Message, Park
from gearhorn.client.receiver import Receiver
from gearhorn.client.runners import Runners
from gearhorn.client.session import Registration
from gearhorn.client.settings import Durable, servers_of
from gearhorn.client.subscriber import Subscriber
from gearhorn.gearman.link import Connection


def registered(subscriber: Subscriber) -> list[Registration]:
    return list(subscriber._registrations.values())


def test_a_subscription_asks_for_what_is_given() -> None:
    subscriber = Subscriber("web1", "localhost")
    subscriber.on("plain", envelope=False)
    subscriber.on("p.*", pattern=True, envelope=False)
    subscriber.on("d", durable=Durable(batch=5), ttl=60, max_backlog=7, overflow="drop_old")
    subscriber.on("off", durable=False)(print)
    plain, pattern, durable, off = registered(subscriber)
    assert (plain.queue, plain.options, plain.is_plain) == ("plain_web1", {"envelope": False}, True)
    assert pattern.options == {"envelope": False, "pattern": True}
    assert not pattern.is_plain, "its envelope is forced"
    assert durable.options == {
        "envelope": True,
        "durable": Durable(batch=5).options(),
        "ttl": 60,
        "max_backlog": 7,
        "overflow": "drop_old",
    }
    assert durable.ttl_s == 60
    assert off.options == {"envelope": True, "durable": False}
    assert off.handler is print
    assert not subscriber.healthy()


@pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"prefetch": 0}, {"remember": -1}])
def test_numbers_that_are_too_low_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="concurrency"):
        gearhorn.Subscriber("web1", **wrong)


def test_a_forked_child_has_the_same_subscriptions() -> None:
    subscriber = sync.Subscriber("web1", "localhost")
    subscriber.on("a")
    subscriber.on("b", durable=True)(print)
    before = [(one.topic, one.handler) for one in registered(subscriber.core)]
    assert before == [("a", None), ("b", print)]
    child = os.fork()
    if not child:
        now = [(one.topic, one.handler) for one in registered(subscriber.core)]
        os._exit(0 if now == before else 1)
    assert os.waitpid(child, 0)[1] == 0


class Bed:
    """Runners with three subscriptions: a function, a coroutine, and one taken by hand."""

    def __init__(self, concurrency: int = 2) -> None:
        self.by_hand: list[Message] = []
        self.threads: list[str] = []
        self.running = self.highest = 0
        self.runners = Runners(concurrency, self.by_hand.append, "test")
        wake = asyncio.get_running_loop().call_soon_threadsafe
        self.deliveries = Deliveries(self.runners, remember=10, wake=wake)
        self.runners.serve(self.deliveries)
        for topic, handler in (("f", self.function), ("c", self.coroutine), ("h", None)):
            registration = Registration(topic, "x", {}, is_plain=True)
            if handler is not None:
                registration.handle_with(handler)
            self.deliveries.add(registration)

    def function(self, message: Message) -> bytes:
        self.threads.append(threading.current_thread().name)
        if message.data == b"exit":
            raise SystemExit
        if message.data == b"by hand":
            message.park("not now")
        return message.data.upper()

    async def coroutine(self, message: Message) -> bytes:
        self.running += 1
        self.highest = max(self.highest, self.running)
        try:
            await asyncio.sleep(0.01)
            if message.data == b"cancelled":
                raise asyncio.CancelledError
            if message.data == b"park":
                raise Park("no")
            if message.data == b"by hand":
                message.park("not now")
            if message.data == b"hang":
                await asyncio.sleep(3600)
        finally:
            self.running -= 1
        return message.data.upper()

    async def run(self, topic: str, *payloads: bytes) -> list[Any]:
        jobs = [Made(f"{topic}_x".encode(), payload, is_lost=True) for payload in payloads]
        for job in jobs:
            self.deliveries.handle(job)
        while not all(job.answers for job in jobs):
            await asyncio.sleep(0.01)
        return [job.answers for job in jobs]


@on_loop
async def test_functions_run_in_threads() -> None:
    bed = Bed()
    assert await bed.run("f", b"a", b"exit", b"b") == [[b"A"], ["SystemExit"], [b"B"]]
    assert all(name.startswith("test ") for name in bed.threads)
    assert bed.deliveries.state.unheard == 3
    await bed.runners.close()


@on_loop
async def test_coroutines_run_on_the_loop_so_many_at_once() -> None:
    bed = Bed()
    answers = await bed.run("c", b"a", b"park", b"cancelled", b"b")
    assert answers == [[b"A"], ["park: no"], ["CancelledError"], [b"B"]]
    assert bed.highest == 2
    await bed.runners.close()


@on_loop
@pytest.mark.parametrize("topic", ["f", "c"])
async def test_what_ends_a_message_first_counts(topic: str) -> None:
    bed = Bed()
    assert await bed.run(topic, b"by hand") == [["park: not now"]]
    await bed.runners.close()


@on_loop
async def test_at_the_end_coroutines_are_cancelled_and_answer_nothing() -> None:
    bed = Bed()
    job = Made(b"c_x", b"hang", is_lost=True)
    bed.deliveries.handle(job)
    while not bed.running:
        await asyncio.sleep(0.01)
    await bed.runners.close()
    assert job.answers == []
    assert bed.running == 0


@on_loop
async def test_without_a_handler_messages_are_taken_by_hand() -> None:
    bed = Bed()
    job = Made(b"h_x", b"a", is_lost=True)
    bed.deliveries.handle(job)
    [message] = bed.by_hand
    threading.Thread(target=message.ack, args=("thanks",)).start()
    while not job.answers:
        await asyncio.sleep(0.01)
    assert job.answers == [b"thanks"]


class Watched:
    def __init__(self) -> None:
        self.told: list[str] = []

    def receiver_up(self, is_again: bool) -> None:
        self.told.append("again" if is_again else "up")

    def receiver_down(self) -> None:
        self.told.append("down")


@on_loop
async def test_a_receiver_tells_when_its_server_comes_and_goes() -> None:
    watched = Watched()
    receiver = Receiver(
        servers_of(["localhost"])[0],
        None,
        client_id="web1",
        queues=[b"t_web1"],
        handler=lambda _: None,
        in_hand=3,
        watcher=watched,
    )
    for _ in range(2):
        connection = Connection(receiver, 1024)
        receiver.went_up(connection)
        receiver.went_down(connection)
    assert watched.told == ["up", "down", "again", "down"]
