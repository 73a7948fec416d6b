"""Events: what is published on the store's channels, heard on a connection that only listens.

Theory of operation. Redis delivers a publication at most once: what is published while a listener's
connection is down is lost, and the listener is not told. So no event is ever needed for
correctness. Each tells a part of this process to read the store sooner than it would by itself, and
every time that all channels are confirmed on a new connection, each listener is told that it may
have missed anything (``missed``) and reads the store. The order matters: ``missed`` comes after the
confirmation, so that a change between the reading and the confirmation cannot fall into a gap.

A connection that only listens is silent for long, and silence looks like a connection that a
middlebox has dropped. After ``SILENT_S`` the server is asked for a sign of life; without an answer
within ``LOST_S`` the connection counts as lost. An ACL that does not let the user listen cannot be
waited out: the listeners are told every ``DEAF_S`` that they may have missed anything, so that the
process works with a delay instead of not at all.

Rules: runs on the event loop. A listener that raises is logged and heard again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

import structlog

from gearhorn.errors import StoreError
from gearhorn.store.connection import Connection
from gearhorn.store.refusals import code_of
from gearhorn.store.wire import Wire
from gearhorn.timing import Backoff

SILENT_S = 3.0  # of silence, and the connection is asked for a sign of life
LOST_S = 2.0  # and answers within that
DEAF_S = 1.0  # between two calls of ``missed`` where the store refuses to let this user listen

log = structlog.get_logger(__name__)


class ChannelListener(Protocol):
    """What a part of the process has to offer to hear one channel. Neither method waits."""

    def hear(self, text: bytes) -> None:
        """Take what was published (``messages.events`` has the formats)."""

    def missed(self) -> None:
        """Take that anything may have been published that was not heard: read the store."""


class Events:
    """Listens to channels.

    Arguments:
        connection: opens the connection that only listens.
        listeners: hear one channel each, by the channel's name.
    """

    def __init__(self, connection: Connection, listeners: Mapping[str, ChannelListener]) -> None:
        self._connection = connection
        self._listeners = {name.encode(): listener for name, listener in listeners.items()}
        self._is_refused = False

    async def run(self) -> None:
        """Listen until cancelled, and connect anew whenever the connection ends.

        The back-off begins anew once all channels are confirmed, not once there is a connection: a
        server that accepts connections and refuses what is asked on them must not be asked twenty
        times a second.
        """
        backoff = Backoff(0.05, 0.5)
        while True:
            wire = None
            try:
                wire = await self._connection.open_apart()
                wire.send([("SUBSCRIBE", *self._listeners)])
                await self._listen(wire, backoff)
            except StoreError as error:
                self._explain(error)
                if self._is_refused:  # nothing will be heard: everything is read now and then
                    self._missed()
                    await asyncio.sleep(DEAF_S)
            finally:
                if wire is not None:
                    wire.close()
            await asyncio.sleep(backoff.next_s())

    def _explain(self, error: StoreError) -> None:
        """Log why nothing is heard: a lost connection at level debug, since nothing follows
        from it; a missing permission once, as an error, since only the operator can mend it."""
        if code_of(str(error)) != "NOPERM":
            self._is_refused = False
            log.debug("events are not heard", error=str(error))
        elif not self._is_refused:
            self._is_refused = True
            channels = " ".join(name.decode() for name in self._listeners)
            log.error(
                "events are not heard: the store's user may not use these channels",
                channels=channels,
                error=str(error),
            )

    async def _listen(self, wire: Wire, backoff: Backoff) -> None:
        """Hand on what comes; raises ``StoreError`` when the connection ends.

        The time-out comes first, since silence is the usual case, and anything that comes ends it.
        A refusal is checked for next, because it is an object of another kind than what channels
        bring. What is left are lists of three: confirmations until every channel has one, messages
        from then on. A message that comes before the last confirmation is handed on as well.
        """
        is_asked = False
        waiting = set(self._listeners)  # channels that are not confirmed
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

    def _missed(self) -> None:
        """Tell every listener that it may have missed something."""
        for listener in self._listeners.values():
            listener.missed()

    def _handle(self, channel: bytes, content: bytes) -> None:
        """Hand one message on."""
        try:
            self._listeners[channel].hear(content)
        except Exception:  # a fault of one listener must not end the listening of the others
            log.exception("an event was not understood")
