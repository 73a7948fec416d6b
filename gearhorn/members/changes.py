"""Changes: subscriptions made and ended, written in rounds and told to the members.

Theory of operation. A caller is answered only when no member can use a list of before its change
("Between workers" in docs/protocol.rst). That takes three steps, in this order: the change is
written to the store, so that a list that is read anew has it; every member
drops its cached list; the caller is answered. Many callers share the cost of the first two: a round
takes every request that has come, writes all in one round trip, and tells each peer once. The next
round's writing does not wait for this round's telling, which a silent peer may hold up for a lease.

The store remembers what became of a request under its id. So a round whose reply is lost is
applied again, and nothing is written twice. If that does not succeed within ``WRITE_S`` its callers
are told ``unavailable:``, and nothing else is written until the store has said which of the round
it wrote; what it did not write by then it never will. What it did write is told to the
peers and drained like any other change, so that no mark stays behind.

A change whose queue is being drained is held off until that is over (``held_off``). A drain that a
change asks for begins when its own change is known everywhere: what arrives on the queue before may
still be a copy that a peer made from the former list.

Rules: runs on the event loop; one round is written at a time. Each request is answered once,
whatever crashes: a round is abandoned, or given up, by the step that has it in hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from gearhorn.errors import (
    BadRequest,
    Busy,
    InternalError,
    QueueTaken,
    RequestError,
    StoreError,
    StoreRefused,
    StoreUnanswered,
    Unavailable,
)
from gearhorn.gearman.drain import Drainer
from gearhorn.gearman.worker import Job
from gearhorn.members.caches import Caches
from gearhorn.members.change_queue import ChangeQueue
from gearhorn.members.change_requests import Request, ending, retention, subscription
from gearhorn.members.drains import Drains
from gearhorn.members.held_off import HeldOff
from gearhorn.members.matchmaking import Matchmaker
from gearhorn.members.membership import Membership
from gearhorn.members.peers import SENT_S
from gearhorn.messages.peers import Changed
from gearhorn.names import is_pattern, shown_name
from gearhorn.store.members import DUE, Member
from gearhorn.store.patterns import LIMIT
from gearhorn.store.subscriptions import Applied, Change, Subscriptions
from gearhorn.tasks import Tasks, on_crash, went_well
from gearhorn.timing import Backoff, now_s

ROUND = 500  # changes written together
WRITE_S = 1.8  # in all, of a round that is tried again: callers are answered within 2 s
AGAIN_S = 0.05  # between two tries to write a round whose fate is unknown
HELD_OFF_S = 30.0  # and a lease: then a request that waits for a drain is refused
_BUG = InternalError()

log = structlog.get_logger(__name__)

_Done = Sequence[tuple[Request, Applied]]  # requests that were written, with what came of each


class Changes:
    """The subscriptions' only writer in this member.

    Arguments:
        subscriptions: where they are written.
        queue: where requests wait, and those come back to that were held off.
        matchmaker: tells the peers.
        membership: who the peers are, and what this member knows.
        caches: what this member has cached, dropped before a change is answered.
        drainer: empties queues of subscriptions that have ended.
        served: the functions of gearhorn itself, which no queue may be called like.
    """

    def __init__(
        self,
        *,
        subscriptions: Subscriptions,
        queue: ChangeQueue,
        matchmaker: Matchmaker,
        membership: Membership,
        caches: Caches,
        drainer: Drainer,
        served: frozenset[bytes],
    ) -> None:
        self._subscriptions = subscriptions
        self._queue = queue
        self._matchmaker = matchmaker
        self._membership = membership
        self._caches = caches
        self._served = served
        self._held_off: HeldOff[Request] = HeldOff(
            subscriptions, queue, HELD_OFF_S + membership.lease.length_s
        )
        self._drains = Drains(subscriptions, drainer, self._held_off, membership)
        self._doubtful: Sequence[Request] = ()  # a round of which it is not known what was written
        self._tasks = Tasks()

    def subscribe(self, job: Job) -> None:
        """Take one subscribe job ("subscribe_fanout" in docs/protocol.rst).

        A request that cannot be read is refused at once. The answer to any other comes later, from
        the round that writes it.
        """
        self._take(job, lambda: subscription(job, self._served))

    def unsubscribe(self, job: Job) -> None:
        """Take one unsubscribe job ("unsubscribe_fanout" in docs/protocol.rst); its answer comes
        when the queue is empty, if it asks for that."""
        self._take(job, lambda: ending(job, self._served, self._membership.id))

    def retain(self, job: Job) -> None:
        """Take one retain job ("retain_fanout" in docs/protocol.rst)."""
        self._take(job, lambda: retention(job))

    def _take(self, job: Job, read: Callable[[], Change]) -> None:
        try:
            change = read()
        except RequestError as error:
            job.fail(str(error))
        else:
            self._queue.put(Request(job, change))

    async def run(self) -> None:
        """Work off rounds, without end.

        A round that could not be written whole is resolved before the next is taken: until then it
        is not known what the store holds, and a later change of the same subscription could be
        written before the earlier one.
        """
        while True:
            await self._resolve()
            batch = await self._queue.take(ROUND)
            with on_crash(partial(self._abandon, batch, _BUG)):
                try:
                    await self._round(batch)
                except StoreError as error:
                    self._abandon(batch, Unavailable(f"the store: {error}"))
            went_well()

    async def _round(self, batch: list[Request]) -> None:
        """Write a round, and have it told and answered by a task of its own.

        The store tells who the members are in the same round trip, after the changes: a member that
        joins later reads its lists later, and need not be told. ``asked_s`` is taken before the
        question, so that no peer's record seems to stand still for longer than it does.
        """
        asked_s = now_s()
        for request in batch:
            request.drain_as(self._membership.id)
        applied, members = await self._write([request.change for request in batch])
        peers = self._membership.saw(members, asked_s)
        self._tasks.spawn(self._finish(batch, applied, peers, now_s()), "changes")
        if sum(request.change.kind == "expire" for request in batch) >= DUE:
            self._membership.renew_soon()  # more may be due than one renewal hands out

    async def _write(self, changes: Sequence[Change]) -> tuple[list[Applied], list[Member]]:
        """Apply changes, again while their fate is unknown and there is time.

        Returns what became of each, and who the members are. Raises ``StoreError``; any of the
        changes may have been written then. ``StoreUnanswered`` alone is tried again: other errors
        would come again, and the callers wait.
        """
        until_s = now_s() + WRITE_S
        while True:
            try:
                async with asyncio.timeout(max(until_s - now_s(), 0.0)):
                    return await self._subscriptions.apply(changes, self._membership.clock_ms)
            except TimeoutError:
                raise StoreUnanswered(f"no answer in {WRITE_S:g} s") from None
            except StoreUnanswered:
                if now_s() + AGAIN_S > until_s:
                    raise
                await asyncio.sleep(AGAIN_S)

    def _abandon(self, batch: Sequence[Request], error: RequestError) -> None:
        """Refuse a round, and have the store asked what became of it.

        Cached lists stay: its callers are told that nothing is certain, so no list has to be
        without the former subscriptions yet. What waits in the queue is refused as well. It would
        wait for the same store just as long, and callers are promised an answer in 2 s.
        """
        log.warning("changes refused", count=len(batch), error=str(error))
        self._doubtful = batch
        for request in batch:
            request.fail(error)
        self._queue.refuse(error)

    async def _resolve(self) -> None:
        """See that what was written of a round that was refused is known everywhere, and the rest
        never written.

        Without effect where no round is in doubt. The members are read anew first: some may have
        joined, with a list of before the change, after the round failed.
        """
        if not self._doubtful:
            return
        outcomes = await self._withdraw([request.change for request in self._doubtful])
        written = [
            (request, outcome)
            for request, outcome in zip(self._doubtful, outcomes, strict=True)
            if outcome is not None
        ]
        if written:
            log.info("changes that were refused had been written", count=len(written))
            await self._membership.refresh()
        self._doubtful = ()  # only now: what was interrupted so far is asked for again
        if written:
            peers = list(self._membership.peers.values())
            requests, applied = zip(*written, strict=True)
            self._tasks.spawn(self._finish(requests, applied, peers, now_s()), "changes")

    async def _withdraw(self, changes: Sequence[Change]) -> list[Applied | None]:
        """Return what became of changes, as soon as the store can say. What comes meanwhile waits
        for one try, and is refused with it."""
        backoff = Backoff(0.05, 0.5)
        while True:
            try:
                return await self._subscriptions.withdraw(changes, self._membership.clock_ms)
            except StoreRefused as error:  # its keys hold something that gearhorn did not write
                log.warning("changes cannot be withdrawn", error=str(error))
                return [None] * len(changes)
            except StoreError as error:
                self._queue.refuse(Unavailable(f"the store: {error}"))
                await asyncio.sleep(backoff.next_s())

    async def _finish(
        self,
        batch: Sequence[Request],
        applied: Sequence[Applied],
        peers: Sequence[Member],
        since_s: float,
    ) -> None:
        """See that what was written is known everywhere, then answer.

        Arguments:
            batch: the requests of one round.
            applied: what the store did with each.
            peers: the other members, as of when the round was written.
            since_s: when it was known that it was written, in ``timing.now_s``.

        If it crashes, those that are not answered are refused and the marks of their drains taken
        away. A drain goes on in a task of its own, so that the other callers of the round need not
        wait for it.
        """
        with on_crash(partial(self._give_up, list(zip(batch, applied, strict=True)), _BUG)):
            done = self._written(batch, applied)
            if not done:
                return
            try:
                late = await self._make_known(done, peers, since_s)
            except Unavailable as error:
                self._give_up(done, error)
                return
        for request, outcome in done:
            if outcome.is_draining:
                self._tasks.spawn(self._drain(request, outcome, late, since_s), "drain")
            else:
                request.complete(outcome)

    def _written(self, batch: Sequence[Request], applied: Sequence[Applied]) -> _Done:
        """Return what was written; the others are refused or held off.

        A change that has neither an error nor a version concerns a queue that is being drained, or
        it was to end a pair that is spared. The latter are this member's own requests; they are
        dropped here, and so are those that were refused meanwhile.
        """
        done = []
        for request, outcome in zip(batch, applied, strict=True):
            if refusal := self._refusal(request.change, outcome):
                request.fail(refusal)
            elif outcome.version:
                done.append((request, outcome))
            elif not request.is_answered:
                self._held_off.add(request.change.queue, request)
        return done

    def _refusal(self, change: Change, outcome: Applied) -> RequestError | None:
        """Return why the store did not write a change; None where it did, or may later.

        The error's code is what "Requests, replies, errors" in docs/protocol.rst lists.
        """
        if outcome.error is not None:
            return Unavailable(f"the store: {outcome.error}")
        if outcome.owner is not None:
            name, client_id = outcome.owner
            queue, kind = change.queue.decode(), "pattern" if is_pattern(name) else "topic"
            return QueueTaken(
                f"{queue} belongs to {kind} {shown_name(name)}, client {client_id}, until that is "
                "unsubscribed"
            )
        if outcome.is_full:
            return Busy(f"there are {LIMIT} patterns, and no more may be")
        if outcome.ignorant:
            return Unavailable(
                f"member {outcome.ignorant} is of an earlier release, which sends no copies to "
                "patterns; update every worker first"
            )
        if outcome.last is not None:
            return BadRequest(
                f"durable.start.sequence: expected at most {outcome.last}, the log's last"
            )
        return None

    async def _make_known(
        self, done: _Done, peers: Sequence[Member], since_s: float
    ) -> list[Member]:
        """Tell every member, this one too; return the peers that did not say that they know.

        This member drops its lists before it tells any peer: nothing that it begins from here on
        uses them. It then waits for its peers and for its own fan-outs at the same time, and at the
        end for leases that a restarted store has forgotten.

        Raises ``Unavailable`` when this member's own fan-outs cannot be sent in ``SENT_S``.
        """
        changed = []
        for request, outcome in done:
            topic, is_durable = request.change.topic, outcome.is_durable
            client = request.change.client_id
            self._caches.drop(topic, is_durable, client)
            is_removal = request.is_removal or request.change.is_pause or outcome.parked is not None
            changed.append(Changed(topic, outcome.version, is_removal, is_durable, client))
        removed = [change.topic for change in changed if change.removed]
        patterns = [change.topic for change in changed if is_pattern(change.topic)]
        versions = [change.version for change in changed]
        late, _ = await asyncio.gather(
            self._matchmaker.tell(changed, peers, since_s),
            self._hear(removed, versions, patterns),
        )
        await self._membership.when_leases_hold()
        return late

    async def _hear(
        self, removed: Sequence[str], versions: Sequence[int], patterns: Sequence[str]
    ) -> None:
        """Know the changes, as a peer does that is told of them.

        Arguments:
            removed: topics and patterns of which a subscription ended; only their fan-outs are
                waited for.
            versions: those of all changes.
            patterns: those that changed.

        Raises ``Unavailable`` where fan-outs with a former list are not sent in ``SENT_S``. The
        member does not count as one that knows then, so its next renewal tells it again.
        """
        try:
            async with asyncio.timeout(SENT_S):
                await self._caches.drop_matching(patterns)
                await self._caches.wait_sent(removed)
        except TimeoutError:
            text = f"fan-outs with the former list are not sent after {SENT_S:g} s"
            raise Unavailable(text) from None
        self._membership.heard(versions)

    def _give_up(self, done: _Done, error: RequestError) -> None:
        """Refuse what was written, since it is not known everywhere; nothing is drained.

        The subscriptions stay changed. Peers learn of them with their next renewal, and a caller
        that repeats its request gets its answer then.
        """
        for request, outcome in done:
            request.fail(error)
            if outcome.is_draining:
                self._drains.unmark(request.change)

    async def _drain(
        self, request: Request, outcome: Applied, late: Sequence[Member], since_s: float
    ) -> None:
        """Empty the queue, once no living peer has copies for it that are not sent; then answer.

        ``late`` are the peers that have not said that they know: they may be alive and still have
        copies of the former list on their way. The others sent theirs before they answered.
        """
        with on_crash(partial(self._give_up, [(request, outcome)], _BUG)):
            await asyncio.gather(
                *(self._membership.when_sent(peer, outcome.version, since_s) for peer in late)
            )
            drained = await self._drains.run(request.change)
        request.complete(outcome, drained)
