"""Calling: what a handler does with a message, without a network.

Theory of operation. The message is made as a worker makes it, from a request to the arguments of a
job, by the worker's own code; and it is read and handled as a subscriber does that, by the
subscriber's. Only the job server between them is left out, and what a subscriber does besides: it
is not started, and counts nothing.

Rules: the handler runs where ``call`` is called; a coroutine on the loop where it would run.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from gearhorn import aio
from gearhorn.client import sync
from gearhorn.client.attempts import attempt as run
from gearhorn.client.attempts import attempt_async as run_async
from gearhorn.client.message import REASON_BYTES, End, Id, Message, messages_of
from gearhorn.client.payloads import Headers, Payload, json_of, request_of
from gearhorn.client.session import Registration
from gearhorn.config import Config
from gearhorn.messages.codec import encode
from gearhorn.messages.fanout import decode_fanout, envelope
from gearhorn.messages.logs import Info, durable_envelope
from gearhorn.messages.verdicts import verdict_of
from gearhorn.names import check_publish, list_name
from gearhorn.patterns import Matcher

EPOCH = "0" * 16  # of the log in which a durable message stands
Subscribing = sync.Subscriber | aio.Subscriber


@dataclass(frozen=True)
class Outcome:
    """What a handler did with a message.

    Attributes:
        answer: what it answered, where it acknowledged the message; None where it did not.
        reason: why it did not, as the worker is told; None where it did.
        retry_after: seconds until the next attempt, where the handler has said that.
        parked: why a durable message is set aside, where the handler has said that.
        error: what the handler raised, with its traceback.
    """

    answer: bytes | None = None
    reason: str | None = None
    retry_after: float | None = None
    parked: str | None = None
    error: BaseException | None = None

    @property
    def acknowledged(self) -> bool:
        """Whether the message is processed."""
        return self.reason is None

    @property
    def failed(self) -> bool:
        """Whether the attempt failed, so that another one follows."""
        return self.reason is not None and self.parked is None

    @property
    def text(self) -> str:
        """The answer as text; raises ``UnicodeDecodeError`` where it is none."""
        return (self.answer or b"").decode()

    def json(self, type: Any = Any) -> Any:
        """Return the answer decoded from JSON; raises ``msgspec.DecodeError``."""
        return json_of(self.answer or b"", type)


class _Call:
    """One message on its way through a handler: its ``Ender``, and an observer of its run.

    What ends the message first counts, be it the handler's end or ``Message.ack``, ``fail`` or
    ``park`` in its course.

    Arguments:
        registration: whose handler runs.
        is_durable: whether the message comes from a log.
    """

    def __init__(self, registration: Registration, is_durable: bool) -> None:
        observers = (*registration.observers, self)
        self.registration = replace(registration, observers=observers)
        self._is_durable = is_durable
        self._end: End | None = None
        self._error: BaseException | None = None

    def end(self, message: Message, end: End) -> None:
        """The message ended, on any thread."""
        self._end = self._end or end

    @contextmanager
    def handling(self, message: Message, subscribed: str) -> Iterator[None]:
        """Take note of what the handler raises."""
        try:
            yield
        except BaseException as error:
            self._error = error
            raise

    def outcome(self, end: End) -> Outcome:
        """Return what became of the message, whose handler ended like this."""
        end = self._end or end
        if end.reason is None:
            return Outcome(end.answer, error=self._error)
        verdict = verdict_of(end.reason.encode(), REASON_BYTES)
        if not self._is_durable:  # what a receiver asks for is heeded of durable ones only
            return Outcome(reason=end.reason, error=self._error)
        parked = verdict.reason if verdict.parks else None
        return Outcome(None, end.reason, verdict.retry_after_s, parked, self._error)


def call(
    subscriber: Subscribing,
    topic: str,
    body: Payload = b"",
    *,
    attempt: int = 1,
    headers: Headers | None = None,
    unique: str | None = None,
    at: float = 0.0,
) -> Outcome:
    """Run the handler of a topic with a message, here and now; return what it did.

    A handler that is a coroutine function runs on the library's own event loop, or for
    ``gearhorn.aio`` on a new one; where a loop runs already, ``await acall(…)`` instead.

    Arguments:
        subscriber: of either face, started or not; it is not connected for this.
        topic: what the message is published to. Its handler is the one of that topic, or of the
            first pattern that matches it.
        body: the payload, as for ``publish``.
        attempt: which attempt it is. From 2 on the message counts as durable, whatever its
            subscription says.
        headers, unique: as for ``publish``.
        at: Unix time at which it was published.

    Raises ``LookupError`` where the topic has no handler, ``RequestError`` for what a worker would
    not publish, and ``RuntimeError`` for a coroutine function where a loop runs already. What the
    handler raises is in the outcome.
    """
    made = _make(subscriber, topic, body, attempt=attempt, headers=headers, unique=unique, at=at)
    running, message = made
    if not inspect.iscoroutinefunction(running.registration.handler):
        return running.outcome(run(running.registration, message))
    if _is_on_a_loop():
        raise RuntimeError("an event loop runs here: await gearhorn.testing.acall(...) instead")
    work = run_async(running.registration, message)
    if isinstance(subscriber, sync.Subscriber):
        return running.outcome(subscriber.call(work))
    return running.outcome(asyncio.run(work))


async def acall(
    subscriber: Subscribing,
    topic: str,
    body: Payload = b"",
    *,
    attempt: int = 1,
    headers: Headers | None = None,
    unique: str | None = None,
    at: float = 0.0,
) -> Outcome:
    """Do the same as ``call`` on a loop: a handler that is a coroutine function runs on it, and a
    function in a thread.

    Arguments and errors: those of ``call``.
    """
    made = _make(subscriber, topic, body, attempt=attempt, headers=headers, unique=unique, at=at)
    running, message = made
    if inspect.iscoroutinefunction(running.registration.handler):
        return running.outcome(await run_async(running.registration, message))
    return running.outcome(await asyncio.to_thread(run, running.registration, message))


def _make(
    subscriber: Subscribing,
    topic: str,
    body: Payload,
    *,
    attempt: int,
    headers: Headers | None,
    unique: str | None,
    at: float,
) -> tuple[_Call, Message]:
    """Return the message as the handler is to get it, and what takes its end.

    The request goes through the worker's check, and becomes what the worker would submit to the
    subscription's queue: that is read as any job is.
    """
    registration = _registration(subscriber, topic)
    request = request_of(topic, body, headers=headers, unique=unique, background=True)
    message = decode_fanout(encode(request), Config().max_payload)
    check_publish(message.topic)
    is_durable = attempt > 1 or bool(registration.options.get("durable"))
    if registration.is_plain:
        arguments = message.payload
    elif is_durable:
        info = Info(at, unique=message.unique, headers=message.headers)
        arguments = encode(
            durable_envelope(topic, 1, EPOCH, attempt=attempt, info=info, payload=message.payload)
        )
    else:
        arguments = envelope(message, at)
    running = _Call(registration, is_durable)
    [made] = messages_of(
        arguments,
        topic=registration.topic,
        client_id=registration.client_id,
        ender=running,
        is_plain=registration.is_plain,
        id=Id(EPOCH[:8], 1, 1, attempt) if is_durable else None,
    )
    return running, made


def _registration(subscriber: Subscribing, topic: str) -> Registration:
    """Return the subscription whose handler gets the messages of a topic; raises
    ``LookupError``."""
    core = subscriber.core if isinstance(subscriber, sync.Subscriber) else subscriber
    handled = [one for one in core.registrations if one.handler is not None]
    for registration in handled:
        if not registration.options.get("pattern") and registration.topic == topic:
            return registration
    for registration in handled:
        name = list_name(registration.topic, True)
        if registration.options.get("pattern") and Matcher([name]).among([topic]):
            return registration
    names = ", ".join(registration.topic for registration in handled) or "none"
    raise LookupError(f"no handler for {topic}; there are handlers for: {names}")


def _is_on_a_loop() -> bool:
    """Whether an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
