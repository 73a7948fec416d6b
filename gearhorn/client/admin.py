"""Administering: subscriptions of others, logs, parked messages, and what is going on.

Rules: nothing that changes something is repeated, except what comes to the same if it happens
twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from gearhorn.client.connected import Connected
from gearhorn.client.settings import Durable
from gearhorn.errors import Unknown
from gearhorn.messages.codec import encode

PAGE = 1000  # subscriptions, topics or parked messages of one reply

Described = dict[str, Any]


class Admin(Connected):
    """Administers through the workers behind some job servers; for one event loop.

    Arguments: as of ``gearhorn.aio.Publisher``. Every method raises ``RequestError`` as the worker
    refuses it, ``NotConnected``, ``Unsure`` or ``TimedOut``.
    """

    async def ask(self, function: str, *, is_repeatable: bool = True, **request: Any) -> Described:
        """Run a request whose reply is an object.

        Arguments:
            function: one of ``Functions``.
            is_repeatable: whether it is sent again when its reply is lost. A subscribe may: it
                comes to the same. A redrive of the oldest ten may not.
            request: its keys; those that are None are left out.
        """
        body = encode({key: value for key, value in request.items() if value is not None})
        reply = await self._run(function, body, self._timeout_s, is_repeatable=is_repeatable)
        found: Described = msgspec.json.decode(reply)
        return found

    async def describe(self, topic: str | None = None) -> Described:
        """Return what one topic has, or all topics: ``subscriptions`` by client_id, and ``log``
        ("describe_fanout" in docs/protocol.rst). Raises ``Unknown`` for a topic that has neither.
        """
        topics: Described = {}
        async for page in self._pages(topic=topic):
            for name, described in page["topics"].items():
                known = topics.setdefault(name, described)
                known["subscriptions"].update(described["subscriptions"])
        return topics if topic is None else dict(topics.get(topic, {}))

    async def topics(self, match: str | None = None, sort: str | None = None) -> list[Described]:
        """Return a summary of every topic, or of those that match a pattern.

        A summary has counts only, so that 100,000 topics cost a page each thousand of them
        ("describe_fanout" in docs/protocol.rst).

        Arguments:
            match: a pattern of topics, None: all.
            sort: "name", "lag", "parked", "backlog" or "drops", None: by name.
        """
        found: list[Described] = []
        async for page in self._pages(summary=True, match=match, sort=sort):
            found += ({"topic": name, **topic} for name, topic in page["topics"].items())
        return found

    async def _pages(self, **request: Any) -> AsyncIterator[Described]:
        # a page is bounded by the worker; what changes between two pages is there as of its page
        cursor = None
        while True:
            page = await self.ask(self.functions.describe, limit=PAGE, cursor=cursor, **request)
            yield page
            cursor = page.get("cursor")
            if cursor is None:
                return

    async def members(self) -> list[Described]:
        """Return how each worker is, as it said last ("Gossip" in docs/protocol.rst)."""
        page = await self.ask(self.functions.describe, limit=1)
        return list(page["members"])

    async def subscribe(
        self,
        topic: str,
        client_id: str,
        *,
        durable: bool | Durable | None = None,
        ttl: float | None = None,
        max_backlog: int | None = None,
        overflow: str | None = None,
        envelope: bool | None = None,
        pattern: bool | None = None,
    ) -> Described:
        """Subscribe a client; return its ``queue`` and the ``version`` of the change.

        Arguments: as in "subscribe_fanout" in docs/protocol.rst; an option that is not given keeps
        its former value.
        """
        return await self.ask(
            self.functions.subscribe,
            topic=topic,
            client_id=client_id,
            durable=durable.options() if isinstance(durable, Durable) else durable,
            ttl=ttl,
            max_backlog=max_backlog,
            overflow=overflow,
            envelope=envelope,
            pattern=pattern,
        )

    async def unsubscribe(
        self, topic: str, client_id: str, *, drain: bool = False, pattern: bool = False
    ) -> Described:
        """End a subscription; with ``drain`` discard what waits on its queue, too."""
        return await self.ask(
            self.functions.unsubscribe,
            topic=topic,
            client_id=client_id,
            drain=drain or None,
            pattern=pattern or None,
        )

    async def pause(self, topic: str, client_id: str, seconds: float | None = None) -> None:
        """Deliver nothing of a durable subscription, for a time or until ``resume``.

        What is under way may finish. What is published meanwhile waits in the log and is delivered
        afterwards, in order. ``seconds``: after which it ends by itself; None: never.
        """
        await self._pause(topic, client_id, True if seconds is None else seconds)

    async def resume(self, topic: str, client_id: str) -> None:
        """Deliver again."""
        await self._pause(topic, client_id, False)

    async def _pause(self, topic: str, client_id: str, paused: bool | float) -> None:
        """Pause or resume. A subscribe does it, which would make what is not there: so it is looked
        for first. Raises ``Unknown`` where there is no such durable subscription."""
        found = (await self.describe(topic)).get("subscriptions", {}).get(client_id)
        if not (found or {}).get("durable"):
            raise Unknown(f"{client_id} has no durable subscription to {topic}")
        durable = {"paused": paused}
        await self.ask(self.functions.subscribe, topic=topic, client_id=client_id, durable=durable)

    async def retain(
        self,
        topic: str,
        *,
        max_age: float | UnsetType | None = UNSET,
        max_messages: int | UnsetType | None = UNSET,
        max_bytes: int | UnsetType | None = UNSET,
    ) -> None:
        """Set how long a topic keeps its messages.

        Arguments:
            max_age: seconds; None returns to the default, and what is not given stays.
            max_messages, max_bytes: likewise.
        """
        settings = {"max_age": max_age, "max_messages": max_messages, "max_bytes": max_bytes}
        given = {key: value for key, value in settings.items() if value is not UNSET}
        body = encode({"topic": topic, **given})
        await self._run(self.functions.retain, body, self._timeout_s, is_repeatable=True)

    async def parked(
        self, topic: str, client_id: str, limit: int | None = None
    ) -> AsyncIterator[Described]:
        """Yield the parked messages of a subscription, the oldest first.

        Each has ``sequence``, ``epoch``, ``attempts``, ``error``, ``at``, ``first_at`` and
        ``payload`` or ``payload_base64`` ("parked_fanout" in docs/protocol.rst).

        Arguments:
            topic, client_id: a durable subscription.
            limit: how many at most; None: all of them, read page by page.
        """
        after, left = 0, limit
        while left is None or left > 0:
            page = await self.ask(
                self.functions.parked,
                topic=topic,
                client_id=client_id,
                action="list",
                limit=PAGE if left is None else min(PAGE, left),
                after=after,
            )
            for parked in page["parked"]:
                yield parked
            if left is not None:
                left -= len(page["parked"])
            if "after" not in page:
                return
            after = page["after"]

    async def redrive(self, topic: str, client_id: str, limit: int | None = None) -> int:
        """Put parked messages back, the oldest first; return how many.

        They are delivered ahead of the log, with as many new attempts as the subscription allows.
        ``limit`` is how many at most; None: all. With a limit it is not repeated when the reply is
        lost, since the second one would take the next messages.
        """
        return await self._parked(
            "redrive", "redriven", topic=topic, client_id=client_id, limit=limit
        )

    async def purge(self, topic: str, client_id: str, limit: int | None = None) -> int:
        """Forget parked messages, the oldest first; return how many. ``limit`` as in ``redrive``;
        what is forgotten cannot be had back."""
        return await self._parked("purge", "purged", topic=topic, client_id=client_id, limit=limit)

    async def _parked(
        self, action: str, result: str, *, topic: str, client_id: str, limit: int | None
    ) -> int:
        reply = await self.ask(
            self.functions.parked,
            is_repeatable=limit is None,
            topic=topic,
            client_id=client_id,
            action=action,
            limit=limit,
        )
        return int(reply[result])
