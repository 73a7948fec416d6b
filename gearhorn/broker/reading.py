"""Reading: ``fetch_fanout`` and ``parked_fanout``, what is asked of logs and parked messages.

Law: runs on the event loop, a task for each request. A fetch that waits holds no grab.
"""

from __future__ import annotations

import asyncio
import contextlib

from gearhorn.broker.requests import answer
from gearhorn.errors import BadRequest, Unknown
from gearhorn.gearman.worker import Job
from gearhorn.messages.codec import encode
from gearhorn.messages.durable import (
    Fetch,
    decode_fetch,
    decode_parked_request,
    durable_envelope,
    encode_fetched,
    encode_parked_list,
)
from gearhorn.names import check_name
from gearhorn.store.lanes import Lanes
from gearhorn.store.log import Log, Place
from gearhorn.tasks import Tasks

LISTED = 100  # parked messages, unless a limit is given (PROTOCOL §6: as fetch's)
LONGEST_SLEEP_S = 30.0  # of a fetch that waits, should nobody tell that a message came


class Reading:
    """Answers what is asked of logs and of parked messages."""

    def __init__(self, log: Log, lanes: Lanes, parked_function: bytes) -> None:
        self._log = log
        self._lanes = lanes
        self._parked_function = parked_function
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}  # fetches by topic
        self._tasks = Tasks()

    def handle(self, job: Job) -> None:
        """Take one job."""
        reply = self._parked if job.function == self._parked_function else self._fetch
        self._tasks.spawn(answer(job, reply), "reading")

    def appended(self, topic: str) -> None:
        """Messages were logged."""
        for future in self._waiting.pop(topic, ()):
            if not future.done():
                future.set_result(None)

    def missed(self) -> None:
        """Anything may have been logged."""
        for topic in list(self._waiting):
            self.appended(topic)

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
        while True:
            came = self._expect(request.topic)
            try:
                place = self._checked(
                    request, await self._log.fetch(request.topic, client_id, epoch, ack, purge)
                )
                if place.what == "epoch":
                    return encode_fetched(place.epoch, place.first, place.last, [])
                after = place.position if client_id else request.after
                assert isinstance(after, int)
                entries = []
                if after < place.last:
                    first = max(after + 1, place.first)
                    entries = await self._log.read(request.topic, first, request.limit)
                left_s = deadline - asyncio.get_running_loop().time()
                if entries or left_s <= 0:
                    messages = [
                        durable_envelope(
                            request.topic, one.sequence, one.epoch, None, one.info, one.payload
                        )
                        for one in entries
                    ]
                    last = max(place.last, entries[-1].sequence if entries else 0)
                    return encode_fetched(place.epoch, place.first, last, messages)
                ack = purge = None  # that is done
                job.release()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left_s, LONGEST_SLEEP_S)):
                        await came
            finally:
                self._waiting.get(request.topic, set()).discard(came)
                if not self._waiting.get(request.topic, {0}):
                    del self._waiting[request.topic]

    def _expect(self, topic: str) -> asyncio.Future[None]:
        came: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(topic, set()).add(came)
        return came

    def _checked(self, request: Fetch, place: Place | None) -> Place:
        if place is None:
            raise Unknown(f"topic {request.topic} has no log")
        if place.what == "client":
            raise Unknown(
                f"client {request.client_id} has no durable subscription to topic {request.topic}"
            )
        if place.what == "pull":
            raise BadRequest("ack: only a subscription with pull is acknowledged so")
        if place.what in ("ack", "purge"):
            value = request.ack if place.what == "ack" else request.purge
            raise BadRequest(f"{place.what}: the log's last is {place.last}, got {value}")
        return place

    async def _parked(self, job: Job) -> bytes:
        request = decode_parked_request(job.arguments)
        check_name("topic", request.topic)
        check_name("client_id", request.client_id)
        limit = request.limit if isinstance(request.limit, int) else None
        if request.action == "list":
            found = await self._lanes.list_parked(
                request.topic, request.client_id, LISTED if limit is None else limit
            )
            if found is not None:
                return encode_parked_list(found)
        else:
            count = await self._lanes.take_parked(
                request.topic, request.client_id, request.action, limit
            )
            if count is not None:
                return encode({"redriven" if request.action == "redrive" else "purged": count})
        raise Unknown(
            f"client {request.client_id} has no durable subscription to topic {request.topic}"
        )
