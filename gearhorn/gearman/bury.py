"""Burying a queue that no member serves any more: its jobs fail, and its function goes.

A member has queues that bear its id (``__matchmaking_ID``, ``__gossip_ID``). When it dies, what
waits there would wait without end, and gearmand keeps a function until it is dropped: members that
come and go for months would leave thousands, each of which makes ``status`` longer.

Rules: runs on the event loop. ``drop function`` matches names whatever their case and loses the
jobs that wait there. So it is only for names that were one member's own, it comes after the queue
was emptied, and gearmand itself refuses it while any worker serves the function.
"""

from __future__ import annotations

import asyncio
import ssl

from gearhorn.gearman.drain import drain
from gearhorn.gearman.server import Server, open_streams

ANSWER_S = 5.0  # to connect and to be answered
LEAVE_S = 0.05  # until the server has noticed that who emptied the queue has left


async def bury(server: Server, tls: ssl.SSLContext | None, queue: bytes) -> bool:
    """Fail what waits on a queue of one server, then drop the function; return whether both are
    done: not while another worker serves it.

    ``Burials`` calls it for each server that is up, and again later where it returns False or
    raises. It may be repeated: a function that is gone already is refused as unknown, which is as
    good as done.

    Raises ``OSError``: the server cannot be reached, does not answer in time (``TimeoutError``), or
    answers with what is no line (``ConnectionError``).
    """
    if (await drain([server], tls, queue)).left:
        return False
    await asyncio.sleep(LEAVE_S)
    async with asyncio.timeout(ANSWER_S):
        reader, writer = await open_streams(server, tls)
        try:
            writer.write(b"drop function %s\r\n" % queue)
            answer = await reader.readline()
        except ValueError as error:  # a line without an end
            raise ConnectionError(f"not an answer: {error}") from error
        finally:
            writer.close()
    if not answer:
        raise ConnectionError("closed by the server")
    return b"connected workers" not in answer  # any other refusal will not change
