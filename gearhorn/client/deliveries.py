"""Deliveries: jobs in the hands of a subscriber, from their arrival to their answer.

Theory of operation. One job is one attempt of one message, or of a batch. It is answered once:
completed when every message of it is processed, failed as soon as one is not. Three things are
answered without a handler, because of what may happen after a fault ("Deliveries" in
docs/protocol.rst): what is out of date, what this process has finished before, and what it is at
work on. The last is hard to see: a handler that takes longer than its time gets the same message a
second time while it runs. The second job waits for the first attempt and takes its outcome, so a
handler of ten minutes loses nothing and runs once.

Rules: runs on the event loop. The repeats that are remembered are bounded; so are the jobs in hand.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from gearhorn.client.attempts import Subscription
from gearhorn.client.message import BadDelivery, End, Id, Message, messages_of
from gearhorn.client.repeats import Key, Repeats, key_of
from gearhorn.gearman.worker import Job

log = logging.getLogger("gearhorn")


@dataclass
class State:
    """What a subscriber has done, counted since it was made.

    Attributes:
        servers: job servers that are up now.
        subscribed: topics that are subscribed now.
        in_hand: messages that are being processed, or wait here for it.
        done: messages that handlers have processed.
        failed: attempts that failed; of them
        retried: with a time of their own, and
        parked: for good.
        repeats: messages that came again after they were processed, and were acknowledged unrun.
        stale: deliveries that were out of date.
        unheard: ends that no job server has heard, since the connection had ended.
    """

    servers: int = 0
    subscribed: int = 0
    in_hand: int = 0
    done: int = 0
    failed: int = 0
    retried: int = 0
    parked: int = 0
    repeats: int = 0
    stale: int = 0
    unheard: int = 0

    def began(self, messages: int) -> None:
        """So many more are in hand."""
        self.in_hand += messages

    def ended(self, messages: int, end: End) -> None:
        """So many fewer are in hand; the first of them ended like this."""
        self.in_hand -= messages
        if end.reason is None:
            self.done += 1
            return
        self.was_bad()
        self.retried += end.reason.startswith("retry_after: ")
        self.parked += end.reason.startswith("park: ")

    def was_bad(self) -> None:
        """An attempt failed."""
        self.failed += 1

    def was_stale(self) -> None:
        """A delivery was out of date."""
        self.stale += 1

    def repeated(self, messages: int) -> None:
        """So many came that were finished already."""
        self.repeats += messages

    def was_unheard(self) -> None:
        """An end comes too late for its job server."""
        self.unheard += 1

    def now(self, servers: int, subscribed: int) -> State:
        """Return the same with what is so at the moment."""
        return replace(self, servers=servers, subscribed=subscribed)


class Delivery:
    """One job with its messages; an ``Ender`` of each of them.

    Attributes:
        job: to be answered.
        subscription: whose queue it came on.
        messages: those to be processed; what was finished before is not among them.
        keys: what names these messages, for those that come again.
        left: ids of the messages that have not ended.
        answer: of the last message that had one.
    """

    __slots__ = ("_deliveries", "answer", "job", "keys", "left", "messages", "subscription")

    def __init__(self, deliveries: Deliveries, job: Job, subscription: Subscription) -> None:
        self._deliveries = deliveries
        self.job = job
        self.subscription = subscription
        self.messages: list[Message] = []
        self.keys: list[Key] = []
        self.left: set[int] = set()  # of the messages, those that have not ended
        self.answer = b""

    def open(self, messages: list[Message], keys: list[Key]) -> None:
        """These are the messages to process."""
        self.messages, self.keys = messages, keys
        self.left = set(map(id, messages))

    def end(self, message: Message, end: End) -> None:
        """A message ended, on any thread."""
        self._deliveries.end_soon(self, message, end)

    def take(self, message: Message, end: End) -> End | None:
        """A message ended; return how the job ends with it, None where others are left.

        The first message that fails ends the job: a batch is acknowledged or fails as one, and is
        tried message by message after that ("Batches" in docs/protocol.rst).
        """
        if id(message) not in self.left:
            return None
        self.left.discard(id(message))
        if not end.is_done:
            self.left.clear()
            return end
        self.answer = end.answer or self.answer
        return None if self.left else End(self.answer)


class Runner(Protocol):
    """Has handlers run."""

    def run(self, delivery: Delivery) -> None:
        """Process the messages of a delivery, each ended by ``Delivery.end``."""


class Deliveries:
    """Takes the jobs of all queues and answers them.

    What a job waits for is in three tables: the messages under way by name (``_running``), the jobs
    that wait for the outcome of one of these deliveries (``_joined``), and what was finished
    (``Repeats``). The first two are as long as what is in hand, which the receivers bound.

    Arguments:
        runner: has the handlers run.
        remember: how many finished messages are remembered.
        wake: is called from any thread with a function to call on the event loop.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        remember: int,
        wake: Callable[..., Any],
    ) -> None:
        self.state = State()
        self._runner = runner
        self._wake = wake
        self._thread = threading.get_ident()
        self._repeats = Repeats(remember)
        self._subscriptions: dict[bytes, Subscription] = {}
        self._running: dict[Key, Delivery] = {}
        self._joined: dict[Delivery, list[Job]] = {}  # the same messages again

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in hand."""
        return not self.state.in_hand

    def add(self, subscription: Subscription) -> None:
        """Serve a subscription's queue."""
        self._subscriptions[subscription.queue.encode()] = subscription

    def handle(self, job: Job) -> None:
        """Take a job; it is answered now or when its messages have ended.

        What is out of date is completed rather than failed: a failure would count as an attempt of
        a message that another worker delivers now.
        """
        subscription = self._subscriptions[job.function]
        delivery = Delivery(self, job, subscription)
        unique = Id.parse(job.unique)
        if job.oversized:
            job.fail("longer than this subscriber takes")
            return
        if unique is not None and self._repeats.judge(subscription.queue, unique):
            self.state.was_stale()
            job.complete()
            return
        try:
            messages = messages_of(
                job.take_arguments(),
                topic=subscription.topic,
                client_id=subscription.client_id,
                ender=delivery,
                is_plain=subscription.is_plain,
                id=unique,
            )
        except BadDelivery as error:
            log.error("%s: a delivery could not be read: %s", subscription.queue, error)
            self.state.was_bad()
            job.fail(str(error))
            return
        self._begin(delivery, messages)

    def _begin(self, delivery: Delivery, messages: list[Message]) -> None:
        """Have the messages processed that are neither finished nor under way.

        First what is finished is taken out: the rest of a batch has to run all the same. Then what
        is under way decides for the whole job, since a job has one answer. Only what is left is
        counted as in hand and given to the runner.
        """
        queue = delivery.subscription.queue
        keys = [key_of(queue, message) for message in messages]
        todo = [
            (message, key)
            for message, key in zip(messages, keys, strict=True)
            if key is None or not self._repeats.has(key)
        ]
        self.state.repeated(len(messages) - len(todo))
        if not todo:
            delivery.job.complete()
            return
        own = [key for _, key in todo if key is not None]
        running = next((self._running[key] for key in own if key in self._running), None)
        if running is not None:
            if set(own) <= set(running.keys):
                self._joined.setdefault(running, []).append(delivery.job)
            else:  # a batch, of which a part runs as another delivery: it comes again
                delivery.job.fail("a message of this batch is still being processed")
            return
        delivery.open([message for message, _ in todo], own)
        self._running.update(dict.fromkeys(own, delivery))
        self.state.began(len(todo))
        self._runner.run(delivery)

    def end_soon(self, delivery: Delivery, message: Message, end: End) -> None:
        """A message was ended by hand, on any thread.

        On the loop's own it has ended by now: a coroutine that parks its message and returns has
        parked it.
        """
        if threading.get_ident() == self._thread:
            self.end(delivery, message, end)
        else:
            self._wake(self.end, delivery, message, end)

    def end(self, delivery: Delivery, message: Message, end: End) -> None:
        """A message has ended: answer the job if that decides it."""
        before = len(delivery.left)
        outcome = delivery.take(message, end)
        if before == len(delivery.left):
            return  # it had ended
        self.state.ended(before - len(delivery.left), end)
        if end.is_done:
            self._repeats.finish(key_of(delivery.subscription.queue, message))
        if outcome is not None:
            self._answer(delivery, outcome)

    def _answer(self, delivery: Delivery, end: End) -> None:
        """Answer the job, and those that carried the same messages again.

        All of them are answered alike: the job server may have given up the first one, and then
        only the last is heard.
        """
        for key in delivery.keys:
            self._running.pop(key, None)
        for job in (delivery.job, *self._joined.pop(delivery, ())):
            if job.is_lost:
                self.state.was_unheard()
            if end.reason is None:
                job.complete(end.answer)
            else:
                job.fail(end.reason)
