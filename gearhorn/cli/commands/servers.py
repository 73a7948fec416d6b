"""Asking job servers themselves, by the text commands that gearmand has for administrators.

Rules: a server that does not answer costs the time-out, and is named; nothing is changed.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from gearhorn.aio import TLS, Admin
from gearhorn.client.settings import context_of
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


class Cluster(NamedTuple):
    """The workers as they told of themselves, and by name what their job servers say."""

    members: list[dict[str, Any]]
    servers: dict[str, Asked]

    @property
    def up(self) -> list[str]:
        """The names of the job servers that answer here."""
        return [name for name, asked in self.servers.items() if not asked.error]

    @property
    def unreachable(self) -> dict[str, str]:
        """The others, each with why it does not."""
        return {name: asked.error for name, asked in self.servers.items() if asked.error}


async def ask_cluster(admin: Admin, tls: TLS | None) -> Cluster:
    """Return the workers, and what each job server that they name says of its queues.

    Raises what requests raise; a job server that does not answer is no error.
    """
    members = await admin.members()
    names = sorted({name for member in members for name in member.get("servers", ())})
    context = context_of(tls)
    asked = await asyncio.gather(*(_ask(name, context) for name in names))
    return Cluster(members, {answer.name: answer for answer in asked})


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
