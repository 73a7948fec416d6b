"""Blocking publishers, subscribers, readers and administrators: safe to use from any thread.

Rules: what these do is described where it is done, in the modules for asyncio.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from gearhorn.client import admin, ending, log, publisher, subscriber
from gearhorn.client.attempts import Handler
from gearhorn.client.blocking import Face, blocking, call_soon, iterating
from gearhorn.client.deliveries import State
from gearhorn.client.many import Many, Outgoing
from gearhorn.client.message import Message
from gearhorn.client.observers import HandlerObserver, RequestObserver
from gearhorn.client.payloads import Payload
from gearhorn.client.results import Results

CHUNK = 1000  # messages that cross to the event loop together

F = TypeVar("F", bound=Handler)
T = TypeVar("T")


class Publisher(Face[publisher.Publisher]):
    """Publishes through the workers behind some job servers.

    One object is enough for a whole process: its requests share one connection to each job server,
    and threads do not wait for each other. It may be made before a fork.

    Arguments: those of ``gearhorn.aio.Publisher``.
    """

    def __init__(self, *servers: str, **settings: Any) -> None:
        self._observers: list[RequestObserver] = []

        def make() -> publisher.Publisher:
            made = publisher.Publisher(*servers, **settings)
            for observer in self._observers:
                made.observe(observer)
            return made

        super().__init__(make)
        _ = self.core  # what is wrong with the arguments is said here

    def observe(self, observer: RequestObserver) -> None:
        """Have an observer see each request from here on; it is called on the library's own event
        loop."""
        core = self.core
        self._observers.append(observer)
        core.observe(observer)

    def unobserve(self, observer: RequestObserver) -> None:
        """Have an observer see no more requests; without effect where it sees none."""
        self._observers = [one for one in self._observers if one is not observer]
        self.core.unobserve(observer)

    @property
    def connected(self) -> bool:
        """Whether a job server is up."""
        return self.core.connected

    publish = blocking(publisher.Publisher.publish)
    deliver = blocking(publisher.Publisher.deliver)
    ask = blocking(publisher.Publisher.ask)
    ask_iter = iterating(publisher.Publisher.ask_iter)
    close = blocking(publisher.Publisher.close)

    def publish_many(
        self,
        messages: Iterable[Outgoing | tuple[str, Payload]],
        *,
        window: int = 256,
        timeout: float | None = None,
    ) -> Results:
        """Publish many messages, pipelined; return what became of each, in their order.

        The messages are taken from the iterable in the caller's thread, some at a time, so that a
        generator that reads a file or a database holds nothing else up.

        Arguments: as of ``gearhorn.aio.Publisher.publish_many``.
        """
        many = self.call(_begin(self.core, window, timeout))
        try:
            try:
                for chunk in _chunks(messages):
                    self.call(many.add_all(chunk))
            except Exception:
                self.call(many.finish())
                raise
            return self.call(many.finish())
        except BaseException as error:
            call_soon(functools.partial(many.leave, error))
            raise


async def _begin(core: publisher.Publisher, window: int, timeout: float | None) -> Many:
    return core.begin_many(window, timeout)


def _chunks(messages: Iterable[T]) -> Iterator[list[T]]:
    """Yield messages some at a time. Where the iterable raises, what came before comes first."""
    chunk: list[T] = []
    try:
        for message in messages:
            chunk.append(message)
            if len(chunk) == CHUNK:
                yield chunk
                chunk = []
    except Exception:
        yield chunk
        raise
    yield chunk


class Admin(Face[admin.Admin]):
    """Administers through the workers behind some job servers.

    Any program that may submit jobs may administer: there is no access to the store.

    Arguments: those of ``gearhorn.aio.Admin``, which raise what they do there.
    """

    def __init__(self, *servers: str, **settings: Any) -> None:
        super().__init__(lambda: admin.Admin(*servers, **settings))
        _ = self.core

    topics = blocking(admin.Admin.topics)
    describe = blocking(admin.Admin.describe)
    members = blocking(admin.Admin.members)
    subscribe = blocking(admin.Admin.subscribe)
    unsubscribe = blocking(admin.Admin.unsubscribe)
    retain = blocking(admin.Admin.retain)
    pause = blocking(admin.Admin.pause)
    resume = blocking(admin.Admin.resume)
    parked = iterating(admin.Admin.parked)
    redrive = blocking(admin.Admin.redrive)
    purge = blocking(admin.Admin.purge)
    close = blocking(admin.Admin.close)


class Log(Face[log.Log]):
    """Reads the log of one topic.

    Arguments:
        topic: whose log.
        servers, settings: those of ``gearhorn.aio.Log``.
    """

    def __init__(self, topic: str, *servers: str, **settings: Any) -> None:
        super().__init__(lambda: log.Log(topic, *servers, **settings))
        _ = self.core

    read = blocking(log.Log.read)
    follow = iterating(log.Log.follow)
    close = blocking(log.Log.close)


class Subscriber(Face[subscriber.Subscriber]):
    """Receives as one client_id; handlers run in threads.

    ``with`` starts and stops it; ``run`` does that for a program whose only work it is. A handler
    that is a coroutine function runs on the library's own event loop, where it must not block.

    Arguments: those of ``gearhorn.aio.Subscriber``. One that is made before a fork begins
    in the process that starts it.
    """

    def __init__(self, client_id: str, *servers: str, **settings: Any) -> None:
        self._registered: list[tuple[str, dict[str, Any], Handler | None]] = []
        self._observers: list[HandlerObserver] = []

        def make() -> subscriber.Subscriber:
            made = subscriber.Subscriber(client_id, *servers, **settings)
            for observer in self._observers:
                made.observe(observer)
            for topic, options, handler in self._registered:
                decorate = made.on(topic, **options)
                if handler is not None:
                    decorate(handler)
            return made

        super().__init__(make)
        _ = self.core

    def on(self, topic: str, **options: Any) -> Callable[[F], F]:
        """Subscribe to a topic once the subscriber starts; return what decorates its handler.

        Arguments: those of ``gearhorn.aio.Subscriber.on``.
        """
        decorate_core = self.core.on(topic, **options)
        at = len(self._registered)
        self._registered.append((topic, options, None))

        def decorate(handler: F) -> F:
            self._registered[at] = (topic, options, handler)
            return decorate_core(handler)

        return decorate

    def observe(self, observer: HandlerObserver) -> None:
        """Have an observer see each run of a handler from here on."""
        core = self.core
        self._observers.append(observer)
        core.observe(observer)

    @property
    def state(self) -> State:
        """What it has done so far."""
        return self.core.state

    def healthy(self) -> bool:
        """Whether a job server is up and every topic is subscribed."""
        return self.core.healthy()

    start = blocking(subscriber.Subscriber.start)
    stop = blocking(subscriber.Subscriber.stop)

    def __enter__(self) -> Any:
        self.start()
        return self

    def close(self) -> None:
        """Stop."""
        self.stop()

    def run(self, *, signals: bool = True) -> None:
        """Start, and process messages until SIGTERM or SIGINT, then stop; a second signal stops
        at once.

        Arguments:
            signals: whether to catch them, which only the main thread can; otherwise it runs until
                another thread calls ``stop``.

        Raises what ``start`` raises.
        """
        told = ending.Told.not_yet()
        numbers = (signal.SIGTERM, signal.SIGINT) if signals else ()
        former = {
            number: signal.signal(number, lambda *_: call_soon(told.again)) for number in numbers
        }
        try:
            self.call(self.core.run_until(told))
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def messages(self, *topics: str, timeout: float | None = None) -> Iterator[Message]:
        """Yield messages, each to be ended by ``ack``, ``fail`` or ``park``.

        Arguments: those of ``gearhorn.aio.Subscriber.messages``.
        """
        return _messages(self, *topics, timeout=timeout)


_messages = iterating(subscriber.Subscriber.messages)
