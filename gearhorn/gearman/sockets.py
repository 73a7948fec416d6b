"""Sockets to job servers: opened through each address of a name, and kept alive.

Every socket to a job server is opened here, so that none lacks what is set on it.

Rules: runs on the event loop. A firewall forgets a connection on which nothing passes, and a server
that lost its power says nothing; so the kernel asks for a sign of life whenever a connection has
been idle for ``KEEP_IDLE_S``, and gives up what is not acknowledged for ``UNACKNOWLEDGED_S``.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import ssl
import struct
import termios
from collections.abc import AsyncIterator, Callable

CONNECT_TIMEOUT_S = 5.0  # for all addresses of a name together
NEXT_ADDRESS_S = 0.25  # then the next address is tried beside the former ("happy eyeballs")
KEEP_IDLE_S = 4  # without traffic, then the kernel asks for a sign of life
KEEP_INTERVAL_S = 2  # between two of them that are not answered
KEEP_COUNT = 3  # unanswered signs of life, then the connection is over
UNACKNOWLEDGED_S = 10  # what was sent may be without an acknowledgement

_OPTIONS = [  # those that this system has
    (level, getattr(socket, name), value)
    for level, name, value in (
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", KEEP_IDLE_S),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", KEEP_INTERVAL_S),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", KEEP_COUNT),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", UNACKNOWLEDGED_S * 1000),
    )
    if hasattr(socket, name)
]


async def connect(
    make: Callable[[], asyncio.Protocol], host: str, port: int, tls: ssl.SSLContext | None
) -> None:
    """Connect a protocol, made by ``make``, to a job server; TLS verifies the host's name.

    A name may have an IPv6 address that leads nowhere, so the next address is tried while the first
    is still silent. The name is looked up by a thread of the standard library.

    Raises ``OSError`` (``TimeoutError`` after ``CONNECT_TIMEOUT_S``, TLS errors included).
    """
    async with _limited():
        transport, _ = await asyncio.get_running_loop().create_connection(
            make,
            host,
            port,
            ssl=tls,
            server_hostname=host if tls else None,
            happy_eyeballs_delay=NEXT_ADDRESS_S,
        )
    keep_alive(transport)


async def open_streams(
    host: str, port: int, tls: ssl.SSLContext | None, limit: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect for a few questions, as ``connect`` does; see ``server.open_streams``.

    Raises ``OSError`` (``TimeoutError`` included).
    """
    async with _limited():
        reader, writer = await asyncio.open_connection(
            host,
            port,
            ssl=tls,
            server_hostname=host if tls else None,
            happy_eyeballs_delay=NEXT_ADDRESS_S,
            limit=limit,
        )
    keep_alive(writer.transport)
    return reader, writer


@contextlib.asynccontextmanager
async def _limited() -> AsyncIterator[None]:
    """Bound the time of connecting, and let nothing but ``OSError`` out."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            yield
    except UnicodeError as error:  # a name that cannot be looked up at all
        raise OSError(f"not the name of a host: {error}") from error


def keep_alive(transport: asyncio.BaseTransport) -> None:
    """Have the kernel notice when the other end of a connection is gone.

    Without it that takes two hours, if anything is sent at all. A transport that is no TCP
    connection (a test's) is left as it is.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    for level, option, value in _OPTIONS:
        sock.setsockopt(level, option, value)


def unacknowledged(transport: asyncio.WriteTransport) -> int:
    """Return how many bytes that were written the other end's kernel has not yet received.

    They are those in the transport's buffer and those in this machine's kernel (TIOCOUTQ). Where
    the system does not tell, those count that have not left this process.
    """
    size = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    try:
        answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except (OSError, AttributeError, ValueError):
        return size
    return size + int(struct.unpack("i", answer)[0])
