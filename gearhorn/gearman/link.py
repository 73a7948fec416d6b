"""A link: one connection to one job server, made again whenever it is lost.

Rules: everything runs on the event loop; nothing blocks. A link is *up* once the server answered
an ECHO on the new connection, and down as soon as the connection ends or its pulse stops (see
``pulse``; "Several job servers" in docs/protocol.rst). Whatever a server does costs its own links
and a line of the log. What is written in one turn of the loop leaves in one send for each
connection, before the turn is over: write, write, read does 23 jobs/s, because of delayed
acknowledgements.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple
from weakref import WeakKeyDictionary

import structlog

from gearhorn.errors import ProtocolError
from gearhorn.gearman import packets, sockets
from gearhorn.gearman.packets import Packet, Splitter
from gearhorn.gearman.pulse import TIMEOUT_S, Pulse, Signs
from gearhorn.gearman.sockets import CONNECT_TIMEOUT_S, connect

__all__ = ["CONNECT_TIMEOUT_S", "Connection", "Link", "Server", "open_streams"]
from gearhorn.tasks import Tasks, on_crash
from gearhorn.timing import Backoff

LOOK_S = 0.5  # between two looks at the pulse of a connection
STEADY_S = 1.0  # a connection that ends sooner counts as one more failed try
_UNANSWERED = f"no answer to ECHO in {TIMEOUT_S:g} s"
# the process, or the machine, has no more of what a socket needs
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

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
    return await sockets.open_streams(server.host, server.port, tls, limit)


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
            try:
                connection.flush()
            except Exception as error:  # the others have something to send, too
                connection.broke("what goes to a job server was not handled", error)


class Connection(asyncio.Protocol):
    """One TCP session. A job belongs to the session that assigned it, never to the next one:
    handles start again at 1 when gearmand restarts."""

    def __init__(self, link: Link, limit: int) -> None:
        self._link = link
        self._splitter = Splitter(limit)
        self._out: list[bytes] = []
        self._has_large = False  # something of it is not to be copied
        self._awake = False  # a flush is due
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._turn = _Turn.of(self._loop)
        self._heard = 0  # bytes
        self._written = 0
        self.is_asked = False  # for an ECHO that is not answered
        self.echoes = 0  # answered
        self.first_echo: asyncio.Future[None] = self._loop.create_future()
        self.is_reported = False  # the log says why it ended
        self.given_back = False  # closed on purpose: its jobs are for others
        self.closed: asyncio.Future[str] = self._loop.create_future()

    def give_back(self) -> None:
        """It is about to be closed on purpose: its jobs are for other members."""
        self.given_back = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._heard += len(data)
        self._turn.begin()
        try:
            self._link.received(self, self._splitter.feed(data))
        except ProtocolError as error:
            self._report(
                log.warning, "job server breaks the protocol; reconnecting", error=str(error)
            )
            self.abort(str(error))
        except Exception as error:  # the next connection begins anew; asyncio would only close it
            self.broke("what a job server said was not handled", error)
        finally:
            self._turn.end()

    def broke(self, event: str, error: Exception) -> None:
        """A fault in gearhorn costs this connection: the next one begins anew."""
        self._report(log.critical, event, exc_info=error)
        self.abort("a fault in gearhorn")

    def _report(self, say: Callable[..., object], event: str, **more: object) -> None:
        """Say why the connection ends, if it has not ended: nothing else is said of it then."""
        if self.is_open:
            self.is_reported = True
            say(event, server=str(self._link.server), **more)

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

    def ask_echo(self) -> None:
        """Ask the server for a sign of life."""
        self.is_asked = True
        self.write(packets.pack(packets.ECHO_REQ, b"gearhorn"))

    def take_echo(self, batch: list[Packet]) -> None:
        """Take the answer to the ECHO out of a batch, if it is there."""
        for packet in batch:
            if packet[0] == packets.ECHO_RES:
                self.is_asked = False
                self.echoes += 1
                if not self.first_echo.done():
                    self.first_echo.set_result(None)
                batch.remove(packet)
                return

    def signs(self, answers: int, owed: int) -> Signs:
        """Return what is seen of the connection now."""
        left = self._written
        if self._transport is not None:
            left -= sockets.unacknowledged(self._transport)
        return Signs(self._heard, left, answers, owed)

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
                self._written += sum(map(len, self._out))
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

    logs_state = False  # of the links to one server, one speaks of it; the others at debug level

    def __init__(
        self, server: Server, tls: ssl.SSLContext | None, client_id: bytes, limit: int
    ) -> None:
        self.server = server
        self.connection: Connection | None = None
        self._tls = tls
        self._client_id = client_id
        self._limit = limit
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
        if connection.is_asked:
            connection.take_echo(batch)
        if batch and connection is self.connection:
            self.handle(connection, batch)

    def debt(self) -> tuple[int, int]:
        """Return how many requests were answered on this connection, and how many are not."""
        return 0, 0

    async def _keep_up(self) -> None:
        """Connect, and connect again whenever the connection is lost, without end."""
        backoff = Backoff()
        loop = asyncio.get_running_loop()
        while True:
            connection = await self._connect_at_last(backoff)
            up_at = loop.time()
            reason = await self._session(connection)
            if loop.time() - up_at > STEADY_S:
                backoff.reset()
            if not connection.is_reported:
                self._say("connection lost; reconnecting", reason=reason)
            await asyncio.sleep(backoff.next_s())

    def _say(self, event: str, **words: str) -> None:
        say = log.warning if self.logs_state else log.debug
        say(event, server=str(self.server), **words)

    async def _connect_at_last(self, backoff: Backoff) -> Connection:
        """Try until the server answers, and say the first time why it does not."""
        said = ""
        while True:
            try:
                connection = await self._connect()
            except OSError as error:
                words = str(error) or type(error).__name__
                kind = "this process" if error.errno in _EXHAUSTED else "the server"
                if kind != said:
                    said = kind
                    self._explain(kind, words)
                await asyncio.sleep(backoff.next_s())
                continue
            if self.logs_state:
                log.info("connected", server=str(self.server))
            return connection

    def _explain(self, kind: str, words: str) -> None:
        if kind == "this process":  # no other link says this one's part
            log.error("no connection can be opened", server=str(self.server), error=words)
        else:
            self._say("job server unreachable; retrying", error=words)

    async def _session(self, connection: Connection) -> str:
        """Use a connection until it ends; return why it did."""
        self.connection = connection
        try:
            with on_crash(partial(connection.abort, "a fault in gearhorn")):
                self.went_up(connection)
                return await self._watch(connection)
        finally:
            self.connection = None
            self.went_down(connection)

    async def _connect(self) -> Connection:
        connection = Connection(self, self._limit)
        answered = False
        try:
            await connect(lambda: connection, self.server.host, self.server.port, self._tls)
            connection.write(packets.pack(packets.SET_CLIENT_ID, self._client_id))
            connection.ask_echo()
            either: list[asyncio.Future[Any]] = [connection.first_echo, connection.closed]
            await asyncio.wait(either, timeout=TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            answered = connection.first_echo.done()
        finally:
            if not answered:
                connection.abort(_UNANSWERED)
        if not connection.is_open:
            raise ConnectionError(connection.closed.result())
        return connection

    async def _watch(self, connection: Connection) -> str:
        """Return why the connection ended."""
        loop = asyncio.get_running_loop()
        pulse = Pulse(loop.time())
        echoes = connection.echoes
        while True:
            done, _ = await asyncio.wait([connection.closed], timeout=LOOK_S)
            if done:
                return connection.closed.result()
            at_s, signs = loop.time(), connection.signs(*self.debt())
            if connection.echoes != echoes:
                echoes = connection.echoes
                pulse.answered(at_s, signs)
            if reason := pulse.why_dead(at_s, signs):
                connection.abort(reason)
            elif pulse.is_due(at_s, signs.heard):
                connection.ask_echo()
                pulse.asked(at_s, signs)
