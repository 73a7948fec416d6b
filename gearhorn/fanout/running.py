"""A running fan-out: what background and foreground fan-outs share, sending and sending again.

Theory of operation. A fan-out is carried through to the end even if the session of its own job is
gone: a copy too many is allowed, a copy too few is not ("What is promised" in docs/protocol.rst).
So copies for a server that goes down before the reply are sent through the others, those that it
had accepted included: what it kept in memory may be gone.

A copy is sent in one of four ways, and which one is decided anew each time. Of a long list, or of
one whose topic has a long fan-out under way, it goes through ``Portions``. With no server up it is
stranded in the outbox. For a queue on which older copies wait for room it is held back behind them.
Else it goes out at once. ``open`` counts what is in between, so that it is 0 exactly when every
copy was answered: that is what a reply waits for.

Rules: runs on the event loop. A method that raises ``open`` says what lowers it.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial

from gearhorn.errors import InternalError
from gearhorn.fanout.copies import Block, Subscribers
from gearhorn.fanout.outbox import Outbox
from gearhorn.fanout.packed import Packed
from gearhorn.fanout.places import Place, Places
from gearhorn.gearman.results import Result, Room
from gearhorn.gearman.submission import Submission
from gearhorn.gearman.worker import Job
from gearhorn.messages.fanout import Fanout
from gearhorn.messages.logs import Logged
from gearhorn.requests import attempt


class Plan:
    """What one fan-out is to do, as far as it is known before the first copy is sent.

    Arguments:
        job: the ``fanout`` job, which the fan-out replies to.
        message: what is copied.
        subscribers: the topic's list.
        chosen: indexes of the queues that get a copy, in ascending order; None: all of the list.

    Public attributes besides these: ``total``, how many copies there are; ``place``, what a
    foreground fan-out holds of the member's room; ``logged``, where the message is in its topic's
    log, and ``receivers``, the durable client_ids that get it from there.
    """

    __slots__ = (
        "chosen", "job", "logged", "message", "place", "receivers", "subscribers", "total",
    )  # fmt: skip

    def __init__(
        self,
        job: Job,
        message: Fanout,
        subscribers: Subscribers,
        chosen: Sequence[int] | None = None,
    ) -> None:
        self.job = job
        self.message = message
        self.subscribers = subscribers
        self.chosen = chosen
        self.total = len(subscribers.queues if chosen is None else chosen)
        self.place: Place | None = None
        self.logged: Logged | None = None
        self.receivers: Sequence[str] = ()

    def enter(self, places: Places) -> None:
        """Take a place for a fan-out whose caller waits for receivers.

        Raises ``Busy`` where there is none left.
        """
        self.place = places.enter(self.message.size, self.total)

    def note_logged(self, logged: Logged) -> None:
        """The message is in the log, for all durable receivers that it does not exclude."""
        self.logged = logged
        self.receivers = self.subscribers.receivers(self.message.exclude)

    def abandon(self) -> None:
        """Nothing comes of the fan-out: leave its place, if it has one."""
        if self.place is not None:
            self.place.leave()


class ServerBatch(Submission):
    """The copies of one fan-out that went to one server.

    Arguments:
        fanout: is told what becomes of them; what receivers send takes room of it.
        block: the copies.
        foreground: whether receivers answer to the submitter.

    ``connection`` is the one that they were written to. A server that comes back has another, and
    has forgotten what it had in memory.
    """

    __slots__ = ("_is_counted", "connection", "indexes", "place")

    def __init__(self, fanout: RunningFanout, block: Block, foreground: bool) -> None:
        super().__init__(
            fanout,
            block.heads,
            block.tail,
            foreground,
            results=fanout.results,
            reasons=fanout.reasons,
        )
        self.place = block.place
        self._is_counted = False
        self.indexes = block.indexes
        self.connection = fanout.outbox.job_servers.clients[block.place].connection

    def take_refused(self) -> list[int]:
        """Return the copies that the server refused, as indexes into the list; once."""
        if self._is_counted:
            return []
        self._is_counted = True
        return [self.index(at) for at, _ in self.refused or ()]

    def index(self, at: int) -> int:
        """Return which queue of the list copy ``at`` is for."""
        return at if self.indexes is None else self.indexes[at]

    @property
    def is_held(self) -> bool:
        """Whether the server that accepted these copies still is connected."""
        return self.connection is not None and self.connection.is_open


class RunningFanout(ABC):
    """What background and foreground fan-outs share: sending, and sending again.

    Arguments:
        outbox: what the running fan-outs share.
        plan: what is to be done.

    ``total`` are the copies; ``receivers`` are client_ids that the log keeps the message for.
    ``open`` is what the reply waits for: batches that no server has answered yet, copies that wait
    for a server or for room, and portions that are not handed over. ``parts`` are the batches whose
    copies may have to be sent again.
    """

    __slots__ = (
        "_tails", "_unique", "counted", "dropped", "job", "logged", "message", "open", "outbox",
        "parts", "receivers", "subscribers", "total",
    )  # fmt: skip
    foreground = False
    results: Room | None = None  # for what receivers return
    reasons: Room | None = None  # for why they failed

    def __init__(self, outbox: Outbox, plan: Plan) -> None:
        # The plan itself is not kept: the message loses its payload before the fan-out ends.
        self.outbox = outbox
        self.job = plan.job
        self.message = plan.message
        self.subscribers = plan.subscribers
        self.total = plan.total
        self.logged = plan.logged
        self.receivers = plan.receivers
        self.open = 0  # parts on their way, and what is kept until it can be sent
        self.parts: list[ServerBatch] = []
        self.dropped: list[int] = []
        self.counted: frozenset[int] = frozenset()  # drops that are counted, while others are not
        self._unique = b""  # the Gearman unique id of the last copies
        self._tails: dict[bool, bytes] = {}  # what they ended with, while copies are on their way

    def send(self, indexes: Sequence[int] | None) -> None:
        """Send the copies for some queues of the list; None is all."""
        outbox, subscribers = self.outbox, self.subscribers
        if subscribers.is_long or subscribers.topic in outbox.portions.topics:
            self.open += 1  # until ``sent``
            outbox.portions.add(subscribers.topic, self, self._ascending(indexes))
        elif outbox.job_servers.is_up:
            self._send_all(indexes)
        else:
            self._strand(indexes)

    def _ascending(self, indexes: Sequence[int] | None) -> Sequence[int]:
        if indexes is None:
            return range(len(self.subscribers.queues))
        return sorted(indexes) if isinstance(indexes, list) else indexes

    def send_portion(self, indexes: Sequence[int] | None) -> None:
        """Send the copies for some queues of the list; None is all. A server must be up."""
        self._send_all(indexes)

    def _send_all(self, indexes: Sequence[int] | None) -> None:
        if self.is_watched:
            indexes = self._held_back(indexes)
        self._send(indexes)

    @abstractmethod
    def sent(self) -> None:
        """The last portion of what was sent in portions is handed over."""

    def _held_back(self, indexes: Sequence[int] | None) -> Sequence[int] | None:
        """Leave copies for full queues to those that make room there; return the others."""
        held = self.outbox.overflow.keep(self, indexes)
        if not held:
            return indexes
        self.open += len(held)
        whole = range(len(self.subscribers.queues)) if indexes is None else indexes
        return [index for index in whole if index not in held]

    def send_held(self, index: int) -> None:
        """There is room now for a copy that was held back."""
        self.open -= 1
        if self.outbox.job_servers.is_up:
            self._send([index])
        else:
            self._strand([index])

    def _strand(self, indexes: Sequence[int] | None) -> None:
        """No server is up: leave copies with the outbox, until ``send_stranded``."""
        self.open += 1
        self.outbox.strand(self, indexes)

    def send_stranded(self, indexes: Sequence[int] | None) -> None:
        """A server is up for copies that were kept until one would be."""
        self.open -= 1
        self.send(indexes)

    def _send(self, indexes: Sequence[int] | None) -> None:
        """Write copies, in one block for each server and kind.

        The time in envelopes is that of each sending. What copies end with is made once, unless the
        unique id changed since: foreground ids do when a server came or went (``Outbox``).
        ``open`` counts all blocks before the first is submitted: where a link has just gone down,
        ``submit`` tells at once that they are lost.
        """
        outbox, message = self.outbox, self.message
        if message.expires_ms and outbox.has_expired(message):
            self.open += 1  # until it is told, in a turn of its own: callers are not done yet
            call = partial(self._expire, indexes)
            asyncio.get_running_loop().call_soon(attempt, self.job, call)
            return
        unique = outbox.unique_id(message, self.foreground) if message.unique else b""
        if unique != self._unique:
            self._unique, self._tails = unique, {}
        blocks = self.subscribers.blocks(
            outbox.job_servers,
            message,
            foreground=self.foreground,
            unique=unique,
            at=time.time(),
            indexes=indexes,
            tails=self._tails,
        )
        self.open += len(blocks)
        for block in blocks:
            part = ServerBatch(self, block, self.foreground)
            self.parts.append(part)
            outbox.job_servers.submit(block.place, part)

    def _expire(self, indexes: Sequence[int] | None) -> None:
        self.open -= 1
        self.expire(range(len(self.subscribers.queues)) if indexes is None else indexes)

    @abstractmethod
    def expire(self, indexes: Sequence[int]) -> None:
        """The message expired before copies for these queues of the list were sent."""

    def drop(self, part: ServerBatch) -> int:
        """Take note of the copies of a part that the server refused; return how many are lost."""
        self.taken(part, part.indexes)
        return self.refuse(part.take_refused())

    def refuse(self, refused: Sequence[int]) -> int:
        """Take note of copies that a server refused, given by their place in the list; return how
        many are lost. The others wait for room."""
        lost = 0
        for index in refused:
            if self.outbox.overflow.is_for(self.subscribers, index):
                self.hold(index)
                self.outbox.overflow.refused(self, index)
            else:
                self.lose(index)
                lost += 1
        return lost

    @property
    def is_watched(self) -> bool:
        """Whether room is made on a queue of the list, and its copies have to be known there."""
        return self.subscribers.topic in self.outbox.overflow.topics

    def taken(self, part: Submission, indexes: Sequence[int] | None) -> None:
        """Tell those that make room which copies of a part were accepted."""
        if self.is_watched:
            sent = range(len(self.subscribers.queues)) if indexes is None else indexes
            refused = {sent[at] for at, _ in part.refused or ()}
            self.outbox.overflow.accepted(self.subscribers, sent[: part.answered], refused)

    def hold(self, index: int) -> None:
        """A copy waits for room, until ``send_held`` or ``drop_held``."""
        self.open += 1

    def lose(self, index: int) -> None:
        """Take note that a copy is dropped."""
        self.dropped.append(index)

    @abstractmethod
    def drop_held(self, index: int) -> None:
        """No room could be made for a copy that was held back."""

    def clients(self, indexes: Sequence[int]) -> list[str]:
        """Return the client_ids of queues."""
        queues = self.subscribers.queues
        if isinstance(queues, Packed):  # which is read in order
            return [name.decode() for name in queues.clients(sorted(indexes))]
        return [self.subscribers.client_id(index) for index in indexes]

    def broke(self, submission: Submission) -> None:
        """A fault in gearhorn: what waits for this fan-out is told so."""
        self.job.fail(str(InternalError()))

    @abstractmethod
    def accepted(self, submission: Submission) -> None:
        """A server answered every copy of a batch; see ``Outcome``."""

    @abstractmethod
    def lost(self, submission: Submission) -> None:
        """The server of a batch went away before it had answered every copy."""

    @abstractmethod
    def finished(self, submission: Submission, index: int, result: Result) -> None:
        """A receiver finished a foreground copy, or the server went that had accepted it."""
