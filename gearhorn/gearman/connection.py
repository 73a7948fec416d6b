"""A link: one connection to one job server, kept up for ever.

Law: everything runs on the event loop; nothing blocks. A link is *up* once the server answered
an ECHO on the new connection, and down as soon as the connection ends or an ECHO stays
unanswered for ``ECHO_TIMEOUT_S`` (PROTOCOL §8: a frozen gearmand still accepts connections).
What is written in one turn of the loop leaves in one send for each connection, before the turn is
over: gear's own write-write-read pattern does 23 jobs/s (FACTS A1).
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, ClassVar, NamedTuple
from weakref import WeakKeyDictionary

import structlog

from gearhorn.errors import ProtocolError
from gearhorn.gearman import packets
from gearhorn.gearman.packets import Packet, Splitter
from gearhorn.tasks import Tasks
from gearhorn.timing import Backoff

CONNECT_TIMEOUT_S = 5.0
ECHO_TIMEOUT_S = 5.0  # PROTOCOL §8
ECHO_INTERVAL_S = 2.0
STEADY_S = 1.0  # a connection that ends sooner counts as one more failed try
_UNANSWERED = f"no answer to ECHO in {ECHO_TIMEOUT_S:g} s"

log = structlog.get_logger(__name__)


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

    Raises ``OSError`` (``TimeoutError`` included).
    """
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        return await asyncio.open_connection(
            server.host,
            server.port,
            ssl=tls,
            server_hostname=server.host if tls else None,
            limit=limit,
        )


async def can_connect(server: Server, tls: ssl.SSLContext | None) -> bool:
    """Return whether a server takes a connection in time."""
    try:
        _, writer = await open_streams(server, tls)
    except OSError:
        return False
    writer.close()
    return True


class _Turn:
    """The connections of one loop that have something to send before its turn is over."""

    _turns: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, _Turn]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._awake: list[Connection] = []
        self._is_reading = False  # the turn ends with what was read

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> _Turn:
        """Return the loop's own."""
        return cls._turns.setdefault(loop, cls())

    def add(self, connection: Connection) -> None:
        """Have the connection flushed."""
        if not self._awake and not self._is_reading:
            asyncio.get_running_loop().call_soon(self.end)
        self._awake.append(connection)

    def begin(self) -> None:
        """Something is read now."""
        self._is_reading = True

    def end(self) -> None:
        """Flush all, in the order they were woken."""
        self._is_reading = False
        awake, self._awake = self._awake, []
        for connection in awake:
            connection.flush()


class Connection(asyncio.Protocol):
    """One TCP session. A job belongs to the session that assigned it, never to the next one:
    handles start again at 1 when gearmand restarts (FACTS A5)."""

    def __init__(self, link: Link, limit: int) -> None:
        self._link = link
        self._splitter = Splitter(limit)
        self._out: list[bytes] = []
        self._has_large = False  # something of it is not to be copied
        self._awake = False  # a flush is due
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._turn = _Turn.of(self._loop)
        self.heard_at = self._loop.time()
        self.given_back = False  # closed on purpose: its jobs are for others
        self.closed: asyncio.Future[str] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        self._turn.begin()
        try:
            self._link.received(self, self._splitter.feed(data))
        except ProtocolError as error:
            self.abort(str(error))
        except Exception as error:  # the next connection begins anew; asyncio would only close it
            log.critical(
                "what a job server said was not handled",
                server=str(self._link.server),
                exc_info=error,
            )
            self.abort("a fault in gearhorn")
        finally:
            self._turn.end()

    def connection_lost(self, exc: Exception | None) -> None:
        self.abort(str(exc) if exc else "closed by the server")

    @property
    def is_open(self) -> bool:
        """Whether a write can still reach the server."""
        return not self.closed.done()

    def write(self, data: bytes) -> None:
        """Send ``data`` with whatever else this turn of the loop writes."""
        self._out.append(data)
        if not self._awake:
            self._awake = True
            self._turn.add(self)

    def write_large(self, data: bytes) -> None:
        """Send ``data`` as ``write`` does, but without a copy that joins it with the rest."""
        self._has_large = True
        self.write(data)

    def wake(self) -> None:
        """Have the link asked, before this turn's output leaves, what else it would write."""
        if not self._awake:
            self._awake = True
            self._turn.add(self)

    def flush(self) -> None:
        """Hand what was written to the kernel now."""
        if self._awake and not self.closed.done():
            self._link.fill(self)
            if self._out and self._transport is not None:
                if self._has_large:
                    for data in self._out:  # a view: what the kernel does not take is copied once
                        self._transport.write(memoryview(data))
                else:
                    self._transport.write(b"".join(self._out))
        self._awake = self._has_large = False
        self._out.clear()

    def abort(self, reason: str) -> None:
        """End the session at once; what was not sent is not sent."""
        if not self.closed.done():
            self.closed.set_result(reason)
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """Send what was written, then end the session."""
        self.flush()
        if self._transport is None or self.closed.done():
            return
        self._transport.close()
        try:
            await asyncio.wait_for(asyncio.shield(self.closed), 1.0)
        except TimeoutError:
            self.abort("closed")


