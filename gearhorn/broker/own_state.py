"""Own state: what a member tells of itself, to its peers and in ``describe_fanout``.

Rules: reads the counters of other parts and keeps none, so that a figure cannot get out of step
with the part that it is about. What the figures mean to a reader says docs/protocol.rst, "Gossip".
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence

from gearhorn import __version__
from gearhorn.broker.intake import Intake
from gearhorn.broker.policy import StorePolicy
from gearhorn.durable.service import DurableTopics
from gearhorn.fanout.directory import Directory
from gearhorn.fanout.places import Places
from gearhorn.gearman.job_servers import JobServers
from gearhorn.gearman.server import Server
from gearhorn.members.membership import Membership
from gearhorn.messages.peers import MemberState
from gearhorn.timing import now_s


class OwnState:
    """Collects a member's state from its parts.

    Arguments:
        servers: the job servers, which peers compare with their own: a member with others sends the
            copies of a queue elsewhere.
        membership: who this member is, and what it knows.
        directory: how much is cached.
        durable: how many lanes are held.
        job_servers: the clients that copies go through.
        places: how many foreground fan-outs wait.
        intake: the workers that take jobs.
        policy: how well the store keeps what it is given.

    Uptime counts from when this is made.
    """

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
        policy: StorePolicy,
    ) -> None:
        self._servers = [str(server) for server in servers]
        self._membership = membership
        self._directory = directory
        self._durable = durable
        self._job_servers = job_servers
        self._places = places
        self._intake = intake
        self._policy = policy
        self._started_s = now_s()

    def now(self, state: str) -> MemberState:
        """Return this member's state.

        Arguments:
            state: ``solitary``, ``clustered`` or ``isolated``, as ``Gossiper`` judges it.
        """
        topics, subscriptions = self._directory.size
        fanouts = self._intake.fanouts
        return MemberState(
            member=self._membership.id,
            host=socket.gethostname(),
            pid=os.getpid(),
            state=state,
            version=self._membership.known,
            release=__version__,
            uptime=round(now_s() - self._started_s, 3),
            at=time.time(),
            servers=self._servers,
            topics=topics,
            subscriptions=subscriptions,
            # A foreground fan-out that waits for its receivers is in no worker's hand any more.
            in_flight=sum(worker.held for worker in fanouts) + self._places.waiting,
            lanes=self._durable.deliverer.count,
            fanouts=sum(worker.taken for worker in fanouts),
            # Copies of durable deliveries and of gossip go through other clients: not counted here.
            copies=sum(client.accepted for client in self._job_servers.clients),
            errors=sum(worker.failed for worker in [*fanouts, *self._intake.changes]),
            reaped=self._membership.reaped,
            down=[str(client.server) for client in self._job_servers.clients if not client.is_up],
            store=self._policy.state,
        )
