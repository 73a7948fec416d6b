"""Appends are carried out once and in their order, whatever becomes of their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from support.logs import LogBench, item, run
from support.servers import Redis

from gearhorn.durable.appends import Appends
from gearhorn.errors import StoreError, StoreUnanswered
from gearhorn.messages.fanout import decode_fanout
from gearhorn.messages.logs import Logged
from gearhorn.store.asked import Asked
from gearhorn.store.log import Append, Appended, Log, Undone

pytest_plugins = ["support.store"]


async def texts(bench: LogBench, topic: str) -> list[str]:
    """What is logged."""
    return [one.payload.decode() for one in await bench.log.read(topic, 0, 10_000)]


# In the store


def test_an_append_that_is_asked_for_twice_is_carried_out_once(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        await bench.append_items("t", item("a", "key"))
        items = [item("b"), item("again", "key"), item("c")]
        appends = bench.log.number({"t": items, "none": [item("d")]})
        first = await bench.log.append(appends, 0)
        assert await bench.log.append(appends, 0) == first
        assert await bench.log.fates(appends) == first
        epoch = (await bench.state("t"))["epoch"]
        logged = [Logged(2, epoch, False), Logged(1, epoch, True), Logged(3, epoch, False)]
        assert first == {"t": logged, "none": None}
        assert await texts(bench, "t") == ["a", "b", "c"]
        await bench.begin("none", "alice")
        assert await bench.log.append(appends, 0) == first, "there was no log then"

    run(server, test)


def test_an_append_that_was_given_up_is_never_carried_out(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        appends = bench.log.number({"t": [item("a")]})
        assert isinstance((await bench.log.fates(appends))["t"], Undone)
        assert isinstance((await bench.log.append(appends, 0))["t"], Undone), "it comes late"
        assert await bench.append("t", "b") == [1]
        assert await texts(bench, "t") == ["b"]

    run(server, test)


def test_an_append_does_not_overtake_one_that_was_not_carried_out(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        for topic in ("t", "u"):
            await bench.begin(topic, "alice")
        first = bench.log.number({"t": [item("1")]})
        second = bench.log.number({"t": [item("2")], "u": [item("other")]})
        found = await bench.log.append(second, 0)
        assert isinstance(found["t"], Undone)
        assert not isinstance(found["u"], StoreError), "another topic goes on"
        assert not isinstance((await bench.log.append(first, 0))["t"], StoreError)
        assert not isinstance((await bench.log.append(second, 0))["t"], StoreError)
        assert await texts(bench, "t") == ["1", "2"]

    run(server, test)


def test_what_is_kept_of_appends_is_bounded(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        for number in range(1100):
            await bench.append("t", str(number))
        [name] = [
            key.decode() for key in (await bench.connection.pipeline([("KEYS", "*asked:*")]))[0]
        ]
        [count, size] = await bench.connection.pipeline(
            [("HLEN", name), ("MEMORY", "USAGE", name, "SAMPLES", 0)]
        )
        assert count == 1024
        assert size < 200_000
        await bench.log.close()
        assert (await bench.connection.pipeline([("EXISTS", name)])) == [0]

    run(server, test)


# In a worker


class Job:
    """What is fanned out."""

    is_given_back = False

    def __init__(self) -> None:
        self.failed: list[str] = []

    def fail(self, text: str = "") -> None:
        self.failed.append(text)


Act = Callable[[Mapping[str, Append], Callable[[], Coroutine[Any, Any, Any]]], Any]


class Troubled(Log):
    """A log whose appends meet with trouble, one after the other; then they go well."""

    acts: list[str]

    async def append(
        self, appends: Mapping[str, Append], clock_ms: int, patience: float = 1.0
    ) -> dict[str, Appended]:
        act = self.acts.pop(0) if self.acts else "well"
        if act == "not sent":
            raise StoreUnanswered("no answer")
        if act == "loading":
            await asyncio.sleep(0.1)  # the answer comes when the next round is carried out
            return {topic: StoreError("LOADING the dataset") for topic in appends}
        found = await super().append(appends, clock_ms, patience)
        if act == "lost":
            raise StoreUnanswered("no answer")
        return found


Published = list[tuple[str, "Logged | Exception | None"]]


class Origin:
    """Keeps what each message was told, by its text."""

    def __init__(self, told: Published) -> None:
        self._told = told

    def logged(self, text: str, place: Logged | Exception | None) -> None:
        self._told.append((text, place))


def publish(
    server: Redis, acts: list[str], rounds: list[list[str]], topics: tuple[str, ...] = ("t",)
) -> tuple[Published, dict[str, list[str]], Appends]:
    """Publish messages, round by round; what each was told, in order, and what is logged."""
    told: Published = []
    origin = Origin(told)
    logged: dict[str, list[str]] = {}
    made: list[Appends] = []

    async def test(bench: LogBench) -> None:
        for topic in topics:
            await bench.begin(topic, "alice")
        store = Troubled(bench.connection)
        store.acts = acts
        appends = Appends(store, SimpleNamespace(clock_ms=0), "me")
        made.append(appends)
        loops = [asyncio.create_task(loop()) for loop in (appends.write, appends.tell)]
        barriers = []
        for round_ in rounds:
            for text in round_:
                for topic in topics:
                    body = b'{"topic":"%s","payload":"%s"}' % (topic.encode(), text.encode())
                    message = decode_fanout(body, 1000)
                    job: Any = Job()
                    appends.add(job, message, origin, text)
            barriers.append(asyncio.create_task(appends.barrier()))
            for _ in range(5):
                await asyncio.sleep(0)  # so that it is a round of its own
        async with asyncio.timeout(30):
            await asyncio.gather(*barriers)
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        for topic in topics:
            logged[topic] = await texts(bench, topic)
        await store.close()

    run(server, test)
    return told, logged, made[0]


@pytest.mark.parametrize(
    "acts",
    [
        ["lost"],
        ["not sent"],
        ["loading"],
        ["lost", "lost"],
        ["not sent", "well"],
        ["well", "lost"],
        ["loading", "well"],
        ["loading", "well", "lost", "not sent"],
        ["lost", "loading", "lost", "well", "not sent"],
    ],
    ids="-".join,
)
def test_messages_are_logged_once_and_in_order_whatever_becomes_of_the_answers(
    server: Redis, acts: list[str]
) -> None:
    rounds = [["a", "b"], ["c"], ["d", "e"], ["f"]]
    expected = [text for some in rounds for text in some]
    told, logged, appends = publish(server, acts, rounds, ("t", "u"))
    assert logged == {"t": expected, "u": expected}
    assert sorted(text for text, _ in told) == sorted(expected * 2)
    assert all(isinstance(place, Logged) for _, place in told)
    for text, place in told:
        assert isinstance(place, Logged)
        assert place.sequence == expected.index(text) + 1
    assert appends.is_idle
    assert appends.waiting_since is None


def test_what_was_given_back_is_not_written_again(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        store = Troubled(bench.connection)
        store.acts = ["not sent"]
        appends = Appends(store, SimpleNamespace(clock_ms=0), "me")
        loops = [asyncio.create_task(loop()) for loop in (appends.write, appends.tell)]
        told: Published = []
        origin = Origin(told)
        for text in ("back", "stays"):
            job: Any = Job()
            job.is_given_back = text == "back"
            message = decode_fanout(b'{"topic":"t","payload":"%s"}' % text.encode(), 1000)
            appends.add(job, message, origin, text)
        async with asyncio.timeout(30):
            await appends.barrier()
        for loop in loops:
            loop.cancel()
        assert [text for text, _ in told] == ["stays"]
        assert await texts(bench, "t") == ["stays"]
        await store.close()

    run(server, test)


def test_numbers_of_two_askers_are_their_own(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        one, two = Asked(bench.connection), Asked(bench.connection)
        assert (one.next(), one.next(), two.next()) == (1, 2, 1)
        assert one.keys[0] != two.keys[0]

    run(server, test)
