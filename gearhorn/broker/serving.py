"""Serving: whether this member takes requests, and what it does while it must not.

Rules: runs on the event loop, in a loop of its own. A member that cannot do its work gives the jobs
in hand to the others by closing the connections on which it took them, and takes some again when it
can. Two things keep it from its work:

* The store has been away for ``STORE_WAIT_S``: the fan-outs are given back ("What is promised" in
  docs/protocol.rst). The lease lapses by itself.
* A vital part of the worker fails (``tasks.Supervision``): every request is given back and the
  lease is given up. Otherwise the member would renew its lease and take requests that it cannot
  answer. When the part runs again, the member joins under a new id.

Connections are closed instead of jobs failed, because a job server gives the jobs of a closed
connection to another worker, while a failed job is over and its publisher is told so.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from gearhorn.broker.intake import Intake
from gearhorn.broker.store_outage import StoreOutage
from gearhorn.gearman.worker import Worker
from gearhorn.tasks import Supervision

STORE_WAIT_S = 30.0  # fan-outs in hand wait this long for the store
CHECK_S = 0.5  # between two checks of the store

log = structlog.get_logger(__name__)


class Leaseholder(Protocol):
    """What holds the member's lease."""

    def stand_down(self) -> None:
        """Give the lease up, and take none before ``stand_up``."""

    def stand_up(self) -> None:
        """Take a lease again."""


class Serving:
    """Suspends and resumes the workers of one member.

    Arguments:
        intake: the workers.
        leaseholder: gives the member's lease up while a vital part fails.
        outage: since when the store has been away.
    """

    def __init__(self, intake: Intake, leaseholder: Leaseholder, outage: StoreOutage) -> None:
        self._intake = intake
        self._leaseholder = leaseholder
        self._outage = outage
        self._changed = asyncio.Event()
        self._given_back: set[Worker] = set()
        self._is_standing_down = False
        self._is_store_lost = False
        self._supervision = Supervision.of(asyncio.get_running_loop())
        self._supervision.on_change(self._changed.set)

    async def run(self) -> None:
        """Suspend and resume until cancelled; checks twice a second, and when a part changes."""
        while True:
            try:
                async with asyncio.timeout(CHECK_S):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            self._judge_parts()
            self._judge_store()
            await self._apply()

    def _judge_parts(self) -> None:
        """Give the lease up when a first vital part fails, take one when the last runs again."""
        failing = self._supervision.failing
        if bool(failing) == self._is_standing_down:
            return
        self._is_standing_down = bool(failing)
        if failing:
            log.critical("vital parts fail; standing down", parts=" ".join(failing))
            self._leaseholder.stand_down()
        else:
            log.warning("every vital part runs again; joining again")
            self._leaseholder.stand_up()

    def _judge_store(self) -> None:
        """See whether the store has been away for too long for the fan-outs in hand."""
        since = self._outage.since
        if since is None:
            self._is_store_lost = False
        elif not self._is_store_lost:
            waited_s = asyncio.get_running_loop().time() - since
            self._is_store_lost = waited_s > STORE_WAIT_S
            if self._is_store_lost:
                log.error("store still unreachable; giving fan-outs to other members")

    async def _apply(self) -> None:
        """Close the connections that must not be there, open those that may be there again.

        What is due is found anew each time, so that two reasons may come and go in any order.
        """
        due: set[Worker] = set()
        if self._is_standing_down:
            due = set(self._intake.all)
        elif self._is_store_lost:
            due = set(self._intake.fanouts)
        for worker in self._given_back - due:
            self._given_back.remove(worker)
            worker.start()
        for worker in due - self._given_back:
            self._given_back.add(worker)
            await worker.give_back()
