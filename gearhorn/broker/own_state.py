"""Own state: what a member tells of itself, to its peers and in ``describe_fanout``.

Rules: reads the counters of other parts and keeps none. What it returns is described in
docs/protocol.rst, "Between workers".
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence

from gearhorn import __version__
from gearhorn.broker.intake import Intake
from gearhorn.durable.service import DurableTopics
from gearhorn.fanout.directory import Directory
from gearhorn.fanout.places import Places
from gearhorn.gearman.job_servers import JobServers
from gearhorn.gearman.server import Server
from gearhorn.members.membership import Membership
from gearhorn.messages.peers import MemberState
from gearhorn.timing import now_s


class OwnState:
    """Collects a member's state from its parts; the constructor's arguments are those parts."""

    def __init__(
        self,
        *,
        servers: Sequence[Server],
        membership: Membership,
        directory: Directory,
        durable: DurableTopics,
        job_servers: JobServers,
        places: Places,
        intake: Intake,
    ) -> None:
        self._servers = [str(server) for server in servers]
        self._membership = membership
        self._directory = directory
        self._durable = durable
        self._job_servers = job_servers
        self._places = places
        self._intake = intake
        self._started_s = now_s()

    def now(self, state: str) -> MemberState:
        """Return this member's state.

        Arguments:
            state: ``solitary``, ``clustered`` or ``isolated``, as ``Gossiper`` judges it.
        """
        topics, subscriptions = self._directory.size
        fanouts = self._intake.fanouts
        return MemberState(
            self._membership.id,
            socket.gethostname(),
            os.getpid(),
            state,
            self._membership.known,
            __version__,
            round(now_s() - self._started_s, 3),
            time.time(),
            self._servers,
            topics,
            subscriptions,
            sum(worker.held for worker in fanouts) + self._places.waiting,
            self._durable.deliverer.count,
            sum(worker.taken for worker in fanouts),
            sum(client.accepted for client in self._job_servers.clients),
            sum(worker.failed for worker in [*fanouts, *self._intake.changes]),
            self._membership.reaped,
        )
