"""The worker: puts the parts together, starts them in order, stops them in reverse.

Law: the only place that knows every part. One event loop runs everything; what each task owns
is in docs/design.rst.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import structlog

from gearhorn import __version__
from gearhorn.broker.describe import Descriptions
from gearhorn.broker.gossip import Gossiper
from gearhorn.broker.policy import watch_policy
from gearhorn.broker.serving import Serving
from gearhorn.config import Config
from gearhorn.durable.service import DurableTopics
from gearhorn.errors import StartError, StoreError
from gearhorn.fanout.backlog import Backlog
from gearhorn.fanout.copies import Subscribers
from gearhorn.fanout.directory import Directory
from gearhorn.fanout.drops import Drops
from gearhorn.fanout.handler import Fanouts
from gearhorn.fanout.limits import Limits
from gearhorn.fanout.lists import Lists
from gearhorn.fanout.outbox import Outbox
from gearhorn.fanout.overflow import Overflow
from gearhorn.fanout.places import RESULTS_BYTES, Places
from gearhorn.gearman.client import WINDOW_COPIES
from gearhorn.gearman.drain import Drained, drain
from gearhorn.gearman.job_servers import JobServers
from gearhorn.gearman.link import Server, can_connect
from gearhorn.gearman.packets import KEPT_BYTES
from gearhorn.gearman.worker import Job, Worker
from gearhorn.members.burials import Burials
from gearhorn.members.changes import Changes
from gearhorn.members.lease import Lease
from gearhorn.members.matchmaking import Matchmaker
from gearhorn.members.membership import LINGER_S, Membership
from gearhorn.members.presence import Presence
from gearhorn.messages import MemberState
from gearhorn.names import GOSSIP, MATCHMAKING, queue_of
from gearhorn.requests import REQUEST_BYTES
from gearhorn.store.connection import Connection
from gearhorn.store.listing import Listing
from gearhorn.store.members import Members
from gearhorn.store.subscriptions import Subscriptions
from gearhorn.tasks import Tasks, report_to_log
from gearhorn.timing import Backoff, now_s

STOP_S = 15.0  # for what is in hand
BURY_S = 3.0  # for this member's own queues, at the end
COPIES_IN_HAND = 4 * WINDOW_COPIES  # one window on its way, three at hand
CHANGES_IN_HAND = 1024
READS_IN_HAND = 64  # each up to 8 MiB; those that wait for a message are not counted
_POLL_S = 0.02  # while starting and stopping

log = structlog.get_logger(__name__)


class Broker:
    """One worker process's worth of gearhorn; ``run`` it on an event loop.

    Raises ``StartError`` for a configuration that waiting cannot mend.
    """

    def __init__(self, config: Config) -> None:
        self._servers = [Server(*server) for server in config.servers]
        self._tls = tls_context(config)
        self._store = Connection(config.redis, config.namespace, config.store_connections)
        self._subscriptions = Subscriptions(self._store)
        lease = Lease(config.lease, config.serve_stale)
        self._membership = Membership(Members(self._store), lease)
        client_id = _client_id(self._membership.id)
        self._copies = JobServers(
            self._servers, self._tls, client_id, RESULTS_BYTES + KEPT_BYTES, logs_state=True
        )
        self._control = JobServers(self._servers, self._tls, client_id, REQUEST_BYTES)
        self._limits = Limits(
            self._copies,
            default=config.max_backlog,
            most=config.max_cached,
            again=self._read_again,
            is_current=self._is_current,
        )
        self._backlog = Backlog(self._copies, self._limits, self._count_members)
        lists = Lists(self._subscriptions, self._limits, self._backlog)
        self._directory = Directory(lists, config.max_cached, lease, self._limits.is_eager)
        self._copies.on_change(self._directory.drop_marked)
        self._drops = Drops(self._subscriptions, self.overflowed)
        tag = secrets.token_hex(4)
        self._deliveries = JobServers(self._servers, self._tls, client_id, KEPT_BYTES)
        parked = config.parked_function.encode()
        self._durable = DurableTopics(
            self._store,
            self._membership,
            self._deliveries,
            tag,
            parked,
            self._drops.passed_by,
        )
        self._overflow = Overflow(self._copies, self._limits, self._trim, self._drops.dropped)
        waiting = self._durable.waiting
        self._outbox = Outbox(
            self._copies,
            backlog=self._backlog,
            drops=self._drops,
            overflow=self._overflow,
            waiting=waiting,
            places=Places(config.max_foreground, config.max_fanout_bytes),
            tag=tag.encode(),
        )
        fanouts = Fanouts(config, self._directory, self._outbox, self._durable.appends)
        self._burials = Burials(self._copies.clients, self._tls)
        self._matchmaker = Matchmaker(
            self._membership, self._control, self.drop, self.settle, self._burials.add
        )
        describe = config.describe_function.encode()
        fanout, unsubscribe = config.fanout_function.encode(), config.unsubscribe_function.encode()
        subscribe = config.subscribe_function.encode(), config.register_function.encode()
        retain, fetch = config.retain_function.encode(), config.fetch_function.encode()
        self._changes = Changes(
            self._subscriptions,
            self.drop,
            self._matchmaker,
            self._membership,
            frozenset({fanout, unsubscribe, *subscribe, describe, retain, fetch, parked}),
            self.settle,
            self._drain,
        )

        self._started_s = now_s()
        self._talk = Gossiper(
            self._membership,
            self._control,
            lists.read,
            self._state,
            self._burials.add,
            config.gossip_interval,
        )
        descriptions = Descriptions(
            self._talk, Listing(self._store), self._durable, self._backlog, config.max_backlog
        )

        def change(job: Job) -> None:
            if job.function == describe:
                descriptions.handle(job)
            elif job.function == unsubscribe:
                self._changes.unsubscribe(job)
            elif job.function == retain:
                self._changes.retain(job)
            else:
                self._changes.subscribe(job)

        # gearmand starves functions that share a connection with a busy one (FACTS B5), and
        # members whose changes wait for each other need a connection that nothing can fill.
        self._presences: dict[str, Presence] = {}
        request_bytes = 8 * config.max_payload + REQUEST_BYTES  # \\u0041 is six bytes for one
        self._change_workers = self._workers(
            client_id,
            REQUEST_BYTES,
            [describe, retain, *subscribe, unsubscribe],
            change,
            CHANGES_IN_HAND,
        )
        self._reading_workers = self._workers(
            client_id,
            REQUEST_BYTES,
            [parked, fetch],
            self._durable.reading.handle,
            READS_IN_HAND,
        )
        self._fanout_workers = self._workers(
            client_id, request_bytes, [fanout], fanouts.handle, COPIES_IN_HAND
        )
        self._tasks = Tasks()
        self._serving = Serving(
            self._fanout_workers,
            [*self._change_workers, *self._reading_workers],
            self._membership,
            self._store_away_since,
        )

    def _workers(
        self,
        client_id: bytes,
        limit: int,
        functions: Sequence[bytes],
        handler: Callable[[Job], None],
        most: int,
    ) -> list[Worker]:
        return [
            Worker(server, self._tls, client_id, limit, functions, handler, most)
            for server in self._servers
        ]

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set, then leave cleanly.

        Raises ``StartError`` when the store belongs to another release.
        """
        report_to_log(asyncio.get_running_loop())
        log.info(
            "starting",
            member=self._membership.id,
            servers=" ".join(str(server) for server in self._servers),
        )
        try:
            if await self._until(stop, self._start()):
                await stop.wait()
                log.info("stopping", in_hand_s=STOP_S)
                await self._finish()
        finally:
            await self._talk.stop()
            await self._membership.leave()
            self._durable.members_changed()
            if self._presences:  # who read the members just before may still ask
                await asyncio.sleep(LINGER_S)
            await self._close()
        log.info("stopped")

    async def _start(self) -> None:
        self._copies.start()  # 1. copies can be sent
        self._control.start()  # 2. peers can be told
        self._deliveries.start()
        await self._check_store()
        # 3. this member answers before anybody can know of it, and joins before it reads a list
        self._membership.start(self)
        await self._membership.joined.wait()
        self._durable.start()
        self._durable.members_changed()
        self._tasks.keep("changes", self._changes.run, is_vital=True)
        self._limits.start()
        self._tasks.keep("burials", self._burials.run)
        self._tasks.keep("backlog", partial(self._backlog.run, self._directory))
        self._tasks.keep("drops", self._drops.run)
        self._talk.start()
        for worker in [*self._change_workers, *self._reading_workers]:
            worker.start()
        for worker in self._fanout_workers:
            worker.start()  # 4. work comes last
        while not any(worker.is_up for worker in self._fanout_workers):
            await asyncio.sleep(_POLL_S)
        self._tasks.keep("store policy", partial(watch_policy, self._store))
        self._tasks.keep("serving", self._serving.run)
        log.info("ready", member=self._membership.id)

    async def _finish(self) -> None:
        """Take no more and finish what is in hand, still a member: a list that is in use must
        go on being told of changes, and a member that answers stalls nobody."""
        working = [*self._fanout_workers, *self._change_workers, *self._reading_workers]
        for worker in working:
            worker.stop_grabbing()
        await self._durable.leave()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                while not (
                    self._outbox.is_idle
                    and self._copies.is_idle
                    and self._durable.is_idle
                    and all(worker.is_idle for worker in working)
                ):
                    await asyncio.sleep(_POLL_S)
                return
        places = self._outbox.places
        held = sum(worker.held for worker in working) + places.waiting
        if held or not places.lingering:
            log.warning("stopped with work in hand; other members will be given it", jobs=held)
        if places.lingering:
            log.warning(
                "stopped before every receiver had taken its copy; those that wait are discarded",
                fanouts=places.lingering,
                copies=sum(client.running for client in self._copies.clients),
            )

    async def _close(self) -> None:
        await self._tasks.cancel()
        await self._durable.stop()
        await self._limits.stop()
        await self._drops.flush()
        await self._subscriptions.close()
        await asyncio.gather(*(presence.stop() for presence in self._presences.values()))
        for member in self._presences:
            self._burials.add(member)
        await self._burials.finish(BURY_S)
        working = [*self._fanout_workers, *self._change_workers, *self._reading_workers]
        await asyncio.gather(*(worker.stop() for worker in working))
        clusters = (self._control, self._copies, self._deliveries)
        await asyncio.gather(*(cluster.stop() for cluster in clusters))
        await self._store.close()

    async def _until(self, stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
        """Do ``work`` unless ``stop`` comes first; return whether it was done."""
        stopped = asyncio.create_task(stop.wait())
        working = asyncio.create_task(work)
        await asyncio.wait([stopped, working], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            return False
        stopped.cancel()
        working.result()
        return True

    async def _check_store(self) -> None:
        backoff = Backoff()
        said = ""
        while True:
            try:
                await self._store.check()
                return
            except StoreError as error:
                if said != str(error):
                    said = str(error)
                    log.warning("store is not there; trying again for ever", error=said)
                await asyncio.sleep(backoff.next_s())

    def _read_again(self, topic: str) -> None:
        """Read a list, whose limits were overtaken by a change."""
        self._directory.when_known(topic, lambda _: None)

    def _is_current(self, subscribers: Subscribers) -> bool:
        return self._directory.peek(subscribers.topic) in (None, subscribers)

    async def _drain(self, queue: bytes, may_go_on: Callable[[], bool]) -> Drained:
        """Empty a queue at every server that can be reached. One whose link is down may be back:
        the links of a server come up one after the other."""
        clients = self._copies.clients
        down = [client.server for client in clients if not client.is_up]
        is_there = await asyncio.gather(*(can_connect(server, self._tls) for server in down))
        gone = [server for server, there in zip(down, is_there, strict=True) if not there]
        rest = [client.server for client in clients if client.server not in gone]
        drained = await drain(rest, self._tls, queue, may_go_on)
        return Drained(drained.jobs, [*drained.left, *gone])

    async def _trim(self, queue: bytes, most: int) -> int:
        if not self._copies.is_up:
            return 0
        try:
            return await self._copies.trimmers[self._copies.route(queue)].trim(queue, most)
        except OSError as error:
            log.warning("no room is made", queue=queue.decode(), error=str(error))
            return 0

    async def appear(self, member: str) -> None:
        """Serve a member's own queues; return once the job servers know."""
        handlers: dict[bytes, Callable[[Job], None]] = {
            queue_of(MATCHMAKING, member): partial(self._matchmaker.handle, member),
            queue_of(GOSSIP, member): self._talk.hear,
        }
        presence = Presence(self._servers, self._tls, _client_id(member), handlers)
        self._presences[member] = presence
        await presence.appear()

    async def disappear(self, member: str) -> None:
        """Serve them no more, and fail what waits there."""
        presence = self._presences.pop(member, None)
        if presence is not None:
            await presence.stop()
        self.bury(member)

    def bury(self, member: str) -> None:
        """Fail what waits for a member that was removed."""
        self._burials.add(member)
        self._durable.members_changed()

    def abandon(self) -> None:
        """The lease is lost: others deliver for this member's durable subscriptions."""
        self._durable.abandon()

    def drop(self, topic: str, is_durable: bool = True, client_id: str | None = None) -> None:
        """A topic changed; ``is_durable``: its lanes may be concerned; ``client_id``: whose
        subscription it was, empty where it was none, None where that is not known."""
        if is_durable:
            self._durable.changed(topic, client_id)
        self._directory.drop(topic)
        if topic == GOSSIP:
            self._talk.listeners_changed()
        if client_id != "":
            self._limits.changed(topic, queue_of(topic, client_id) if client_id else None)

    def forget(self) -> None:
        """Any topic may have changed."""
        self._directory.forget()
        self._talk.listeners_changed()
        self._limits.forget()
        self._durable.changed("")

    async def settle(self, topics: Sequence[str] | None) -> None:
        """Return once no fan-out that holds a former list of these topics is unsent."""
        if topics is None or topics:
            await self._directory.settled(topics)
            await self._durable.settled(topics)
            if self._copies.is_up or self._outbox.has_unsent:
                await self._outbox.portions.settled(topics)
                await self._copies.barrier()
                await self._overflow.settled(topics)
                await self._copies.barrier()  # what was sent again meanwhile, as a server went
            if topics is None or GOSSIP in topics:
                await asyncio.gather(*self._control.barriers())
            await self._drops.settled(topics)

    def overflowed(self, topic: str, client_id: str, seen: int) -> None:
        """End a subscription whose queue is full, of a list that was read after this version."""
        self._changes.overflowed(topic, client_id, seen)

    def expire(self, pairs: Sequence[tuple[str, str]]) -> None:
        """End subscriptions whose time is over."""
        self._changes.expire(pairs)

    def _store_away_since(self) -> float | None:
        sinces = self._directory.waiting_since, self._durable.appends.waiting_since
        return min((since for since in sinces if since is not None), default=None)

    def _state(self, state: str) -> MemberState:
        """Return how this member is."""
        copies = self._copies.clients
        return MemberState(
            self._membership.id,
            socket.gethostname(),
            os.getpid(),
            state,
            self._membership.known,
            __version__,
            round(now_s() - self._started_s, 3),
            time.time(),
            [str(server) for server in self._servers],
            *self._directory.size,
            sum(worker.held for worker in self._fanout_workers) + self._outbox.places.waiting,
            self._durable.deliverer.count,
            sum(worker.taken for worker in self._fanout_workers),
            sum(client.accepted for client in copies),
            sum(worker.failed for worker in [*self._fanout_workers, *self._change_workers]),
            self._membership.reaped,
        )

    def _count_members(self) -> int:
        return len(self._membership.peers) + 1


def _client_id(member: str) -> bytes:
    """Return what a member's connections are called at the job servers."""
    return b"gearhorn-" + member.encode()


def _no_pass_phrase() -> str:
    """Refuse what OpenSSL would otherwise ask for on a daemon's terminal."""
    raise ValueError("the key is encrypted, and nobody can be asked for its pass phrase")


def tls_context(config: Config) -> ssl.SSLContext | None:
    """Return what verifies the job servers, host name included; None without ``--ssl-ca``.

    Raises ``StartError`` naming the file that cannot be used.
    """
    if config.ssl_ca is None:
        if config.ssl_cert or config.ssl_key:
            raise StartError("--ssl-cert and --ssl-key need --ssl-ca")
        return None
    try:
        context = ssl.create_default_context(cafile=str(config.ssl_ca))
    except (OSError, ssl.SSLError) as error:
        raise StartError(f"--ssl-ca {config.ssl_ca}: {error}") from None
    if config.ssl_cert:
        try:
            context.load_cert_chain(config.ssl_cert, config.ssl_key, password=_no_pass_phrase)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise StartError(f"--ssl-cert {config.ssl_cert}: {error}") from None
    elif config.ssl_key:
        raise StartError("--ssl-key needs --ssl-cert")
    return context
