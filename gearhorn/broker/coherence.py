"""Coherence: drops what this member has cached, and waits for the fan-outs that still use it.

Theory of operation. A subscriber that got the answer to its ``unsubscribe_fanout`` must get no
copy of a later publish, whichever member serves that. So a member that is told of a change first
drops the topic's list (``drop``: from then on no fan-out begins with it), then waits until every
fan-out that had begun with it has handed its copies over (``wait_sent``), and only then answers.

The invariant of the wait: a copy is always in exactly one of the places that are waited for, and
moves only towards those that are waited for later. So one pass in that order misses none.

Rules: runs on the event loop; keeps nothing itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gearhorn.broker.gossiper import Gossiper
from gearhorn.durable.service import DurableTopics
from gearhorn.fanout.copies import mark
from gearhorn.fanout.directory import Directory
from gearhorn.fanout.drops import Drops
from gearhorn.fanout.limits import Limits
from gearhorn.fanout.outbox import Outbox
from gearhorn.fanout.overflow import Overflow
from gearhorn.gearman.job_servers import JobServers
from gearhorn.members.caches import Caches
from gearhorn.names import GOSSIP, is_pattern, queue_of


class Coherence(Caches):
    """The caches of one member.

    Arguments:
        directory: has lists, and jobs that wait for one.
        limits: has set the backlog limits that lists ask for.
        durable: has lanes, and messages on their way to a log.
        job_servers: the clients that copies go through.
        outbox: has fan-outs that go out little by little, or that wait for a server.
        overflow: has copies that wait for room.
        drops: has counters of subscriptions that may end.
        gossiper: has the list of those who listen to gossip.
        control: the clients that gossip goes through.
    """

    def __init__(
        self,
        *,
        directory: Directory,
        limits: Limits,
        durable: DurableTopics,
        job_servers: JobServers,
        outbox: Outbox,
        overflow: Overflow,
        drops: Drops,
        gossiper: Gossiper,
        control: JobServers,
    ) -> None:
        self._directory = directory
        self._limits = limits
        self._durable = durable
        self._job_servers = job_servers
        self._outbox = outbox
        self._overflow = overflow
        self._drops = drops
        self._gossiper = gossiper
        self._control = control

    def drop(self, topic: str, is_durable: bool = True, client_id: str | None = None) -> None:
        """Forget what is cached of a topic: see ``Caches.drop``.

        All of it is one turn of the loop, so the order of the parts has no effect. With an empty
        client_id the topic's retention changed, and no queue.
        """
        if is_durable and not is_pattern(topic):
            self._durable.changed(topic, client_id)
        self._directory.drop(topic)
        if topic == GOSSIP:
            self._gossiper.listeners_changed()
        if client_id != "":
            self._limits.changed(topic, queue_of(topic, client_id) if client_id else None)

    async def drop_matching(self, names: Sequence[str]) -> None:
        """Forget the lists of topics that patterns match: see ``Caches.drop_matching``."""
        if names:
            await self._directory.drop_matching(names)

    def forget(self) -> None:
        """Forget everything: any topic may have changed. Nothing is waited for."""
        self._directory.forget()
        self._gossiper.listeners_changed()
        self._limits.forget()
        self._durable.changed("")

    async def wait_sent(self, topics: Sequence[str] | None) -> None:
        """Return once no fan-out that holds a former list of these topics (None: of any) is
        unsent.

        The order is that of a message's way: first those that wait for a list, then those on their
        way to the log, then copies at hand, then copies sent, then copies that were refused and
        wait for room; last the counters of those that were dropped.
        """
        if topics is not None and not topics:
            return
        await self._directory.wait_served(topics)
        await self._durable.wait_logged(topics)
        born = mark()
        await self._wait_copies(topics)
        while await self._outbox.wait_counted(topics, born):
            await self._wait_copies(topics)
        if topics is None or GOSSIP in topics:
            await asyncio.gather(*self._control.barriers())
        await self._drops.wait_written(topics)

    async def _wait_copies(self, topics: Sequence[str] | None) -> None:
        """Return once the copies at hand are answered, and those that wait for room have got it or
        are dropped. Without a server and without copies there is nothing to wait for."""
        if self._job_servers.is_up or self._outbox.has_unsent:
            await self._outbox.portions.wait_sent(topics)
            await self._job_servers.barrier()
            await self._overflow.wait_sent(topics)
            await self._job_servers.barrier()  # what was sent again meanwhile, as a server went
