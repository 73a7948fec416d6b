"""Job servers by their names: what routing hashes, and connections for a few questions.

Rules: runs on the event loop. What is opened here belongs to the caller, who closes it; lasting
connections are ``link``'s.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import NamedTuple

from gearhorn.gearman import sockets


class Server(NamedTuple):
    """A job server as configured; ``str()`` is the name that routing hashes."""

    host: str
    port: int = 4730

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


async def open_streams(
    server: Server, tls: ssl.SSLContext | None, limit: int = 1 << 16
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect for a few questions; ``limit`` is the longest answer in bytes that is read in one.

    A line or a table that is longer makes ``readline`` raise ``ValueError``, and ``readuntil``
    ``LimitOverrunError``. The caller closes the writer.

    Raises ``OSError`` (``TimeoutError`` included) where no connection can be made within
    ``CONNECT_TIMEOUT_S``.
    """
    return await sockets.open_streams(server.host, server.port, tls, limit)


async def can_connect(server: Server, tls: ssl.SSLContext | None) -> bool:
    """Return whether a server takes a connection in ``CONNECT_TIMEOUT_S``.

    That proves little, for a frozen server takes one too. ``Drainer`` asks it of servers whose link
    is down, to leave out those that are surely gone.
    """
    try:
        _, writer = await open_streams(server, tls)
    except OSError:
        return False
    writer.close()
    return True
