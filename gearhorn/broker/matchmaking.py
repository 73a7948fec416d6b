"""Matchmaking: members tell each other which topics changed, and answer once they know.

Law: runs on the event loop. Telling only makes it fast; what makes it true is that a cached list
lives at most ``directory.MAX_AGE_S``. So a peer that does not answer delays a change by
``ANSWER_S`` at most, and not again until it has answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import structlog

from gearhorn.errors import BadRequest
from gearhorn.gearman import packets
from gearhorn.gearman.client import Result, Submission
from gearhorn.gearman.cluster import Cluster
from gearhorn.gearman.worker import Job
from gearhorn.messages import (
    Changed,
    Matchmaking,
    MatchmakingAnswer,
    decode_answer,
    decode_matchmaking,
    encode,
)
from gearhorn.names import MATCHMAKING, queue_of
from gearhorn.tasks import Tasks

ANSWER_S = 1.0
_KIND = packets.SUBMIT[True, "high"]

log = structlog.get_logger(__name__)


class _Question:
    """One message to one peer; ``ask`` sends it, and again if its job server goes down."""

    def __init__(self, peer: str, ask: Callable[[_Question], bool]) -> None:
        self.peer = peer
        self._ask = ask
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def _settle(self) -> None:
        if not self.answered.done():
            self.answered.set_result(None)

    def accepted(self, submission: Submission) -> None:
        if submission.refused:
            self._settle()

    def lost(self, submission: Submission) -> None:
        if not self._ask(self):
            self._settle()

    def finished(self, submission: Submission, index: int, result: Result) -> None:
        if result.lost and self._ask(self):
            return
        if not (result.ok and self._is_answer(result.data)):
            log.warning("peer was not told; its lists live on for 10 s", peer=self.peer)
        self._settle()

    def _is_answer(self, data: bytes) -> bool:
        try:
            return decode_answer(data).member == self.peer
        except BadRequest:
            return False


class Matchmaker:
    """Tells and is told. ``cluster`` is of control clients, which no copies go through;
    ``drop`` forgets a topic's list; ``settle`` returns once no fan-out that holds a former list
    of these topics is unsent."""

    def __init__(
        self,
        member: str,
        cluster: Cluster,
        drop: Callable[[str], None],
        settle: Callable[[Sequence[str]], Awaitable[None]],
    ) -> None:
        self._member = member
        self._cluster = cluster
        self._drop = drop
        self._settle = settle
        # Peers that owe an answer. They are told no more until they gave it, so that a dead one
        # costs one job in gearmand and no more.
        self._silent: set[str] = set()
        self._tasks = Tasks()

    async def tell(self, changes: list[Changed], peers: frozenset[str]) -> None:
        """Tell every peer; return when all have answered, or the silent ones have had their
        time."""
        self._silent &= peers
        if not self._cluster.is_up:
            return
        body = encode(Matchmaking(self._member, changes))
        asked = {self._ask(peer, body).answered: peer for peer in peers - self._silent}
        if not asked:
            return
        _, late = await asyncio.wait(asked, timeout=ANSWER_S)
        for answered in late:
            peer = asked[answered]
            self._silent.add(peer)
            answered.add_done_callback(partial(self._heard, peer))
            log.warning("peer does not answer; its lists live on for 10 s", peer=peer)

    def _heard(self, peer: str, answered: asyncio.Future[None]) -> None:
        """A silent peer answered after all, or its question is lost: it can be told again."""
        self._silent.discard(peer)

    def _ask(self, peer: str, body: bytes) -> _Question:
        queue = queue_of(MATCHMAKING, peer)
        tail = packets.tail(b"", body)
        heads = packets.heads([queue], _KIND, len(tail))

        def ask(question: _Question) -> bool:
            if self._cluster.is_up:
                submission = Submission(question, heads, tail, foreground=True, keeps_data=True)
                self._cluster.submit(self._cluster.route(queue), submission)
            return self._cluster.is_up

        question = _Question(peer, ask)
        ask(question)
        return question

    def handle(self, job: Job) -> None:
        """Take what a peer tells: drop the lists, then answer."""
        try:
            told = decode_matchmaking(job.arguments)
        except BadRequest as error:
            job.fail(str(error))
            return
        for change in told.changes:
            self._drop(change.topic)
        version = max((change.version for change in told.changes), default=0)
        answer = encode(MatchmakingAnswer(self._member, version))
        removed = [change.topic for change in told.changes if change.removed]
        if not removed:
            job.complete(answer)
            return
        self._tasks.spawn(self._answer(job, answer, removed), "matchmaking answer")

    async def _answer(self, job: Job, answer: bytes, topics: list[str]) -> None:
        await self._settle(topics)
        job.complete(answer)
