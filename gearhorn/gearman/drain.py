"""Emptying a queue: grab what waits there and fail it.

Rules: runs on the event loop. gearmand's ``drop function`` would lose jobs silently and go on
swallowing their unique ids; completing them would tell foreground callers a lie.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import NamedTuple

from gearhorn.gearman.connection import CONNECT_TIMEOUT_S, Connection, Server
from gearhorn.gearman.worker import GRABS, Job, Worker

DRAIN_S = 30.0  # for one server; the rest of a queue that others fill faster is left there


class _Drain(Worker):
    """A worker that ends when its one function has no job left."""

    def __init__(self, server: Server, tls: ssl.SSLContext | None, queue: bytes) -> None:
        super().__init__(server, tls, b"gearhorn-drain", 0, [queue], self._discard, GRABS)
        self.count = 0
        self.empty: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def _discard(self, job: Job) -> None:
        self.count += 1
        job.fail()

    def fill(self, connection: Connection) -> None:
        super().fill(connection)
        if self.is_asleep and not self.empty.done():
            self.empty.set_result(None)


class Drained(NamedTuple):
    """What a drain came to: the jobs discarded, and the servers whose queue was not emptied."""

    jobs: int
    left: Sequence[Server]


async def drain(servers: Sequence[Server], tls: ssl.SSLContext | None, queue: bytes) -> Drained:
    """Discard what waits on a queue of these servers, of which there may be none.

    A server that is not connected after ``CONNECT_TIMEOUT_S`` is left, and one whose queue is not
    empty after ``DRAIN_S``.
    """
    if not servers:
        return Drained(0, ())
    drains = [_Drain(server, tls, queue) for server in servers]
    for one in drains:
        one.start()
    try:
        async with asyncio.timeout(DRAIN_S):
            await asyncio.wait([one.empty for one in drains], timeout=CONNECT_TIMEOUT_S)
            connected = [one.empty for one in drains if one.is_up]
            if connected:
                await asyncio.wait(connected)
    except TimeoutError:
        pass
    finally:
        await asyncio.gather(*(one.stop() for one in drains))
    left = [one.server for one in drains if not one.empty.done()]
    return Drained(sum(one.count for one in drains), left)
