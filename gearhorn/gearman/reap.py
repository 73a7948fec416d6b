"""Taking cancelled jobs off a queue whose receivers are away.

gearmand keeps a cancelled job, payload included, until a worker asks for one of its function. A
durable subscription whose receiver is away for a week would leave one for every attempt. So this
asks for a job of the function, and expects none.

Rules: runs on the event loop. A job that is there all the same is given back by leaving the
function, which puts it behind all others and counts as a death of its receiver: the caller makes
sure that none waits.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence

from gearhorn.errors import ProtocolError
from gearhorn.gearman import packets
from gearhorn.gearman.packets import Splitter
from gearhorn.gearman.server import Server, open_streams

REAP_S = 5.0  # for all queues of one call
PIECE = 100  # queues asked for before the answers are read


async def reap(server: Server, tls: ssl.SSLContext | None, queues: Sequence[bytes]) -> None:
    """Ask for a job of each queue, which frees its cancelled ones.

    Each queue is registered, asked and left in one write, so the connection never serves two:
    gearmand would answer from whichever has a job. ``PIECE`` queues are asked before their answers
    are read, so that a thousand cost ten round trips. A large job's answer is cut
    (``Splitter(0)``).

    Raises ``OSError``: the server cannot be reached, does not answer in ``REAP_S``, or breaks the
    protocol (``ConnectionError``).
    """
    async with asyncio.timeout(REAP_S):
        reader, writer = await open_streams(server, tls)
        try:
            splitter = Splitter(0)
            for at in range(0, len(queues), PIECE):
                piece = queues[at : at + PIECE]
                for queue in piece:
                    writer.write(
                        packets.pack(packets.CAN_DO, queue)
                        + packets.pack(packets.GRAB_JOB_UNIQ)
                        + packets.pack(packets.CANT_DO, queue)
                    )
                answers = 0
                while answers < len(piece):
                    data = await reader.read(1 << 16)
                    if not data:
                        raise ConnectionError("closed by the server")
                    for kind, _ in splitter.feed(data):
                        answers += abs(kind) in (packets.NO_JOB, packets.JOB_ASSIGN_UNIQ)
        except ProtocolError as error:
            raise ConnectionError(f"the server breaks the protocol: {error}") from error
        finally:
            writer.close()
