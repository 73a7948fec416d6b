"""Connecting through whichever address works, and what the kernel is told to watch."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from gearhorn.gearman.sockets import connect, open_streams, unacknowledged

BEARABLE_S = 10.0


@contextlib.contextmanager
def listener(host: str = "127.0.0.1", port: int = 0, backlog: int = 5) -> Iterator[socket.socket]:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(backlog)
        yield sock


@contextlib.contextmanager
def deaf(host: str, port: int) -> Iterator[None]:
    """An address whose connections are neither taken nor refused: its backlog is full."""
    with listener(host, port, 0), contextlib.ExitStack() as stack:
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((host, port))
        yield


def names(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Have every name mean these addresses, in this order."""

    async def getaddrinfo(self: Any, host: str, port: int, **_: Any) -> list[Any]:
        kind = socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, ""
        return [(*kind, (one, port)) for one in hosts]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)


def test_a_dead_address_does_not_keep_from_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, "127.0.0.2", "127.0.0.3", "127.0.0.1")

    async def main(port: int) -> None:
        made: list[asyncio.Protocol] = []

        def make() -> asyncio.Protocol:
            made.append(asyncio.Protocol())
            return made[-1]

        async with asyncio.timeout(BEARABLE_S):
            await connect(make, "gearman.example", port, None)
            _, writer = await open_streams("gearman.example", port, None, 1 << 16)
        assert len(made) == 1
        assert writer.get_extra_info("peername")[0] == "127.0.0.1"
        writer.close()

    with listener() as here:
        port = here.getsockname()[1]
        with deaf("127.0.0.2", port), deaf("127.0.0.3", port):
            asyncio.run(main(port))


def test_every_connection_is_watched_by_the_kernel() -> None:
    async def main(port: int) -> list[int]:
        _, writer = await open_streams("127.0.0.1", port, None, 1 << 16)
        sock = writer.get_extra_info("socket")
        found = [
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
        ]
        writer.close()
        return found

    with listener() as here:
        kept, idle_s, lost_ms = asyncio.run(main(here.getsockname()[1]))
    assert kept
    assert idle_s < 5
    assert 0 < lost_ms <= 10_000


@pytest.mark.parametrize("host", ["x" * 64 + ".example", ""])
def test_a_name_that_cannot_be_is_a_server_that_is_not_there(host: str) -> None:
    async def main() -> None:
        await open_streams(host, 1, ssl.create_default_context(), 1 << 16)

    with pytest.raises(OSError, match=r"\w"):
        asyncio.run(main())


def test_what_the_other_end_has_not_received_is_known() -> None:
    async def main(here: socket.socket) -> None:
        _, writer = await open_streams("127.0.0.1", here.getsockname()[1], None, 1 << 16)
        there, _ = here.accept()
        with there:
            writer.write(b"x" * (32 << 20))
            waiting = unacknowledged(writer.transport)
            assert waiting > 8 << 20
            there.settimeout(BEARABLE_S)
            for _ in range(100):
                there.recv(1 << 16)
                await asyncio.sleep(0)
            assert unacknowledged(writer.transport) < waiting
        writer.transport.abort()
        assert unacknowledged(writer.transport) >= 0

    with listener() as here:
        here.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        asyncio.run(main(here))
