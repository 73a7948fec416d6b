"""What becomes of ``fanout`` jobs, by what their messages ask for and what their topics have."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from support.fanouts import Bench, Job

from gearhorn.errors import Unavailable
from gearhorn.fanout.background import FastFanout
from gearhorn.fanout.copies import Subscribers
from gearhorn.fanout.directory import Waiter
from gearhorn.fanout.handler import Fanouts
from gearhorn.fanout.places import Places
from gearhorn.messages.logs import Logged

LOGGED = Logged(7, "epoch", False)


class Directory:
    """Has one list cached, or none; keeps who waits for it."""

    def __init__(self, subscribers: Subscribers | None) -> None:
        self.cached = subscribers
        self.waiters: list[Waiter] = []

    def get(self, topic: str) -> Subscribers | None:
        return self.cached

    def when_known(self, topic: str, waiter: Waiter) -> None:
        self.waiters.append(waiter)


class Appends:
    """Keeps what is to be logged, and who is to be told."""

    def __init__(self) -> None:
        self.thens: list[Callable[[Any], None]] = []
        self.followers: list[Callable[[], None]] = []
        self.topics: dict[str, int] = {}

    def add(self, job: Any, message: Any, origin: Any, plan: Any) -> None:
        self.thens.append(partial(origin.logged, plan))

    def follow(self, topic: str, job: Any, origin: Any, plan: Any) -> None:
        self.followers.append(partial(origin.logged, plan, None))


class Handling:
    """A handler, and all that it works with."""

    def __init__(self, *clients: str, cached: bool = True, **options: Any) -> None:
        self.has_log, self.durable = options.pop("has_log", False), options.pop("durable", ())
        self.bench = Bench(*clients, **options)
        queues = self.bench.subscribers.queues
        self.list = Subscribers(
            "t", queues, enveloped=len(queues), has_log=self.has_log, durable=self.durable
        )
        self.list.allow(100)
        self.directory = Directory(self.list if cached else None)
        self.appends = Appends()
        config = SimpleNamespace(max_payload=1000, max_fanout_bytes=2000)
        self.fanouts = Fanouts(
            config,  # type: ignore[arg-type]
            self.directory,  # type: ignore[arg-type]
            self.bench.outbox,
            self.appends,  # type: ignore[arg-type]
        )

    def take(self, topic: str = "t", **keys: Any) -> Job:
        """Handle a job for a message."""
        body = {"topic": topic, "payload": "x", "background": True} | keys
        job = Job(json.dumps(body).encode())
        self.fanouts.handle(job)  # type: ignore[arg-type]
        return job


def on_handling(test: Callable[[Handling], None], *clients: str, **options: Any) -> None:
    async def main() -> None:
        test(Handling(*clients, **options))

    asyncio.run(main())


def failure(job: Job) -> str:
    ((kind, data),) = job.answers
    assert kind == "fail"
    return data.decode()


def test_the_most_frequent_fanout_takes_the_short_way() -> None:
    def test(handling: Handling) -> None:
        job = handling.take()
        assert job.weight == 2
        assert job.answers == []
        handling.bench.servers[0].accept(2)
        assert job.answers == [("complete", b"2")]

    on_handling(test, "a", "b")


@pytest.mark.parametrize(
    ("keys", "is_fast"),
    [({}, True), ({"unique": "u"}, True), ({"receipt": True}, False), ({"exclude": ["b"]}, False)],
)
def test_what_asks_for_more_takes_the_long_way(
    keys: dict[str, Any], is_fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[FastFanout] = []

    def make(*parts: Any, **more: Any) -> FastFanout:
        made.append(FastFanout(*parts, **more))
        return made[-1]

    monkeypatch.setattr("gearhorn.fanout.handler.FastFanout", make)

    def test(handling: Handling) -> None:
        handling.take(**keys)
        assert bool(made) is is_fast

    on_handling(test, "a", "b")


def test_nobody_subscribes_is_a_success_of_none() -> None:
    def test(handling: Handling) -> None:
        assert handling.take().answers == [("complete", b"0")]
        ((kind, data),) = handling.take(receipt=True).answers
        assert (kind, json.loads(data)["copies"]) == ("complete", 0)
        assert handling.take(background=False).answers == [("complete", b"0")]
        assert handling.bench.places.waiting == 0

    on_handling(test)


def test_excluded_clients_get_no_copy() -> None:
    def test(handling: Handling) -> None:
        job = handling.take(exclude=["a", "unknown"])
        handling.bench.servers[0].accept(1)
        assert job.answers == [("complete", b"1")]

    on_handling(test, "a", "b")


def test_what_is_too_large_is_refused() -> None:
    def test(handling: Handling) -> None:
        assert failure(handling.take(payload="x" * 1001)).startswith("too_large: ")
        assert failure(handling.take(payload="x" * 900)).startswith("too_large: 3 copies of 900")
        job = Job(b"cut", oversized=True)
        handling.fanouts.handle(job)  # type: ignore[arg-type]
        assert failure(job).startswith("too_large: the request is longer")

    on_handling(test, "a", "b", "c")


def test_a_topic_is_checked_where_its_list_is_not_cached() -> None:
    def test(handling: Handling) -> None:
        assert failure(handling.take(topic="a\nb")).startswith("bad_name: ")
        assert handling.directory.waiters == []

    on_handling(test, cached=False)


def test_a_job_waits_for_its_list() -> None:
    def test(handling: Handling) -> None:
        job, refused, *lost = [handling.take() for _ in range(4)]
        assert job.answers == []
        for given_back in lost:
            given_back.is_given_back = True
        first, second, third, fourth = handling.directory.waiters
        first.listed(handling.list)
        second.refused(Unavailable("the store: no"))
        third.listed(handling.list)
        fourth.refused(Unavailable("the store: no"))
        handling.bench.servers[0].accept(1)
        assert job.answers == [("complete", b"1")]
        assert failure(refused) == "unavailable: the store: no"
        assert [given_back.answers for given_back in lost] == [[], []]

    on_handling(test, "a", cached=False)


def test_a_fault_fails_the_job_that_waited_for_a_list_and_no_other() -> None:
    def test(handling: Handling) -> None:
        job = handling.take()
        handling.directory.waiters[0].listed(object())  # type: ignore[arg-type]
        assert failure(job) == "internal error"

    on_handling(test, "a", cached=False)


def test_the_backlog_is_polled_once_a_list_has_carried_what_it_may() -> None:
    def test(handling: Handling) -> None:
        handling.list.allow(2)
        for _ in range(2):
            handling.take()
        assert handling.bench.backlog.polled == []
        handling.take(receipt=True)
        assert handling.bench.backlog.polled == ["t"]

    on_handling(test, "a")


def test_a_message_is_logged_before_it_is_copied() -> None:
    def test(handling: Handling) -> None:
        job = handling.take(receipt=True)
        (then,) = handling.appends.thens
        then(LOGGED)
        assert job.answers == []
        handling.bench.servers[0].accept(1)
        ((_, data),) = job.answers
        assert json.loads(data)["copies"] == 2  # the durable receiver's among them

    on_handling(test, "a", has_log=True, durable=("d",))


def test_durable_receivers_alone_need_no_copies() -> None:
    def test(handling: Handling) -> None:
        job = handling.take()
        handling.appends.thens[0](LOGGED)
        assert job.answers == [("complete", b"1")]

    on_handling(test, has_log=True, durable=("d",))


def test_a_foreground_fanout_waits_for_durable_receivers() -> None:
    def test(handling: Handling) -> None:
        job = handling.take(background=False)
        assert handling.bench.places.waiting == 1
        handling.appends.thens[0](LOGGED)
        assert job.is_released
        handling.bench.waiting.fanouts["t", 7].done("d", "")
        assert job.answers == [("complete", b"1")]
        assert (handling.bench.places.waiting, handling.bench.places.lingering) == (0, 0)

    on_handling(test, has_log=True, durable=("d",))


@pytest.mark.parametrize("told", [Unavailable("the store: full"), object()])
def test_a_message_that_is_not_logged_leaves_its_place(told: object) -> None:
    def test(handling: Handling) -> None:
        job = handling.take(background=False)
        handling.appends.thens[0](told)
        is_refused = isinstance(told, Unavailable)
        assert failure(job) == ("unavailable: the store: full" if is_refused else "internal error")
        assert handling.bench.places.waiting == 0

    on_handling(test, "a", has_log=True, durable=None)


def test_a_job_that_was_given_back_while_its_message_was_logged_leaves_its_place() -> None:
    def test(handling: Handling) -> None:
        job = handling.take(background=False)
        job.is_given_back = True
        handling.appends.thens[0](LOGGED)
        assert (job.answers, handling.bench.places.waiting) == ([], 0)

    on_handling(test, "a", has_log=True)


def test_a_message_for_which_there_is_no_place_is_not_logged() -> None:
    def test(handling: Handling) -> None:
        handling.take(background=False)
        assert failure(handling.take(background=False)).startswith("busy: ")
        assert len(handling.appends.thens) == 1

    on_handling(test, "a", has_log=True, places=Places(1, 1 << 20))


def test_what_needs_no_log_any_more_waits_for_what_is_still_on_its_way_there() -> None:
    def test(handling: Handling) -> None:
        handling.appends.topics["t"] = 1
        jobs = [handling.take(), handling.take(background=False)]
        handling.appends.topics.clear()
        assert handling.bench.servers[0].client.is_idle
        assert handling.bench.places.waiting == 1
        for then in handling.appends.followers:
            then()
        handling.bench.servers[0].accept(2)
        assert [job.answers for job in jobs] == [[("complete", b"1")], []]

    on_handling(test, "a")
