"""Presence: the connections on which a member serves the queues that bear its id.

Rules: runs on the event loop. Each queue has a connection of its own at every job server, that no
bound stops: what comes there is answered at once, or members that wait for each other would wait
without end.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence

from gearhorn.gearman.link import Server
from gearhorn.gearman.worker import Job, Worker

MOST = 10_000  # jobs in hand of one queue
REQUEST_BYTES = 16 * 1024 * 1024  # thousands of changes in one message
GRACE_S = 1.0  # for the second job server when the first one is there
_POLL_S = 0.01


class Presence:
    """``handlers`` are by queue."""

    def __init__(
        self,
        servers: Sequence[Server],
        tls: ssl.SSLContext | None,
        client_id: bytes,
        handlers: Mapping[bytes, Callable[[Job], None]],
    ) -> None:
        self._workers = [
            Worker(server, tls, client_id, REQUEST_BYTES, [queue], handler, MOST)
            for server in servers
            for queue, handler in handlers.items()
        ]

    async def appear(self) -> None:
        """Begin to serve; return once a job server knows, and the others have had their time."""
        for worker in self._workers:
            worker.start()
        while not any(worker.is_up for worker in self._workers):
            await asyncio.sleep(_POLL_S)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + GRACE_S
        while loop.time() < deadline and not all(worker.is_up for worker in self._workers):
            await asyncio.sleep(_POLL_S)

    async def stop(self) -> None:
        """Serve no more."""
        await asyncio.gather(*(worker.stop() for worker in self._workers))
