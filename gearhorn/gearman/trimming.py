"""Discarding the oldest jobs of a queue: grab what waits there and fail it.

A subscription with ``"overflow": "drop_old"`` makes room for a new copy that its full queue refused
(docs/protocol.rst, "subscribe_fanout"). gearmand hands out the oldest job first, so grabbing finds
the right ones.

Rules: runs on the event loop. One connection for each server serves all its queues, one at a time,
and is kept between them: a queue that stays full is trimmed hundreds of times a second, and the
host has no port for each.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from gearhorn.errors import ProtocolError
from gearhorn.gearman import packets
from gearhorn.gearman.kept import Kept, Streams
from gearhorn.gearman.packets import Splitter
from gearhorn.gearman.results import DISCARDED
from gearhorn.gearman.server import Server

TRIM_S = 5.0  # for one queue, on one connection


class Trimmer:
    """Discards jobs that wait at one server. ``fanout.overflow`` says how many."""

    def __init__(self, server: Server, tls: ssl.SSLContext | None) -> None:
        self._kept = Kept(server, tls)

    async def trim(self, queue: bytes, due: Callable[[], int]) -> int:
        """Discard up to ``due()`` of the jobs that have waited longest on a queue; return how many.

        ``due`` is called when the queue's turn has come, since others may be trimmed first: what
        was due may be so no more. It is called again after a connection that failed.

        If the connection fails in the middle, the next one goes on with what is missing. Where that
        fails too, what was discarded until then is told: it is a drop, though the server has not
        said that it took every failure.

        Raises ``OSError`` where none was: the server cannot be reached, does not answer in
        ``TRIM_S``, or breaks the protocol.
        """
        gone: list[bytes] = []  # their handles

        async def discard(streams: Streams) -> None:
            count = due() - len(gone)
            if count > 0:
                async with asyncio.timeout(TRIM_S):
                    await _discard(streams, queue, count, gone)

        try:
            await self._kept.use(discard)
        except OSError:
            if not gone:
                raise
        return len(gone)

    def server_down(self) -> None:
        """The server does not answer: callers that wait here are told so now."""
        self._kept.server_down()

    def close(self) -> None:
        """Close the kept connection."""
        self._kept.close()


async def _discard(streams: Streams, queue: bytes, count: int, gone: list[bytes]) -> None:
    """Fail up to ``count`` jobs, and add their handles to ``gone`` as they come.

    All grabs leave at once; each is answered by a job or by NO_JOB. At the end the function is left
    and an ECHO asked for: its answer proves that the failures were taken, and that the connection
    serves nothing when the next queue's turn comes.
    """
    reader, writer = streams
    grabs = packets.pack(packets.GRAB_JOB_UNIQ) * count
    writer.write(packets.pack(packets.CAN_DO, queue) + grabs)
    splitter, answers = Splitter(0), 0
    while answers < count:
        for kind, body in await _read(reader, splitter):
            if abs(kind) == packets.JOB_ASSIGN_UNIQ:
                gone.append(body.partition(b"\0")[0])
                # a foreground fan-out learns that it was no receiver that failed
                writer.write(packets.pack(packets.WORK_WARNING, gone[-1], DISCARDED))
                writer.write(packets.pack(packets.WORK_FAIL, gone[-1]))
            answers += abs(kind) in (packets.JOB_ASSIGN_UNIQ, packets.NO_JOB)
    writer.write(packets.pack(packets.CANT_DO, queue) + packets.pack(packets.ECHO_REQ, b""))
    while all(kind != packets.ECHO_RES for kind, _ in await _read(reader, splitter)):
        pass  # with the echo the jobs are gone, and the connection is as it was


async def _read(reader: asyncio.StreamReader, splitter: Splitter) -> list[packets.Packet]:
    """Return the next whole packets, one at least; raises ``ConnectionError``."""
    while True:
        data = await reader.read(1 << 16)
        if not data:
            raise ConnectionError("closed by the server")
        try:
            found = splitter.feed(data)
        except ProtocolError as error:
            raise ConnectionError(f"the server breaks the protocol: {error}") from error
        if found:
            return found
