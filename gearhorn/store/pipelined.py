"""A line to the store: one connection on which more is asked before the former answer is there.

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
    """One connection, and what is asked on it."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.unanswered: deque[tuple[int, _Answer]] = deque()
        self.ping: _Answer | None = None  # one of them at most is a sign of life
        self.came = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    def put(self, commands: Sequence[Command], answer: _Answer) -> None:
        """Send commands, whose replies are the answer."""
        self.unanswered.append((len(commands), answer))
        self.came.set()
        self.wire.send(commands)

    async def read(self) -> None:
        """Hand out answers, until the connection ends."""
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
        """Ask for a sign of life while nothing else is asked, until there is none."""
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
    """With ``is_strict`` a line that failed refuses everything until ``mend``, so that nothing
    overtakes what has to be asked again."""

    def __init__(self, connection: Connection, is_strict: bool = False) -> None:
        self._connection = connection
        self._is_strict = is_strict
        self._is_broken = False
        self._session: _Session | None = None
        self._writing = asyncio.Lock()  # serialises connecting and writing: answers come in order

    def mend(self) -> None:
        """Whoever had something unanswered knows that it failed."""
        self._is_broken = False

    async def ask(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        """Return the answers, with a ``StoreError`` in the place of each that is a refusal.

        Raises as ``ask_server``.
        """
        return await self.ask_server(lambda _: commands, timeout_s)

    async def ask_server(
        self, commands_to: Callable[[str], Sequence[Command]], timeout_s: float
    ) -> list[Any]:
        """Like ``ask``; the commands are made for the server that they go to, of this run id.

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
        """Close the connection."""
        if self._session is not None:
            self._end(self._session, StoreUnanswered("closed"))

    def _fit(self) -> _Session | None:
        """Return the session, unless its connection has ended while nothing was asked."""
        session = self._session
        if session is not None and not session.unanswered and not session.wire.is_fit:
            self._end(session, StoreUnanswered("the store ended the connection"))
        return self._session

    async def _open(self) -> _Session:
        wire = await self._connection.open_apart()
        try:
            wire.send([("SCRIPT", "LOAD", text) for text in SCRIPTS.values()])
            for _ in SCRIPTS:
                reply = await wire.read()
                if isinstance(reply, StoreError):
                    self._connection.judge([reply])
                    raise reply
        except StoreUnanswered as error:  # of what was asked nothing is sent
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
        if not task.cancelled():
            error = task.exception()
            assert error is not None
            words = str(error) or type(error).__name__
            self._end(session, StoreUnanswered(words))

    def _end(self, session: _Session, failure: StoreError) -> None:
        """A session is over: fail what is unanswered. Where that is a sign of life at most, nothing
        is lost and nothing broken."""
        if session is not self._session:
            return
        self._session = None
        is_lost = any(answer is not session.ping for _, answer in session.unanswered)
        self._is_broken = self._is_strict and is_lost
        for _, answer in session.unanswered:
            if not answer.done():
                answer.set_exception(failure)
                answer.exception()  # whoever has gone does not look
        for task in session.tasks:
            task.cancel()
        session.wire.close()
