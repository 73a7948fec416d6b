"""Intake: the connections on which a member takes jobs, in three kinds.

Theory of operation. gearmand gives a connection the jobs of the function that it registered last,
as long as there are any: the other functions of that connection starve (docs/gearmand.rst). And a
member's change waits until every peer has dropped its list, so that two members whose changes wait
for each other need a connection that fan-outs cannot fill. So there is one connection to each job
server for each kind of request, with a bound of its own: fan-outs, changes, and requests that read
logs.

Rules: runs on the event loop. Fan-outs start last, once everything that they rely on serves.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence

from gearhorn.gearman.server import Server
from gearhorn.gearman.worker import Job, Worker


class Intake:
    """The workers of this member, by kind.

    Arguments:
        servers: the job servers; each kind has one worker for each of them.
        tls: for connections that are encrypted, or None.
        client_id: what the job servers list the connections as.

    Each kind is empty until ``serve`` has been called for it.
    """

    def __init__(
        self, servers: Sequence[Server], tls: ssl.SSLContext | None, client_id: bytes
    ) -> None:
        self._servers = servers
        self._tls = tls
        self._client_id = client_id
        self.fanouts: list[Worker] = []
        self.changes: list[Worker] = []
        self.readings: list[Worker] = []

    def serve(
        self,
        kind: list[Worker],
        functions: Sequence[bytes],
        handler: Callable[[Job], None],
        *,
        request_bytes: int,
        in_hand: int,
    ) -> None:
        """Have jobs taken once this starts, by a worker for each job server.

        Arguments:
            kind: ``fanouts``, ``changes`` or ``readings``.
            functions: the names that the workers serve.
            handler: takes each job.
            request_bytes: requests that are longer are cut.
            in_hand: how many jobs a worker has at a time, by weight.
        """
        kind += [
            Worker(
                server,
                self._tls,
                self._client_id,
                limit=request_bytes,
                functions=functions,
                handler=handler,
                in_hand=in_hand,
            )
            for server in self._servers
        ]

    @property
    def all(self) -> list[Worker]:
        """Every worker."""
        return [*self.fanouts, *self.changes, *self.readings]

    @property
    def is_idle(self) -> bool:
        """Whether no job is in hand."""
        return all(worker.is_idle for worker in self.all)

    @property
    def held(self) -> int:
        """Jobs in hand."""
        return sum(worker.held for worker in self.all)

    @property
    def takes_fanouts(self) -> bool:
        """Whether some job server can send fan-outs."""
        return any(worker.is_up for worker in self.fanouts)

    def start(self) -> None:
        """Begin to take jobs; fan-outs last."""
        for worker in [*self.changes, *self.readings, *self.fanouts]:
            worker.start()

    def stop_grabbing(self) -> None:
        """Take no more jobs, and finish those in hand."""
        for worker in self.all:
            worker.stop_grabbing()

    async def stop(self) -> None:
        """Close the connections; jobs in hand go to other members."""
        await asyncio.gather(*(worker.stop() for worker in self.all))
