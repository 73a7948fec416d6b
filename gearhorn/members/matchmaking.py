"""Matchmaking: members tell each other which topics changed, and answer once they know.

Theory of operation. A change is written to the store first. Then the member that wrote it tells
every peer, through a queue that bears the peer's id, and waits for the answers; then it answers
the caller. With every peer alive that takes one job for each peer, a millisecond.

The lease makes it true; telling only makes it fast. A peer that does not answer counts as told once
it has renewed its lease with the change, has gone, or its lease has lapsed (``peers``). Therefore a
message may be lost, come twice or come late without harm, and nothing is sent again but when a job
server goes away.

A peer answers after it has dropped the list. Of a removal it answers only once no fan-out that
holds the former list is unsent: a drain relies on it. The answer names the peer and the version,
since the member that drains the queue of a dead peer answers its jobs as well.

A dead peer must not cost a job for each change, or gearmand fills up: a peer that has not answered
in ``PATIENCE_S`` is silent, and is asked nothing more until that one answer comes. Changes that
come meanwhile wait for its lease.

Rules: runs on the event loop ("Between workers" in docs/protocol.rst).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog

from gearhorn.errors import BadRequest
from gearhorn.gearman import packets
from gearhorn.gearman.job_servers import JobServers
from gearhorn.gearman.packets import KEPT_BYTES
from gearhorn.gearman.results import Bound, Result
from gearhorn.gearman.submission import Submission
from gearhorn.gearman.worker import Job
from gearhorn.members.burials import Burials
from gearhorn.members.caches import Caches
from gearhorn.members.membership import Membership
from gearhorn.messages.codec import encode
from gearhorn.messages.peers import (
    Changed,
    Matchmaking,
    MatchmakingAnswer,
    decode_answer,
    decode_matchmaking,
)
from gearhorn.names import MATCHMAKING, is_pattern, queue_of
from gearhorn.requests import answering
from gearhorn.store.members import Member
from gearhorn.tasks import Tasks

# Then a peer counts as silent. A healthy one takes a hundredth of that, and a lease many times as
# long, so the first change that meets a dead peer hardly takes longer for it.
PATIENCE_S = 0.25
_KIND = packets.SUBMIT[True]["high"]

log = structlog.get_logger(__name__)


class _Question:
    """One message to one peer, and the outcome of its job.

    Arguments:
        job_servers: the clients that it goes through.
        peer: its id.
        version: the highest one that the message tells of.
        body: the message, as JSON.

    ``answered``: whether the peer has dropped the lists; False where that is not known. Not knowing
    costs time only: the peer's lease is waited for.
    """

    def __init__(self, job_servers: JobServers, peer: str, version: int, body: bytes) -> None:
        self.peer = peer
        self.version = version
        self.answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._job_servers = job_servers
        self._queue = queue_of(MATCHMAKING, peer)
        self._tail = packets.tail(b"", body)
        self._heads = packets.heads([self._queue], _KIND, len(self._tail))

    def ask(self) -> None:
        """Send the message, in a foreground job whose end is the answer. With no job server up
        there will be none, and ``answered`` is False at once.

        ``lost`` and ``finished`` send it again when the job server goes down that had it.
        """
        if self._job_servers.is_up:
            submission = Submission(self, self._heads, self._tail, True, results=Bound(KEPT_BYTES))
            self._job_servers.submit(self._job_servers.route(self._queue), submission)
        else:
            self._resolve(False)

    def give_up(self) -> None:
        """The peer has gone, and it is not known what it was told."""
        self._resolve(False)

    def _resolve(self, is_told: bool) -> None:
        if not self.answered.done():
            self.answered.set_result(is_told)

    def accepted(self, submission: Submission) -> None:
        if submission.refused:  # the queue is full: the peer takes no jobs
            self._resolve(False)

    def lost(self, submission: Submission) -> None:
        self.ask()

    def finished(self, submission: Submission, index: int, result: Result) -> None:
        if result.lost:  # the server went that had accepted it
            self.ask()
        else:
            self._resolve(result.ok and self._is_answer(result.data))

    def broke(self, submission: Submission) -> None:
        self._resolve(False)

    def _is_answer(self, data: bytes) -> bool:
        """Whether the peer itself says so, and of this version or a later one.

        A member that buries the peer's queue fails the job; an answer in another name, or of a
        former message, is one that came to the wrong question.
        """
        try:
            answer = decode_answer(data)
        except BadRequest:
            return False
        return answer.member == self.peer and answer.version >= self.version


class Matchmaker:
    """Tells and is told.

    Arguments:
        membership: who the peers are, and what this member knows.
        job_servers: control clients, which no copies go through.
        caches: what is dropped when a peer tells of a change.
        burials: where the queues of a peer go that has gone.
    """

    def __init__(
        self, *, membership: Membership, job_servers: JobServers, caches: Caches, burials: Burials
    ) -> None:
        self._membership = membership
        self._job_servers = job_servers
        self._caches = caches
        self._burials = burials
        # Questions that peers owe an answer to. They are told no more until they gave it, so that
        # a dead one costs one job in gearmand and no more.
        self._silent: dict[str, _Question] = {}
        self._tasks = Tasks()
        membership.on_members(self._members_changed)

    async def tell(
        self, changes: list[Changed], peers: Sequence[Member], since_s: float
    ) -> list[Member]:
        """Tell every peer; return when none can use a list of before these changes any more.

        Arguments:
            changes: what was written, one at least.
            peers: the other members, as of when it was written.
            since_s: when it was known that it was written, in ``timing.now_s``.

        Returns the peers that have not answered: such a peer may still have copies to send.

        Peers are asked all at once, and waited for together for ``PATIENCE_S``. Those that are late
        are waited for one by one after that, each by its own lease. A peer that still owes an
        earlier answer is not asked at all.
        """
        body = encode(Matchmaking(self._membership.id, changes))
        version = max(change.version for change in changes)
        open_ = {
            peer: None if peer.id in self._silent else self._ask(peer.id, version, body)
            for peer in peers
        }
        asked = [question.answered for question in open_.values() if question is not None]
        if asked:
            await asyncio.wait(asked, timeout=PATIENCE_S)
        late = {peer: question for peer, question in open_.items() if not _is_told(question)}
        if late:
            await asyncio.gather(
                *(self._wait(peer, question, version, since_s) for peer, question in late.items())
            )
        return [peer for peer, question in late.items() if not _is_told(question)]

    def _members_changed(self) -> None:
        """Expect no answer of a peer that has gone, and leave no question to it behind: it may have
        been asked after the member that removed it had emptied its queue."""
        for peer in self._silent.keys() - self._membership.peers.keys():
            self._forget(peer, self._silent[peer])

    def _forget(self, peer: str, question: _Question) -> None:
        question.give_up()
        self._burials.add(peer)

    async def _wait(
        self, peer: Member, question: _Question | None, version: int, since_s: float
    ) -> None:
        """Wait for a late peer: for its answer, or until it needs none.

        Arguments:
            peer: the peer.
            question: what it was asked; None where it owes an earlier answer.
            version: up to which its record has to know all changes.
            since_s: when it was known that they were written.

        A question without an answer stays open after this returns, and the peer counts as silent
        until it is answered. If the peer has gone meanwhile, the question is given up here:
        ``_members_changed`` may have come before the peer was silent.
        """
        known = self._membership.when_known(peer, version, since_s)
        if question is None or question.answered.done():
            await known
            return
        either: list[asyncio.Future[Any]] = [known, question.answered]
        if peer.id not in self._silent:
            self._silent[peer.id] = question
            log.warning("peer does not answer; changes wait for its lease", peer=peer.id)
            question.answered.add_done_callback(lambda _: self._silent.pop(peer.id, None))
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not _is_told(question):
            await known
        known.cancel()
        if not question.answered.done() and peer.id not in self._membership.peers:
            self._forget(peer.id, question)  # it had gone before it was asked

    def _ask(self, peer: str, version: int, body: bytes) -> _Question:
        """Send a message to a peer."""
        question = _Question(self._job_servers, peer, version, body)
        question.ask()
        return question

    def handle(self, member: str, job: Job) -> None:
        """Take what a peer tells ``member``, which is us: drop the lists, then answer.

        Arguments:
            member: the id that the peer asked, which may be a former one of this member's.
            job: the message. It is refused with ``bad_request:`` where it cannot be read.

        The answer to a subscribe need not wait: fan-outs that hold the former list came before the
        subscriber was answered, and owe it no copy. The answer to a removal waits until what holds
        the former list is sent, since a drain relies on it ("Between workers" in
        docs/protocol.rst).
        """
        try:
            told = decode_matchmaking(job.arguments)
        except BadRequest as error:
            job.fail(str(error))
            return
        for change in told.changes:
            self._caches.drop(change.topic, change.durable, change.client)
        version = max((change.version for change in told.changes), default=0)
        answer = encode(MatchmakingAnswer(member, version))
        removed = [change.topic for change in told.changes if change.removed]
        versions = [change.version for change in told.changes]
        patterns = [change.topic for change in told.changes if is_pattern(change.topic)]
        if not removed and not patterns:
            self._membership.heard(versions)
            job.complete(answer)
            return
        work = self._answer(job, answer, removed=removed, versions=versions, patterns=patterns)
        self._tasks.spawn(work, "matchmaking answer")

    async def _answer(
        self,
        job: Job,
        answer: bytes,
        *,
        removed: list[str],
        versions: list[int],
        patterns: list[str],
    ) -> None:
        """Answer once every list is dropped that one of the patterns matches, and no fan-out is
        unsent with a former list of ``removed``, of which a subscription was removed."""
        with answering(job):
            await self._caches.drop_matching(patterns)
            await self._caches.wait_sent(removed)
            self._membership.heard(versions)
            job.complete(answer)


def _is_told(question: _Question | None) -> bool:
    return question is not None and question.answered.done() and question.answered.result()
