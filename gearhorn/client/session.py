"""Sessions: a subscriber between its start and its stop, over however many connections.

Theory of operation. The order of the start is what keeps messages: the queues are announced to
every job server before the subscriptions are made, so that copies find a receiver; jobs are taken
after that, so that a refused subscription has taken none. When a job server comes back it has
forgotten the queues, and the store may have lost the subscription meanwhile: so the queues are
announced, jobs are taken, and a moment later (0 to 1 s, since all hosts come back at once) the
subscriptions are made anew.

The end is the reverse: no more jobs are taken, those in hand are finished within ``grace`` and
acknowledged, the queues are given up, and then the connections end. What was in hand and not
finished is handed out again by the job server.

Rules: runs on one event loop. A session without a job server says so once, and again when that is
over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gearhorn.client.attempts import Handler
from gearhorn.client.deliveries import Deliveries, State
from gearhorn.client.jobs import Jobs
from gearhorn.client.message import Message
from gearhorn.client.observers import HandlerObserver
from gearhorn.client.receiver import Receiver
from gearhorn.client.runners import Runners
from gearhorn.client.settings import Functions
from gearhorn.errors import (
    Busy,
    GearhornError,
    InternalError,
    NotConnected,
    Unavailable,
    Unsure,
)
from gearhorn.gearman.server import Server
from gearhorn.messages.codec import encode
from gearhorn.names import queue_of
from gearhorn.tasks import Tasks
from gearhorn.timing import Backoff

REQUEST_S = 30.0  # for one subscribe or unsubscribe
SILENT_S = 5.0  # without a job server, then a warning says so
JITTER_S = 1.0  # after a reconnect, until the subscriptions are made anew
POLL_S = 0.05  # between two looks whether everything in hand is finished
_PASSING = (Busy, NotConnected, Unavailable, Unsure)  # why a subscription is not made yet

log = logging.getLogger("gearhorn")


@dataclass
class Registration:
    """One subscription of a subscriber, with its handler.

    Attributes:
        topic, client_id: the pair.
        options: of the subscribe request, besides the pair.
        is_plain: copies are the bare payload, without an envelope.
        ttl_s: seconds after which it ends unless it is made again; a third of it is the interval.
        type: what the payload is decoded into, None: nothing.
        handler: processes its messages; None: they are taken by hand.
        observers: see its handler run.
        is_subscribed: the last subscribe was answered well.
    """

    topic: str
    client_id: str
    options: dict[str, Any]
    is_plain: bool
    ttl_s: float | None = None
    type: Any = None
    handler: Handler | None = None
    observers: Sequence[HandlerObserver] = ()
    is_subscribed: bool = False

    @property
    def queue(self) -> str:
        """The function that carries its messages ("Names" in docs/protocol.rst)."""
        return queue_of(self.topic, self.client_id).decode()

    def handle_with(self, handler: Handler) -> None:
        """Have a handler called with its messages."""
        self.handler = handler

    def note(self, is_subscribed: bool) -> None:
        """It is subscribed now, or is not known to be."""
        self.is_subscribed = is_subscribed


class Session:
    """A subscriber between its start and its stop; a ``Watcher`` of its receivers."""

    def __init__(
        self,
        registrations: Sequence[Registration],
        *,
        servers: Sequence[Server],
        tls: ssl.SSLContext | None,
        client_id: str,
        concurrency: int,
        prefetch: int,
        remember: int,
        functions: Functions,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._registrations = registrations
        self._functions = functions
        self.by_hand: asyncio.Queue[Message] = asyncio.Queue()
        self._runners = Runners(concurrency, self.by_hand.put_nowait, f"gearhorn {client_id}")
        self._deliveries = Deliveries(
            self._runners, remember=remember, wake=loop.call_soon_threadsafe
        )
        self._runners.serve(self._deliveries)
        for registration in registrations:
            self._deliveries.add(registration)
        self._jobs = Jobs(servers, tls)
        self._receivers = [
            Receiver(
                server,
                tls,
                client_id=client_id,
                queues=[registration.queue.encode() for registration in registrations],
                handler=self._deliveries.handle,
                in_hand=concurrency + prefetch,
                watcher=self,
            )
            for server in servers
        ]
        self._servers = servers
        self._came_up = asyncio.Event()
        self.stopped = asyncio.Event()
        self._is_started = False
        self._tasks = Tasks()
        self._resubscribing: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    @property
    def state(self) -> State:
        """What it has done so far."""
        return self._deliveries.state.now(
            sum(receiver.is_up for receiver in self._receivers),
            sum(registration.is_subscribed for registration in self._registrations),
        )

    @property
    def is_healthy(self) -> bool:
        """Whether a job server is up and every topic is subscribed."""
        return self._came_up.is_set() and all(
            registration.is_subscribed for registration in self._registrations
        )

    async def start(self) -> None:
        """Announce the queues, subscribe, and take jobs, in this order.

        One job server is enough to begin; the others have a second to come up, since a copy for
        this host may go to any of them. Raises ``RequestError`` for a subscription that is refused.
        """
        for receiver in self._receivers:
            receiver.stop_grabbing()
            receiver.start()
        self._tasks.keep("watch over job servers", self._watch)
        await self._came_up.wait()
        await self._all_up()
        await self._subscribe_all()
        self._is_started = True
        for receiver in self._receivers:
            receiver.start_grabbing()
        for registration in self._registrations:
            if registration.ttl_s is not None:
                self._tasks.spawn(self._renew(registration, registration.ttl_s / 3), "renewal")

    async def _all_up(self) -> None:
        """Wait a moment for the other job servers, so that copies find a receiver at each. One that
        is down is not waited for: it gets the queues announced when it comes up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                while not all(receiver.is_up for receiver in self._receivers):
                    await asyncio.sleep(POLL_S)

    async def stop(self, grace_s: float, *, unsubscribe: bool = False) -> None:
        """Finish what is in hand within ``grace_s``, and end.

        Arguments:
            grace_s: seconds; what is not finished by then is handed out again by the job servers.
            unsubscribe: end the subscriptions too, before what is in hand is waited for: so nothing
                is copied to this host any more while it ends.

        However it is cut short, the connections end: as long as one is open, the job server takes
        what was in hand for being processed. A task of their own ends them, since the caller's may
        be cancelled again, or be one of the handlers that end here.
        """
        self.stopped.set()
        for receiver in self._receivers:
            receiver.stop_grabbing()
        try:
            await self._finish(grace_s, unsubscribe)
        finally:
            if self._closing is None:
                self._closing = asyncio.create_task(self._close(), name="close")
            await asyncio.shield(self._closing)

    async def _finish(self, grace_s: float, unsubscribe: bool) -> None:
        """End the subscriptions if asked to, and wait for what is in hand."""
        await self._tasks.cancel()
        if unsubscribe:
            for registration in self._registrations:
                await self._unsubscribe(registration)
        deadline_s = asyncio.get_running_loop().time() + grace_s
        while not self._is_idle and asyncio.get_running_loop().time() < deadline_s:
            await asyncio.sleep(POLL_S)
        if grace_s and not self._deliveries.is_idle:
            log.warning(
                "%d messages are not finished after %g s; they are handed out again",
                self._deliveries.state.in_hand,
                grace_s,
            )

    async def _close(self) -> None:
        """End what runs, give the queues up, and end the connections."""
        await self._tasks.cancel()
        await self._runners.close()
        for receiver in self._receivers:
            receiver.leave()
        await asyncio.gather(*(receiver.stop() for receiver in self._receivers))
        await self._jobs.close()

    @property
    def _is_idle(self) -> bool:
        """Whether nothing is in hand and nothing more can arrive."""
        return self._deliveries.is_idle and all(receiver.is_idle for receiver in self._receivers)

    def receiver_up(self, is_again: bool) -> None:
        """A job server came up; its queues are announced already."""
        self._came_up.set()
        if self._is_started and self._resubscribing is None:
            self._resubscribing = self._tasks.spawn(self._subscribe_again(), "subscribe again")

    def receiver_down(self) -> None:
        """A job server went down."""
        if not any(receiver.is_up for receiver in self._receivers):
            self._came_up.clear()

    async def _watch(self) -> None:
        """Say once that no job server answers, and when one does again, with for how long."""
        loop = asyncio.get_running_loop()
        while True:
            since_s = loop.time()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._came_up.wait(), SILENT_S)
            if not self._came_up.is_set():
                names = ", ".join(map(str, self._servers))
                log.warning("no job server answers: %s; trying on", names)
                await self._came_up.wait()
                log.info("a job server answers again, after %.1f s", loop.time() - since_s)
            while self._came_up.is_set():
                await asyncio.sleep(0.1)

    async def _subscribe_all(self) -> None:
        await asyncio.gather(
            *(self._subscribe(registration) for registration in self._registrations)
        )

    async def _subscribe(self, registration: Registration) -> None:
        """Subscribe, however long that takes.

        To subscribe again does no harm, so a reply that was lost is asked for anew, and so is one
        that says that the worker is busy. Raises ``RequestError`` where the worker refuses the
        subscription: trying again would not help. A fault of the worker is such a refusal as long
        as the caller of ``start`` can be told; afterwards it is waited out.
        """
        body = {"topic": registration.topic, "client_id": registration.client_id}
        request = encode(body | registration.options)
        backoff = Backoff(0.1, 5.0)
        while True:
            try:
                await self._jobs.run(
                    self._functions.subscribe, request, timeout_s=REQUEST_S, is_repeatable=True
                )
            except GearhornError as error:
                registration.note(False)
                passes = (*_PASSING, InternalError) if self._is_started else _PASSING
                if not isinstance(error, passes):
                    raise
                log.warning("%s is not subscribed yet: %s", registration.queue, error)
                await asyncio.sleep(backoff.next_s())
            else:
                registration.note(True)
                return

    async def _subscribe_again(self) -> None:
        """Make the subscriptions anew, a moment after a job server came back: while it was away its
        host's subscriptions may have ended by their ``ttl``, or with an emptied store."""
        try:
            await asyncio.sleep(random.uniform(0, JITTER_S))
            self._resubscribing = None
            await self._subscribe_all()
        except GearhornError as error:
            log.error("a subscription was refused after a reconnect: %s", error)
        finally:
            self._resubscribing = None

    async def _renew(self, registration: Registration, every_s: float) -> None:
        """Subscribe again before the subscription ends by itself."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self._subscribe(registration)
            except GearhornError as error:
                log.error("%s was refused: %s", registration.queue, error)

    async def _unsubscribe(self, registration: Registration) -> None:
        body: dict[str, Any] = {"topic": registration.topic, "client_id": registration.client_id}
        if registration.options.get("pattern"):
            body["pattern"] = True
        try:
            await self._jobs.run(
                self._functions.unsubscribe, encode(body), timeout_s=REQUEST_S, is_repeatable=True
            )
        except GearhornError as error:
            log.warning("%s is not unsubscribed: %s", registration.queue, error)
