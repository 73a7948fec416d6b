"""Wiring: who is built from whom, from the bottom up.

To find out who talks to whom, read ``wire`` from top to bottom: the arguments of a part are all
that it can reach. Where two parts need each other, the lower one has a protocol for what it needs
of the upper one, and is given it when it starts (``Membership.start``) or right after both are
built (``Limits.attach``).

Rules: every constructor call of a worker's parts is here, nothing else is. No part is built before
what it needs; ``Limits`` alone is told afterwards where the lists are that it sets limits for.
Nothing runs: no task is started and no connection opened, and a part that is being built does no
more to another than ask to be told of its changes.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from gearhorn.broker.coherence import Coherence
from gearhorn.broker.describe import Descriptions
from gearhorn.broker.duties import MemberDuties
from gearhorn.broker.functions import Functions
from gearhorn.broker.gossiper import Gossiper
from gearhorn.broker.intake import Intake
from gearhorn.broker.own_state import OwnState
from gearhorn.broker.policy import StorePolicy
from gearhorn.broker.serving import Serving
from gearhorn.broker.store_outage import StoreOutage
from gearhorn.broker.summaries import SummaryPages
from gearhorn.config import Config
from gearhorn.durable.service import DurableTopics
from gearhorn.fanout.backlog import Backlog
from gearhorn.fanout.directory import Directory
from gearhorn.fanout.drops import Drops
from gearhorn.fanout.filled_queues import FilledQueues
from gearhorn.fanout.handler import Fanouts
from gearhorn.fanout.known_patterns import KnownPatterns
from gearhorn.fanout.limits import Limits
from gearhorn.fanout.lists import Lists
from gearhorn.fanout.matched_lists import MatchedLists
from gearhorn.fanout.outbox import Outbox
from gearhorn.fanout.overflow import Overflow
from gearhorn.fanout.places import RESULTS_BYTES, Places
from gearhorn.gearman.drain import Drainer
from gearhorn.gearman.job_servers import JobServers
from gearhorn.gearman.packets import KEPT_BYTES
from gearhorn.gearman.server import Server
from gearhorn.gearman.tls import tls_context
from gearhorn.members.burials import Burials
from gearhorn.members.change_queue import ChangeQueue
from gearhorn.members.changes import Changes
from gearhorn.members.lease import Lease
from gearhorn.members.matchmaking import Matchmaker
from gearhorn.members.membership import Membership
from gearhorn.members.presence import Presences, connection_name
from gearhorn.requests import REQUEST_BYTES
from gearhorn.store.connection import Connection
from gearhorn.store.listing import Listing
from gearhorn.store.members import Members
from gearhorn.store.patterns import PatternSet
from gearhorn.store.subscriptions import Subscriptions
from gearhorn.store.summaries import StoredSummaries


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What ``Broker`` starts and stops, in the order in which it is built."""

    servers: list[Server]  # the job servers, as they were given
    store: Connection  # Redis or Valkey, through a pool
    policy: StorePolicy  # how well it keeps what it is given
    subscriptions: Subscriptions  # who is subscribed to what, in the store
    membership: Membership  # the lease, and who the peers are
    # Connections to every job server, three times. Answers come in the order of what was written,
    # so what must not wait behind a list of 100,000 copies has a connection of its own.
    copies: JobServers  # which copies go through
    control: JobServers  # members talk through them: nothing else delays it
    deliveries: JobServers  # which durable topics are delivered through
    limits: Limits  # how many copies queues may hold, set at the job servers
    backlog: Backlog  # how many they hold, polled
    directory: Directory  # lists that are cached, and jobs that wait for one
    drops: Drops  # counters of copies that had no room
    durable: DurableTopics  # logs, and lanes that deliver from them
    outbox: Outbox  # what all fan-outs share
    burials: Burials  # queues of members that have gone
    changes: Changes  # subscribes and unsubscribes, written in rounds
    gossiper: Gossiper  # what members tell of themselves
    presences: Presences  # the queues that bear this member's id
    duties: MemberDuties  # what follows from what happens to the membership
    intake: Intake  # the connections on which jobs are taken
    serving: Serving  # whether they are


