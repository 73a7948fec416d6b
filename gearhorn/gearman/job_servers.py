"""The job servers together: which are up, and which one carries a queue.

Theory of operation. Copies of one queue must keep their order, so all of them go to one server. The
members agree on which one without talking: it is the server with the highest SHA-256 of server,
NUL, queue among those that are up (rendezvous hashing, Thaler & Ravishankar 1998). When a server
goes down only its own queues move, spread over all others; modulo the number of servers, nearly all
would. Members that see a different set of servers for a moment choose differently, so for that
moment order is not promised (docs/protocol.rst, "Several job servers").

Whatever is derived from the set of servers, such as how a list is spread, is kept with the number
of the *session* in which it was derived, and holds while ``sessions`` is that number.

Rules: runs on the event loop. Servers are named by their place in the configuration.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from hashlib import sha256

import structlog

from gearhorn.gearman.admin import Admin
from gearhorn.gearman.client import Client
from gearhorn.gearman.link import Connection
from gearhorn.gearman.reap import reap
from gearhorn.gearman.results import Result
from gearhorn.gearman.server import Server
from gearhorn.gearman.submission import Submission
from gearhorn.gearman.trimming import Trimmer

log = structlog.get_logger(__name__)


class _Member(Client):
    """A client that tells its ``JobServers`` when it comes and goes."""

    def __init__(
        self,
        job_servers: JobServers,
        tls: ssl.SSLContext | None,
        server: Server,
        logs_state: bool,
    ) -> None:
        super().__init__(server, tls, job_servers.client_id, job_servers.limit)
        self.logs_state = logs_state
        self._job_servers = job_servers

    def went_up(self, connection: Connection) -> None:
        super().went_up(connection)
        self._job_servers._changed()

    def went_down(self, connection: Connection) -> None:
        # The set of servers changes first: lost copies are sent again from within the base class's
        # ``went_down``, and must not be routed to this server.
        self._job_servers._changed()
        self._job_servers._went_down(self)
        super().went_down(connection)


class _Barrier:
    """The outcome of a submission without copies: whether it was accepted or lost. A future may
    have been cancelled by its waiter, so it is set only if it is not done."""

    def __init__(self) -> None:
        self.passed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def accepted(self, submission: Submission) -> None:
        self._end(True)

    def lost(self, submission: Submission) -> None:
        self._end(False)  # its copies went to other servers: wait for those

    def _end(self, passed: bool) -> None:
        if not self.passed.done():
            self.passed.set_result(passed)

    def finished(self, submission: Submission, index: int, result: Result) -> None:
        raise AssertionError("a barrier has no copies")

    def broke(self, submission: Submission) -> None:
        self._end(False)


class JobServers:
    """One client per server, and the choice among them.

    A member has three of these: for copies, for control and for deliveries, so that none of them
    queues behind another.

    Arguments:
        servers: all that are configured; their order is that of ``clients``, ``admins`` and
            ``trimmers``.
        tls: what verifies them; None for plain text.
        client_id: what the servers call the connections.
        limit: the longest result in bytes that is read whole.
        logs_state: these links log at warning level what becomes of a server; others at debug
            level.

    Attributes:
        sessions: grows whenever a server comes or goes.
        clients, admins, trimmers: by place.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        tls: ssl.SSLContext | None,
        client_id: bytes,
        *,
        limit: int,
        logs_state: bool = False,
    ) -> None:
        self.client_id = client_id
        self.limit = limit
        self._tls = tls
        self.sessions = 0
        self.clients = [_Member(self, tls, server, logs_state) for server in servers]
        self.admins = [Admin(server, tls) for server in servers]
        self.trimmers = [Trimmer(server, tls) for server in servers]
        self._up: list[tuple[int, bytes]] = []  # (place in the configuration, name and NUL)
        self._came_up = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []

    @property
    def is_up(self) -> bool:
        """Whether any server is up."""
        return bool(self._up)

    @property
    def only(self) -> int | None:
        """The place of the only server that is up; None where there are more, or none."""
        return self._up[0][0] if len(self._up) == 1 else None

    @property
    def is_idle(self) -> bool:
        """Whether no server owes an answer to a copy."""
        return all(client.is_idle for client in self.clients)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have ``listener`` called whenever a server came up or went down.

        It is called after ``route`` has changed and before lost copies are told. What it raises is
        logged.
        """
        self._listeners.append(listener)

    def route(self, queue: bytes) -> int:
        """Return the place of the server that carries ``queue``; one must be up."""
        if len(self._up) == 1:
            return self._up[0][0]
        return max((sha256(name + queue).digest(), place) for place, name in self._up)[1]

    def partition(self, queues: Sequence[bytes]) -> dict[int, list[int]]:
        """Return, per server, the indexes of the queues it carries; one must be up.

        With one server nothing is hashed; otherwise 100,000 queues are 100,000 hashes for each
        server, which lists keep for a session.
        """
        if len(self._up) == 1:
            return {self._up[0][0]: list(range(len(queues)))}
        parts: dict[int, list[int]] = {}
        for index, queue in enumerate(queues):
            parts.setdefault(self.route(queue), []).append(index)
        return parts

    def submit(self, place: int, submission: Submission) -> None:
        """Hand a submission to a server. If that is down, the outcome is told at once."""
        self.clients[place].submit(submission)

    async def reap(self, place: int, queues: Sequence[bytes]) -> None:
        """Have a server forget the cancelled jobs of queues on which no others wait; raises
        ``OSError``."""
        await reap(self.clients[place].server, self._tls, queues)

    async def trim(self, queue: bytes, due: Callable[[], int]) -> int:
        """Discard the oldest jobs of a queue, ``due()`` at most, which is called when its turn has
        come; return how many are gone, 0 where its server cannot be asked."""
        if not self.is_up:
            return 0
        try:
            return await self.trimmers[self.route(queue)].trim(queue, due)
        except OSError as error:
            log.warning("no room is made", queue=queue.decode(), error=str(error))
            return 0

    async def barrier(self) -> None:
        """Return once every copy that was handed over before now is accepted; with no server up,
        that is when one is again.

        Where a server goes down meanwhile, its copies were handed to others, behind the barriers
        that stand there: so all are waited for anew.
        """
        while True:
            await self._came_up.wait()
            if all([await passed for passed in self.barriers()]):
                return

    def barriers(self) -> list[asyncio.Future[bool]]:
        """Return, per server that is up, what is done once it has answered every copy that was
        handed over before now: True, or False where it went down first."""
        barriers = []
        for client in self.clients:
            if client.is_up:
                barriers.append(_Barrier())
                client.submit(Submission(barriers[-1], (), b"", foreground=False))
        return [barrier.passed for barrier in barriers]

    async def came_up(self) -> None:
        """Return once a server is up."""
        await self._came_up.wait()

    def start(self) -> None:
        """Begin to connect to every server."""
        for client in self.clients:
            client.start()

    async def stop(self) -> None:
        """Close every connection."""
        for client in self.clients:
            await client.stop()
        for admin, trimmer in zip(self.admins, self.trimmers, strict=True):
            admin.close()
            trimmer.close()

    def _went_down(self, client: Client) -> None:
        """End every wait for an answer of a server that is down."""
        for place, other in enumerate(self.clients):
            if other is client:
                self.admins[place].server_down()
                self.trimmers[place].server_down()

    def _changed(self) -> None:
        """A server came or went: begin another session, and tell the listeners."""
        self.sessions += 1
        self._up = [
            (place, str(client.server).encode() + b"\0")
            for place, client in enumerate(self.clients)
            if client.is_up
        ]
        if self._up:
            self._came_up.set()
        else:
            self._came_up.clear()
        for listener in self._listeners:
            try:
                listener()
            except Exception as error:  # the others have to know it all the same
                log.critical("a change of the job servers was not handled", exc_info=error)
