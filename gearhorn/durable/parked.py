"""Parked requests: ``parked_fanout`` lists messages that were set aside, puts them back, or purges
them.

Any member answers, whether it holds the lane or not, since all of it is in the store. What puts
messages back only writes there, under a number; the member that holds the lane finds out by itself
(``Redrives``), and takes the lane anew with them. So a redrive is answered before anything of it is
delivered.

Rules: runs on the event loop, a task for each request. A list has at most ``REPLY_BYTES``, or one
message; it says where the next page begins. See docs/protocol.rst, "parked_fanout".
"""

from __future__ import annotations

import asyncio

from gearhorn.durable.reply import Reply
from gearhorn.errors import Unknown
from gearhorn.gearman.worker import Job
from gearhorn.messages.codec import encode
from gearhorn.messages.logs import (
    ParkedRequest,
    decode_parked_request,
    encode_parked_entry,
    encode_parked_list,
)
from gearhorn.names import check_name
from gearhorn.requests import answer
from gearhorn.store.lanes import Lanes
from gearhorn.tasks import Tasks

LISTED = 100  # messages of a page, unless a limit is given


class ParkedRequests:
    """Answers what is asked of parked messages.

    Arguments:
        lanes: where parked messages are.
        slots: bounds the replies that are made at once, here and by ``Fetching``.
    """

    def __init__(self, lanes: Lanes, slots: asyncio.Semaphore) -> None:
        self._lanes = lanes
        self._slots = slots
        self._tasks = Tasks()

    def handle(self, job: Job) -> None:
        """Take one job; it is finished later, whatever happens."""
        self._tasks.spawn(answer(job, self._reply), "parked")

    async def _reply(self, job: Job) -> bytes:
        """Return the reply to a request. Raises ``Unknown`` where there is no such subscription,
        ``BadRequest`` for what is not a request, and ``StoreError``."""
        request = decode_parked_request(job.arguments)
        check_name("topic", request.topic)
        check_name("client_id", request.client_id)
        limit = request.limit if isinstance(request.limit, int) else None
        if request.action == "list":
            async with self._slots:
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
        """Return a page of parked messages; None where there is no such durable subscription.

        The store is asked again and again, because one of its answers is bounded in bytes too. A
        message for which the reply has no room is the next page's first: ``after`` in the reply is
        the last that was taken, and None where there are no more.
        """
        reply = Reply()
        after = request.after
        is_end = False
        while not is_end and reply.count < limit and not reply.is_full:
            room = limit - reply.count
            found = await self._lanes.list_parked(request.topic, request.client_id, after, room)
            if found is None:
                return None
            entries, is_end = found
            for sequence, parked in entries:
                if parked is not None and not reply.add(
                    encode_parked_entry(sequence, parked), len(parked.payload) + parked.info.size
                ):
                    is_end = False
                    break
                after = sequence
                if reply.is_long_turn():
                    await asyncio.sleep(0)
        return encode_parked_list(reply.messages, None if is_end else after)
