"""Receivers: the connections on which a subscriber takes jobs, one to each job server.

Theory of operation. Connecting, keeping alive, grabbing several jobs at once and answering them in
batches is the same as for a worker of gearhorn, so it is the same code. What differs is when: a
receiver announces its functions, and takes nothing until it is told to (``start_grabbing``).

Rules: runs on the event loop. The functions are announced first, and no job is taken before the
subscriptions are made; at the end no more are taken, those in hand are finished, and the functions
are given up.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from typing import Protocol

from gearhorn.gearman.link import Connection
from gearhorn.gearman.server import Server
from gearhorn.gearman.worker import Job, Worker

JOB_BYTES = 128 * 1024 * 1024  # the longest job that is taken whole


class Watcher(Protocol):
    """Is told of receivers: of the session, which must know when to subscribe anew."""

    def receiver_up(self, is_again: bool) -> None:
        """A job server came up; ``is_again``: it had been up before."""

    def receiver_down(self) -> None:
        """A job server went down."""


class Receiver(Worker):
    """Takes jobs from one job server.

    Arguments:
        server, tls: where it connects, and how.
        queues: the functions that it serves.
        handler: takes each job.
        in_hand: how many jobs may be in hand.
        watcher: is told when the server goes up or down.
    """

    def __init__(
        self,
        server: Server,
        tls: ssl.SSLContext | None,
        *,
        client_id: str,
        queues: Sequence[bytes],
        handler: Callable[[Job], None],
        in_hand: int,
        watcher: Watcher,
    ) -> None:
        super().__init__(
            server,
            tls,
            client_id.encode(),
            limit=JOB_BYTES,
            functions=queues,
            handler=handler,
            in_hand=in_hand,
        )
        self._watcher = watcher
        self._was_up = False

    def went_up(self, connection: Connection) -> None:
        super().went_up(connection)
        is_again, self._was_up = self._was_up, True
        self._watcher.receiver_up(is_again)

    def went_down(self, connection: Connection) -> None:
        super().went_down(connection)
        self._watcher.receiver_down()
