"""A link: one connection to one job server, made again whenever it is lost.

Theory of operation. A ``Link`` is one task that never ends: connect, prove that the server
answers, use the connection, notice its end, wait a little, connect again. A ``Connection`` serves
once. ``Client`` and ``Worker`` derive from ``Link`` and fill in what is done on a connection:
``went_up`` first, then ``handle`` (packets came) and ``fill`` (something is about to leave) as it
goes, and ``went_down`` at the end, once for each ``went_up``.

Nothing is sent when it is written: a connection collects its output, and ``turns`` says when it
leaves. Just before, ``fill`` is asked for what goes along: more grabs, the next window of copies.

Rules: everything runs on the event loop; nothing blocks. A link is *up* once the server answered
an ECHO on the new connection, since a frozen server still accepts connections. It is down as soon
as the connection ends or its pulse stops (see ``pulse``; docs/protocol.rst, "Several job servers").
Whatever a server does costs its own links and a line of the log.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

from gearhorn.errors import ProtocolError
from gearhorn.gearman import packets, sockets
from gearhorn.gearman.packets import Packet, Splitter
from gearhorn.gearman.pulse import TIMEOUT_S, Pulse, Signs
from gearhorn.gearman.server import Server
from gearhorn.gearman.turns import Turn
from gearhorn.logger import get_logger
from gearhorn.tasks import Tasks, on_crash
from gearhorn.timing import Backoff

CHECK_S = 0.5  # between two checks of a connection's pulse
STEADY_S = 1.0  # a connection that ends sooner counts as one more failed try
_UNANSWERED = f"no answer to ECHO in {TIMEOUT_S:g} s"
# the process, or the machine, has no more of what a socket needs
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

log = get_logger(__name__)


class Connection(asyncio.Protocol):
    """One TCP session, from its opening to its end.

    A job belongs to the session that assigned it, never to the next one: handles start again at 1
    when gearmand restarts. So a ``Job`` holds its connection, and what is written to one that has
    ended goes nowhere.

    Attributes:
        is_asked: an ECHO is out. Only then are batches searched for its answer.
        echoes: how many were answered; the link compares it to see whether one came back.
        first_echo: done when the server has answered for the first time.
        is_reported: the log says already why the connection ended, so that ``Link`` does not.
        given_back: closed on purpose, so that the jobs in hand go to other members.
        closed: done when it has ended, with the reason in words.
    """

    def __init__(self, link: Link, limit: int) -> None:
        self._link = link
        self._splitter = Splitter(limit)
        self._out: list[bytes] = []
        self._has_large = False  # something of ``_out`` is not to be copied
        self._awake = False  # a flush is due: the connection stands in the turn's list
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._turn = Turn.of(self._loop)
        self._heard = 0  # bytes received
        self._written = 0  # bytes handed to the transport
        self.is_asked = False
        self.echoes = 0
        self.first_echo: asyncio.Future[None] = self._loop.create_future()
        self.is_reported = False
        self.given_back = False
        self.closed: asyncio.Future[str] = self._loop.create_future()

    def give_back(self) -> None:
        """It is about to be closed on purpose: its jobs are for other members.

        Who works on one of them (``Job.is_given_back``) then stops, instead of finishing beside the
        member that gets it next.
        """
        self.given_back = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio: the socket is connected, and with TLS verified."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by asyncio with what was read: hand its packets on, and end the turn.

        The turn ends whatever happens, since packets before a broken one have made other
        connections write.
        """
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
        """A fault in gearhorn costs this connection: the next one begins anew.

        The books of a ``Client`` or ``Worker`` may be half-way through a batch, and cannot be
        trusted any more. The end of the connection decides on every job and copy by the usual way.
        """
        self._report(log.critical, event, exc_info=error)
        self.abort("a fault in gearhorn")

    def _report(self, write: Callable[..., object], event: str, **details: object) -> None:
        """Log why the connection ends, unless it has ended already.

        Once something precise is logged, "connection lost" would only repeat it.
        """
        if self.is_open:
            self.is_reported = True
            write(event, server=str(self._link.server), **details)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio once the socket is closed, also after ``abort``: the first reason
        counts."""
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
        """Send ``data`` as ``write`` does, but without a copy that joins it with the rest.

        For payloads of a quarter MiB and more: the transport takes several sends then, which costs
        less than the copy.
        """
        self._has_large = True
        self.write(data)

    def ask_echo(self) -> None:
        """Ask the server for a sign of life. The answer comes behind all that was asked before."""
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
        """Return what is seen of the connection now, for ``Pulse``.

        Bytes count as having left when the other end's kernel has them: what still lies in this
        process, or in this machine's kernel, has not moved.
        """
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
        """Hand what was written to the kernel now.

        Called at the end of the turn, and by ``Client`` in the middle of one, where the next window
        must leave before outcomes are told of the last one. ``fill`` comes first and may write
        more; ``_awake`` is set meanwhile, so that this does not list the connection again.
        """
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
        """End the session at once; what was not sent is not sent.

        ``closed`` is done when this returns, before asyncio has closed anything, so that nothing
        is written any more. The first reason counts.
        """
        if not self.closed.done():
            self.closed.set_result(reason)
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """Send what was written, then end the session.

        A server that reads nothing for a second loses the rest: stopping must not depend on it.
        """
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

    The link's task is kept (``Tasks.keep``): a crash costs the present connection and a line of the
    log, and the link connects again.

    Arguments:
        server: where to connect.
        tls: what verifies the server; None for plain text.
        client_id: how the server's ``workers`` calls this connection; for operators.
        limit: the longest packet in bytes that is read whole.
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
        """Whether the server answered on the present connection. It may still be dead: a death
        is noticed by the pulse, in about ``TIMEOUT_S``."""
        return self.connection is not None

    def start(self) -> None:
        """Begin to connect; returns at once. It may be called again after ``stop``."""
        self._tasks.keep(f"link {self.server}", self._keep_up)

    async def stop(self) -> None:
        """Stop connecting and close the connection, sending what was written.

        The task is ended first, or it would take the closing for a loss and connect again. Its end
        calls ``went_down``, so who waits for an answer is told before this returns.
        """
        connection = self.connection
        await self._tasks.cancel()
        if connection is not None:
            await connection.close()

    def went_up(self, connection: Connection) -> None:
        """Called with a fresh connection, before anything is received on it but its ECHO.

        Functions that a ``Worker`` serves and options are sent here: a server knows nothing of the
        connection before.
        """

    def went_down(self, connection: Connection) -> None:
        """Called once when the connection is gone; ``is_up`` is false already."""

    def fill(self, connection: Connection) -> None:
        """Called before what this turn wrote leaves: write what belongs with it.

        It is called for a connection that was written to or woken, even one that is still waiting
        for its first ECHO and so is not ``self.connection`` yet.
        """

    def handle(self, connection: Connection, batch: list[Packet]) -> None:
        """Called with the packets that arrived together, the ECHO_RES that was asked for taken out.

        A ``ProtocolError`` that it raises ends the connection; any other exception is logged as a
        fault in gearhorn and ends it too.
        """

    def received(self, connection: Connection, batch: list[Packet]) -> None:
        """Take a batch of packets from ``connection``.

        What a connection still delivers after the link has turned to another one is dropped.
        """
        if connection.is_asked:
            connection.take_echo(batch)
        if batch and connection is self.connection:
            self.handle(connection, batch)

    def debt(self) -> tuple[int, int]:
        """Return how many requests were answered on this connection, and how many are not."""
        return 0, 0

    async def _keep_up(self) -> None:
        """Connect, and connect again whenever the connection is lost, without end.

        The back-off starts over only after a connection that lasted ``STEADY_S``. A server that
        accepts, answers the ECHO and closes would otherwise be tried ten times a second.
        """
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

    def _say(self, event: str, **details: str) -> None:
        """Log what became of the server, at a level that depends on whose part that is."""
        say = log.warning if self.logs_state else log.debug
        say(event, server=str(self.server), **details)

    async def _connect_at_last(self, backoff: Backoff) -> Connection:
        """Try until the server answers, and log the first time why it does not.

        It is logged again when the fault moves between the server and this process: to run out of
        file descriptors needs another remedy than a server that is down.
        """
        logged = ""
        while True:
            try:
                connection = await self._connect()
            except OSError as error:
                text = str(error) or type(error).__name__
                kind = "this process" if error.errno in _EXHAUSTED else "the server"
                if kind != logged:
                    logged = kind
                    self._explain(kind, text)
                await asyncio.sleep(backoff.next_s())
                continue
            if self.logs_state:
                log.info("connected", server=str(self.server))
            return connection

    def _explain(self, kind: str, text: str) -> None:
        if kind == "this process":  # no other link logs this for it
            log.error("no connection can be opened", server=str(self.server), error=text)
        else:
            self._say("job server unreachable; retrying", error=text)

    async def _session(self, connection: Connection) -> str:
        """Use a connection until it ends; return why it did.

        ``connection`` is set before ``went_up``, which writes to it, and cleared before
        ``went_down``, so that what that tells of finds the link down and goes elsewhere.
        """
        self.connection = connection
        try:
            with on_crash(partial(connection.abort, "a fault in gearhorn")):
                self.went_up(connection)
                return await self._watch(connection)
        finally:
            self.connection = None
            self.went_down(connection)

    async def _connect(self) -> Connection:
        """Return a connection on which the server has answered an ECHO.

        Raises ``OSError``: no connection in ``CONNECT_TIMEOUT_S``, or no answer in ``TIMEOUT_S``.
        Whatever else ends this, a cancellation included, leaves no socket open.
        """
        connection = Connection(self, self._limit)
        answered = False
        try:
            await sockets.connect(lambda: connection, self.server.host, self.server.port, self._tls)
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
        """Wait until the connection ends, feel its pulse meanwhile, and return why it ended."""
        loop = asyncio.get_running_loop()
        pulse = Pulse(loop.time())
        echoes = connection.echoes
        while True:
            done, _ = await asyncio.wait([connection.closed], timeout=CHECK_S)
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
