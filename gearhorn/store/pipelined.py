"""A pipelined connection to the store: more is asked on it before the former answer is there.

Theory of operation. Appends and rounds of lanes come faster than the store's round trip. Over a
pool, each batch would take a connection of its own, and two batches on two connections may be
carried out in either order; but an append must not overtake the one before it, nor a position an
earlier one. One connection keeps the order, and costs a round trip only once for all that is under
way. What it takes away is independence: if the connection ends, everything that is unanswered on it
has an unknown fate, together. That gives the rules for failures:

* All that is unanswered fails with ``StoreUnanswered``, in the order in which it was asked.
* An answer that is late ends the connection, too. Skipping it later, when it comes, would need a
  record of the answers that have no asker any more, for a connection that is in trouble anyway.
* A *strict* one refuses everything after that until ``mend``. Its user (``log``) asks first for the
  fate of what failed; a new append that went ahead of that could be logged before an old one.
* Scripts are loaded when the connection opens, not when one turns out to be unknown. Where commands
  are pipelined, what stands behind an unknown script has been carried out when that is noticed, so
  nothing could be repeated in order. A script that is unknown all the same ends the connection.

The batches themselves are written under a lock, which covers opening too: a batch that comes while
the connection is being opened waits, and does not open a second one.

Rules: runs on the event loop. What is asked is carried out in the order in which it was asked. When
the connection ends everything that is unanswered fails together, with ``StoreUnanswered``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from gearhorn.errors import StoreError, StoreUnanswered
from gearhorn.store.connection import Command, Connection
from gearhorn.store.pool import KEEP_S, PING_S
from gearhorn.store.refusals import code_of
from gearhorn.store.scripts import SCRIPTS
from gearhorn.store.wire import Wire

_Answer = asyncio.Future[list[Any]]


class _Session:
    """One connection, and what is asked on it: from its opening to its end."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.unanswered: deque[tuple[int, _Answer]] = deque()  # how many commands, in order
        self.ping: _Answer | None = None  # one of them at most is a sign of life
        self.came = asyncio.Event()  # something was asked
        self.tasks: list[asyncio.Task[None]] = []

    def put(self, commands: Sequence[Command], answer: _Answer) -> None:
        """Send commands, whose replies are the answer."""
        self.unanswered.append((len(commands), answer))
        self.came.set()
        self.wire.send(commands)

    async def read(self) -> None:
        """Hand out answers, until the connection ends; raises ``StoreUnanswered`` then.

        A batch leaves ``unanswered`` when all of its replies are there, so that a batch that was
        answered in part fails as a whole. An asker that is gone gets no answer, but its replies are
        read, since the next asker's come behind them.
        """
        while True:
            while not self.unanswered:
                self.came.clear()
                await self.came.wait()
            count, answer = self.unanswered[0]
            replies = [await self.wire.read() for _ in range(count)]
            for reply in replies:
                if isinstance(reply, StoreError) and code_of(str(reply)) == "NOSCRIPT":
                    raise StoreUnanswered(str(reply))  # a new session loads the scripts
            self.unanswered.popleft()
            if not answer.done():
                answer.set_result(replies)

    async def keep(self) -> None:
        """Ask for a sign of life while nothing else is asked; raises ``StoreUnanswered`` when there
        is none. What is asked has a time-out of its own, and needs no such sign."""
        while True:
            await asyncio.sleep(KEEP_S)
            if not self.unanswered:
                answer = self.ping = asyncio.get_running_loop().create_future()
                self.put([("PING",)], answer)
                try:
                    async with asyncio.timeout(PING_S):
                        await answer
                except TimeoutError:
                    raise StoreUnanswered("no sign of life") from None


