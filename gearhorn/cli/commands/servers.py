"""Asking job servers themselves, by the text commands that gearmand has for administrators.

Rules: a server that does not answer costs the time-out, and is named; nothing is changed.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import NamedTuple

from gearhorn.config import parse_server
from gearhorn.gearman.server import Server, open_streams

ANSWER_S = 5.0
TABLE_BYTES = 64 * 1024 * 1024  # of ``status``: a million functions


class Queue(NamedTuple):
    """What a job server knows of a queue: jobs that wait or run, jobs that run, receivers."""

    total: int
    running: int
    receivers: int


class Asked(NamedTuple):
    """What a job server said; ``error`` where it did not."""

    name: str
    queues: dict[str, Queue]
    version: str = ""
    error: str = ""


async def ask_servers(names: Iterable[str], tls: ssl.SSLContext | None) -> dict[str, Asked]:
    """Return by name what job servers say of their queues."""
    asked = await asyncio.gather(*(_ask(name, tls) for name in sorted(set(names))))
    return {answer.name: answer for answer in asked}


async def _ask(name: str, tls: ssl.SSLContext | None) -> Asked:
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await open_streams(Server(*parse_server(name)), tls, TABLE_BYTES)
            try:
                writer.write(b"version\nstatus\n")
                version = (await reader.readline()).decode(errors="replace").strip()
                table = await reader.readuntil(b"\n.\n") if version else b""
            finally:
                writer.close()
    except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        return Asked(name, {}, error=str(error) or type(error).__name__)
    return Asked(name, _queues(table), version.removeprefix("OK ").strip())


def _queues(table: bytes) -> dict[str, Queue]:
    """Return the queues of a ``status`` table."""
    queues = {}
    for line in table.decode(errors="replace").splitlines():
        name, *numbers = line.split("\t")
        if len(numbers) == 3:
            queues[name] = Queue(*map(int, numbers))
    return queues


def carrier_of(queue: str, servers: Sequence[str]) -> str:
    """Return which of some job servers carries a queue ("Several job servers" in
    docs/protocol.rst), "" where there is none."""
    hashed = ((sha256(f"{name}\0{queue}".encode()).digest(), name) for name in servers)
    return max(hashed, default=(b"", ""))[1]
