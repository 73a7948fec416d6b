"""Asking job servers themselves, by the text commands that gearmand has for administrators.

Rules: a server that does not answer costs the time-out, and is named; nothing is changed.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
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
    seconds: float = 0.0  # until its first answer, connecting included
    hosts: dict[str, list[str]] = {}  # noqa: RUF012  # of queues that are served from several


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
    return Cluster(members, await ask_servers(named_by(members), tls))


def named_by(members: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the names of the job servers that members have."""
    return {name for member in members for name in member.get("servers", ())}


async def ask_servers(
    names: Iterable[str],
    tls: TLS | None,
    *,
    timeout_s: float = ANSWER_S,
    with_hosts: bool = False,
) -> dict[str, Asked]:
    """Return what job servers say, by their names, all of them at once.

    Arguments:
        names: "HOST:PORT" each.
        tls: how connections are made.
        timeout_s: seconds that each has; what does not answer is no error.
        with_hosts: also which queues are served from several hosts, which costs a second table.
    """
    context = context_of(tls)
    asked = await asyncio.gather(
        *(
            _ask(name, context, timeout_s=min(timeout_s, ANSWER_S), with_hosts=with_hosts)
            for name in sorted(names)
        )
    )
    return {answer.name: answer for answer in asked}


async def _ask(
    name: str, tls: ssl.SSLContext | None, *, timeout_s: float, with_hosts: bool
) -> Asked:
    """Ask one server. Its first answer is ``version``'s; what does not speak this protocol, or
    accepts and is silent, is told by why nothing was understood."""
    began_s = time.monotonic()
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await open_streams(Server(*parse_server(name)), tls, TABLE_BYTES)
            try:
                writer.write(b"version\r\nstatus\r\n" + b"workers\r\n" * with_hosts)
                version = (await reader.readline()).decode(errors="replace").strip()
                seconds = time.monotonic() - began_s
                queues = _queues(await _table(reader))
                hosts = _hosts(await _table(reader)) if with_hosts else {}
            finally:
                writer.close()
    except TimeoutError:
        return Asked(name, {}, error=f"no answer in {timeout_s:g} s")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
        return Asked(name, {}, error=f"no job server's answer: {error}")
    except OSError as error:
        return Asked(name, {}, error=str(error) or type(error).__name__)
    return Asked(name, queues, version.removeprefix("OK").strip(), seconds=seconds, hosts=hosts)


async def _table(reader: asyncio.StreamReader) -> bytes:
    """Read a table to its dot, which is the first line of an empty one."""
    table = await reader.readline()
    while table != b".\n" and not table.endswith(b"\n.\n"):
        if len(table) > TABLE_BYTES:
            raise ValueError(f"a table of more than {TABLE_BYTES} bytes")
        table += await reader.readuntil(b".\n")
    return table


def _queues(table: bytes) -> dict[str, Queue]:
    """Return the queues of a ``status`` table, parsed from the right: names may have tabs."""
    queues = {}
    for line in table.split(b"\n"):
        name, *numbers = line.rsplit(b"\t", 3)
        if len(numbers) == 3 and all(map(bytes.isdigit, numbers)):
            queues[name.decode(errors="replace")] = Queue(*map(int, numbers))
    return queues


def _hosts(table: bytes) -> dict[str, list[str]]:
    """Return the queues of a ``workers`` table that are served from several hosts, and from which.

    A line is ``FD HOST CLIENT : QUEUE QUEUE ...``. Workers serve their functions from many hosts,
    so callers look up the queues that they mean.
    """
    first: dict[str, str] = {}
    several: dict[str, list[str]] = {}
    for line in table.decode(errors="replace").split("\n"):
        who, _, queues = line.partition(" :")
        _, _, host = who.partition(" ")
        host = host.partition(" ")[0]
        for queue in queues.split():
            if first.setdefault(queue, host) != host:
                hosts = several.setdefault(queue, [first[queue]])
                if host not in hosts:
                    hosts.append(host)
    return several


def carrier_of(queue: str, servers: Sequence[str]) -> str:
    """Return which of some job servers carries a queue ("Several job servers" in
    docs/protocol.rst), "" where there is none."""
    hashed = ((sha256(f"{name}\0{queue}".encode()).digest(), name) for name in servers)
    return max(hashed, default=(b"", ""))[1]
