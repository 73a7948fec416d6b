"""Subscribers, for asyncio: one client_id, its subscriptions, and the handlers of their messages.

Rules: for one event loop. What happens between start and stop is in ``session``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from gearhorn.client import ending
from gearhorn.client.attempts import Handler
from gearhorn.client.deliveries import State
from gearhorn.client.message import Message
from gearhorn.client.observers import HandlerObserver
from gearhorn.client.session import Registration, Session
from gearhorn.client.settings import TLS, Durable, Functions, context_of, servers_of
from gearhorn.errors import GearhornError
from gearhorn.names import queue_of

F = TypeVar("F", bound=Handler)


class Subscriber:
    """Receives as one client_id; for one event loop.

    Topics and handlers are said first, by ``on``; ``start`` or ``run`` makes the subscriptions.
    They stay when the program ends, unless ``stop`` is told to end them: what is published
    meanwhile waits on the queues, or in the log, until a subscriber of the same name starts again.

    Arguments:
        client_id: who subscribes, usually one host. Several processes may have the same one: each
            message goes to one of them.
        servers: "HOST", "HOST:PORT" or "[IPV6]:PORT" each, **all** job servers of the workers;
            none: ``$GEARHORN_SERVERS``, then localhost:4730.
        tls: how connections are made; None: in plain text.
        concurrency: how many handlers run at once.
        prefetch: how many messages wait here besides, from each job server.
        grace: seconds that handlers have to finish when the subscriber stops.
        remember: how many finished messages of logs are recognised if they come again.
        functions: the workers' functions, where an operator has renamed them.

    Raises ``ValueError`` for what names no server, or a number that is too low.
    """

    def __init__(
        self,
        client_id: str,
        *servers: str,
        tls: TLS | None = None,
        concurrency: int = 1,
        prefetch: int = 16,
        grace: float = 15.0,
        remember: int = 10_000,
        functions: Functions = Functions(),  # noqa: B008  # immutable
    ) -> None:
        if concurrency < 1 or prefetch < 1 or remember < 0:
            raise ValueError("expected concurrency >= 1, prefetch >= 1 and remember >= 0")
        self.client_id = client_id
        self._servers = servers_of(servers)
        self._tls = context_of(tls)
        self._concurrency = concurrency
        self._prefetch = prefetch
        self._grace_s = grace
        self._remember = remember
        self._functions = functions
        self._registrations: dict[str, Registration] = {}
        self._observers: list[HandlerObserver] = []  # the same list in each registration
        self._session: Session | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    def on(
        self,
        topic: str,
        *,
        durable: bool | Durable | None = None,
        type: Any = None,
        ttl: float | None = None,
        max_backlog: int | None = None,
        overflow: str | None = None,
        pattern: bool = False,
        envelope: bool = True,
    ) -> Callable[[F], F]:
        """Subscribe to a topic once the subscriber starts; return what decorates its handler.

        Arguments:
            topic: its name, or with ``pattern`` a pattern of names.
            durable: keep messages until they are processed; ``Durable`` has its options.
            type: decode the payload from JSON into this; the handler gets it before the message.
            ttl: seconds after which the subscription ends unless this process lives.
            max_backlog: how many copies may wait.
            overflow: what happens beyond: "drop_new", "drop_old" or "unsubscribe".
            pattern: ``topic`` is a pattern.
            envelope: have copies carry topic, time and id; without it only the payload is known.

        The handler is a function (run in a thread) or a coroutine function; it gets the
        ``Message``, and what it returns answers a publisher who asks. What it raises is a failed
        attempt.
        """
        options: dict[str, Any] = {"envelope": envelope}
        if isinstance(durable, Durable):
            options["durable"] = durable.options()
        elif durable is not None:
            options["durable"] = durable
        for key, value in (("ttl", ttl), ("max_backlog", max_backlog), ("overflow", overflow)):
            if value is not None:
                options[key] = value
        if pattern:
            options["pattern"] = True
        is_plain = not (envelope or pattern)
        registration = Registration(
            topic, self.client_id, options, is_plain, ttl, type, observers=self._observers
        )
        self._registrations[registration.queue] = registration

        def decorate(handler: F) -> F:
            registration.handle_with(handler)
            return handler

        return decorate

    def observe(self, observer: HandlerObserver) -> None:
        """Have an observer see each run of a handler from here on. Messages that are taken by hand
        are not handled, and not seen."""
        self._observers.append(observer)

    @property
    def registrations(self) -> Sequence[Registration]:
        """What was said by ``on``, in that order."""
        return list(self._registrations.values())

    @property
    def state(self) -> State:
        """What it has done since it was started; nothing where it is not running."""
        return State() if self._session is None else self._session.state

    def healthy(self) -> bool:
        """Whether a job server is up and every topic is subscribed: what a health check asks.

        It is false for a moment after a reconnect only where a subscription is refused or cannot be
        written; until it was made anew, the former one stands.
        """
        return self._session is not None and self._session.is_healthy

    async def start(self) -> None:
        """Subscribe, and begin to process messages; return once every topic is subscribed.

        Waits while no job server answers. Raises ``RequestError`` for a subscription that is
        refused, and ``GearhornError`` where ``stop`` is called meanwhile; then nothing was
        processed.
        """
        if not await self._begin():
            raise GearhornError("the subscriber was stopped before every topic was subscribed")

    async def _begin(self) -> bool:
        """Start; return False where it was stopped meanwhile. Raises ``RequestError``."""
        if self._session is not None:
            return True
        session = self._session = Session(
            self.registrations,
            servers=self._servers,
            tls=self._tls,
            client_id=self.client_id,
            concurrency=self._concurrency,
            prefetch=self._prefetch,
            remember=self._remember,
            functions=self._functions,
        )
        try:
            await ending.first(session.start(), session.stopped.wait())
        except BaseException:
            if self._session is session:
                self._session = None
            await session.stop(0.0)
            raise
        return not session.stopped.is_set()

    async def stop(self, grace: float | None = None, *, unsubscribe: bool = False) -> None:
        """Take no more messages, finish those in hand, and end the connections.

        Arguments:
            grace: seconds that handlers have, instead of the subscriber's own; what is not
                finished by then is handed out again.
            unsubscribe: end the subscriptions too.

        Where its task is cancelled meanwhile, the connections end at once. A coroutine handler that
        awaits it is itself in hand: it has the grace like others, and is cancelled then.
        """
        session, self._session = self._session, None
        if session is not None:
            await session.stop(self._grace_s if grace is None else grace, unsubscribe=unsubscribe)

    async def run(self, *, signals: bool = True) -> None:
        """Start, and process messages until SIGTERM or SIGINT, then stop; a second signal stops
        at once. Without ``signals``: until ``stop`` is called, or the task is cancelled.

        Signals also end a start that waits for a job server. Handlers of signals that the program
        had are taken away meanwhile, and not put back. A task that is cancelled stops as by a first
        signal, and raises ``CancelledError`` after that.

        Raises what ``start`` raises for a subscription that is refused.
        """
        told = ending.Told.not_yet()
        with ending.signals(told) if signals else contextlib.nullcontext():
            await self.run_until(told)

    async def run_until(self, told: ending.Told) -> None:
        """Start, and process messages until told to end, stopped or cancelled; told again, or
        cancelled again, stop at once.

        Raises what ``start`` raises for a subscription that is refused.
        """
        try:
            await ending.first(self._begin(), told.first.wait())
            session = self._session
            if session is not None:
                await ending.first(told.first.wait(), session.stopped.wait())
        finally:
            await ending.first(self.stop(), told.second.wait())

    async def messages(self, *topics: str, timeout: float | None = None) -> AsyncIterator[Message]:
        """Yield messages, each to be ended by ``ack``, ``fail`` or ``park``.

        A message that is not ended is in hand for as long as this process lives, and counts towards
        ``prefetch``; a durable one comes again after the subscription's ``timeout``.

        Arguments:
            topics: to subscribe to, unless that was said by ``on``; those of ``on`` that have no
                handler come as well.
            timeout: seconds without a message after which it ends; None: never.

        Raises what ``start`` raises.
        """
        for topic in topics:
            if queue_of(topic, self.client_id).decode() not in self._registrations:
                self.on(topic)
        await self.start()
        session = self._session
        assert session is not None
        while True:
            try:
                yield await asyncio.wait_for(session.by_hand.get(), timeout)
            except TimeoutError:
                return
