"""Fetching: ``fetch_fanout`` reads a log from a position, acknowledges, purges, and may wait.

Theory of operation. A request is a loop of three steps: ask the store where the log stands (the
same script acknowledges and purges), read messages into a reply, and, where there is none to send
and time is left, sleep until a message is logged.

The invariant: a message that is logged after the store was asked ends the sleep. So the fetch
announces itself to ``Sleepers`` *before* it asks the store. The other way round, a message that is
logged between the answer and the announcement would be reported too early, and the fetch would
sleep through it.

What wakes a sleeper may be lost, with the connection that brings it. So a sleep ends after
``LONGEST_SLEEP_S`` at the latest, and whenever that connection is there again (``missed``).

A subscription with ``pull`` gets neither messages that exclude it nor those that have expired.
Where these come first, its position is moved past them, or every fetch would read them again. There
may be a million of them: so once a part of the log had nothing for it, the next parts are large,
however few messages it wants.

Nor does it get any message while it is paused. Its position and its acknowledgements are as ever;
a fetch that waits does so until the pause ends.

Rules: runs on the event loop, a task for each request. A fetch that waits gives back its grab, so
other requests are taken meanwhile. A reply has at most ``REPLY_BYTES``, or one message; a few
replies are made at a time. See docs/protocol.rst, "fetch_fanout".
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from gearhorn.durable.reply import Reply
from gearhorn.durable.sleepers import Sleeper, Sleepers
from gearhorn.errors import BadRequest, Unknown
from gearhorn.gearman.worker import Job
from gearhorn.messages.codec import encode
from gearhorn.messages.logs import Fetch, decode_fetch, durable_envelope, encode_fetched
from gearhorn.messages.subscriptions import pause_left_s
from gearhorn.names import check_name
from gearhorn.requests import answer
from gearhorn.store.log import FETCH_BYTES, READ_ENTRIES, Entry, Log, Place
from gearhorn.tasks import Tasks
from gearhorn.timing import MembersClock

LONGEST_SLEEP_S = 30.0  # of a fetch that waits, should the event of a message be lost
PAUSE_MARGIN_S = 0.002  # the clock by which pauses end is read in whole milliseconds


class Fetching:
    """Answers what is asked of logs.

    Arguments:
        log: where messages are read.
        slots: bounds the replies that are made at once, here and by ``ParkedRequests``.
        clock: the members', by which messages expire.
    """

    def __init__(self, log: Log, slots: asyncio.Semaphore, clock: MembersClock) -> None:
        self._log = log
        self._clock = clock
        self._slots = slots
        self._sleepers = Sleepers()
        self._tasks = Tasks()

    def handle(self, job: Job) -> None:
        """Take one job; it is finished later, whatever happens."""
        self._tasks.spawn(answer(job, self._reply), "fetching")

    def appended(self, topic: str) -> None:
        """Messages of a topic were logged: fetches that wait for them ask the store again."""
        self._sleepers.call(topic)

    def missed(self) -> None:
        """Anything may have been logged: every fetch that waits asks the store again."""
        self._sleepers.call_all()

    async def _reply(self, job: Job) -> bytes:
        """Return the reply to a request, b"" where its client is gone. Raises ``Unknown``,
        ``BadRequest``, ``Busy`` where too many wait, and ``StoreError``.

        A fetch without ``wait`` goes through the loop once. One that waits gives its grab back with
        the first sleep (``job.wait``), and finds out after each whether its client is still there:
        a reply that is lost does no harm, as nothing is acknowledged by being read.
        """
        request = decode_fetch(job.arguments)
        check_name("topic", request.topic)
        client_id = request.client_id if isinstance(request.client_id, str) else ""
        if isinstance(request.client_id, str):
            check_name("client_id", client_id)
        deadline_s = asyncio.get_running_loop().time() + request.wait
        is_first = True
        with Sleeper(self._sleepers, request.topic) as sleeper:
            while True:
                sleeper.expect()  # before the store is asked: see above
                place = await self._place(request, client_id, is_first)
                is_first = False
                if place.what == "epoch":
                    return encode_fetched(place.epoch, place.first, place.last, [])
                left_s = deadline_s - asyncio.get_running_loop().time()
                reply = await self._messages(request, place, client_id, must_reply=left_s <= 0)
                if reply is not None:
                    return reply
                sleeper.answered()
                job.wait()
                await sleeper.sleep(min(left_s, self._longest_s(place)))
                if job.is_lost:
                    return b""

    def _longest_s(self, place: Place) -> float:
        """Return how long to sleep at most: an event may be lost, and a pause ends by itself."""
        left_s = pause_left_s(place.paused_ms, self._clock.clock_ms)
        return min(left_s + PAUSE_MARGIN_S, LONGEST_SLEEP_S) if left_s else LONGEST_SLEEP_S

    async def _place(self, request: Fetch, client_id: str, is_first: bool) -> Place:
        """Return where a log stands; the first time, acknowledge and purge as requested. Raises
        ``Unknown`` and ``BadRequest`` for what the store refuses, and ``StoreError``."""
        epoch = request.epoch if isinstance(request.epoch, str) else ""
        ack = request.ack if isinstance(request.ack, int) and is_first else None
        purge = request.purge if isinstance(request.purge, int) and is_first else None
        place = await self._log.fetch(request.topic, client_id, epoch=epoch, ack=ack, purge=purge)
        return _checked(request, place)

    async def _messages(
        self, request: Fetch, place: Place, client_id: str, must_reply: bool
    ) -> bytes | None:
        """Return the reply with what there is to read; None where that is nothing, unless
        ``must_reply``: the time to wait is over.

        A slot is held while messages are read and encoded, which bounds the memory of all replies.
        """
        reply = Reply()
        async with self._slots:
            last, passed = await self._fill(reply, request, place, client_id)
            if passed > place.position:
                # refused where the subscription has changed meanwhile, which does no harm
                await self._log.fetch(
                    request.topic, client_id, epoch=place.epoch, ack=passed, purge=None
                )
            if not reply.count and not must_reply:
                return None
            return encode_fetched(place.epoch, place.first, last, reply.messages)

    async def _fill(
        self, reply: Reply, request: Fetch, place: Place, client_id: str
    ) -> tuple[int, int]:
        """Read messages into a reply. Return the log's last sequence, and up to which sequence
        messages are not for the client before the first that is (0: none are not).

        It goes on page by page until the reply is full, or the log ends where the store said that
        it does: a topic that is published to all the time would otherwise keep it here.
        """
        if pause_left_s(place.paused_ms, self._clock.clock_ms):
            return place.last, 0
        after = place.position if client_id else request.after
        assert isinstance(after, int)
        last, passed, least = place.last, 0, 0
        while after < last and reply.count < request.limit and not reply.is_full:
            first = max(after + 1, place.first)
            room = request.limit - reply.count
            size = FETCH_BYTES - reply.size
            entries = await self._log.read(request.topic, first, max(room, least), size)
            if not entries:
                break  # dropped since the store said where the log stands
            after = entries[-1].sequence
            last = max(last, after)
            chosen = entries
            if client_id:
                clock_ms = self._clock.clock_ms
                chosen = [entry for entry in entries if _is_for(entry, client_id, clock_ms)]
                if not reply.count:
                    passed = chosen[0].sequence - 1 if chosen else after
                if not chosen:
                    least = READ_ENTRIES
            await _add(reply, request.topic, chosen[:room])
        return last, passed


def _is_for(entry: Entry, client_id: str, clock_ms: int) -> bool:
    """Whether a subscription may have a message at this reading of the members' clock."""
    info = entry.info
    return entry.is_plain or not (client_id in info.exclude or info.is_expired(clock_ms))


async def _add(reply: Reply, topic: str, entries: Iterable[Entry]) -> None:
    """Add messages to a reply, as many as it has room for, with turns for others between them."""
    for entry in entries:
        message = durable_envelope(
            topic, entry.sequence, entry.epoch, attempt=None, info=entry.info, payload=entry.payload
        )
        if not reply.add(encode(message), entry.size):
            return
        if reply.is_long_turn():
            await asyncio.sleep(0)


def _checked(request: Fetch, place: Place | None) -> Place:
    """Return where a log stands; raise ``Unknown`` or ``BadRequest`` for what the store says
    instead."""
    if place is None:
        raise Unknown(
            f"topic {request.topic} has no log; a durable subscription begins one, or retain_fanout"
        )
    if place.what == "client":
        raise Unknown(
            f"client {request.client_id} has no durable subscription to topic {request.topic}"
        )
    if place.what == "pull":
        raise BadRequest("ack: expected a subscription with pull; receivers acknowledge others")
    if place.what in ("ack", "purge"):
        value = request.ack if place.what == "ack" else request.purge
        raise BadRequest(
            f"{place.what}: expected at most {place.last}, the log's last, got {value}"
        )
    return place
