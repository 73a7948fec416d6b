"""Sleepers: fetches that wait until a message comes.

A message wakes every fetch that waits for its topic, and each asks the store anew. Ten thousand at
once would keep the store and the loop busy for a second. So at most ``AT_ONCE`` are awake without
the store's answer; when one has its answer, the next is woken. However a fetch ends, its turn goes
to another one: a ``Sleeper`` is a context.

A sleeper that is awake has left the list of those that expect messages. It joins again before it
asks the store (``expect``), so that no message falls between the answer and the next sleep.

Rules: runs on the event loop. The number of fetches that wait is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator

from gearhorn.errors import Busy

LIMIT = 10_000  # fetches that wait; 4 KiB of memory each
AT_ONCE = 64  # woken, and without the store's answer


class Sleeper:
    """One fetch; a context, which has to be left.

    It calls ``expect`` and asks the store, then ``answered``, and ``sleep`` if there was nothing;
    then it begins again.

    Arguments:
        sleepers: whom it belongs to.
        topic: whose messages it waits for.
    """

    def __init__(self, sleepers: Sleepers, topic: str) -> None:
        self._sleepers = sleepers
        self._topic = topic
        self._came: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_awake = False  # and without the store's answer

    def __enter__(self) -> Sleeper:
        return self

    def __exit__(self, *_: object) -> None:
        self._came.cancel()
        self._sleepers.forget(self._topic, self)
        self.answered()

    def expect(self) -> None:
        """The store is asked now: ``sleep`` ends by messages that come from here on."""
        if self._came.done():
            self._came = asyncio.get_running_loop().create_future()
        self._sleepers.expect(self._topic, self)

    def answered(self) -> None:
        """The store has answered: another sleeper may be woken. Without effect where this one was
        not woken, since it did not take a turn from any other."""
        if self._is_awake:
            self._is_awake = False
            self._sleepers.answered()

    async def sleep(self, longest_s: float) -> None:
        """Wait until a message has come, or for ``longest_s`` seconds. It ends at once where one
        came since ``expect``. Raises ``Busy`` where ``LIMIT`` fetches wait."""
        with self._sleepers.waiting(), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await self._came

    def wake(self) -> bool:
        """A message has come; return whether that ends a sleep. It does not where the fetch has
        ended meanwhile: it was called, and then its client's time was over."""
        if self._came.done():
            return False
        self._came.set_result(None)
        self._is_awake = True
        return True


class Sleepers:
    """The fetches that wait, by topic, and those that were called and have not been woken yet.

    They are woken in the order in which they were called. A sleeper is in one of both at a time: it
    leaves the first when it is called, and joins it again by ``expect``.
    """

    def __init__(self) -> None:
        self._expecting: dict[str, dict[Sleeper, None]] = {}
        self._called: deque[Sleeper] = deque()  # to be woken
        self._awake = 0  # woken, and without the store's answer
        self._waiting = 0

    def expect(self, topic: str, sleeper: Sleeper) -> None:
        """Call a sleeper when messages come."""
        self._expecting.setdefault(topic, {})[sleeper] = None

    def forget(self, topic: str, sleeper: Sleeper) -> None:
        """Call a sleeper no more."""
        expecting = self._expecting.get(topic, {})
        expecting.pop(sleeper, None)
        if not expecting:
            self._expecting.pop(topic, None)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count a fetch that waits. Raises ``Busy`` where too many do."""
        if self._waiting >= LIMIT:
            raise Busy(f"{self._waiting} fetches wait for messages; try again later")
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    def answered(self) -> None:
        """A fetch that was woken has its answer: wake another one."""
        self._awake -= 1
        self._wake()

    def call(self, topic: str) -> None:
        """Messages of a topic came: wake the fetches that wait for them."""
        self._called.extend(self._expecting.pop(topic, ()))
        self._wake()

    def call_all(self) -> None:
        """Any message may have come."""
        for topic in list(self._expecting):
            self.call(topic)

    def _wake(self) -> None:
        """Wake those that were called, as long as not too many are awake."""
        while self._called and self._awake < AT_ONCE:
            self._awake += self._called.popleft().wake()
