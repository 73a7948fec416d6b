"""Certificates, a proxy that ends TLS in front of gearmand, and a Redis that speaks TLS."""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import trustme

from support.servers import HOST, Redis, free_port


class Authority:
    """A certificate authority of its own whose certificates are PEM files in a directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._numbers = itertools.count(1)
        self._ca = trustme.CA()
        self.file = str(directory / "ca.pem")  # what others verify with
        self._ca.cert_pem.write_to_path(self.file)

    def issue(self, *names: str) -> tuple[str, str]:
        """Return the files (certificate, key) of somebody with these host names or addresses."""
        pair = self._ca.issue_cert(*names)
        stem = self._directory / f"{next(self._numbers)}"
        certificate, key = stem.with_suffix(".pem"), stem.with_suffix(".key")
        for number, blob in enumerate(pair.cert_chain_pems):
            blob.write_to_path(str(certificate), append=number > 0)
        pair.private_key_pem.write_to_path(str(key))
        return str(certificate), str(key)

    def context(self, *names: str, client_ca: str | None = None) -> ssl.SSLContext:
        """Return the context of a server; with `client_ca` it demands certificates of that CA."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*self.issue(*names))
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class Proxy:
    """Passes connections on to `upstream` ("HOST:PORT") from a thread; with `context` it ends TLS.

    `openings` has the first bytes of each connection as they came over the wire, `passed` counts
    those that got through, `refusals` has why the others did not.
    """

    def __init__(self, upstream: str, context: ssl.SSLContext | None = None) -> None:
        self.openings: list[bytes] = []
        self.passed = 0
        self.refusals: list[str] = []
        self._upstream = upstream.rsplit(":", 1)
        self._context = context
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = socket.create_server((HOST, free_port()), backlog=128)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda loop, what: None)  # ends of TLS that were not nice
        self._accepting = self._loop.create_task(self._accept())
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """`HOST:PORT`."""
        return f"{HOST}:{self.port}"

    def close(self) -> None:
        """Drop every connection and end the thread."""
        self._loop.call_soon_threadsafe(self._accepting.cancel)
        self._thread.join()
        self._listener.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._until_closed())

    async def _until_closed(self) -> None:
        await asyncio.gather(self._accepting, return_exceptions=True)

    async def _accept(self) -> None:
        while True:
            connection, _ = await self._loop.sock_accept(self._listener)
            task = self._loop.create_task(self._serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        try:
            self.openings.append(await self._peek(connection))
            near = await self._stream(sock=connection, ssl=self._context)
            self.passed += 1
            far = await asyncio.open_connection(*self._upstream)
        except OSError as error:
            self.refusals.append(str(error) or type(error).__name__)
            connection.close()
            return
        try:
            await asyncio.gather(_pump(near[0], far[1]), _pump(far[0], near[1]))
        finally:
            near[1].transport.abort()
            far[1].transport.abort()

    async def _peek(self, connection: socket.socket) -> bytes:
        readable = asyncio.Event()
        self._loop.add_reader(connection, readable.set)
        try:
            await readable.wait()
        finally:
            self._loop.remove_reader(connection)
        return connection.recv(16, socket.MSG_PEEK)

    async def _stream(self, **how: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, **how)
        return reader, asyncio.StreamWriter(transport, protocol, reader, self._loop)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


def tls_redis(authority: Authority, *names: str) -> tuple[Redis, int]:
    """Return a Redis, not started, and the port on which it will speak TLS for these names."""
    certificate, key = authority.issue(*names)
    port = free_port()
    redis = Redis(
        *("--tls-port", str(port), "--tls-cert-file", certificate, "--tls-key-file", key),
        *("--tls-ca-cert-file", authority.file, "--tls-auth-clients", "no"),
    )
    return redis, port
