"""A connection for single questions that is kept between them.

To open a connection for each question was tried: a queue that stays full is trimmed hundreds of
times a second, and the host ran out of ports. To keep one without an end was tried as well: what
was asked first after a restart, or after a firewall had cut the idle connection, was lost.

Rules: runs on the event loop. A connection that has been idle for ``IDLE_S`` is closed rather than
trusted: a firewall or a TLS proxy may have forgotten it without a word. One that fails all the same
is replaced once.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable

from gearhorn.gearman.server import Server, open_streams

IDLE_S = 5.0  # a connection is kept so long without being used
_DOWN = "the server went down"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Kept:
    """A connection that is opened when it is needed, used by one task at a time, and closed when
    it has been idle for ``IDLE_S``.

    ``_downs`` counts how often the server went down. Who waits remembers the count, so that it
    gives up instead of asking the server that came back: its question was about the former one.
    """

    def __init__(self, server: Server, tls: ssl.SSLContext | None) -> None:
        self._server = server
        self._tls = tls
        self._streams: Streams | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._turn = asyncio.Lock()  # in the order they came
        self._downs = 0

    async def use(self, work: Callable[[Streams], Awaitable[None]]) -> None:
        """Await ``work(streams)``, once more on a new connection if a used one fails.

        ``work`` raises ``OSError`` when the connection fails; repeated, it goes on with what was
        not done. It is repeated only if the connection had been used before, for then its death may
        be older than the question; a new connection that fails tells of the server.

        Whatever else ends ``work``, its task's cancellation for instance, closes the connection: an
        answer may still come, and would be taken for the next question's.

        Raises ``OSError``: what ``work`` raised, why no connection could be made, or
        ``ConnectionError`` for those that waited when the server went down.
        """
        downs = self._downs
        async with self._turn:
            if downs != self._downs:
                raise ConnectionError(_DOWN)
            if self._idle is not None:
                self._idle.cancel()
            is_used = self._is_usable()
            try:
                try:
                    await self._work(work)
                except OSError:
                    if not is_used or downs != self._downs:
                        raise
                    self.close()
                    await self._work(work)
            except BaseException:
                self.close()
                raise
            self._idle = asyncio.get_running_loop().call_later(IDLE_S, self.close)

    async def _work(self, work: Callable[[Streams], Awaitable[None]]) -> None:
        """Await ``work`` on the connection, or on a new one; raises ``OSError`` only."""
        downs = self._downs
        if self._streams is None:
            streams = await open_streams(self._server, self._tls)
            if downs != self._downs:
                streams[1].transport.abort()
                raise ConnectionError(_DOWN)
            self._streams = streams
        try:
            await work(self._streams)
        except (ValueError, asyncio.IncompleteReadError) as error:  # a line without an end
            raise ConnectionError(f"not an answer: {error}") from error

    def _is_usable(self) -> bool:
        """Whether there is a connection that the other end has not closed; a closed one goes."""
        if self._streams is not None and (
            self._streams[0].at_eof() or self._streams[1].is_closing()
        ):
            self.close()
        return self._streams is not None

    def server_down(self) -> None:
        """The server does not answer: those that wait here, or in line, are told now."""
        self._downs += 1
        self.close()

    def close(self) -> None:
        """Close the connection; the next use opens another one."""
        if self._idle is not None:
            self._idle.cancel()
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None
