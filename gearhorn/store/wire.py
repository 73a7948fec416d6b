"""The wire: one connection to a Redis or Valkey server, speaking RESP3.

Rules: runs on the event loop. Commands are answered in the order in which they were sent. An error
reply is returned as the ``StoreError`` that stands for it (``refusals``); only the end of the
connection is raised. Nothing is repeated here: the caller knows what may happen twice.

redis-py connects, logs in and reads replies. What it would do on its own account is turned off: it
sends nothing again, ends no connection, and leaves an error's text whole. Its parser cuts the code
off an error's text, and the code is what ``refusals`` decides by; so a subclass puts an exception
of our own in its place. RESP3 is asked for: it tells hashes from lists, and a server that refuses
HELLO is known at once to be no store.
"""

from __future__ import annotations

import asyncio
import re
import select
import socket
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    DefaultParser,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as EndedError
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from gearhorn.errors import StoreError, StoreUnanswered
from gearhorn.store.refusals import refusal
from gearhorn.store.url import Address

CONNECT_S = 1.5  # for connecting, TLS, logging in and asking for the run id together
# Each further address of a name is tried so much later, while the former ones go on being tried.
NEXT_ADDRESS_S = 0.1
KEEPALIVE_S = 5  # the kernel asks an idle connection's other end
_RUN_ID = re.compile(rb"^run_id:(\w+)", re.M)

_NO_STORE = "the store does not speak RESP3"
_ENDED = "the store ended the connection"
_AT_ONCE = "a server that has reached its maxclients does that, too"

Command = tuple[Any, ...]  # its name and its arguments: text, bytes or numbers


class _Refused(ResponseError):
    """An error reply. redis-py's own classes lack the code that the text begins with."""


class _Parser(DefaultParser):  # type: ignore[misc, valid-type]
    """Parses replies in C (hiredis). Both methods undo what redis-py does to replies."""

    @classmethod
    def parse_error(cls, text: str) -> _Refused:
        """Return what stands for an error reply."""
        return _Refused(text)

    def on_connect(self, connection: AbstractConnection) -> None:
        """Begin with a connection that is there."""
        super().on_connect(connection)
        # what comes on a channel is returned like a reply, and not logged by redis-py
        self._hiredis_PushNotificationType = None


class _Link(AbstractConnection):
    """A connection of redis-py's whose parts may be used when it is open.

    redis-py's own methods to send and read close the connection when they are cancelled, and wait
    for one answer after the other. ``Wire`` reads and writes by itself: answers that are left after
    a cancellation are counted, and the pool decides.
    """

    @property
    def parts(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Any]:
        """What it reads from, writes to and parses with; it must be connected."""
        assert self._reader is not None
        assert self._writer is not None
        return self._reader, self._writer, self._parser

    def abort(self) -> None:
        """End it and throw away what is unsent. Without waiting: a server that is frozen would
        keep an orderly end from ever coming."""
        if self._writer is not None:
            self._writer.transport.abort()
            self._close()  # type: ignore[no-untyped-call]


class _Tcp(_Link, Connection):
    """Over TCP, with TLS if a context is given. redis-py's own class for TLS reads the files of
    certificates anew for each connection; ``url`` reads them once."""

    def __init__(self, tls: ssl.SSLContext | None, **options: Any) -> None:
        self._tls = tls
        super().__init__(**options)

    def _connection_arguments(self) -> Mapping[str, Any]:
        arguments = super()._connection_arguments()
        return {**arguments, "ssl": self._tls, "happy_eyeballs_delay": NEXT_ADDRESS_S}


class _Unix(_Link, UnixDomainSocketConnection):
    """Over a Unix socket."""


