"""Observers: what sees each request of a publisher, and each run of a handler.

Theory of operation. Tracing and recording need the same two places: where a message is handed over
to be sent, and where a handler is called. An observer stands at both. It sees a request before that
is encoded, so that it can add headers, and may answer it itself, so that nothing is sent; and it
learns what came of it. A handler runs within the observer's context, so that what the handler does
is seen as a part of it.

Several observers see the same request one after the other, each what the one before made of it, and
its end in reverse. An object without observers tests whether it has any, and that is all.

Rules: observers of requests are called on the event loop, and must not block. Those of handlers are
called where the handler runs: in a thread or on the loop. What an observer raises is raised to the
caller, or fails the attempt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Literal, Protocol

from gearhorn.client.message import Message
from gearhorn.client.payloads import Request
from gearhorn.errors import GearhornError

Operation = Literal["publish", "deliver", "ask"]


class Exchange(Protocol):
    """One request, from before it is sent until its end is known."""

    @property
    def request(self) -> Request:
        """What is sent."""

    @property
    def reply(self) -> bytes | GearhornError | None:
        """What stands for a worker's reply, or for the error that it would come to; then nothing is
        sent. None: it is sent."""

    def ended(self, outcome: object) -> None:
        """The operation ended with what it returns, or with what it raises. Where answers are
        iterated over, that is the receipt behind them."""


class RequestObserver(Protocol):
    """Sees requests that publish or ask."""

    def requested(self, operation: Operation, request: Request) -> Exchange:
        """A request is about to be sent."""


class HandlerObserver(Protocol):
    """Sees handlers run."""

    def handling(self, message: Message, subscribed: str) -> AbstractContextManager[object]:
        """Return the context in which a handler runs with a message. What the handler raises passes
        through it, ``Retry`` and ``Park`` among it.

        Arguments:
            message: of which the topic is known.
            subscribed: the topic of the handler's subscription, or its pattern.
        """


class Observed:
    """One request before the eyes of several observers; an ``Exchange`` itself.

    Arguments:
        observers: in the order in which they see it.
        operation: what the caller has called.
        request: what it comes to.
    """

    def __init__(
        self, observers: Sequence[RequestObserver], operation: Operation, request: Request
    ) -> None:
        self.request = request
        self.reply: bytes | GearhornError | None = None
        self._exchanges: list[Exchange] = []
        for observer in observers:
            exchange = observer.requested(operation, self.request)
            self._exchanges.append(exchange)
            self.request = exchange.request
            if self.reply is None:
                self.reply = exchange.reply

    def ended(self, outcome: object) -> None:
        """Tell all of them, the last one first."""
        for exchange in reversed(self._exchanges):
            exchange.ended(outcome)


@contextmanager
def handling(
    observers: Sequence[HandlerObserver], message: Message, subscribed: str
) -> Iterator[None]:
    """Return the context of all observers, in which a handler runs with a message."""
    with ExitStack() as contexts:
        for observer in observers:
            contexts.enter_context(observer.handling(message, subscribed))
        yield
