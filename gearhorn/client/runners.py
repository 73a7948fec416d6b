"""Runners: where handlers run: functions in threads, coroutines on the event loop.

Rules: handlers of one subscriber run ``concurrency`` at once.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable

from gearhorn.client.attempts import attempt, attempt_async
from gearhorn.client.deliveries import Deliveries, Delivery
from gearhorn.client.message import End, Message
from gearhorn.client.threads import Threads
from gearhorn.tasks import Tasks

Ends = list[tuple[Message, End]]


class Runners:
    """A ``Runner`` for handlers of both kinds, and for messages that are taken by hand.

    The threads begin with the first function that has to run: a subscriber whose handlers are
    coroutines has none.

    Arguments:
        concurrency: how many handlers run at once, of each kind.
        by_hand: takes the messages of subscriptions without a handler.
        name: what the threads are called.
    """

    def __init__(self, concurrency: int, by_hand: Callable[[Message], None], name: str) -> None:
        self._concurrency = concurrency
        self._by_hand = by_hand
        self._name = name
        self._deliveries: Deliveries | None = None
        self._threads: Threads[Delivery, Ends] | None = None
        self._waiting: deque[Delivery] = deque()
        self._coroutines = 0
        self._tasks = Tasks()

    def serve(self, deliveries: Deliveries) -> None:
        """Tell ``deliveries`` how messages end."""
        self._deliveries = deliveries

    def run(self, delivery: Delivery) -> None:
        """Process the messages of a delivery."""
        handler = delivery.subscription.handler
        if handler is None:
            for message in delivery.messages:
                self._by_hand(message)
        elif inspect.iscoroutinefunction(handler):
            self._waiting.append(delivery)
            self._go_on()
        else:
            if self._threads is None:
                self._threads = Threads(self._concurrency, _run, self._ended, self._name)
            self._threads.put(delivery)

    async def close(self) -> None:
        """Begin nothing more, and end the coroutines that run.

        A function in a thread cannot be ended. Its answer goes nowhere, as the connection is closed
        by then, and the job server hands the message out again.
        """
        self._waiting.clear()
        if self._threads is not None:
            self._threads.close()
        await self._tasks.cancel()

    def _ended(self, delivery: Delivery, ends: Ends) -> None:
        assert self._deliveries is not None
        for message, end in ends:
            self._deliveries.end(delivery, message, end)

    def _go_on(self) -> None:
        while self._waiting and self._coroutines < self._concurrency:
            self._coroutines += 1
            self._tasks.spawn(self._await(self._waiting.popleft()), "handler")

    async def _await(self, delivery: Delivery) -> None:
        """Run the handler of one delivery as a coroutine. Where the subscriber stops meanwhile,
        nothing is answered."""
        assert self._deliveries is not None
        try:
            for message in delivery.messages:
                end = await attempt_async(delivery.subscription, message)
                self._deliveries.end(delivery, message, end)
                if not end.is_done:
                    break
        finally:
            self._coroutines -= 1
            self._go_on()


def _run(delivery: Delivery) -> Ends:
    """Run the handler of one delivery in a thread; the first message that fails ends it."""
    ends: Ends = []
    for message in delivery.messages:
        end = attempt(delivery.subscription, message)
        ends.append((message, end))
        if not end.is_done:
            break
    return ends