def wire(config: Config) -> Parts:
    """Build a worker's parts; nothing runs yet. An event loop must be running.

    Arguments:
        config: every option, checked as far as that is possible without connecting.

    Raises ``StartError`` for a configuration that waiting cannot mend: the store's URL, or
    certificates that cannot be read.

    The order is that of dependence: each group is built from those above it. The order of starting
    is another one, and is ``Broker``'s.
    """
    servers = [Server(*server) for server in config.servers]
    tls = tls_context(config)

    # The store and the membership. The lease is shared: the membership renews it, and the users of
    # cached lists read it. Connections are named after the first id, which may change later.
    store = Connection(config.redis, config.namespace, config.store_connections)
    policy = StorePolicy(store)
    subscriptions = Subscriptions(store)
    lease = Lease(config.lease, config.serve_stale)
    membership = Membership(Members(store), lease)
    client_id = connection_name(membership.id)
    change_queue = ChangeQueue()

    # The job servers, three times: see ``Parts``. The limits are those on one packet that is
    # received: a receipt's results, a peer's answer, and a delivery's outcome. The clients for
    # copies alone log that a server came or went, since the three see the same.
    copies = JobServers(servers, tls, client_id, limit=RESULTS_BYTES + KEPT_BYTES, logs_state=True)
    control = JobServers(servers, tls, client_id, limit=REQUEST_BYTES)
    deliveries = JobServers(servers, tls, client_id, limit=KEPT_BYTES)
    burials = Burials(copies.clients, tls)

    # Lists, and the limits of the queues on them. A list is read together with its limits, and a
    # limit that was overtaken has its list read again: that is the one circle, which ``attach``
    # closes. When a server comes or goes, limits that were set before a list's first copy have to
    # be set anew, so those lists are read again.
    limits = Limits(copies, default=config.max_backlog, limit=config.max_cached, lease=lease)
    backlog = Backlog(copies, limits, membership)
    lists = Lists(subscriptions, limits, backlog)
    patterns = KnownPatterns(PatternSet(store))
    matched = MatchedLists(lists, patterns, backlog)
    directory = Directory(matched, limit=config.max_cached, lease=lease, marker=limits)
    limits.attach(directory)
    matched.attach(directory)
    copies.on_change(directory.drop_marked)

    # Durable topics. The tag names this process, whatever id it has as a member at the time: to the
    # members that tell it of receivers, and in the unique ids of foreground copies.
    functions = Functions(config)
    tag = secrets.token_hex(4)  # of this process
    drops = Drops(subscriptions, change_queue)
    durable = DurableTopics(
        store=store,
        membership=membership,
        job_servers=deliveries,
        process=tag,
        drops=drops,
    )

    # Fan-outs. What they share is in the outbox, so that a fan-out holds one reference, not seven:
    # there may be thousands of them.
    overflow = Overflow(copies, limits, drops)
    places = Places(config.max_foreground, config.max_fanout_bytes)
    outbox = Outbox(
        copies,
        backlog=backlog,
        drops=drops,
        overflow=overflow,
        waiting=durable.ack_waiters,
        places=places,
        tag=tag.encode(),
        clock=membership,
    )
    fanouts = Fanouts(config, directory, outbox, durable.appends)

    # What members tell each other of themselves. The intake is built here, for its counters; it
    # gets its functions at the end, when there are handlers for them.
    intake = Intake(servers, tls, client_id)
    own_state = OwnState(
        servers=servers,
        membership=membership,
        directory=directory,
        durable=durable,
        job_servers=copies,
        places=places,
        intake=intake,
        policy=policy,
    )
    gossiper = Gossiper(
        membership=membership,
        job_servers=control,
        lists=lists,
        own=own_state,
        burials=burials,
        interval_s=config.gossip_interval,
    )

    # Changes of subscriptions, and who is told of them. ``Coherence`` stands over everything that
    # is cached, and is what matchmaking and changes know of it (``Caches``).
    caches = Coherence(
        directory=directory,
        limits=limits,
        durable=durable,
        job_servers=copies,
        outbox=outbox,
        overflow=overflow,
        drops=drops,
        gossiper=gossiper,
        control=control,
    )
    matchmaker = Matchmaker(
        membership=membership, job_servers=control, caches=caches, burials=burials
    )
    changes = Changes(
        subscriptions=subscriptions,
        queue=change_queue,
        matchmaker=matchmaker,
        membership=membership,
        caches=caches,
        drainer=Drainer(copies, tls),
        served=functions.all,
    )

    # Where requests come in. Handlers come last, since a request may need any part.
    summaries = StoredSummaries(store, membership)
    descriptions = Descriptions(
        gossiper=gossiper,
        listing=Listing(store),
        durable=durable,
        backlog=backlog,
        clock=membership,
        patterns=patterns,
        summaries=SummaryPages(
            store=summaries, filled=FilledQueues(copies, summaries), patterns=patterns
        ),
        max_backlog=config.max_backlog,
    )
    presences = Presences(
        servers=servers, tls=tls, matchmaker=matchmaker, listener=gossiper, burials=burials
    )
    functions.serve(
        intake,
        fanouts=fanouts,
        changes=changes,
        descriptions=descriptions,
        fetching=durable.fetching,
        parked=durable.parked,
    )
    return Parts(
        servers=servers,
        store=store,
        policy=policy,
        subscriptions=subscriptions,
        membership=membership,
        copies=copies,
        control=control,
        deliveries=deliveries,
        limits=limits,
        backlog=backlog,
        directory=directory,
        drops=drops,
        durable=durable,
        outbox=outbox,
        burials=burials,
        changes=changes,
        gossiper=gossiper,
        presences=presences,
        duties=MemberDuties(
            caches=caches,
            presences=presences,
            burials=burials,
            durable=durable,
            changes=change_queue,
        ),
        intake=intake,
        serving=Serving(intake, membership, StoreOutage(directory, durable.appends)),
    )
