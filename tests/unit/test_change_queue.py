"""Requests wait in order, are taken in portions, and refused together."""

from __future__ import annotations

import asyncio

from gearhorn.errors import RequestError, Unavailable
from gearhorn.members.change_queue import ChangeQueue
from gearhorn.members.change_requests import Request
from gearhorn.store.subscriptions import Change


class Noted(Request):
    """A request that notes its refusal."""

    def __init__(self, client_id: str) -> None:
        super().__init__(None, Change("subscribe", "t", client_id, b""))
        self.error: RequestError | None = None

    def fail(self, error: RequestError) -> None:
        self.error = error


def test_requests_are_taken_in_order_a_limited_number_at_a_time() -> None:
    async def test() -> None:
        queue = ChangeQueue()
        requests = [Noted(str(number)) for number in range(5)]
        queue.put(*requests[:2])
        queue.put(*requests[2:])
        assert await queue.take(3) == requests[:3]
        assert await queue.take(3) == requests[3:]
        waiting = asyncio.create_task(queue.take(3))
        await asyncio.sleep(0)
        assert not waiting.done()
        queue.put(requests[0])
        assert await waiting == requests[:1]

    asyncio.run(test())


def test_what_waits_is_refused_together() -> None:
    async def test() -> None:
        queue = ChangeQueue()
        requests = [Noted(str(number)) for number in range(2)]
        queue.put(*requests)
        queue.refuse(Unavailable("away"))
        assert [str(request.error) for request in requests] == ["unavailable: away"] * 2
        waiting = asyncio.create_task(queue.take(3))
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()

    asyncio.run(test())


def test_what_ends_by_itself_is_a_change_like_any_other() -> None:
    async def test() -> None:
        queue = ChangeQueue()
        queue.expire([("t", "a"), ("t", "b")])
        queue.overflow("t", "c", 9)
        changes = [request.change for request in await queue.take(10)]
        assert [(c.kind, c.client_id, c.queue, c.seen) for c in changes] == [
            ("expire", "a", b"t_a", 0),
            ("expire", "b", b"t_b", 0),
            ("overflow", "c", b"t_c", 9),
        ]

    asyncio.run(test())
