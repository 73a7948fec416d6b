"""Reading logs, without moving any position.

Rules: what was missed is told with the next message: a reader must be able to know that it has
seen everything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from gearhorn.client.connected import Connected
from gearhorn.client.message import Fetched, Gap, Message, fetched_of, message_of
from gearhorn.errors import NotConnected, Unavailable, Unsure
from gearhorn.messages.codec import encode
from gearhorn.timing import Backoff

WAIT_S = 20.0  # that a worker waits for a message before it is asked again
PAGE = 1000

log = logging.getLogger("gearhorn")


class Batch(NamedTuple):
    """A part of a log: its messages, the first and the last sequence of the whole log (``first``
    is ``last`` + 1 where it is empty), and its epoch."""

    messages: list[Message]
    first: int
    last: int
    epoch: str


class Log(Connected):
    """Reads the log of one topic; for one event loop.

    A topic has a log where it has durable subscriptions or a retention ("Retention" in
    docs/protocol.rst).

    Arguments:
        topic: whose log.
        servers, tls, timeout, functions: as of ``gearhorn.aio.Publisher``.
    """

    def __init__(self, topic: str, *servers: str, **settings: Any) -> None:
        super().__init__(*servers, **settings)
        self.topic = topic

    async def read(self, after: int = 0, *, limit: int = 100, wait: float = 0.0) -> Batch:
        """Return what follows a sequence.

        Arguments:
            after: the sequence; 0 is the beginning.
            limit: how many messages at most.
            wait: seconds to wait for one where there is none.

        Raises ``Unknown`` for a topic without a log, and what other requests raise.
        """
        found = await self._fetch(after, limit, wait)
        messages = [message_of(envelope, "", None) for envelope in found.messages]
        return Batch(messages, found.first, found.last, found.epoch)

    async def _fetch(self, after: int, limit: int, wait_s: float) -> Fetched:
        body = encode({"topic": self.topic, "after": after, "limit": limit, "wait": wait_s})
        return fetched_of(
            await self._run(
                self.functions.fetch, body, self._timeout_s + wait_s, is_repeatable=True
            )
        )

    async def follow(self, *, start: str | int = "new") -> AsyncIterator[Message]:
        """Yield the messages of the log as they come, without end.

        A reader moves no position and takes no message from anybody: any number may read. It keeps
        nothing either, so a program that is to go on where it stopped notes the last position and
        gives its sequence as ``start``.

        Arguments:
            start: "new" (what is published from now on), "all" (what the log still has), "last"
                (its newest message, and what follows) or the sequence after which to begin.

        Waits while no worker answers. ``Message.gap`` says what was missed before a message. Raises
        ``RequestError`` for what is refused.
        """
        after, epoch = await self._start(start)
        backoff = Backoff(0.1, 5.0)
        while True:
            try:
                batch = await self.read(after, limit=PAGE, wait=WAIT_S)
            except (NotConnected, Unsure, Unavailable) as error:
                log.info("%s cannot be read, trying on: %s", self.topic, error)
                await asyncio.sleep(backoff.next_s())
                continue
            backoff.reset()
            is_anew = bool(epoch) and batch.epoch != epoch
            if batch.last < after:
                after = batch.first - 1  # another log: its sequences begin anew
            for message in batch.messages:
                assert message.position is not None
                dropped = message.position.sequence - after - 1
                if dropped or is_anew:
                    message.note_gap(Gap(dropped, is_anew))
                    is_anew = False
                after = message.position.sequence
                yield message
            if batch.messages:
                epoch = batch.epoch

    async def _start(self, start: str | int) -> tuple[int, str]:
        """Return the sequence after which to begin, and the log's epoch.

        Raises ``ValueError`` for a start that is none, and ``RequestError`` as ``read`` does.
        """
        if isinstance(start, int):
            return start, ""
        backoff = Backoff(0.1, 5.0)
        while True:
            try:
                batch = await self.read(0, limit=1)
            except (NotConnected, Unsure, Unavailable):
                await asyncio.sleep(backoff.next_s())
                continue
            after = {"new": batch.last, "all": batch.first - 1, "last": batch.last - 1}.get(start)
            if after is None:
                raise ValueError(f'start: expected "new", "all", "last" or a number, got {start!r}')
            return max(0, after), batch.epoch