class PipelinedConnection:
    """One connection of a ``Connection``, opened when it is needed and again after it ended.

    Arguments:
        connection: opens it, and judges replies.
        is_strict: after a failure everything is refused until ``mend``, so that nothing overtakes
            what has to be asked again.
    """

    def __init__(self, connection: Connection, is_strict: bool = False) -> None:
        self._connection = connection
        self._is_strict = is_strict
        self._is_broken = False
        self._session: _Session | None = None
        self._writing = asyncio.Lock()  # serialises connecting and writing: answers come in order

    def mend(self) -> None:
        """Take that every asker knows what failed: a strict connection may be used again."""
        self._is_broken = False

    async def ask(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        """Return the answers, with a ``StoreError`` in the place of each that is a refusal.

        Calls are carried out in the order in which they were made.
        Raises ``StoreUnanswered`` and ``StoreError`` as ``ask_server``.
        """
        return await self.ask_server(lambda _: commands, timeout_s)

    async def ask_server(
        self, commands_to: Callable[[str], Sequence[Command]], timeout_s: float
    ) -> list[Any]:
        """Like ``ask``; the commands are made for the server that they go to.

        Arguments:
            commands_to: returns the commands for a server with this run id. It is called when the
                connection is open, just before they are sent, so that no other server gets them.
                What it raises is raised, and nothing is sent.
            timeout_s: for all of it, connecting included.

        The lock is held while the batch is written, and not while its answer is awaited: that is
        what makes it a pipeline. A batch is queued for its answer before the drain, since the
        server may answer the beginning of a long one while the rest is still being written. The
        order of the handlers below follows what is known: a time-out without a session means that
        nothing was sent; any other failure ends the session, and with it all that is unanswered. An
        asker that is cancelled leaves the session to the others.

        Raises ``StoreUnanswered`` if it is not known which commands were carried out, and
        ``StoreError`` if none was.
        """
        answer: _Answer = asyncio.get_running_loop().create_future()
        session = None
        try:
            async with asyncio.timeout(timeout_s):
                async with self._writing:
                    if self._is_broken:
                        raise StoreError("what was asked before has failed")
                    session = self._fit() or await self._open()
                    session.put(commands_to(session.wire.run_id), answer)
                    await session.wire.drain()
                replies = await answer
        except TimeoutError:
            failure: StoreError = StoreUnanswered(f"no answer in {timeout_s:g} s")
            if session is None:
                failure = StoreError(f"no connection in {timeout_s:g} s")
            else:
                self._end(session, failure)
            raise failure from None
        except StoreUnanswered as error:
            if session is not None:
                self._end(session, error)
            raise
        except asyncio.CancelledError:
            answer.cancel()
            raise
        self._connection.judge(replies)
        return replies

    async def close(self) -> None:
        """Close the connection; what is unanswered fails with ``StoreUnanswered``."""
        if self._session is not None:
            self._end(self._session, StoreUnanswered("closed"))

    def _fit(self) -> _Session | None:
        """Return the session, unless its connection has ended while nothing was asked."""
        session = self._session
        if session is not None and not session.unanswered and not session.wire.is_fit:
            self._end(session, StoreUnanswered("the store ended the connection"))
        return self._session

    async def _open(self) -> _Session:
        """Open a session, with all scripts loaded; raises ``StoreError``.

        Nothing that was asked has been sent by then, so an end of the connection is turned from
        "unanswered" into a plain ``StoreError``: a strict connection does not break by it.
        """
        wire = await self._connection.open_apart()
        try:
            wire.send([("SCRIPT", "LOAD", text) for text in SCRIPTS.values()])
            for _ in SCRIPTS:
                reply = await wire.read()
                if isinstance(reply, StoreError):
                    self._connection.judge([reply])
                    raise reply
        except StoreUnanswered as error:
            wire.close()
            raise StoreError(str(error)) from error
        except BaseException:
            wire.close()
            raise
        self._session = session = _Session(wire)
        for work, name in ((session.read(), "store line"), (session.keep(), "store line ping")):
            task = asyncio.create_task(work, name=name)
            task.add_done_callback(lambda task: self._task_ended(session, task))
            session.tasks.append(task)
        return session

    def _task_ended(self, session: _Session, task: asyncio.Task[None]) -> None:
        """Reading or the signs of life ended: neither returns, so by an error, and the session
        with it. A fault in one of them ends it in the same way."""
        if not task.cancelled():
            error = task.exception()
            assert error is not None
            self._end(session, StoreUnanswered(str(error) or type(error).__name__))

    def _end(self, session: _Session, failure: StoreError) -> None:
        """End a session and fail what is unanswered. Where that is a sign of life at most, nothing
        is lost, and a strict connection is not broken.

        Reader, signs of life, askers and ``close`` may all find out; the first one counts, since a
        session that is not the present one has been ended before.
        """
        if session is not self._session:
            return
        self._session = None
        is_lost = any(answer is not session.ping for _, answer in session.unanswered)
        self._is_broken = self._is_strict and is_lost
        for _, answer in session.unanswered:
            if not answer.done():
                answer.set_exception(failure)
                answer.exception()  # marks it as seen: an asker that is gone does not await it
        for task in session.tasks:
            task.cancel()
        session.wire.close()
