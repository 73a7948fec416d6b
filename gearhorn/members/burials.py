"""Burials: what is left in the job servers of members that have gone.

Rules: runs on the event loop. The queues that bear a member's id are emptied on every job server,
and their functions dropped, once the member is gone for good: ids never come again. What waits
there fails, so that who asked is told. A server that is down is dealt with when it is back; a queue
that something still serves is tried again a few times.
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
AT_ONCE = 8
TRIES = 10
AGAIN_S = 2.0

log = structlog.get_logger(__name__)


class _Grave(NamedTuple):
    place: int  # of the job server
    queue: bytes


class Burials:
    """Buries members at the servers of ``clients``, where these are up."""

    def __init__(self, clients: Sequence[Client], tls: ssl.SSLContext | None) -> None:
        self._clients = clients
        self._tls = tls
        self._open: dict[_Grave, int] = {}  # times that it was tried
        self._came = asyncio.Event()
        self._places = asyncio.Semaphore(AT_ONCE)

    def add(self, member: str) -> None:
        """A member is gone: its queues are served no more."""
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
        """Bury what can be buried, for so many seconds at most."""
        try:
            async with asyncio.timeout(within_s):
                while self.due:
                    await self.work_off()
                    if self.due:
                        await asyncio.sleep(within_s / TRIES)
        except TimeoutError:
            log.info("queues of members that have gone are left", queues=len(self._open))

    async def _bury(self, grave: _Grave) -> None:
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
