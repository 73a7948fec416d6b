"""Emptying a queue: grab what waits there and fail it.

Law: runs on the event loop. ``drop function`` would lose jobs silently and go on swallowing
their unique ids (FACTS B10); completing them would tell foreground callers a lie.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable

import structlog

from gearhorn.gearman.connection import CONNECT_TIMEOUT_S, Connection, Server
from gearhorn.gearman.worker import GRABS, Job, Worker

DRAIN_S = 30.0  # for one server; the rest of a queue that others fill faster is left there

log = structlog.get_logger(__name__)


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


async def drain(servers: Iterable[Server], tls: ssl.SSLContext | None, queue: bytes) -> int:
    """Discard what waits on a queue of these servers; return how many jobs that was."""
    drains = [_Drain(server, tls, queue) for server in servers]
    for one in drains:
        one.start()
    try:
        async with asyncio.timeout(DRAIN_S):
            await asyncio.wait([one.empty for one in drains], timeout=CONNECT_TIMEOUT_S)
            await asyncio.gather(*(one.empty for one in drains if one.is_up))
    except TimeoutError:
        pass
    finally:
        for one in drains:
            if not one.empty.done():
                log.warning("queue is not drained", server=str(one.server), queue=queue.decode())
            await one.stop()
    return sum(one.count for one in drains)
