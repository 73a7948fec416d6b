"""gearmand's text protocol: single commands on one kept connection, tables on fresh ones.

Theory of operation. Text commands share gearmand's port with packets, but answers bear no number
and no length. A command is answered by one line; ``status`` and ``show jobs`` by a table that ends
with a line that is a dot. Function names are printed as they are, so a name with a newline in it
spoils a table, and what follows could be taken for the answer to the next question. So a table is
read on a connection of its own, and spoils one answer only. Its lines are parsed from the right,
where the numbers are, since a name may have tabs.

Single commands are frequent (limits of thousands of queues, withdrawals), so they share one
connection that is kept for a while. Where it fails, a new one goes on with what was not answered.

A table stalls the server for as long as it takes to print, 40 ms at 100,000 functions. Callers
bound how often they ask.

Rules: runs on the event loop. Silence is measured for each answer, and everything here ends as soon
as the link to the server is down (``server_down``).
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence

from gearhorn.gearman.kept import Kept, Streams
from gearhorn.gearman.server import Server, open_streams
from gearhorn.gearman.sockets import CONNECT_TIMEOUT_S

ANSWER_TIMEOUT_S = 10.0  # for a whole table, connecting aside
SILENCE_S = 2.0  # between two answers to single commands
PIECE = 100  # commands written before their answers are read, and before others have their turn
_TABLE_BYTES = 256 * 1024 * 1024  # 2.2 MB at 100,000 functions
_LINES = 5_000  # of a table, parsed before the event loop has its turn: 4 ms


class Admin:
    """Text commands to one server.

    Every method that waits raises ``OSError``: the server cannot be reached, its link went down
    meanwhile, what it answers is no answer (``ConnectionError``), or it is silent for too long
    (``TimeoutError``). Commands that were answered before have had their effect.
    """

    def __init__(self, server: Server, tls: ssl.SSLContext | None) -> None:
        self._server = server
        self._tls = tls
        self._kept = Kept(server, tls)
        self._tables: set[asyncio.StreamWriter] = set()  # that are being read

    async def limit(
        self, limits: Sequence[tuple[bytes, int]], are_valid: Callable[[], bool]
    ) -> bool:
        """Set ``maxqueue`` for queues: how many jobs may wait or run; 0 is no limit. Return whether
        all were set: none is sent unless ``are_valid()`` when the connection's turn has come, and
        again for every ``PIECE`` commands and with each connection.

        gearmand says OK for a function that it does not know, and does nothing. So each function is
        created first, which changes nothing where it exists. gearmand walks through all its
        functions for each limit, so give few at a time.
        """
        commands = []
        for queue, limit in limits:
            commands.append(b"create function %s\r\n" % queue)
            commands.append(b"maxqueue %s %d\r\n" % (queue, limit))
        return await self._ask(commands, are_valid)

    async def cancel(self, handles: Sequence[bytes], are_valid: Callable[[], bool]) -> None:
        """Withdraw jobs that no worker has taken; for a taken one only its submitter is told.

        Nothing is sent unless ``are_valid()`` when the connection's turn has come, and again for
        every ``PIECE`` handles: handles begin anew when a server restarts, and then they name other
        members' jobs.
        """
        await self._ask([b"cancel job %s\r\n" % handle for handle in handles], are_valid)

    async def backlog(self) -> dict[bytes, int]:
        """Return, per function, the jobs that wait or run, functions without any included."""
        return {name: total for name, (total, *_) in (await self._status()).items()}

    async def running(self) -> dict[bytes, int]:
        """Return, per function, the jobs that receivers have; functions without one are left
        out."""
        found = await self._status()
        return {name: running for name, (_, running, _) in found.items() if running}

    async def waiting(self, queues: Collection[bytes]) -> dict[bytes, int]:
        """Return how many jobs wait on each of these queues.

        gearmand counts cancelled ones until a worker asks for a job of that function. A queue that
        is unknown to the server has 0.
        """
        found = await self._status()
        counts = ((queue, found.get(queue, (0, 0, 0))) for queue in queues)
        return {queue: total - running for queue, (total, running, _) in counts}

    async def filled(self) -> dict[bytes, tuple[int, int]]:
        """Return, per function that has any, the jobs that wait or run, and how many receivers are
        registered for it."""
        found = {}
        for number, (name, (total, _, serving)) in enumerate((await self._status()).items(), 1):
            if total:
                found[name] = total, serving
            if not number % _LINES:
                await asyncio.sleep(0)
        return found

    async def returned(self) -> set[bytes]:
        """Return the handles of jobs that a receiver had and that wait or run again: it died.

        Read it still more seldom than the others: it stalls the server for 0.23 s at 500,000 jobs.
        Empty where the server does not know the command.
        """
        handles = set()
        for number, line in enumerate(_lines(await self._table(b"show jobs\r\n"))):
            if not number % _LINES:
                await asyncio.sleep(0)
            handle, _, rest = line.partition(b"\t")
            retries = rest.partition(b"\t")[0]
            if retries not in (b"", b"0"):
                handles.add(handle)
        return handles

    async def _status(self) -> dict[bytes, tuple[int, int, int]]:
        """Return, per function, the jobs that wait or run, of those the ones that run, and the
        workers that are registered for it.

        A line that is none is the rest of a name with a newline in it, and is passed over.
        """
        found = {}
        for number, line in enumerate(_lines(await self._table(b"status\r\n"))):
            if not number % _LINES:
                await asyncio.sleep(0)
            name, *numbers = line.rsplit(b"\t", 3)
            if len(numbers) == 3 and all(map(bytes.isdigit, numbers)):
                found[name] = int(numbers[0]), int(numbers[1]), int(numbers[2])
        return found

    async def _table(self, command: bytes) -> bytes:
        """Return the lines that answer a command, with the dot; b"" where it is not known.

        The first line is read by itself: an error is one line without a dot behind it.
        ``readuntil`` may stop at a dot within a name that has a newline, so the end is checked each
        time. The writer is listed meanwhile, for ``server_down`` to end the wait.
        """
        async with asyncio.timeout(CONNECT_TIMEOUT_S + ANSWER_TIMEOUT_S):
            reader, writer = await open_streams(self._server, self._tls, _TABLE_BYTES)
            self._tables.add(writer)
            try:
                writer.write(command)
                table = await reader.readline()
                if table.startswith(b"ERR"):
                    return b""
                while table != b".\n" and not table.endswith(b"\n.\n"):
                    table += await reader.readuntil(b".\n")
            except (
                asyncio.IncompleteReadError,
                asyncio.LimitOverrunError,
                ValueError,  # readline's way of saying the latter
            ) as error:
                raise ConnectionError(f"no whole answer to {command!r}: {error}") from error
            finally:
                self._tables.discard(writer)
                writer.close()
        return table

    def server_down(self) -> None:
        """The server does not answer: callers that wait for it here are told so now.

        ``JobServers`` calls it when the client's link goes down, which is sooner than any timeout.
        """
        self._kept.server_down()
        for writer in self._tables:
            writer.transport.abort()

    def close(self) -> None:
        """Close the kept connection."""
        self._kept.close()

    async def _ask(self, commands: Sequence[bytes], are_valid: Callable[[], bool]) -> bool:
        """Send commands that are answered by one line each, ``PIECE`` at a time; return whether all
        were sent.

        The answers are only counted. The commands of this module can fail in one way, that a job
        to be cancelled is gone, and that is the aim.

        Between two pieces other callers have their turn. ``left`` outlives a connection that fails
        in the middle, so that the next one does not repeat what was answered: to repeat a command
        would do no harm, but an answer too many would be taken for another's.
        """
        is_whole = True
        for start in range(0, len(commands), PIECE):
            left = deque(commands[start : start + PIECE])

            async def send(streams: Streams, left: deque[bytes] = left) -> None:
                reader, writer = streams
                if not are_valid():
                    return
                writer.write(b"".join(left))
                while left:
                    async with asyncio.timeout(SILENCE_S):
                        line = await reader.readline()
                    if not line.endswith(b"\n"):
                        raise ConnectionError("closed by the server")
                    left.popleft()

            await self._kept.use(send)
            is_whole = is_whole and not left
        return is_whole


def _lines(table: bytes) -> Iterator[bytes]:
    """Yield the lines of a table, which may have millions: it is never split whole."""
    at = 0
    while (end := table.find(b"\n", at)) >= 0:
        yield table[at:end]
        at = end + 1
