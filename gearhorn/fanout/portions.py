"""Portions: long fan-outs, handed to the job servers little by little.

Theory of operation. Making the packets of a million copies takes the loop a second, and handing
them over in one go has every other fan-out wait behind them. So a long fan-out is cut into
portions, and the next one is made when the servers have answered the one before the last. Copies of
other topics go in between.

One queue's copies must keep the order in which the fan-outs were taken. A queue belongs to one
topic, so each topic that has a long fan-out under way has a line here, in which *every* fan-out of
the topic waits for those before it; ``topics`` says which these are.

Rules: runs on the event loop, one task for each topic in ``topics``. With no server up the lines
wait. A part that has to know that copies were handed over takes a place in the lines as well, and
waits for its turn (``wait_sent``).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import structlog

from gearhorn.errors import InternalError
from gearhorn.gearman.job_servers import JobServers
from gearhorn.gearman.worker import Job
from gearhorn.patterns import among
from gearhorn.tasks import Tasks

PORTION = 256  # copies: others wait behind two portions of each long fan-out
AHEAD = 2  # portions of a topic that are handed over and not answered

log = structlog.get_logger(__name__)


class Portioned(Protocol):
    """A fan-out whose copies are sent in portions."""

    job: Job

    def send_portion(self, indexes: Sequence[int]) -> None:
        """Send the copies for some queues of the list, by their indexes in ascending order."""

    def sent(self) -> None:
        """Every copy that was to be sent is handed over, or none can be any more."""


class Portions:
    """The lines of the topics that have long fan-outs under way."""

    def __init__(self, job_servers: JobServers) -> None:
        self._job_servers = job_servers
        self.topics: dict[str, deque[tuple[Portioned, Sequence[int]] | asyncio.Future[None]]] = {}
        self._tasks = Tasks()

    def add(self, topic: str, fanout: Portioned, indexes: Sequence[int]) -> None:
        """Send the copies for queues of a topic's list behind what was added before.

        Arguments:
            topic: whose line it is.
            fanout: makes the copies, portion by portion, and is told when all are handed over.
            indexes: of the queues in the list, in ascending order.
        """
        line = self.topics.get(topic)
        if line is None:
            line = self.topics[topic] = deque()
            self._tasks.spawn(self._send(topic), "portions")
        line.append((fanout, indexes))

    async def wait_sent(self, topics: Sequence[str] | None) -> None:
        """Return once what was added for these topics (None: for any) before now is handed over."""
        passed = []
        for topic in among(topics, self.topics):
            passed.append(asyncio.get_running_loop().create_future())
            self.topics[topic].append(passed[-1])
        for future in passed:
            await future

    async def _send(self, topic: str) -> None:
        """Work off the line of a topic, which then is no more.

        A portion counts as answered when a barrier behind it is, at each server: that needs no
        count of copies that may be sent again meanwhile. A fan-out that fails leaves the line with
        what it has sent; those behind it go on.
        """
        line = self.topics[topic]
        unanswered: deque[list[asyncio.Future[bool]]] = deque()
        while line:
            first = line.popleft()
            if isinstance(first, asyncio.Future):
                if not first.done():
                    first.set_result(None)
                continue
            fanout, indexes = first
            try:
                for at in range(0, len(indexes), PORTION):
                    while len(unanswered) >= AHEAD:
                        for answered in unanswered.popleft():
                            await answered
                    while not self._job_servers.is_up:
                        await self._job_servers.came_up()
                    fanout.send_portion(indexes[at : at + PORTION])
                    unanswered.append(self._job_servers.barriers())
                fanout.sent()
            except Exception:  # a bug must not take those with it that wait behind
                log.exception("fan-out failed", topic=topic)
                fanout.job.fail(str(InternalError()))
        del self.topics[topic]
