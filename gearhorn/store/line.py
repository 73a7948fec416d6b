"""A line to the store: one connection on which more is asked before the former answer is there.

Law: runs on the event loop. What is asked is carried out in the order in which it was asked. When
the connection ends everything that is unanswered fails together; nobody knows what was carried out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoScriptError, RedisError, ResponseError

from gearhorn.errors import StoreError
from gearhorn.store.connection import SCRIPTS, WRITE_TIMEOUT_S, Command, Connection, ours

_Answer = asyncio.Future[list[Any]]


class _Session:
    """One connection, and what is asked on it."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.unanswered: deque[tuple[int, _Answer]] = deque()
        self.came = asyncio.Event()
        self.reader: asyncio.Task[None] | None = None

    async def read(self) -> None:
        """Hand out answers, until the connection ends."""
        read = self.connection.read_response
        while True:
            while not self.unanswered:
                self.came.clear()
                await self.came.wait()
            count, answer = self.unanswered[0]
            replies: list[Any] = []
            for _ in range(count):
                try:
                    replies.append(await read(disconnect_on_error=False))
                except NoScriptError:
                    raise  # the scripts were flushed: a new session loads them
                except ResponseError as error:
                    replies.append(ours(error, 0.0))
            self.unanswered.popleft()
            if not answer.done():
                answer.set_result(replies)


class Line:
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

        Raises ``StoreError`` if it is not known which commands were carried out.
        """
        answer: _Answer = asyncio.get_running_loop().create_future()
        session = None
        try:
            async with asyncio.timeout(timeout_s):
                async with self._writing:
                    if self._is_broken:
                        raise StoreError("what was asked before has failed")
                    session = self._session or await self._open()
                    session.unanswered.append((len(commands), answer))
                    session.came.set()
                    packed = session.connection.pack_commands(commands)
                    await session.connection.send_packed_command(packed, check_health=False)
                return await answer
        except (RedisError, OSError) as error:
            failure = ours(error, timeout_s)
            if session is not None:
                self._end(session, failure)
            raise failure from error
        except asyncio.CancelledError:
            answer.cancel()
            raise

    async def close(self) -> None:
        """Close the connection."""
        if self._session is not None:
            self._end(self._session, StoreError("closed"))

    async def _open(self) -> _Session:
        connection = self._connection.make()
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await connection.connect()
                for text in SCRIPTS.values():
                    await connection.send_command("SCRIPT LOAD", text)
                for _ in SCRIPTS:
                    await connection.read_response()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._session = session = _Session(connection)
        session.reader = asyncio.create_task(session.read(), name="store line")
        session.reader.add_done_callback(lambda task: self._read_ended(session, task))
        return session

    def _read_ended(self, session: _Session, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            error = task.exception()
            assert isinstance(error, Exception)
            self._end(session, ours(error, 0.0))

    def _end(self, session: _Session, failure: StoreError) -> None:
        """A session is over: fail what is unanswered."""
        if session is not self._session:
            return
        self._session = None
        self._is_broken = self._is_strict
        for _, answer in session.unanswered:
            if not answer.done():
                answer.set_exception(failure)
                answer.exception()  # whoever has gone does not look
        if session.reader is not None:
            session.reader.cancel()
        closing = asyncio.ensure_future(session.connection.disconnect(nowait=True))
        closing.add_done_callback(lambda task: task.cancelled() or task.exception())
