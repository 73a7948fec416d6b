"""The broker: starts the parts of a worker in order, and stops them in reverse.

Theory of operation. A worker is of use when it can answer everything that it may be asked, so it
starts from the inside out: copies can be sent, then the store is known to be fit, then peers can
reach this member, then it holds a lease, then it takes jobs. It stops from the outside in: no more
jobs, then those in hand, then the lease, then the connections. In between each part runs by itself;
nothing here is called while the worker serves.

A store that does not answer when the worker starts is waited for, since the two may be started
together. What waiting cannot mend ends the process with an error.

Rules: one event loop runs everything. ``wiring`` says who is built from whom; docs/design.rst says
what each task owns.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from functools import partial
from typing import Any

import structlog

from gearhorn.broker.wiring import wire
from gearhorn.config import Config
from gearhorn.errors import StoreError
from gearhorn.members.membership import LINGER_S
from gearhorn.tasks import Tasks, report_to_log
from gearhorn.timing import Backoff

STOP_S = 15.0  # for what is in hand
BURY_S = 3.0  # for this member's own queues, at the end
_POLL_S = 0.02  # while starting and stopping

log = structlog.get_logger(__name__)


class Broker:
    """One worker process's worth of gearhorn; ``run`` it on an event loop.

    Arguments:
        config: every option, checked.

    To be made on the event loop that ``run`` is called on, and run once. Raises ``StartError`` for
    a configuration that waiting cannot mend.
    """

    def __init__(self, config: Config) -> None:
        self._parts = wire(config)
        self._tasks = Tasks()

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set, then leave cleanly.

        ``stop`` may be set at any time, also while the worker is starting: what has been started is
        stopped then. The members that are left learn of the end before the connections close: they
        are told by gossip no more, find this member's record gone, and take its lanes.

        Raises ``StartError`` when the store belongs to another release, or may evict keys.
        """
        parts = self._parts
        report_to_log(asyncio.get_running_loop())
        log.info(
            "starting",
            member=parts.membership.id,
            servers=" ".join(str(server) for server in parts.servers),
        )
        try:
            if await self._until(stop, self._start()):
                await stop.wait()
                log.info("stopping", in_hand_s=STOP_S)
                await self._finish()
        finally:
            await parts.gossiper.stop()
            await parts.membership.leave()
            parts.durable.members_changed()
            if parts.presences.is_present:  # a peer that read the members just before may still ask
                await asyncio.sleep(LINGER_S)
            await self._close()
        log.info("stopped")

    async def _start(self) -> None:
        """Start the parts in the order in which each can rely on those before it.

        Returns when a job server can send fan-outs. The checks of the store's policy and of vital
        parts come last: until then there is nothing that they could take back.
        """
        parts = self._parts
        parts.copies.start()  # 1. copies can be sent
        parts.control.start()  # 2. peers can be told
        parts.deliveries.start()
        await self._check_store()
        # 3. this member serves its own queue before a peer can find it in the store, and has a
        # lease before it reads a list: an earlier one could miss a change that it was not told of
        parts.membership.start(parts.duties)
        await parts.membership.joined.wait()
        parts.durable.start()
        parts.durable.members_changed()
        self._tasks.keep("changes", parts.changes.run, is_vital=True)
        parts.limits.start()
        self._tasks.keep("burials", parts.burials.run)
        self._tasks.keep("backlog", partial(parts.backlog.run, parts.directory))
        self._tasks.keep("drops", parts.drops.run)
        parts.gossiper.start()
        parts.intake.start()  # 4. work comes last
        while not parts.intake.takes_fanouts:
            await asyncio.sleep(_POLL_S)
        self._tasks.keep("store policy", parts.policy.run)
        self._tasks.keep("serving", parts.serving.run)
        log.info("ready", member=parts.membership.id)

    async def _finish(self) -> None:
        """Take no more jobs and finish those in hand.

        This member keeps its lease meanwhile: the lists that it uses still have to be dropped when
        a topic changes, and a peer that asks it to must get its answer without delay.
        """
        parts = self._parts
        parts.intake.stop_grabbing()
        await parts.durable.leave()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                while not (
                    parts.outbox.is_idle
                    and parts.copies.is_idle
                    and parts.durable.is_idle
                    and parts.intake.is_idle
                ):
                    await asyncio.sleep(_POLL_S)
                return
        self._log_what_is_left()

    def _log_what_is_left(self) -> None:
        """Log what was not finished within ``STOP_S``. A fan-out in hand is given to another member
        by its job server; one that lingers has its reply, and loses copies that no receiver has."""
        places = self._parts.outbox.places
        held = self._parts.intake.held + places.waiting
        if held or not places.lingering:
            log.warning("stopped with work in hand; other members will be given it", jobs=held)
        if places.lingering:
            log.warning(
                "stopped before every receiver had taken its copy; those that wait are discarded",
                fanouts=places.lingering,
                copies=sum(client.running for client in self._parts.copies.clients),
            )

    async def _close(self) -> None:
        """Stop the parts in the reverse order of their start.

        Drop counters are flushed and the changes of subscriptions end while the store and the
        control connections are still open; the member's own queues are emptied
        (``burials.finish``) after ``presences`` has stopped serving them.
        """
        parts = self._parts
        await self._tasks.cancel()
        await parts.durable.stop()
        await parts.limits.stop()
        await parts.drops.flush()
        await parts.subscriptions.close()
        await parts.presences.stop()
        await parts.burials.finish(BURY_S)
        await parts.intake.stop()
        job_servers = (parts.control, parts.copies, parts.deliveries)
        await asyncio.gather(*(servers.stop() for servers in job_servers))
        await parts.store.close()

    async def _until(self, stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
        """Do ``work`` unless ``stop`` comes first; return whether it was done.

        What it raises goes on to the caller. When it is cut short, its own end is waited for.
        """
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
        """Return once the store answers and is fit for use; retry while it does not answer.

        Raises ``StartError`` for what retrying cannot mend: a store of another release, or one
        that may evict subscriptions.
        """
        backoff = Backoff()
        logged = ""  # one line for each new reason, not for each try
        while True:
            try:
                await self._parts.store.check()
                return
            except StoreError as error:
                if logged != str(error):
                    logged = str(error)
                    log.warning("store unreachable; retrying", error=logged)
                await asyncio.sleep(backoff.next_s())
