"""gearmand's text protocol, on a connection of its own.

Law: runs on the event loop. gear's admin requests share a binary connection and break on hostile
function names (FACTS A11); here a table is read on a fresh connection, so that a name with a
newline spoils that one answer only, and its lines are parsed from the right (FACTS B7).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from itertools import islice

from gearhorn.gearman.connection import CONNECT_TIMEOUT_S, Server, open_streams

ANSWER_TIMEOUT_S = 10.0
LIMIT_S = 2.0  # a server that does not answer holds up what waits for its limits no longer
LIMIT_EACH_S = 0.02  # it walks through all its functions for each: 15 ms at 100,000
PIECE = 100  # commands written before their answers are read
_TABLE_BYTES = 256 * 1024 * 1024  # 2.2 MB at 100,000 functions (FACTS B13)


class Admin:
    """Text commands to one server; every method raises ``OSError`` when it cannot be reached
    (``TimeoutError`` included, which is an ``OSError``)."""

    def __init__(self, server: Server, tls: ssl.SSLContext | None) -> None:
        self._server = server
        self._tls = tls
        self._lock = asyncio.Lock()  # serialises the commands on the shared connection
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def limit(self, limits: Iterable[tuple[bytes, int]]) -> None:
        """Set ``maxqueue`` for queues, creating the functions: it does nothing for an unknown
        one (FACTS B10)."""
        commands = []
        for queue, most in limits:
            commands.append(b"create function %s\r\n" % queue)
            commands.append(b"maxqueue %s %d\r\n" % (queue, most))
        await self._ask(commands, LIMIT_S + LIMIT_EACH_S * len(commands))

    async def cancel(self, handles: Iterable[bytes], are_valid: Callable[[], bool]) -> None:
        """Withdraw jobs that no worker has taken; for a taken one only its submitter is told.

        Nothing is sent unless ``are_valid()`` at that moment: handles begin anew when a server
        restarts.
        """
        commands = [b"cancel job %s\r\n" % handle for handle in handles]
        await self._ask(commands, ANSWER_TIMEOUT_S, are_valid)

    async def backlog(self) -> dict[bytes, int]:
        """Return, per function, the jobs that wait or run. Seldom: it stalls everything for
        40 ms at 100,000 functions (FACTS B13)."""
        return {name: total for name, (total, _) in (await self._status()).items()}

    async def running(self) -> dict[bytes, int]:
        """Return, per function, the jobs that receivers have. As seldom as ``backlog``."""
        return {name: running for name, (_, running) in (await self._status()).items() if running}

    async def returned(self) -> set[bytes]:
        """Return the handles of jobs that a receiver had and that wait or run again: it died.

        Seldom: 0.23 s at 500,000 jobs (FACTS B7). Empty where the server does not tell."""
        handles = set()
        for line in (await self._table(b"show jobs\r\n")).splitlines():
            handle, _, rest = line.partition(b"\t")
            retries = rest.partition(b"\t")[0]
            if retries not in (b"", b"0"):
                handles.add(handle)
        return handles

    async def _status(self) -> dict[bytes, tuple[int, int]]:
        found = {}
        for line in (await self._table(b"status\r\n")).splitlines():
            name, *numbers = line.rsplit(b"\t", 3)
            if len(numbers) == 3 and numbers[0].isdigit() and numbers[1].isdigit():
                found[name] = int(numbers[0]), int(numbers[1])
        return found

    async def _table(self, command: bytes) -> bytes:
        """Return the lines that answer a command, to the dot; nothing where it is not known."""
        async with asyncio.timeout(CONNECT_TIMEOUT_S + ANSWER_TIMEOUT_S):
            reader, writer = await self._open()
            try:
                writer.write(command)
                table = await reader.readline()
                if table.startswith(b"ERR"):
                    return b""
                while table != b".\n" and not table.endswith(b"\n.\n"):
                    table += await reader.readuntil(b".\n")
            except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
                raise ConnectionError(f"no whole answer to {command!r}: {error}") from error
            finally:
                writer.close()
        return table

    async def close(self) -> None:
        """Close the shared connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await open_streams(self._server, self._tls, _TABLE_BYTES)

    async def _ask(
        self, commands: list[bytes], time_s: float, are_valid: Callable[[], bool] = lambda: True
    ) -> None:
        """Send commands that are answered by one line each. The answers are only counted: the
        commands of this module cannot fail but by a job that is gone, which is the aim."""
        rest = iter(commands)
        async with asyncio.timeout(time_s), self._lock:
            try:
                if self._streams is None:
                    self._streams = await self._open()
                reader, writer = self._streams
                while are_valid() and (piece := list(islice(rest, PIECE))):
                    writer.write(b"".join(piece))
                    for _ in piece:
                        if not await reader.readline():
                            raise ConnectionError("closed by the server")
            except BaseException:
                await self.close()
                raise
