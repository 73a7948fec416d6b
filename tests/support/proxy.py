"""A TCP proxy in front of a server, on the event loop of the test."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self


def on_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Have a coroutine function run as a test, on an event loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


class Proxy:
    """Passes bytes on to ``address`` (HOST:PORT), and counts and breaks connections."""

    def __init__(self, address: str) -> None:
        self.move(address)
        self.connections = 0  # since the beginning
        self.is_silent = False  # nothing passes any more, and nobody is told
        self.sent = b""  # by the clients
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """Where to connect, at 127.0.0.1."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        """End every connection."""
        for writer in self._writers:
            writer.transport.abort()

    def move(self, address: str) -> None:
        """Lead new connections to another server; those that are open go on with the former."""
        host, _, port = address.rpartition(":")
        self._target = host, int(port)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            there, onward = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, onward}
        with contextlib.suppress(asyncio.CancelledError):  # the test is over
            await asyncio.gather(self._pass(reader, onward, True), self._pass(there, writer, False))
        self._writers -= {writer, onward}

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_client: bool
    ) -> None:
        try:
            while data := await reader.read(1 << 16):
                if is_client:
                    self.sent += data
                if not self.is_silent:
                    writer.write(data)
        except OSError:
            pass
        writer.transport.abort()