class Wire:
    """A connection that is open; ``Wire.open`` makes them.

    ``run_id`` is its server's: a server has another one after each start. ``unanswered`` counts the
    commands whose replies have not been read; what a channel brings lowers it too, so it tells
    nothing on a connection that listens.
    """

    def __init__(self, link: _Link) -> None:
        self.run_id = ""
        self.unanswered = 0
        self._link = link
        self._reader, self._writer, self._parser = link.parts
        self._polling = select.poll()
        self._polling.register(self._writer.get_extra_info("socket").fileno(), select.POLLIN)

    @classmethod
    async def open(cls, address: Address) -> Wire:
        """Connect, log in, choose the database and ask for the server's run id.

        Raises ``StoreError`` with the store's own text where it refused any of that, within
        ``CONNECT_S``. Nothing that the caller wants done has been sent then, so it is never
        ``StoreUnanswered``.
        """
        link = _link(address)
        try:
            async with asyncio.timeout(CONNECT_S):
                await link.connect()  # type: ignore[no-untyped-call]
                wire = cls(link)
                await wire._ask_who()
                return wire
        except TimeoutError:
            failure = StoreError(f"no connection in {CONNECT_S:g} s")
        except Exception as error:  # redis-py trips over a server that is none
            failure = _failure(error)
        except BaseException:
            link.abort()
            raise
        link.abort()
        raise failure

    async def _ask_who(self) -> None:
        """Learn the run id, before anything else is asked: whether data can be relied on depends on
        it. A server that tells none (a proxy, perhaps) has the empty one, always the same."""
        self.send([("INFO", "server")])
        reply = await self.read()
        if isinstance(reply, StoreError):
            raise reply
        match = _RUN_ID.search(reply)
        self.run_id = match[1].decode() if match else ""

    @property
    def is_open(self) -> bool:
        """Whether the connection is open as far as the event loop has noticed."""
        return not (self._writer.is_closing() or self._reader.at_eof() or self._reader.exception())

    @property
    def is_fit(self) -> bool:
        """Whether an unused connection can be used: it is open and nothing has come on it.

        The system is asked (poll, without waiting), because the loop may not have run since the
        other end went away: a process that was stopped for a minute finds its first command on a
        dead connection otherwise, with an unknown fate. Bytes that come unasked are an error
        message before the end, or its end.
        """
        return self.is_open and not self._polling.poll(0)

    def send(self, commands: Sequence[Command]) -> None:
        """Send commands; each is answered. Returns before they are written: ``drain`` waits."""
        self.unanswered += len(commands)
        # packed in C: redis-py's own packing costs several times as much
        self._writer.write(b"".join([hiredis.pack_command(command) for command in commands]))

    async def drain(self) -> None:
        """Wait until there is room to send more, which bounds what a slow server has us hold.

        Raises ``StoreUnanswered`` when the connection has ended: what was sent may have arrived.
        """
        try:
            await self._writer.drain()
        except OSError as error:
            raise StoreUnanswered(_text_of(error)) from error

    async def read(self) -> Any:
        """Return the next reply, or what the server tells on its own account.

        Raises ``StoreUnanswered`` when the connection has ended. May be cancelled: what came is
        kept for the next call.
        """
        try:
            reply = await self._parser.read_response()
        except (EndedError, OSError) as error:
            raise StoreUnanswered(_text_of(error)) from error
        except InvalidResponse as error:
            self.close()
            raise StoreUnanswered(f"{_NO_STORE}: {error}") from error
        self.unanswered -= 1
        return refusal(str(reply)) if isinstance(reply, _Refused) else reply

    def close(self) -> None:
        """End the connection; what is unanswered stays so, and what is unsent is thrown away."""
        self._link.abort()


def _link(address: Address) -> _Link:
    """Return a connection of redis-py's that is not connected.

    First what both kinds share, with redis-py's retries and time-outs turned off, since the callers
    have their own; then the Unix socket, which needs a path and nothing else; then TCP, where the
    kernel's keep-alive finds a server whose machine has gone while nothing is asked.
    """
    options: dict[str, Any] = {
        "db": address.database,
        "username": address.username or None,
        "password": address.password or None,
        "client_name": address.client_name or None,
        "protocol": 3,
        "parser_class": _Parser,
        "retry": Retry(NoBackoff(), 0),
        # callers have time-outs
        "socket_timeout": None,
        "socket_connect_timeout": None,
    }
    if address.path:
        return _Unix(path=address.path, **options)
    return _Tcp(
        address.tls,
        host=address.host,
        port=address.port,
        socket_keepalive=True,
        socket_keepalive_options={
            socket.TCP_KEEPIDLE: KEEPALIVE_S,
            socket.TCP_KEEPINTVL: KEEPALIVE_S,
        },
        **options,
    )


def _failure(error: Exception) -> StoreError:
    """Return the ``StoreError`` for a connection that could not be made.

    redis-py wraps the cause once or twice, in texts that name the host and port. Those come from
    the URL, and no part of it may be shown (``url``), so the innermost cause is what counts.
    """
    if isinstance(error, StoreError) and not isinstance(error, StoreUnanswered):
        return error
    while (inner := error.__cause__ or error.__context__) is not None and isinstance(
        inner, Exception
    ):
        error = inner
    if isinstance(error, _Refused):
        return refusal(str(error))
    if isinstance(error, EndedError | ConnectionResetError | BrokenPipeError):
        return StoreError(f"{_text_of(error)}; {_AT_ONCE}")
    if isinstance(error, RedisError | OSError):
        return StoreError(_text_of(error))
    return StoreError(_NO_STORE)


def _text_of(error: Exception) -> str:
    """Return what an error says, for the log and for callers."""
    return _ENDED if isinstance(error, EndedError) else str(error) or type(error).__name__
