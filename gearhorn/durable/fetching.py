"""Reading: ``fetch_fanout`` and ``parked_fanout``, what is asked of logs and parked messages.

Rules: runs on the event loop, a task for each request. A fetch that waits holds no grab. A reply
has at most ``REPLY_BYTES``, or one message; it is made in pieces, a few replies at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from gearhorn.durable.sleepers import Sleeper, Sleepers
from gearhorn.errors import BadRequest, Unknown
from gearhorn.gearman.worker import Job
from gearhorn.messages.codec import encode
from gearhorn.messages.logs import (
    Fetch,
    ParkedRequest,
    decode_fetch,
    decode_parked_request,
    durable_envelope,
    encode_fetched,
    encode_parked_entry,
    encode_parked_list,
)
from gearhorn.names import check_name
from gearhorn.requests import answer
from gearhorn.store.lanes import Lanes
from gearhorn.store.log import FETCH_BYTES, Entry, Log, Place
from gearhorn.tasks import Tasks

LISTED = 100  # parked messages, unless a limit is given
REPLY_BYTES = 16 * 1024 * 1024
REPLIES = 4  # made at once
PIECE = 500  # messages encoded in one turn of the loop, or
PIECE_BYTES = 1024 * 1024
LONGEST_SLEEP_S = 30.0  # of a fetch that waits, should nobody tell that a message came


class Reading:
    """Answers what is asked of logs and of parked messages."""

    def __init__(self, log: Log, lanes: Lanes, parked_function: bytes) -> None:
        self._log = log
        self._lanes = lanes
        self._parked_function = parked_function
        self._sleepers = Sleepers()
        self._making = asyncio.Semaphore(REPLIES)
        self._tasks = Tasks()

    def handle(self, job: Job) -> None:
        """Take one job."""
        reply = self._parked if job.function == self._parked_function else self._fetch
        self._tasks.spawn(answer(job, reply), "reading")

    def appended(self, topic: str) -> None:
        """Messages were logged."""
        self._sleepers.call(topic)

    def missed(self) -> None:
        """Anything may have been logged."""
        self._sleepers.call_all()

    async def _fetch(self, job: Job) -> bytes:
        request = decode_fetch(job.arguments)
        check_name("topic", request.topic)
        epoch = request.epoch if isinstance(request.epoch, str) else ""
        client_id = request.client_id if isinstance(request.client_id, str) else ""
        if isinstance(request.client_id, str):
            check_name("client_id", client_id)
        ack = request.ack if isinstance(request.ack, int) else None
        purge = request.purge if isinstance(request.purge, int) else None
        deadline = asyncio.get_running_loop().time() + request.wait
        with Sleeper(self._sleepers, request.topic) as sleeper:
            while True:
                sleeper.expect()
                place = self._checked(
                    request, await self._log.fetch(request.topic, client_id, epoch, ack, purge)
                )
                if place.what == "epoch":
                    return encode_fetched(place.epoch, place.first, place.last, [])
                left_s = deadline - asyncio.get_running_loop().time()
                reply = await self._messages(request, place, client_id, must_reply=left_s <= 0)
                if reply is not None:
                    return reply
                ack = purge = None  # that is done
                sleeper.answered()
                job.wait()
                await sleeper.sleep(min(left_s, LONGEST_SLEEP_S))
                if job.is_lost:
                    return b""

    async def _messages(
        self, request: Fetch, place: Place, client_id: str, must_reply: bool
    ) -> bytes | None:
        """Return the reply with what there is to read; None where that is nothing, unless
        ``must_reply``. Messages that exclude the client are not for it: it is moved past those
        before the first that is."""
        after = place.position if client_id else request.after
        assert isinstance(after, int)
        reply = _Reply()
        last = place.last
        passed = 0
        async with self._making:
            while after < last and reply.count < request.limit and not reply.is_full:
                first = max(after + 1, place.first)
                room = request.limit - reply.count
                entries = await self._log.read(request.topic, first, room, FETCH_BYTES - reply.size)
                if not entries:
                    break
                after = entries[-1].sequence
                last = max(last, after)
                chosen = [one for one in entries if client_id not in one.info.exclude]
                if not client_id:
                    chosen = entries
                elif not reply.count:
                    passed = chosen[0].sequence - 1 if chosen else after
                await self._add(reply, request.topic, chosen)
            if passed > place.position:
                # refused where the subscription has changed meanwhile, which does no harm
                await self._log.fetch(request.topic, client_id, place.epoch, passed, None)
            if not reply.count and not must_reply:
                return None
            return encode_fetched(place.epoch, place.first, last, reply.messages)

    async def _add(self, reply: _Reply, topic: str, entries: Iterable[Entry]) -> None:
        """Add messages to a reply, as many as it has room for."""
        for one in entries:
            message = durable_envelope(topic, one.sequence, one.epoch, None, one.info, one.payload)
            if not reply.add(encode(message), one.size):
                return
            if reply.is_long_turn():
                await asyncio.sleep(0)

    def _checked(self, request: Fetch, place: Place | None) -> Place:
        if place is None:
            raise Unknown(
                f"topic {request.topic} has no log; a durable subscription begins one, "
                "or retain_fanout"
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

    async def _parked(self, job: Job) -> bytes:
        request = decode_parked_request(job.arguments)
        check_name("topic", request.topic)
        check_name("client_id", request.client_id)
        limit = request.limit if isinstance(request.limit, int) else None
        if request.action == "list":
            async with self._making:
                listed = await self._list(request, LISTED if limit is None else limit)
            if listed is not None:
                return listed
        else:
            count = await self._lanes.take_parked(
                request.topic, request.client_id, request.action, limit
            )
            if count is not None:
                return encode({"redriven" if request.action == "redrive" else "purged": count})
        raise Unknown(
            f"client {request.client_id} has no durable subscription to topic {request.topic}"
        )

    async def _list(self, request: ParkedRequest, limit: int) -> bytes | None:
        """Return a page of parked messages; None where there is no such durable subscription."""
        reply = _Reply()
        after = request.after
        is_end = False
        while not is_end and reply.count < limit and not reply.is_full:
            room = limit - reply.count
            found = await self._lanes.list_parked(request.topic, request.client_id, after, room)
            if found is None:
                return None
            entries, is_end = found
            for sequence, one in entries:
                if not reply.add(encode_parked_entry(sequence, one), len(one.payload)):
                    is_end = False
                    break
                after = sequence
                if reply.is_long_turn():
                    await asyncio.sleep(0)
        return encode_parked_list(reply.messages, None if is_end else after)


class _Reply:
    """Messages of a reply that is being made."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.size = 0  # of payloads
        self.is_full = False
        self._bytes = 0
        self._turn = 0, 0  # messages and bytes up to the present turn of the loop

    @property
    def count(self) -> int:
        """How many messages it has."""
        return len(self.messages)

    def add(self, message: bytes, size: int) -> bool:
        """Add a message, as it is sent, and the size that it counts; return whether there was room:
        there always is for the first."""
        if self.messages and (
            self._bytes + len(message) > REPLY_BYTES or self.size + size > FETCH_BYTES
        ):
            self.is_full = True
            return False
        self.messages.append(message)
        self._bytes += len(message) + 1
        self.size += size
        self.is_full = self.size >= FETCH_BYTES or self._bytes >= REPLY_BYTES
        return True

    def is_long_turn(self) -> bool:
        """Whether so much was added in this turn of the loop that others should have one."""
        count, size = self._turn
        if self.count - count < PIECE and self._bytes - size < PIECE_BYTES:
            return False
        self._turn = self.count, self._bytes
        return True
