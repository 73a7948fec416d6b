"""What publishers, readers of logs and administrators share: connections that begin at first use.

Rules: for one event loop.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from gearhorn.client.jobs import Jobs
from gearhorn.client.pieces import Pieces
from gearhorn.client.settings import TLS, Functions, context_of, servers_of


class Connected:
    """Asks the workers behind some job servers.

    Arguments:
        servers: "HOST", "HOST:PORT" or "[IPV6]:PORT" each, the preferred one first; none:
            ``$GEARHORN_SERVERS``, then localhost:4730.
        tls: how connections are made; None: in plain text.
        timeout: seconds that a request has where it says nothing else.
        functions: the workers' functions, where an operator has renamed them.

    Raises ``ValueError`` for what names no server, and ``OSError`` for a TLS file that is no good.
    """

    def __init__(
        self,
        *servers: str,
        tls: TLS | None = None,
        timeout: float = 30.0,
        functions: Functions = Functions(),  # noqa: B008  # immutable
    ) -> None:
        self._servers = servers_of(servers)
        self._tls = context_of(tls)
        self._timeout_s = timeout
        self._jobs: Jobs | None = None
        self.functions = functions

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def connected(self) -> bool:
        """Whether a job server is up."""
        return self._jobs is not None and self._jobs.is_up

    @property
    def jobs(self) -> Jobs:
        """The connections, which begin here if they have not begun. So an object can be made where
        there is no event loop yet, such as when a module is imported."""
        if self._jobs is None:
            self._jobs = Jobs(self._servers, self._tls)
        return self._jobs

    async def close(self) -> None:
        """Send what was written, and end the connections."""
        jobs, self._jobs = self._jobs, None
        if jobs is not None:
            await jobs.close()

    def _seconds(self, timeout: float | None) -> float:
        """Return the seconds that a request has."""
        return self._timeout_s if timeout is None else timeout

    async def _run(
        self,
        function: str,
        body: bytes,
        timeout_s: float,
        *,
        is_repeatable: bool,
        pieces: Pieces | None = None,
    ) -> bytes:
        """Run one request; see ``Jobs.run`` for what it raises."""
        return await self.jobs.run(
            function, body, timeout_s=timeout_s, is_repeatable=is_repeatable, pieces=pieces
        )
