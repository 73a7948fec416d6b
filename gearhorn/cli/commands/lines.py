"""Lines of a file, a pipe or a terminal, as they come.

Theory of operation. Standard input may be a pipe whose writer pauses. A read that blocks would
block the event loop, so that what was published before is not sent until the next line comes; a
thread that reads could not be interrupted. So the loop waits until there is something to read, as
it does for sockets. A regular file always has something, and cannot be waited for.

Rules: runs on the event loop. A line has at most ``LINE_BYTES``.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from typing import BinaryIO

import click

CHUNK_BYTES = 64 * 1024
LINE_BYTES = 64 * 1024 * 1024


async def lines_of(source: BinaryIO | bytes) -> AsyncIterator[list[bytes]]:
    """Yield the lines of a source, without their ends, as many as have come.

    Raises ``click.UsageError`` for a line that is too long, and ``OSError``.
    """
    if isinstance(source, bytes):
        source = io.BytesIO(source)
    rest = b""
    while data := await _read(source):
        *lines, last = data.split(b"\n")
        if lines:
            lines[0], rest = rest + lines[0], b""
            yield [line.removesuffix(b"\r") for line in lines]
        rest += last
        if len(rest) > LINE_BYTES:
            raise click.UsageError(f"a line of more than {LINE_BYTES:,} bytes")
    if rest:
        yield [rest.removesuffix(b"\r")]


async def _read(source: BinaryIO) -> bytes:
    """Return what there is, a chunk at most; nothing at the end."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        number = source.fileno()
        loop.add_reader(number, ready.set)
    except OSError:  # no file at all, or a regular one, which epoll refuses
        await asyncio.sleep(0)
    else:
        try:
            await ready.wait()
        finally:
            loop.remove_reader(number)
    read = getattr(source, "read1", source.read)
    return bytes(read(CHUNK_BYTES))
