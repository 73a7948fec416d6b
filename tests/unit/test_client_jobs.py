"""What becomes of requests: each of them has one fate, and the caller is told which."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from support.proxy import on_loop
from support.scripted import Cut, Refusal, Scripted, Silence, Streamed

from gearhorn.client.admin import Admin
from gearhorn.client.connected import Connected
from gearhorn.client.jobs import Jobs
from gearhorn.client.log import Log
from gearhorn.client.many import Outgoing
from gearhorn.client.publisher import Publisher
from gearhorn.client.results import Answer, Failure, Published
from gearhorn.client.settings import servers_of
from gearhorn.errors import (
    BadName,
    Busy,
    InternalError,
    NotConnected,
    NotDelivered,
    TimedOut,
    Unavailable,
    Unknown,
    Unsure,
)

CLOSED = "127.0.0.1:1"
EPOCH = "0123456789abcdef"


def number(_: Scripted, function: str, request: Any) -> Any:
    return 3


def script_of(*steps: Any) -> Any:
    """A script that goes through these steps; the last one is for all that follow."""
    left = list(steps)

    def script(_: Scripted, function: str, request: Any) -> Any:
        step = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(step, BaseException):
            raise step
        return step

    return script


def test_each_of_them_is_connected_in_the_same_way() -> None:
    assert all(issubclass(kind, Connected) for kind in (Publisher, Admin, Log))
    with pytest.raises(ValueError, match="a b"):
        Connected("a b")


@on_loop
async def test_a_reply_is_the_result() -> None:
    async with Scripted(number) as server, Publisher(server.address) as publisher:
        assert not publisher.connected
        assert await publisher.publish("t", "x", unique="u") == Published(3)
        assert publisher.connected
        [(function, request)] = server.requests
        assert function == "fanout"
        assert request == {
            "topic": "t",
            "payload": "x",
            "unique": "u",
            "background": True,
            "receipt": True,
        }


@on_loop
async def test_a_refusal_is_an_error_and_is_not_repeated() -> None:
    script = script_of(Refusal("bad_name: topic is empty"), 1)
    async with Scripted(script) as server, Publisher(server.address) as publisher:
        with pytest.raises(BadName, match="topic is empty"):
            await publisher.publish("", "x", unique="u")
        assert len(server.requests) == 1


@on_loop
async def test_what_was_busy_is_tried_again() -> None:
    script = script_of(Refusal("busy: later"), Refusal("busy: later"), 1)
    async with Scripted(script) as server, Publisher(server.address) as publisher:
        assert await publisher.publish("t") == Published(1)
        assert len(server.requests) == 3


@on_loop
async def test_until_the_time_is_over() -> None:
    script = script_of(Refusal("busy: later"))
    async with Scripted(script) as server, Publisher(server.address) as publisher:
        with pytest.raises(Busy):
            await publisher.publish("t", timeout=0.3)


@on_loop
async def test_a_lost_reply_is_unsure_and_nothing_is_repeated() -> None:
    async with Scripted(script_of(Cut())) as server, Publisher(server.address) as publisher:
        with pytest.raises(Unsure, match="may have been carried out") as caught:
            await publisher.publish("t")
        assert not isinstance(caught.value, TimedOut)
        assert len(server.requests) == 1


@pytest.mark.parametrize("first", [Cut(), Refusal("unavailable: the store: gone")])
@on_loop
async def test_under_a_unique_it_is_repeated(first: BaseException) -> None:
    script = script_of(first, 1)
    async with Scripted(script) as server, Publisher(server.address) as publisher:
        assert await publisher.publish("t", unique="u") == Published(1)
        assert len(server.requests) == 2


@on_loop
async def test_unavailable_may_have_been_carried_out() -> None:
    script = script_of(Refusal("unavailable: the store: gone"), 1)
    async with Scripted(script) as server, Publisher(server.address) as publisher:
        with pytest.raises(Unavailable):
            await publisher.publish("t")
        assert len(server.requests) == 1


@on_loop
async def test_no_reply_in_time_is_told_apart() -> None:
    script = script_of(1, Silence())
    async with Scripted(script) as server, Publisher(server.address) as publisher:
        await publisher.publish("t")  # it is connected
        with pytest.raises(TimedOut, match="is a gearhorn-worker running"):
            await publisher.publish("t", unique="u", timeout=0.2)
        assert len(server.requests) == 2


@on_loop
async def test_without_a_server_nothing_was_sent() -> None:
    async with Publisher(CLOSED) as publisher:
        with pytest.raises(NotConnected, match="nothing was sent"):
            await publisher.publish("t", timeout=0.2)
        assert not publisher.connected


@on_loop
async def test_another_server_takes_what_was_not_sent() -> None:
    async with Scripted(number) as server, Publisher(CLOSED, server.address) as publisher:
        assert await publisher.publish("t") == Published(3)


@on_loop
async def test_a_caller_that_is_cancelled_waits_no_more() -> None:
    async with Scripted(script_of(Silence(), 2)) as server, Publisher(server.address) as publisher:
        publishing = asyncio.ensure_future(publisher.publish("t"))
        while not server.requests:
            await asyncio.sleep(0.01)
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing
        assert await publisher.publish("t") == Published(2)


@on_loop
async def test_many_are_published_in_order_and_each_has_its_result() -> None:
    def script(_: Scripted, function: str, request: Any) -> Any:
        if request["payload"] == "bad":
            raise Refusal("too_large: no")
        return int(request["payload"])

    async with Scripted(script) as server, Publisher(server.address) as publisher:
        messages: list[Any] = [("t", str(n)) for n in range(700)]
        messages[5] = Outgoing("t", "bad")
        results = await publisher.publish_many(messages, window=50)
        assert len(results) == 700
        assert list(results.failed) == [5]
        assert [result.copies for result in results[6:]] == list(range(6, 700))
        assert [request["payload"] for _, request in server.requests][:3] == ["0", "1", "2"]

        async def stream() -> Any:
            yield "t", "1"
            yield Outgoing("t", "2", unique="u", headers={"a": "b"}, exclude=["x"], expires=3.0)

        assert list(await publisher.publish_many(stream())) == [Published(1), Published(2)]
        assert server.requests[-1][1]["headers"] == {"a": "b"}


@on_loop
async def test_of_many_what_was_busy_is_tried_again_and_what_is_unknown_is_not() -> None:
    script = script_of(Refusal("busy: later"), Refusal("unavailable: x"), 1)
    async with Scripted(script) as server, Publisher(server.address) as publisher:
        results = await publisher.publish_many([("t", "a"), ("t", "b")])
        assert results[0] == Published(1)
        assert isinstance(results[1], Unavailable)


@on_loop
async def test_without_a_server_many_fail_one_by_one() -> None:
    async with Publisher(CLOSED) as publisher:
        results = await publisher.publish_many([("t", str(n)) for n in range(500)], timeout=0.3)
        assert len(results) == 500
        assert all(isinstance(result, NotConnected) for result in results)


RECEIPT = {"copies": 2, "delivered": ["a"], "failed": {"b": "no"}, "pending": [], "dropped": []}


@on_loop
async def test_a_delivery_that_falls_short_is_an_error_with_the_receipt() -> None:
    async with Scripted(script_of(RECEIPT)) as server, Publisher(server.address) as publisher:
        with pytest.raises(NotDelivered, match=r"1 of 2 .*failed: b \(no\)") as caught:
            await publisher.deliver("t", "x", timeout=5)
        assert getattr(caught.value.receipt, "failed") == {"b": "no"}  # noqa: B009
        receipt = await publisher.deliver("t", "x", quorum=1)
        assert receipt.delivered == ("a",)
        assert (await publisher.deliver("t", "x", quorum="50%")).succeeded == 1
        assert [request.get("quorum") for _, request in server.requests] == [None, 1, "50%"]
        assert server.requests[0][1]["timeout"] == 5


@on_loop
async def test_answers_come_from_the_receipt() -> None:
    reply = RECEIPT | {"results": {"a": "42"}, "pending": ["c"], "dropped": ["d"]}
    async with Scripted(script_of(reply)) as server, Publisher(server.address) as publisher:
        answers = await publisher.ask("t")
        assert answers["a"].json() == 42
        assert (answers.failed, answers.missing) == ({"b": "no"}, ("c", "d"))


@on_loop
async def test_the_administrator_goes_through_pages() -> None:
    def script(_: Scripted, function: str, request: Any) -> Any:
        name = "b" if request.get("cursor") else "a"
        topics = {"news": {"subscriptions": {name: {"queue": f"news_{name}"}}}}
        if request.get("summary"):
            topics = {name: {"subscriptions": 1}}  # type: ignore[dict-item]
        return {
            "members": [{"member": "m"}],
            "topics": topics,
            "cursor": None if name == "b" else "news a",
        }

    async with Scripted(script) as server, Admin(server.address) as admin:
        assert set((await admin.describe("news"))["subscriptions"]) == {"a", "b"}
        assert set((await admin.describe())["news"]["subscriptions"]) == {"a", "b"}
        assert await admin.topics("n*", sort="lag") == [
            {"topic": "a", "subscriptions": 1},
            {"topic": "b", "subscriptions": 1},
        ]
        assert server.requests[-1][1] | {"limit": 0} == {
            "summary": True,
            "match": "n*",
            "sort": "lag",
            "cursor": "news a",
            "limit": 0,
        }
        assert await admin.members() == [{"member": "m"}]


@on_loop
async def test_the_administrator_asks_for_what_is_given_only() -> None:
    described = {"t": {"subscriptions": {"c": {"durable": {"lag": 0}}, "d": {}}}}
    script = script_of({"redriven": 2, "purged": 3, "version": 1, "topics": described})
    async with Scripted(script) as server, Admin(server.address) as admin:
        await admin.subscribe("t", "c", ttl=5)
        await admin.unsubscribe("t", "c", drain=True)
        await admin.pause("t", "c")
        await admin.pause("t", "c", 60)
        await admin.resume("t", "c")
        await admin.retain("t", max_age=None, max_bytes=10)
        assert await admin.redrive("t", "c") == 2
        assert await admin.purge("t", "c", 7) == 3
        for client in ("d", "nothing"):
            with pytest.raises(Unknown, match=f"{client} has no durable subscription"):
                await admin.pause("t", client)
    pair = {"topic": "t", "client_id": "c"}
    assert [one for one in server.requests if one[0] != "describe_fanout"] == [
        ("subscribe_fanout", pair | {"ttl": 5}),
        ("unsubscribe_fanout", pair | {"drain": True}),
        ("subscribe_fanout", pair | {"durable": {"paused": True}}),
        ("subscribe_fanout", pair | {"durable": {"paused": 60}}),
        ("subscribe_fanout", pair | {"durable": {"paused": False}}),
        ("retain_fanout", {"topic": "t", "max_age": None, "max_bytes": 10}),
        ("parked_fanout", pair | {"action": "redrive"}),
        ("parked_fanout", pair | {"action": "purge", "limit": 7}),
    ]


@on_loop
async def test_parked_messages_come_page_by_page() -> None:
    def script(_: Scripted, function: str, request: Any) -> Any:
        first = request["after"] + 1
        page = {"parked": [{"sequence": first + n} for n in range(min(2, request["limit"]))]}
        return page if first > 4 else page | {"after": first + 1}

    async with Scripted(script) as server, Admin(server.address) as admin:
        found = [parked["sequence"] async for parked in admin.parked("t", "c")]
        assert found == [1, 2, 3, 4, 5, 6]
        assert [one["sequence"] async for one in admin.parked("t", "c", limit=3)] == [1, 2, 3]


def entries(first: int, *sequences: int, epoch: str = EPOCH, last: int = 0) -> Any:
    return {
        "epoch": epoch,
        "first": first,
        "last": last or max(sequences, default=first - 1),
        "messages": [
            {"topic": "t", "sequence": n, "epoch": epoch, "at": 1.0, "payload": str(n)}
            for n in sequences
        ],
    }


@on_loop
async def test_a_reader_is_told_what_it_has_missed() -> None:
    script = script_of(
        entries(1, 1, last=2),
        entries(1, 3),
        Cut(),
        entries(6, 6, 7),
        entries(1, 1, epoch="f" * 16),
        Silence(),
    )
    async with Scripted(script) as server, Log("t", server.address, timeout=1.0) as log:
        found = []
        async for message in log.follow():
            found.append((message.text, message.gap))
            if len(found) == 4:
                break
    assert found == [("3", None), ("6", (2, False)), ("7", None), ("1", (0, True))]
    assert [request["after"] for _, request in server.requests] == [0, 2, 3, 3, 7]


@pytest.mark.parametrize(("start", "after"), [("new", 9), ("all", 3), ("last", 8), (5, 5)])
@on_loop
async def test_where_a_reader_begins(start: Any, after: int) -> None:
    async with Scripted(script_of(entries(4, 9))) as server, Log("t", server.address) as log:
        async for _ in log.follow(start=start):
            break
    assert server.requests[-1][1]["after"] == after


@on_loop
async def test_a_place_that_is_none_is_refused() -> None:
    async with Scripted(script_of(entries(4, 9))) as server, Log("t", server.address) as log:
        with pytest.raises(ValueError, match="start"):
            await anext(log.follow(start="now"))
        batch = await log.read(3, limit=1)
        assert (batch.first, batch.last, batch.epoch) == (4, 9, EPOCH)


@on_loop
async def test_an_internal_error_keeps_its_words() -> None:
    async with Scripted(script_of(Refusal("internal error"))) as server:
        jobs = Jobs(servers_of([server.address]))
        with pytest.raises(InternalError):
            await jobs.run("fanout", json.dumps({}).encode(), timeout_s=5)
        await jobs.close()


# Answers as they come


def piece(client_id: str, **said: Any) -> bytes:
    return json.dumps({"client_id": client_id, "seconds": 0.5, **said}).encode() + b"\n"


@on_loop
async def test_answers_are_yielded_as_they_come_and_the_receipt_tells_of_the_rest() -> None:
    script = script_of(
        Streamed(
            [piece("a", result="yes"), piece("b", error="disk full"), piece("a", result="again")],
            {"copies": 3, "delivered": ["a"], "failed": {"b": "disk full"}, "pending": ["c"]},
        )
    )
    async with Scripted(script) as server, Publisher(server.address) as publisher:
        said = [answer async for answer in publisher.ask_iter("t", "x", timeout=5, quorum=1)]
    assert said == [
        Answer("a", b"yes", 0.5),
        Failure("b", "disk full", 0.5),
        Failure("c", "no answer"),
    ]
    [(_, request)] = server.requests
    expected = {"topic": "t", "payload": "x", "stream": True, "receipt": True, "quorum": 1}
    assert request.items() >= expected.items()


@on_loop
async def test_answers_come_before_the_reply() -> None:
    script = script_of(Streamed([piece("a", result="yes")], Silence()))
    async with Scripted(script) as server, Publisher(server.address) as publisher:
        async for answer in publisher.ask_iter("t"):
            assert answer == Answer("a", b"yes", 0.5)
            break


@on_loop
async def test_a_worker_that_knows_no_streams_answers_all_the_same() -> None:
    script = script_of({"copies": 1, "delivered": ["a"], "results": {"a": "yes"}})
    async with Scripted(script) as server, Publisher(server.address) as publisher:
        assert [answer async for answer in publisher.ask_iter("t")] == [Answer("a", b"yes")]


@on_loop
async def test_what_breaks_off_is_unsure_behind_the_answers_that_came() -> None:
    script = script_of(Streamed([piece("a", result="yes")], Cut()))
    async with Scripted(script) as server, Publisher(server.address) as publisher:
        answers = publisher.ask_iter("t")
        assert await anext(answers) == Answer("a", b"yes", 0.5)
        with pytest.raises(Unsure):
            await anext(answers)
    assert len(server.requests) == 1, "it is not repeated"


@on_loop
async def test_what_is_busy_is_asked_again_and_what_is_refused_is_not() -> None:
    script = script_of(Refusal("busy: later"), Streamed([piece("a", result="yes")], {"copies": 1}))
    async with Scripted(script) as server, Publisher(server.address) as publisher:
        assert len([answer async for answer in publisher.ask_iter("t")]) == 1
    refusing = script_of(Refusal("bad_name: no"))
    async with Scripted(refusing) as server, Publisher(server.address) as publisher:
        with pytest.raises(BadName):
            await anext(publisher.ask_iter("t"))


@on_loop
async def test_who_leaves_early_waits_for_nothing() -> None:
    script = script_of(Streamed([piece("a", result="yes")], Silence()))
    async with Scripted(script) as server, Publisher(server.address) as publisher:
        answers = publisher.ask_iter("t")
        await anext(answers)
        async with asyncio.timeout(1):
            await answers.aclose()  # type: ignore[attr-defined]
        assert publisher.jobs._clients[0].running == 0


@on_loop
async def test_a_reply_with_pieces_is_joined_where_nothing_is_streamed() -> None:
    script = script_of(Streamed([b"1", b"2"], b"3"))
    async with Scripted(script) as server, Publisher(server.address) as publisher:
        assert (await publisher.publish("t")).copies == 123