class Link:
    """Base of ``Client`` and ``Worker``: connects, proves the server alive, connects again.

    ``limit`` is the longest packet in bytes that is read whole.
    """

    is_spokesman = False  # of the links to one server, one speaks of it; the others at debug level

    def __init__(
        self, server: Server, tls: ssl.SSLContext | None, client_id: bytes, limit: int
    ) -> None:
        self.server = server
        self.connection: Connection | None = None
        self._tls = tls
        self._client_id = client_id
        self._limit = limit
        self._echoed: asyncio.Future[None] | None = None
        self._tasks = Tasks()

    @property
    def is_up(self) -> bool:
        """Whether the server answered on the present connection."""
        return self.connection is not None

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._tasks.keep(f"link {self.server}", self._keep_up)

    async def stop(self) -> None:
        """Stop connecting and close the connection, sending what was written."""
        connection = self.connection
        await self._tasks.cancel()
        if connection is not None:
            await connection.close()

    def went_up(self, connection: Connection) -> None:
        """Called with a fresh connection, before anything is received on it."""

    def went_down(self, connection: Connection) -> None:
        """Called once when the connection is gone."""

    def fill(self, connection: Connection) -> None:
        """Called before what this turn wrote leaves: write what belongs with it."""

    def handle(self, connection: Connection, batch: list[Packet]) -> None:
        """Called with the packets that arrived together, ECHO_RES taken out."""

    def received(self, connection: Connection, batch: list[Packet]) -> None:
        """Take a batch of packets from ``connection``."""
        if self._echoed is not None:
            for packet in batch:
                if packet[0] == packets.ECHO_RES:
                    if not self._echoed.done():
                        self._echoed.set_result(None)
                    batch.remove(packet)
                    break
        if batch and connection is self.connection:
            self.handle(connection, batch)

    async def _keep_up(self) -> None:
        backoff = Backoff()
        said = False
        say = log.warning if self.is_spokesman else log.debug
        while True:
            try:
                connection = await self._connect()
            except (OSError, TimeoutError) as error:
                delay_s = backoff.next_s()
                if not said:
                    said = True
                    say(
                        "job server is not there; trying again for ever",
                        server=str(self.server),
                        error=str(error) or type(error).__name__,
                    )
                await asyncio.sleep(delay_s)
                continue
            up_at = asyncio.get_running_loop().time()
            if self.is_spokesman:
                log.info("connected", server=str(self.server))
            said = False
            self.connection = connection
            self.went_up(connection)
            try:
                reason = await self._watch(connection)
            finally:
                self.connection = None
                self.went_down(connection)
            if asyncio.get_running_loop().time() - up_at > STEADY_S:
                backoff.reset()
            say("connection lost; reconnecting", server=str(self.server), reason=reason)
            await asyncio.sleep(backoff.next_s())

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await loop.create_connection(
                lambda: Connection(self, self._limit),
                self.server.host,
                self.server.port,
                ssl=self._tls,
                server_hostname=self.server.host if self._tls else None,
            )
        answered = False
        try:
            connection.write(packets.pack(packets.SET_CLIENT_ID, self._client_id))
            answered = await self._echo(connection)
        finally:
            if not answered:
                connection.abort(_UNANSWERED)
        if not connection.is_open:
            raise ConnectionError(connection.closed.result())
        return connection

    async def _watch(self, connection: Connection) -> str:
        """Return why the connection ended."""
        loop = asyncio.get_running_loop()
        while True:
            done, _ = await asyncio.wait([connection.closed], timeout=ECHO_INTERVAL_S)
            if done:
                return connection.closed.result()
            asked_at = loop.time()
            if asked_at - connection.heard_at < ECHO_INTERVAL_S:
                continue
            # an answer of any kind proves the server alive: the echo waits behind large ones
            if not await self._echo(connection) and connection.heard_at < asked_at:
                connection.abort(_UNANSWERED)

    async def _echo(self, connection: Connection) -> bool:
        """Ask the server for a sign of life; return whether it came in time."""
        self._echoed = asyncio.get_running_loop().create_future()
        connection.write(packets.pack(packets.ECHO_REQ, b"gearhorn"))
        try:
            either: list[asyncio.Future[Any]] = [self._echoed, connection.closed]
            await asyncio.wait(either, timeout=ECHO_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            return self._echoed.done() or connection.closed.done()
        finally:
            self._echoed = None
