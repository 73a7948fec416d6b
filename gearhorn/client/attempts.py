"""Attempts: one run of a handler with one message, and how the attempt ends with it.

Rules: whatever a handler raises is a failed attempt. With a ``type`` the handler gets the decoded
body before the message, so that most handlers need not look at the message at all; a body that is
not of this type fails the attempt before the handler is called.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from gearhorn.client.message import End, Message, Park, Retry
from gearhorn.client.observers import HandlerObserver, handling
from gearhorn.client.payloads import bytes_of

log = logging.getLogger("gearhorn")

Handler = Callable[..., Any]


class Subscription(Protocol):
    """What attempts and deliveries know of a subscription."""

    topic: str
    client_id: str
    is_plain: bool
    handler: Handler | None
    type: Any
    observers: Sequence[HandlerObserver]

    @property
    def queue(self) -> str:
        """The function that carries its messages."""


def attempt(subscription: Subscription, message: Message) -> End:
    """Run a handler that is a function; return how the attempt ends.

    ``SystemExit`` is a failed attempt too: where handlers run it would end a thread, and no more.
    """
    try:
        if not subscription.observers:
            return End(bytes_of(_call(subscription, message)))
        with handling(subscription.observers, message, subscription.topic):
            return End(bytes_of(_call(subscription, message)))
    except BaseException as error:
        return _failed(subscription, error)


async def attempt_async(subscription: Subscription, message: Message) -> End:
    """Run a handler that is a coroutine function; return how the attempt ends.

    Whatever comes out of the handler is a failed attempt: ``SystemExit`` as well, which would end
    the loop, and a cancellation of something that the handler awaited. What ends the attempt from
    outside is raised (``_is_from_outside``): then it has no end, and the job goes to another
    subscriber.
    """
    pid = os.getpid()
    try:
        if not subscription.observers:
            return End(bytes_of(await _call(subscription, message)))
        with handling(subscription.observers, message, subscription.topic):
            return End(bytes_of(await _call(subscription, message)))
    except BaseException as error:
        if _is_from_outside(error) or os.getpid() != pid:  # a child that the handler has forked
            raise
        return _failed(subscription, error)


def _is_from_outside(error: BaseException) -> bool:
    """Whether an exception that a coroutine raised came to it from the loop or a signal: the
    subscriber stops, the loop is given up, or the program is interrupted, which only the main
    thread is."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    if isinstance(error, KeyboardInterrupt):
        return threading.current_thread() is threading.main_thread()
    return isinstance(error, GeneratorExit)


def _call(subscription: Subscription, message: Message) -> Any:
    """Call the handler with a message; return what it returned, which may be awaitable.

    Raises what the handler raises, and ``msgspec.DecodeError`` where the body is not of its type.
    """
    assert subscription.handler is not None
    if subscription.type is None:
        return subscription.handler(message)
    return subscription.handler(msgspec.json.decode(message.data, type=subscription.type), message)


def _failed(subscription: Subscription, error: BaseException) -> End:
    """Return the end of an attempt whose handler raised, and say so in the log.

    A handler that asks for another attempt, or parks, does so on purpose: that is no error of the
    program. Anything else is, and its traceback is the first thing that a reader of the log needs.
    """
    if isinstance(error, Retry | Park):
        log.info("%s: %s: %s", subscription.queue, type(error).__name__.lower(), error)
    else:
        text = "".join(traceback.format_exception(error))
        log.error("%s: a handler failed\n%s", subscription.queue, text.rstrip())
    return End.failed(error)
