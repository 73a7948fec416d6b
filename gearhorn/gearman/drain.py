"""Emptying a queue: grab what waits there and fail it.

Jobs fail rather than vanish: gearmand's ``drop function`` would lose them silently and go on
swallowing their unique ids, and to complete them would tell foreground callers a lie.

A queue is empty when the server has none of its jobs left to give: the worker that grabs them falls
asleep. Jobs that a receiver has at that time are the receiver's. If others submit as fast as the
drain grabs, it ends after ``DRAIN_S`` and says so.

Rules: runs on the event loop. A drain may be under a lease (``may_go_on``), which is asked after
jobs have arrived and before any of them is failed: they may be a later subscription's.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gearhorn.gearman.job_servers import JobServers
from gearhorn.gearman.link import Connection
from gearhorn.gearman.packets import Packet
from gearhorn.gearman.server import Server, can_connect
from gearhorn.gearman.sockets import CONNECT_TIMEOUT_S
from gearhorn.gearman.worker import GRABS, Job, Worker

DRAIN_S = 30.0  # for one server; the rest of a queue that others fill faster is left there


class _Drain(Worker):
    """A worker of one function that is over when that has no job left, or when it may go on no
    longer. ``over`` tells whether the queue is empty; ``count`` how many jobs it failed.

    Requests are cut to what names them (``limit=0``): no payload is looked at.
    """

    def __init__(
        self,
        server: Server,
        tls: ssl.SSLContext | None,
        queue: bytes,
        may_go_on: Callable[[], bool],
    ) -> None:
        super().__init__(
            server,
            tls,
            b"gearhorn-drain",
            limit=0,
            functions=[queue],
            handler=self._discard,
            in_hand=GRABS,
        )
        self.count = 0
        self.over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._may_go_on = may_go_on

    @property
    def is_empty(self) -> bool:
        """Whether the queue has been emptied."""
        return self.over.done() and self.over.result()

    def handle(self, connection: Connection, batch: list[Packet]) -> None:
        if self._may_go_on():
            super().handle(connection, batch)
            return
        # jobs in the batch go back to the queue, since the connection ends with them unfinished
        connection.abort("the drain may not go on")
        if not self.over.done():
            self.over.set_result(False)

    def _discard(self, job: Job) -> None:
        self.count += 1
        job.fail()

    def fill(self, connection: Connection) -> None:
        """Grab on; once that ends in sleep, the queue is empty."""
        if self.over.done() and not self.over.result():
            return
        super().fill(connection)
        if self.is_asleep and not self.over.done():
            self.over.set_result(True)


class Drained(NamedTuple):
    """What a drain came to: the jobs discarded, and the servers whose queue was not emptied."""

    jobs: int
    left: Sequence[Server]


async def drain(
    servers: Sequence[Server],
    tls: ssl.SSLContext | None,
    queue: bytes,
    may_go_on: Callable[[], bool] = lambda: True,
) -> Drained:
    """Discard what waits on a queue of these servers, of which there may be none.

    All servers are drained at once. A server that is not connected after ``CONNECT_TIMEOUT_S`` is
    left, and one whose queue is not empty after ``DRAIN_S``. Jobs that arrive when ``may_go_on()``
    is false are given back, and their server is left. Never raises: what could not be emptied is
    told by ``Drained.left``.
    """
    if not servers:
        return Drained(0, ())
    drains = [_Drain(server, tls, queue, may_go_on) for server in servers]
    for emptying in drains:
        emptying.start()
    try:
        async with asyncio.timeout(DRAIN_S):
            await asyncio.wait([emptying.over for emptying in drains], timeout=CONNECT_TIMEOUT_S)
            connected = [emptying.over for emptying in drains if emptying.is_up]
            if connected:
                await asyncio.wait(connected)
    except TimeoutError:
        pass
    finally:
        await asyncio.gather(*(emptying.stop() for emptying in drains))
    left = [emptying.server for emptying in drains if not emptying.is_empty]
    return Drained(sum(emptying.count for emptying in drains), left)


class Drainer:
    """Empties queues at every job server that can be reached."""

    def __init__(self, job_servers: JobServers, tls: ssl.SSLContext | None) -> None:
        self._job_servers = job_servers
        self._tls = tls

    async def drain(self, queue: bytes, may_go_on: Callable[[], bool]) -> Drained:
        """Discard what waits on a queue, as long as ``may_go_on`` returns true.

        It is emptied at every server, not only where the queue is carried now: copies went
        elsewhere while other servers were up. A server whose link is down may be back already,
        since the links of a server come up one after the other: it is left only where it takes no
        connection.
        """
        clients = self._job_servers.clients
        down = [client.server for client in clients if not client.is_up]
        is_there = await asyncio.gather(*(can_connect(server, self._tls) for server in down))
        gone = [server for server, there in zip(down, is_there, strict=True) if not there]
        rest = [client.server for client in clients if client.server not in gone]
        drained = await drain(rest, self._tls, queue, may_go_on)
        return Drained(drained.jobs, [*drained.left, *gone])
