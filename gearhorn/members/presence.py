"""Presence: the connections on which a member serves the queues that bear its id.

Theory of operation. Peers know a member from the store, and talk to it through two queues that bear
its id: changes to be told of (``matchmaking``), and gossip. It must be there before the store knows
it, or a peer would wait for an answer that cannot come; and it must stay for a moment after the
store has forgotten it, for those who read the members just before. A member that lost its lease
joins under another id, so for that moment one process is present under two.

Rules: runs on the event loop. Each queue has a connection of its own at every job server, that no
bound stops: what comes there is answered at once, or members that wait for each other would wait
without end.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from gearhorn.gearman.server import Server
from gearhorn.gearman.worker import Job, Worker
from gearhorn.members.burials import Burials
from gearhorn.members.matchmaking import Matchmaker
from gearhorn.names import GOSSIP, MATCHMAKING, queue_of

IN_HAND = 10_000  # jobs of one queue
REQUEST_BYTES = 16 * 1024 * 1024  # thousands of changes in one message
GRACE_S = 1.0  # for the second job server when the first one is there
_POLL_S = 0.01


class Presence:
    """The connections under one id.

    Arguments:
        servers: the job servers.
        tls: how to connect to them, None for plain TCP.
        client_id: what the connections are called there.
        handlers: who takes the jobs, by queue.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        tls: ssl.SSLContext | None,
        client_id: bytes,
        handlers: Mapping[bytes, Callable[[Job], None]],
    ) -> None:
        self._workers = [
            Worker(
                server,
                tls,
                client_id,
                limit=REQUEST_BYTES,
                functions=[queue],
                handler=handler,
                in_hand=IN_HAND,
            )
            for server in servers
            for queue, handler in handlers.items()
        ]

    async def appear(self) -> None:
        """Begin to serve; return once a job server knows, and the others have had ``GRACE_S``.

        A server that is down must not keep a member from joining. While none is up there is no
        point in joining, so that is waited for without end.
        """
        for worker in self._workers:
            worker.start()
        while not any(worker.is_up for worker in self._workers):
            await asyncio.sleep(_POLL_S)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + GRACE_S
        while loop.time() < deadline and not all(worker.is_up for worker in self._workers):
            await asyncio.sleep(_POLL_S)

    async def stop(self) -> None:
        """Serve no more."""
        await asyncio.gather(*(worker.stop() for worker in self._workers))


class Listener(Protocol):
    """Takes what other members say of themselves."""

    def hear(self, job: Job) -> None:
        """Take one message."""


class Presences:
    """Where this member is present: under its id, and for a while under former ones of its own.

    Arguments:
        servers: the job servers.
        tls: how to connect to them, None for plain TCP.
        matchmaker: takes what peers tell of changes.
        listener: takes what peers tell of themselves.
        burials: where the queues go that are served no more.
    """

    def __init__(
        self,
        *,
        servers: Sequence[Server],
        tls: ssl.SSLContext | None,
        matchmaker: Matchmaker,
        listener: Listener,
        burials: Burials,
    ) -> None:
        self._servers = servers
        self._tls = tls
        self._matchmaker = matchmaker
        self._listener = listener
        self._burials = burials
        self._present: dict[str, Presence] = {}  # by member id

    @property
    def is_present(self) -> bool:
        """Whether some queue of this member's is served."""
        return bool(self._present)

    async def appear(self, member: str) -> None:
        """Serve a member's own queues; return once the job servers know."""
        handlers: dict[bytes, Callable[[Job], None]] = {
            queue_of(MATCHMAKING, member): partial(self._matchmaker.handle, member),
            queue_of(GOSSIP, member): self._listener.hear,
        }
        presence = Presence(self._servers, self._tls, connection_name(member), handlers)
        self._present[member] = presence
        await presence.appear()

    async def disappear(self, member: str) -> None:
        """Serve them no more, and fail what waits there."""
        presence = self._present.pop(member, None)
        if presence is not None:
            await presence.stop()
        self._burials.add(member)

    async def stop(self) -> None:
        """Disappear whole."""
        await asyncio.gather(*(self.disappear(member) for member in list(self._present)))


def connection_name(member: str) -> bytes:
    """Return what a member's connections are called at the job servers."""
    return b"gearhorn-" + member.encode()
