"""Burials: what is left in the job servers of members that have gone.

Theory of operation. A member is asked and told things through queues that bear its id. When it has
gone, what its peers sent to it in its last moments waits there, and gearmand keeps the function
until it ends: up to 1 kB for each, and a longer walk for every text command. Ids never come again,
so such a queue is never served again. Therefore every member that may have sent something to one
that has gone buries it: those that removed it, asked it or gossiped with it, and itself at its end.
To bury is to fail what waits, so that those who asked are told, and to drop the function. Several
members may bury the same one; the second finds nothing, and no harm is done.

Rules: runs on the event loop. A server that is down is dealt with when it is back; a queue that
something still serves is tried again, ``TRIES`` times.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import NamedTuple

import structlog

from gearhorn.gearman.bury import bury
from gearhorn.gearman.client import Client
from gearhorn.names import GOSSIP, MATCHMAKING, queue_of
from gearhorn.tasks import Tasks

LIMIT = 4096  # graves remembered; the oldest are forgotten
AT_ONCE = 8  # connections that burials open: each grave takes one of its own
TRIES = 10  # at a server that is up; then what is there is left to it
AGAIN_S = 2.0  # between two tries

log = structlog.get_logger(__name__)


class _Grave(NamedTuple):
    place: int  # of the job server
    queue: bytes


class Burials:
    """Buries members at every job server.

    Arguments:
        clients: one for each job server; where it is down, its graves wait.
        tls: how to connect to them, None for plain TCP.
    """

    def __init__(self, clients: Sequence[Client], tls: ssl.SSLContext | None) -> None:
        self._clients = clients
        self._tls = tls
        self._open: dict[_Grave, int] = {}  # times that it was tried
        self._came = asyncio.Event()
        self._places = asyncio.Semaphore(AT_ONCE)

    def add(self, member: str) -> None:
        """Have the queues of a member buried that has gone for good.

        Arguments:
            member: its id, under which nothing is served any more.
        """
        for topic in (MATCHMAKING, GOSSIP):
            for place in range(len(self._clients)):
                self._open[_Grave(place, queue_of(topic, member))] = 0
        while len(self._open) > LIMIT:
            del self._open[next(iter(self._open))]
        self._came.set()

    @property
    def due(self) -> list[_Grave]:
        """What can be buried now."""
        return [grave for grave in self._open if self._clients[grave.place].is_up]

    async def run(self) -> None:
        """Bury whatever comes, and try again what could not be."""
        while True:
            if not self._open:
                await self._came.wait()
            self._came.clear()
            await self.work_off()
            try:
                async with asyncio.timeout(AGAIN_S):
                    await self._came.wait()
            except TimeoutError:
                pass

    async def work_off(self) -> None:
        """Bury once what can be buried now."""
        tasks = Tasks()
        running = [tasks.spawn(self._bury(grave), "burial") for grave in self.due]
        if running:
            try:
                await asyncio.wait(running)
            finally:
                await tasks.cancel()

    async def finish(self, within_s: float) -> None:
        """Bury what can be buried, for ``within_s`` seconds at most: the worker is stopping.

        What is left then costs each job server a function until it restarts, and nothing else.
        """
        try:
            async with asyncio.timeout(within_s):
                while self.due:
                    await self.work_off()
                    if self.due:
                        await asyncio.sleep(within_s / TRIES)
        except TimeoutError:
            log.info("queues of members that have gone are left", queues=len(self._open))

    async def _bury(self, grave: _Grave) -> None:
        """Try one grave; forget it where that succeeds, or after the last try."""
        async with self._places:
            server = self._clients[grave.place].server
            try:
                is_done = await bury(server, self._tls, grave.queue)
            except OSError:
                is_done = False
        tries = self._open.get(grave, TRIES) + 1
        if is_done or tries >= TRIES:
            self._open.pop(grave, None)
        else:
            self._open[grave] = tries
