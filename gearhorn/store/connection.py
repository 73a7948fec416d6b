"""The connection to Redis or Valkey: batches of commands, each answered or known not to be.

Theory of operation. A caller that changes something in the store has to know what became of the
change: it was carried out, it was not, or that is unknown. A library that sends a command again
after a lost connection hides the third case, and an append would be logged twice. So a batch is
sent once, over one connection, and the class of the error says which case it is. The caller decides
what follows: reads and idempotent scripts are asked again, numbered scripts too (``asked``), and of
appends and changes the fate is asked for first.

The URL names a server, but a server may be replaced behind its name: by a replica that was promoted
or by an empty one. Two signs tell. A new connection has another *run id* than the last one; and a
server that has become a replica refuses writes (``READONLY``) or, asked for its role, says so.
After either sign every open connection counts as stale (``reset``): otherwise one batch would go to
the former server and the next to the new one, and together they would see two states of the data.

The connections are parted by what must not wait. Members renew their lease over two of their own,
so that no queue of other requests can cost a lease; appends, lanes and events have one each, opened
by ``open_apart``; all the rest shares a pool.

Rules: runs on the event loop. Every call ends in time or raises ``StoreError``, which says what is
known: ``StoreUnanswered`` where a batch may have been carried out or not, the others (``refusals``)
where it was not. No batch is sent again after a lost connection.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence
from typing import Any

import structlog

from gearhorn.errors import StartError, StoreError, StoreReadOnly, StoreUnanswered
from gearhorn.messages.peers import StoreState
from gearhorn.store.info import state_of
from gearhorn.store.keys import BETWEEN, FORMER, SCHEMA, WITH_PATTERNS, Keys
from gearhorn.store.pool import Pool
from gearhorn.store.refusals import code_of
from gearhorn.store.scripts import SCRIPTS, SHA
from gearhorn.store.url import parse_url
from gearhorn.store.wire import Command, Wire
from gearhorn.timing import now_s

__all__ = ["READ_TIMEOUT_S", "WRITE_TIMEOUT_S", "Command", "Connection"]

WRITE_TIMEOUT_S = 1.5  # a change answers `unavailable:` within 2 s rather than hang
READ_TIMEOUT_S = 10.0  # of a bounded page
CONNECTIONS = 16  # to the store, in all
MEMBERS = 2  # of them that only the lease and what is about members may use
APART = 3  # appends, lanes and events have one each
ASKED_AGAIN = 3  # times that a batch goes on after the server has forgotten its scripts
COMPLAIN_S = 30.0  # between two log lines that the server is no primary

log = structlog.get_logger(__name__)


class Connection:
    """All connections to one store, and the names of one namespace in it.

    Arguments:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        namespace: what the names of all keys begin with.
        limit: how many connections are open at most; batches that find none free queue, first
            come, first served.

    Raises ``StartError`` when the URL is not one. Nothing is connected yet.
    """

    def __init__(self, url: str, namespace: str, limit: int = CONNECTIONS) -> None:
        # Of the server that was last connected to. A connection to another one, or to one that
        # was restarted, changes it before the first command goes there.
        self.run_id = ""
        try:
            self._address = parse_url(url)
        except ValueError as error:
            raise StartError(f"--redis: {error}") from None
        self.keys = Keys(namespace, self._address.database)
        self._shared = Pool(self.open, limit - MEMBERS - APART)
        self._reserved = Pool(self.open, MEMBERS)
        self._complained_s = float("-inf")
        self._apart: weakref.WeakSet[Wire] = weakref.WeakSet()

    async def open(self) -> Wire:
        """Return a new connection; raises ``StoreError``.

        The run id is compared here, before the caller can send anything, so that no batch reaches
        a replaced server while the other connections still lead to the former one.
        """
        wire = await Wire.open(self._address)
        if self.run_id not in ("", wire.run_id):
            # One of the two servers does not know what the other was told: a subscription that
            # was written to the new one would be missing from lists that the former one gives.
            self.reset()
        self.run_id = wire.run_id
        return wire

    async def open_apart(self) -> Wire:
        """Return a new connection that is no pool's; raises ``StoreError``.

        The caller keeps it and closes it. ``reset`` and ``close`` close it too.
        """
        wire = await self.open()
        self._apart.add(wire)
        return wire

    def reset(self) -> None:
        """Use no connection any more that is open now, and resolve the store's name anew: it may
        stand for another server. Batches under way in the pools are finished, so that their fate
        is known; what is unanswered on a connection apart fails with ``StoreUnanswered``."""
        self._shared.reset()
        self._reserved.reset()
        for wire in list(self._apart):
            wire.close()

    def key(self, *parts: str) -> str:
        """Return the name of a key of this namespace."""
        return self.keys.key(*parts)

    def channel(self, *parts: str) -> str:
        """Return the name of a channel of this namespace."""
        return self.keys.channel(*parts)

    def script(self, name: str, keys: Sequence[str], *arguments: Any) -> Command:
        """Return the command that runs a script of ``SCRIPTS``.

        A Redis Cluster decides by ``keys`` which node runs it, so a script touches no other key.
        """
        return ("EVALSHA", SHA[name], len(keys), *keys, *arguments)

    async def pipeline(
        self,
        commands: Sequence[Command],
        timeout_s: float = WRITE_TIMEOUT_S,
        reserved: bool = False,
    ) -> list[Any]:
        """Run commands in one round trip and return their replies in order.

        They are carried out in order, but not as one transaction: other clients' commands may come
        between them. What has to be atomic is a script.

        Arguments:
            commands: each a tuple of the command's name and its arguments.
            timeout_s: for all of it, the wait for a free connection included.
            reserved: over the connections that are kept for the members.

        Raises ``StoreError`` if any failed; the others may have been carried out.
        """
        replies = await self.each(commands, timeout_s, reserved)
        for reply in replies:
            if isinstance(reply, StoreError):
                raise reply
        return replies

    async def each(
        self,
        commands: Sequence[Command],
        timeout_s: float = WRITE_TIMEOUT_S,
        reserved: bool = False,
    ) -> list[Any]:
        """Like ``pipeline``, with a ``StoreError`` in the place of each reply that is a refusal.

        Raises ``StoreUnanswered`` if it is not known which were carried out, and ``StoreError`` if
        none was: a time-out says the former once there is a connection, since the batch may have
        been sent by then.
        """
        pool = self._reserved if reserved else self._shared
        wire = None
        try:
            async with asyncio.timeout(timeout_s), pool.use() as wire:
                replies = await _run(wire, commands)
        except TimeoutError:
            if wire is None:
                raise StoreError(f"no connection in {timeout_s:g} s") from None
            raise StoreUnanswered(f"no answer in {timeout_s:g} s") from None
        self.judge(replies)
        return replies

    def judge(self, replies: Sequence[Any]) -> None:
        """Reset all connections if a reply says that this server is no primary. Users of
        connections apart pass their replies here themselves."""
        for reply in replies:
            if isinstance(reply, StoreReadOnly):
                self._complain(str(reply))
                self.reset()
                break

    def _complain(self, text: str) -> None:
        """Log that the primary is looked for, every ``COMPLAIN_S`` at most: each batch of a member
        finds out again while the former primary is what the name leads to."""
        at_s = now_s()
        if at_s - self._complained_s > COMPLAIN_S:
            self._complained_s = at_s
            log.warning("store is no primary; connecting anew", error=text)

    async def read(
        self,
        commands: Sequence[Command],
        timeout_s: float = READ_TIMEOUT_S,
        reserved: bool = False,
    ) -> list[Any]:
        """Like ``pipeline``, for commands that only read: the replies are a primary's.

        The server is asked for its role behind the reads, in the same round trip: one that was
        demoted answers reads like before, and would serve old lists without an end. Asked in front
        of the reads, it could be demoted between the two.

        Raises ``StoreReadOnly`` where it is a replica, and ``StoreError`` as ``pipeline``.
        """
        replies = await self.read_each(commands, timeout_s, reserved)
        for reply in replies:
            if isinstance(reply, StoreError):
                raise reply
        return replies

    async def read_each(
        self,
        commands: Sequence[Command],
        timeout_s: float = READ_TIMEOUT_S,
        reserved: bool = False,
    ) -> list[Any]:
        """Like ``read``, with a ``StoreError`` in the place of each reply that failed.

        Raises ``StoreError`` where there are no replies, ``StoreReadOnly`` from a replica.
        """
        *replies, role = await self.each([*commands, ("ROLE",)], timeout_s, reserved)
        if isinstance(role, StoreError):
            raise role
        if role[0] != b"master":
            error = StoreReadOnly(f"READONLY the server's role is {role[0].decode()}")
            self.judge([error])
            raise error
        return replies

    async def is_there(self) -> bool:
        """Return whether a primary answers a PING within ``WRITE_TIMEOUT_S``.

        It goes over the members' connections: the pool may be full of long reads, which would make
        a store that is merely slow count as away.
        """
        try:
            await self.read([("PING",)], WRITE_TIMEOUT_S, reserved=True)
        except StoreError:
            return False
        return True

    async def check(self) -> None:
        """Make the store ours, or refuse it: a worker calls this once before it joins.

        The layout is written with ``NX`` and read back, so that of two releases that start on an
        empty store at the same time one is refused.

        Raises ``StartError`` if another release's layout is in it or it evicts keys,
        ``StoreError`` if it does not answer or a permission is missing.
        """
        schema_key = self.key("schema")
        [schema] = await self.pipeline([("GET", schema_key)])
        if schema is None:
            commands = [("SET", schema_key, SCHEMA, "NX"), ("GET", schema_key)]
            _, schema = await self.pipeline(commands)
        if schema.removesuffix(WITH_PATTERNS) == FORMER:
            raise StartError(
                f"the store holds layout {schema.decode()!r}, of an earlier release; stop every "
                "worker of this --namespace, and run gearhorn-worker --migrate once"
            )
        if schema == BETWEEN:
            raise StartError(
                f"the store holds layout {schema.decode()!r}: a migration is under way or was cut "
                "short; run gearhorn-worker --migrate again unless it still runs"
            )
        if schema not in (SCHEMA, SCHEMA + WITH_PATTERNS):
            raise StartError(
                f"the store holds layout {schema.decode(errors='replace')!r}, and this release "
                f"knows {SCHEMA.decode()!r} only; use another --namespace, or the release that "
                "wrote it"
            )
        if policy := (await self.state()).evicts:
            raise StartError(
                f"the store forgets keys when its memory is full (maxmemory-policy {policy}), and "
                "subscriptions with them; set maxmemory-policy noeviction"
            )

    async def state(self) -> StoreState:
        """Return how well the store keeps what it is given; raises ``StoreError``."""
        sections = ("memory", "persistence", "replication")
        return state_of(await self.pipeline([("INFO", section) for section in sections]))

    async def close(self) -> None:
        """Close every connection; batches under way fail with ``StoreUnanswered``."""
        await asyncio.gather(self._shared.close(), self._reserved.close())
        for wire in list(self._apart):
            wire.close()


async def _run(wire: Wire, commands: Sequence[Command]) -> list[Any]:
    """Return the replies, in order.

    A server forgets its scripts when it is restarted, or told to (SCRIPT FLUSH). Then all scripts
    are loaded, and everything from the first unknown one on is asked again, in order: a command
    that needs an earlier one to be carried out gets its turn behind it. A command there that was
    known is carried out twice, which does no harm in any of the batches that come here. Appends and
    rounds, where it would, use ``pipelined``, which loads the scripts first and repeats nothing.
    """
    wire.send(commands)
    await wire.drain()
    replies = [await wire.read() for _ in commands]
    for _ in range(ASKED_AGAIN):
        first = next((at for at, reply in enumerate(replies) if _is_unknown(reply)), None)
        if first is None:
            break
        loads = [("SCRIPT", "LOAD", text) for text in SCRIPTS.values()]
        wire.send([*loads, *commands[first:]])
        await wire.drain()
        loaded = [await wire.read() for _ in loads]
        again = [await wire.read() for _ in commands[first:]]
        replies[first:] = again
        if refused := next((reply for reply in loaded if isinstance(reply, StoreError)), None):
            replies[first] = refused
            break
    return replies


def _is_unknown(reply: Any) -> bool:
    """Return whether a reply says that the server does not know the script."""
    return isinstance(reply, StoreError) and code_of(str(reply)) == "NOSCRIPT"
