"""Events: what the store tells everybody, on a connection that only listens.

Law: runs on the event loop. Words may be lost while the connection is down; ``missed`` is called
whenever it is there again, and everything may have happened then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog
from redis.exceptions import RedisError

from gearhorn.store.connection import Connection
from gearhorn.timing import Backoff

POLL_S = 1.0
SILENT_S = 5.0  # without a word the connection is asked for a sign of life
LOST_S = 10.0

log = structlog.get_logger(__name__)


class Events:
    """Listens to channels, each with its handler."""

    def __init__(
        self,
        connection: Connection,
        handlers: Mapping[str, Callable[[bytes], None]],
        missed: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._handlers = {name.encode(): handler for name, handler in handlers.items()}
        self._missed = missed

    async def run(self) -> None:
        """Listen for ever."""
        backoff = Backoff(0.05, 0.5)
        while True:
            listener = self._connection.subscriber()
            try:
                async with asyncio.timeout(LOST_S):
                    await listener.subscribe(*self._handlers)
                await self._listen(listener, backoff)
            except (RedisError, OSError) as error:
                log.debug("events are not heard", error=str(error))
            finally:
                await listener.aclose()  # type: ignore[no-untyped-call]
            await asyncio.sleep(backoff.next_s())

    async def _listen(self, listener: object, backoff: Backoff) -> None:
        loop = asyncio.get_running_loop()
        heard_at = loop.time()
        is_asked = False
        waiting = set(self._handlers)  # channels that are not confirmed
        while True:
            message = await listener.get_message(timeout=POLL_S)  # type: ignore[attr-defined]
            if message is None:
                silent_s = loop.time() - heard_at
                if silent_s > LOST_S:
                    raise ConnectionError("no sign of life")
                if silent_s > SILENT_S and not is_asked:
                    is_asked = True
                    await listener.ping()  # type: ignore[attr-defined]
                continue
            heard_at, is_asked = loop.time(), False
            if message["type"] == "subscribe":
                # once more than asked for where redis-py has connected anew by itself
                waiting.discard(message["channel"])
                if not waiting:
                    backoff.reset()
                    self._missed()
            elif message["type"] == "message":
                try:
                    self._handlers[message["channel"]](message["data"])
                except Exception:  # a bug must not end the listening
                    log.exception("an event was not understood")
