"""Gossiper: tells every other member this one's state, and keeps what they tell.

Theory of operation. Members tell each other directly, over the queues ``__gossip_ID``, so that
``describe_fanout`` works while the store is away and shows what each member sees itself. All
members together send at most ``JOBS_PER_S`` jobs: with n members a round costs n * (n - 1), so the
interval grows with them. The member's id is the unique id of its messages: a job server merges a
message into the one before it if that still waits, so at most one of each member waits for a
listener (after Oban's gossip plugin).

Rules: runs on the event loop. Gossip is for display; whether a member lives is decided by its lease
alone. A server that has not answered a message is sent no further one, and nothing waits for an
answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter

import structlog

from gearhorn.broker.own_state import OwnState
from gearhorn.errors import BadRequest, StoreError
from gearhorn.fanout.copies import Subscribers, unique_id
from gearhorn.fanout.lists import Lists
from gearhorn.gearman.job_servers import JobServers
from gearhorn.gearman.results import Result
from gearhorn.gearman.submission import Submission
from gearhorn.gearman.worker import Job
from gearhorn.members.burials import Burials
from gearhorn.members.membership import Membership
from gearhorn.messages.codec import encode
from gearhorn.messages.fanout import Fanout
from gearhorn.messages.peers import MemberState, decode_gossip
from gearhorn.names import GOSSIP, queue_of
from gearhorn.tasks import Tasks
from gearhorn.timing import now_s

JOBS_PER_S = 200.0  # of all members together, whatever their number
MEETING_S = 0.1  # an unknown sender has the members read again, at most once in that time
SILENT_INTERVALS = 3  # in which no peer was heard: isolated

log = structlog.get_logger(__name__)


class Gossiper:
    """Sends one member's state, and keeps those that it has heard.

    Arguments:
        membership: who the peers are.
        job_servers: control clients, which no copies go through.
        lists: reads the list of listeners. They are not in the directory, because the topic
            ``__gossip`` cannot be published to.
        own: this member's present state.
        burials: where the queues of a member go that has gone.
        interval_s: the shortest time between two messages, in seconds.
    """

    def __init__(
        self,
        *,
        membership: Membership,
        job_servers: JobServers,
        lists: Lists,
        own: OwnState,
        burials: Burials,
        interval_s: float,
    ) -> None:
        self._membership = membership
        self._job_servers = job_servers
        self._lists = lists
        self._own = own
        self._burials = burials
        self._told: set[str] = set()  # members that messages were sent to
        self._asking = False  # whether it is being read who the members are
        self._tasks = Tasks()
        self._base_s = interval_s
        self._heard: dict[str, tuple[MemberState, float]] = {}  # by member, and when
        # Clients that subscribe to ``__gossip``; None where they are not known.
        self._listeners: Subscribers | None = None
        self._reading = False  # whether it is being read who they are
        self._changed = 0  # how often they have changed
        self._owed: Counter[int] = Counter()  # messages by server that it has not answered
        self._since_s = now_s()  # when it was last alone, or heard
        self.state = "solitary"

    @property
    def interval_s(self) -> float:
        """The seconds between two messages of one member: as many as keep all members together
        under ``JOBS_PER_S``."""
        members = self._membership.count
        listeners = len(self._listeners.queues) if self._listeners else 0
        jobs = members * (members - 1 + listeners)
        return max(self._base_s, jobs / JOBS_PER_S)

    def known(self) -> list[MemberState]:
        """Return every member's last state, this one's present state first.

        Of a peer that has not been heard only the id is known.
        """
        self._forget()
        others = [state for state, _ in self._heard.values()]
        silent = [MemberState(peer) for peer in self._membership.peers if peer not in self._heard]
        return [self._own.now(self.state), *others, *silent]

    def start(self) -> None:
        """Begin to send."""
        self._tasks.keep("gossip", self._run)

    async def _run(self) -> None:
        """Send now and then, without end. The times vary by a tenth, so that members that were
        started together do not go on sending together."""
        while True:
            await asyncio.sleep(self.interval_s * random.uniform(1.0, 1.1))
            self._forget()
            self._judge()
            self._send()
            if not self._reading:
                self._tasks.spawn(self._read_listeners(), "gossip listeners")

    def hear(self, job: Job) -> None:
        """Take one message; the job is finished, with ``bad_request:`` for what is none.

        A sender that is not known may have joined since the members were last read, so they are
        read again; a message of a member that has gone is dropped then.
        """
        try:
            told = decode_gossip(job.arguments)
        except BadRequest as error:
            job.fail(str(error))
            return
        job.complete()
        if told.member in self._membership.peers:
            self._note(told)
        elif not self._asking and told.member != self._membership.id:
            self._asking = True
            self._tasks.spawn(self._meet(told), "new member")

    async def stop(self) -> None:
        """Send no more, and bury the queues of members that have gone since.

        They are read once more for that: a member that went a moment ago may have been sent a
        message that nothing takes.
        """
        await self._tasks.cancel()
        await self._membership.refresh()
        self._forget()

    async def _meet(self, told: MemberState) -> None:
        """Read the members again; keep the message if its sender has joined since."""
        try:
            await asyncio.sleep(MEETING_S)  # however often an unknown sender sends
            await self._membership.refresh()
        finally:
            self._asking = False
        if told.member in self._membership.peers:
            self._note(told)

    def _note(self, told: MemberState) -> None:
        """Keep what a peer said; log an error for a new one with other job servers, since no part
        of gearhorn can mend that ("Several job servers" in docs/protocol.rst)."""
        if told.member not in self._heard and told.servers != self._own.now(self.state).servers:
            log.error(
                "members have different job servers, and copies of one queue go to different ones",
                peer=told.member,
                servers=" ".join(told.servers),
            )
        self._since_s = now_s()
        self._heard[told.member] = (told.heard(time.time()), self._since_s)

    def _forget(self) -> None:
        """Keep nothing of members that have gone."""
        for member in self._heard.keys() - self._membership.peers.keys():
            del self._heard[member]
        for member in self._told - self._membership.peers.keys():
            self._told.remove(member)  # what was sent after it had gone is taken by no receiver
            self._burials.add(member)

    def _judge(self) -> None:
        """Judge how this member stands among the others; log it where that changes.

        ``isolated`` without a lease, or where no peer was heard for ``SILENT_INTERVALS``;
        ``solitary`` without peers; else ``clustered``. A peer that joins has as long to be heard,
        counted from when this member was last alone.
        """
        at_s = now_s()
        if at_s > self._membership.lease.until_s:
            state = "isolated"
        elif not self._membership.peers:
            state = "solitary"
            self._since_s = at_s
        elif at_s - self._since_s > SILENT_INTERVALS * self.interval_s:
            state = "isolated"
        else:
            state = "clustered"
        if state != self.state:
            report = log.warning if state == "isolated" else log.info
            report("state", state=state, former=self.state, peers=len(self._membership.peers))
            self.state = state

    def _send(self) -> None:
        """Send this member's state to peers and listeners, through the servers that owe no answer.

        Peers and listeners are two lists, because the second one may not be known; of each list,
        a server gets one block.
        """
        peers = [queue_of(GOSSIP, peer) for peer in self._membership.peers]
        self._told.update(self._membership.peers)
        audiences = [Subscribers(GOSSIP, peers, enveloped=len(peers))]
        if self._listeners is not None:
            audiences.append(self._listeners)
        audiences = [audience for audience in audiences if audience.queues]
        if not audiences or not self._job_servers.is_up:
            return
        slow = {place for place, owed in self._owed.items() if owed}
        member, body = self._membership.id, encode(self._own.now(self.state))
        message = Fanout(GOSSIP, body, member, True, 1.0, None, False, frozenset(), "normal")
        unique = unique_id(member, body, None)
        for audience in audiences:
            blocks = audience.blocks(
                self._job_servers, message, foreground=False, unique=unique, at=time.time()
            )
            for block in blocks:
                if block.place not in slow:
                    self._owed[block.place] += 1
                    outcome = _Outcome(self._owed, block.place)
                    submission = Submission(outcome, block.heads, block.tail, False)
                    self._job_servers.submit(block.place, submission)

    def listeners_changed(self) -> None:
        """The subscribers of ``__gossip`` changed: send to members only until they are known."""
        self._listeners = None
        self._changed += 1

    async def _read_listeners(self) -> None:
        """Read the subscribers of ``__gossip``, for the next message. What was read is dropped
        where they changed meanwhile, and where the store does not answer the former ones stay."""
        self._reading = True
        changed = self._changed
        try:
            with contextlib.suppress(StoreError):
                listeners = await self._lists.read(GOSSIP)
                if changed == self._changed:
                    self._listeners = listeners
        finally:
            self._reading = False


class _Outcome:
    """Counts a message to one server as answered, whatever the answer is."""

    def __init__(self, owed: Counter[int], place: int) -> None:
        self._owed, self._place = owed, place

    def accepted(self, submission: Submission) -> None:
        self._owed[self._place] -= 1

    def lost(self, submission: Submission) -> None:
        self._owed[self._place] -= 1

    def finished(self, submission: Submission, index: int, result: Result) -> None:
        """Raise ``AssertionError``: a job server tells the end of foreground copies only."""
        raise AssertionError("a background copy is not finished towards its submitter")

    def broke(self, submission: Submission) -> None:
        """Nothing waits for gossip."""
