"""Of many messages one that is bad does not end the others, and observers see each one end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from support.proxy import on_loop
from support.scripted import Scripted, Silence

import gearhorn
from gearhorn.client.many import Outgoing
from gearhorn.client.observers import Operation
from gearhorn.client.payloads import Request
from gearhorn.client.publisher import Publisher
from gearhorn.client.results import Published
from gearhorn.errors import BadRequest, GearhornError

BAD: list[Any] = [object(), "\ud800", {"\ud800": 1}]


class Ends:
    """An observer that counts requests and notes how each ends."""

    def __init__(self, reply: bytes | None = None) -> None:
        self.begun = 0
        self.ends: list[object] = []
        self.reply = reply

    def requested(self, operation: Operation, request: Request) -> Any:
        self.begun += 1
        return End(request, self.reply, self.ends)


class End:
    def __init__(
        self, request: Request, reply: bytes | GearhornError | None, ends: list[object]
    ) -> None:
        self.request = request
        self.reply = reply
        self._ends = ends

    def ended(self, outcome: object) -> None:
        self._ends.append(outcome)


def two_then_an_error() -> Iterator[tuple[str, str]]:
    yield "t", "a"
    yield "t", "b"
    raise KeyError("row")


@pytest.mark.parametrize("is_observed", [False, True])
@on_loop
async def test_a_bad_payload_is_the_result_of_its_message_only(is_observed: bool) -> None:
    ends = Ends()
    async with Scripted(lambda *_: 3) as server, Publisher(server.address) as publisher:
        if is_observed:
            publisher.observe(ends)
        for bad in BAD:
            results = await publisher.publish_many([("t", "a"), ("t", bad), Outgoing("t", "c")])
            assert (results[0], results[2]) == (Published(3), Published(3))
            assert isinstance(results[1], BadRequest)
        assert len(server.requests) == 2 * len(BAD)
    assert ends.begun == len(ends.ends)


@on_loop
async def test_what_came_before_an_error_of_the_iterable_has_been_answered() -> None:
    ends = Ends()
    async with Scripted(lambda *_: 3) as server, Publisher(server.address) as publisher:
        publisher.observe(ends)
        with pytest.raises(KeyError, match="row"):
            await publisher.publish_many(two_then_an_error())
        assert len(server.requests) == 2
    assert ends.ends == [Published(3)] * 2


def test_so_it_has_where_that_blocks() -> None:
    ends = Ends(b"3")
    publisher = gearhorn.Publisher("nowhere.invalid")
    publisher.observe(ends)
    with pytest.raises(KeyError, match="row"):
        publisher.publish_many(two_then_an_error())
    assert ends.ends == [Published(3)] * 2
    assert len(publisher.publish_many(("t", "x") for _ in range(2500))) == 2500


@on_loop
async def test_observers_see_the_end_of_what_was_left() -> None:
    def silent(*_: Any) -> Any:
        raise Silence

    ends = Ends()
    async with Scripted(silent) as server, Publisher(server.address) as publisher:
        publisher.observe(ends)
        publishing = asyncio.create_task(publisher.publish_many([("t", "a"), ("t", "b")]))
        while len(server.requests) < 2:
            await asyncio.sleep(0.01)
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing
    assert [type(end) for end in ends.ends] == [asyncio.CancelledError] * 2


@on_loop
async def test_so_they_do_where_no_job_server_came_up() -> None:
    ends = Ends()
    async with Publisher("127.0.0.1:1") as publisher:
        publisher.observe(ends)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(publisher.publish_many([("t", "a"), ("t", "b")]), 0.1)
    assert [type(end) for end in ends.ends] == [asyncio.CancelledError]
