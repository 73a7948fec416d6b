"""Members in the store: who holds a lease, and what each knows.

Rules: one round trip for each call; every method raises ``StoreError``.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from gearhorn.store.connection import Command, Connection
from gearhorn.store.keys import SCHEMA

DUE = 100  # expired pairs handed to one member at a time


class Member(NamedTuple):
    """A member as the store knows it: ``record`` is its renewals, the version up to which it has
    dropped every list that changed, and its lease in ms."""

    id: str
    record: bytes

    @property
    def known(self) -> int:
        """The version up to which it knows every change."""
        return int(self.record.split()[1])

    @property
    def lease_s(self) -> float:
        """How long its lease holds after a renewal."""
        return int(self.record.split()[2]) / 1000


class Renewal(NamedTuple):
    """What a join or a renewal hands back."""

    version: int
    topics: list[str] | None  # that changed since the version the member knew; None: everything
    members: list[Member]
    clock_ms: int
    expired: list[tuple[str, str]]  # pairs of topic and client_id whose time is over
    is_same_run: bool  # the data was served under this server's run id all the time
    data: str = ""  # a word that stands for the data: a store that was emptied has another


class Members:
    """The members of one namespace."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # the lease must not queue behind whatever else there is to ask
        self._ask = partial(connection.pipeline, reserved=True)

    def find_anew(self) -> None:
        """Leave the store's connections, and look for it anew: its name may stand for another
        server by now."""
        self._connection.reset()

    @property
    def run_id(self) -> str:
        """The run id of the server that was last connected to."""
        return self._connection.run_id

    async def join(self, member: str, lease_ms: int, clock_ms: int) -> Renewal:
        """Become a member that knows every change so far."""
        renewal = await self._call("join", member, -1, lease_ms, clock_ms, False)
        assert renewal is not None
        return renewal

    async def renew(
        self, member: str, known: int, lease_ms: int, clock_ms: int, is_settled: bool
    ) -> Renewal | None:
        """Renew a lease; None: the store does not know the member.

        ``known`` is the version up to which it has dropped what changed, -1 is nothing.
        ``is_settled``: every lease that was given before the server's run began has lapsed.
        """
        return await self._call("renew", member, known, lease_ms, clock_ms, is_settled)

    async def _call(
        self, how: str, member: str, known: int, lease_ms: int, clock_ms: int, is_settled: bool
    ) -> Renewal | None:
        key = self._connection.key
        names = ("members", "version", "changes", "floor", "clock", "expiries", "run")
        keys = [key(name) for name in (*names, "schema", "data")]
        settled = "settled" if is_settled else ""
        fresh = secrets.token_hex(8)
        if not self.run_id:
            await self._ask([("PING",)])
        while True:
            run_id = self.run_id
            arguments = [
                how,
                member,
                known,
                lease_ms,
                clock_ms,
                run_id,
                settled,
                SCHEMA,
                DUE,
                fresh,
            ]
            [reply] = await self._ask([self._connection.script("member", keys, *arguments)])
            if run_id == self.run_id:
                return _renewal(reply)
            # a new connection was made for this: say it again with its server's name, of whose run
            # nothing is settled
            settled = ""

    async def leave(self, *members: str) -> None:
        """Remove members, and the marks of their drains."""
        await self._ask([self._remove(member, b"") for member in members])

    async def all(self) -> list[Member]:
        """Return the members."""
        [found] = await self._ask([("HGETALL", self._connection.key("members"))])
        return members_of(found)

    async def reap(self, member: Member) -> bool:
        """Remove a member unless it renewed its lease after all, and the marks of its drains;
        return whether this call did."""
        [removed] = await self._ask([self._remove(member.id, member.record)])
        return bool(removed)

    def _remove(self, member: str, record: bytes) -> Command:
        key = self._connection.key
        return self._connection.script("remove", [key("members"), key("draining")], member, record)


def members_of(found: dict[bytes, bytes]) -> list[Member]:
    """Return the members in the hash that holds them."""
    return [Member(name.decode(), record) for name, record in found.items()]


def _renewal(reply: Sequence[Any]) -> Renewal | None:
    if not reply[0]:
        return None
    _, version, topics, members, clock, expired, same, data = reply
    pairs = [tuple(pair.decode().split("\0")) for pair in expired]
    return Renewal(
        version,
        None if topics is None else [topic.decode() for topic in topics],
        members_of(dict(zip(members[::2], members[1::2], strict=True))),
        int(clock),
        [(topic, client_id) for topic, client_id in pairs],
        bool(same),
        data.decode(),
    )
