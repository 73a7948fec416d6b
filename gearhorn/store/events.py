"""Events: what the store tells everybody, on a connection that only listens.

Rules: runs on the event loop. Words may be lost while the connection is down; ``missed`` is called
whenever it is there again, and everything may have happened then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from gearhorn.errors import StoreError
from gearhorn.store.connection import Connection
from gearhorn.store.refusals import code_of
from gearhorn.store.wire import Wire
from gearhorn.timing import Backoff

SILENT_S = 3.0  # without a word the connection is asked for a sign of life
LOST_S = 2.0  # and answers within that
DEAF_S = 1.0  # between two looks where the store does not let us listen

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
        self._is_refused = False

    async def run(self) -> None:
        """Listen for ever."""
        backoff = Backoff(0.05, 0.5)
        while True:
            wire = None
            try:
                wire = await self._connection.open_apart()
                wire.send([("SUBSCRIBE", *self._handlers)])
                await self._listen(wire, backoff)
            except StoreError as error:
                self._explain(error)
                if self._is_refused:  # nobody will be heard: look at everything now and then
                    self._missed()
                    await asyncio.sleep(DEAF_S)
            finally:
                if wire is not None:
                    wire.close()
            await asyncio.sleep(backoff.next_s())

    def _explain(self, error: StoreError) -> None:
        if code_of(str(error)) != "NOPERM":
            self._is_refused = False
            log.debug("events are not heard", error=str(error))
        elif not self._is_refused:
            self._is_refused = True
            channels = " ".join(name.decode() for name in self._handlers)
            log.error(
                "events are not heard: the store's user may not use these channels",
                channels=channels,
                error=str(error),
            )

    async def _listen(self, wire: Wire, backoff: Backoff) -> None:
        is_asked = False
        waiting = set(self._handlers)  # channels that are not confirmed
        while True:
            try:
                async with asyncio.timeout(LOST_S if is_asked else SILENT_S):
                    reply = await wire.read()
            except TimeoutError:
                if is_asked:
                    raise StoreError("no sign of life") from None
                is_asked = True
                wire.send([("PING",)])
                continue
            is_asked = False
            if isinstance(reply, StoreError):
                raise reply
            if not isinstance(reply, list):
                continue  # the sign of life
            kind, channel, content = reply
            if kind == b"subscribe":
                waiting.discard(channel)
                if not waiting:
                    backoff.reset()
                    self._missed()
            elif kind == b"message":
                self._handle(channel, content)

    def _handle(self, channel: bytes, content: bytes) -> None:
        try:
            self._handlers[channel](content)
        except Exception:  # a bug must not end the listening
            log.exception("an event was not understood")
