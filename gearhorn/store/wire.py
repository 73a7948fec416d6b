"""The wire: one connection to a Redis or Valkey server, speaking RESP3.

Rules: runs on the event loop. Commands are answered in the order in which they were sent. An error
reply is returned as the ``StoreError`` that stands for it (``refusals``); only the end of the
connection is raised. Nothing is repeated here: who asked knows what may happen twice.

gearhorn has a client of its own because it has to know the fate of every command. A general one
sends again what was not answered, cuts the code off an error's text, and parses replies in one of
two protocols depending on its version.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import select
import socket
import ssl
from collections.abc import Sequence
from typing import Any

import hiredis

from gearhorn.errors import StoreError, StoreUnanswered
from gearhorn.store.refusals import refusal
from gearhorn.store.url import Address

CONNECT_S = 1.5
# Each further address of a name is tried so much later, while the former ones go on being tried.
NEXT_ADDRESS_S = 0.1
KEEPALIVE_S = 5  # the kernel asks an idle connection's other end
_CHUNK = 1 << 16
_RUN_ID = re.compile(rb"^run_id:(\w+)", re.M)

_AT_ONCE = "a server that has reached its maxclients does that, too"

Command = tuple[Any, ...]


class Wire:
    """A connection that is open. ``run_id`` is its server's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.run_id = ""
        self.unanswered = 0  # commands
        self._reader = reader
        self._writer = writer
        self._parser = hiredis.Reader(replyError=refusal)
        self._polling = select.poll()
        self._polling.register(writer.get_extra_info("socket").fileno(), select.POLLIN)

    @classmethod
    async def open(cls, address: Address) -> Wire:
        """Connect, log in, choose the database and ask who the server is.

        Raises ``StoreError`` with the store's own text where it refused any of that.
        """
        wire = None
        try:
            async with asyncio.timeout(CONNECT_S):
                wire = cls(*await _connect(address))
                await wire._greet(address)
                return wire
        except TimeoutError:
            failure = StoreError(f"no connection in {CONNECT_S:g} s")
        except (OSError, ssl.CertificateError) as error:
            failure = StoreError(_words(error))
        except StoreError as error:
            failure = StoreError(str(error)) if isinstance(error, StoreUnanswered) else error
        except BaseException:
            if wire is not None:
                wire.close()
            raise
        if wire is not None:
            wire.close()
        raise failure

    async def _greet(self, address: Address) -> None:
        hello: list[Any] = ["HELLO", 3]
        if address.password or address.username:
            hello += "AUTH", address.username or "default", address.password
        if address.client_name:
            hello += "SETNAME", address.client_name
        self.send([tuple(hello), ("SELECT", address.database), ("INFO", "server")])
        replies = []
        try:
            while self.unanswered:
                replies.append(await self.read())
                if isinstance(replies[-1], StoreError):
                    raise replies[-1]
        except StoreUnanswered as error:
            if not replies:
                raise StoreError(f"{error}; {_AT_ONCE}") from error
            raise
        match = _RUN_ID.search(replies[-1])
        self.run_id = match[1].decode() if match else ""

    @property
    def is_open(self) -> bool:
        """Whether the other end has not been seen to end it."""
        return not (self._writer.is_closing() or self._reader.at_eof() or self._reader.exception())

    @property
    def is_fit(self) -> bool:
        """Whether an unused connection can be used: it is open and nothing has come on it. The
        system is asked, because the loop may not have run since the other end went away."""
        return self.is_open and not self._polling.poll(0)

    def send(self, commands: Sequence[Command]) -> None:
        """Send commands; each is answered."""
        self.unanswered += len(commands)
        self._writer.write(b"".join([hiredis.pack_command(command) for command in commands]))

    async def drain(self) -> None:
        """Wait until there is room to send more; raises ``StoreUnanswered``."""
        try:
            await self._writer.drain()
        except OSError as error:
            raise StoreUnanswered(_words(error)) from error

    async def read(self) -> Any:
        """Return the next reply, or what the server tells on its own account.

        Raises ``StoreUnanswered`` when the connection has ended. May be cancelled: what came is
        kept for the next call.
        """
        try:
            while (reply := self._parser.gets()) is False:
                chunk = await self._reader.read(_CHUNK)
                if not chunk:
                    raise StoreUnanswered("the store ended the connection")
                self._parser.feed(chunk)
        except OSError as error:
            raise StoreUnanswered(_words(error)) from error
        except hiredis.HiredisError as error:
            self.close()
            raise StoreUnanswered(f"the store does not speak RESP3: {error}") from error
        self.unanswered -= 1
        return reply

    def close(self) -> None:
        """End the connection; what is unanswered stays so, and what is unsent is thrown away."""
        self._writer.transport.abort()


async def _connect(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.path:
        return await asyncio.open_unix_connection(address.path)
    streams = await asyncio.open_connection(
        address.host, address.port, ssl=address.tls, happy_eyeballs_delay=NEXT_ADDRESS_S
    )
    bare = streams[1].get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):  # where the system knows them
        bare.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        bare.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
        bare.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_S)
    return streams


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
