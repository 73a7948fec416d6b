"""Members in the store: which of them hold a lease, and what each knows.

A member's record is "RENEWALS KNOWN LEASE_MS". There is no time in it: a peer does not compare
clocks, it watches on its own clock whether the record changes within the lease that the record
names. RENEWALS makes every renewal change the record. KNOWN is the version up to which the member
has dropped every list that changed; a change counts a peer as told when its KNOWN is high enough
(docs/design.rst, "Cached lists and matchmaking").

A member that is not in the store's hash is no member, whatever it believes; it is told so by its
next renewal and joins again under another id.

Rules: one round trip for each call; every method raises ``StoreError``.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from gearhorn.store.connection import Command, Connection
from gearhorn.store.keys import SCHEMA

KNOWS = "patterns"  # what the record of a member of this release says that it knows
DUE = 100  # expired pairs handed to one member at a time


class Member(NamedTuple):
    """A member as the store knows it; ``record`` is "RENEWALS KNOWN LEASE_MS"."""

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
    """What a join or a renewal hands back, all of one moment."""

    version: int  # the store's count of changes
    topics: list[str] | None  # that changed since the version the member knew; None: everything
    members: list[Member]  # this one included, with its new record
    clock_ms: int  # the members' clock, as the store has it now
    expired: list[tuple[str, str]]  # topic and client_id of those whose time is over
    is_same_run: bool  # the data was served under this server's run id all the time
    data: str = ""  # a word that stands for the data: a store that was emptied has another


class Members:
    """The members of one namespace.

    Everything goes over the connections that are reserved for it, because a lease must not end for
    a queue of other requests.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ask = partial(connection.pipeline, reserved=True)

    def find_anew(self) -> None:
        """Leave the store's connections, and resolve its name anew: it may stand for another server
        by now."""
        self._connection.reset()

    @property
    def run_id(self) -> str:
        """The run id of the server that was last connected to."""
        return self._connection.run_id

    async def join(self, member: str, lease_ms: int, clock_ms: int) -> Renewal:
        """Become a member that knows every change so far: it has no list yet that could be old.

        ``lease_ms`` is how long its lease holds after a renewal, ``clock_ms`` its reading of the
        members' clock. Raises ``StoreError``.
        """
        renewal = await self._call("join", member, -1, lease_ms, clock_ms, is_past_safe=False)
        assert renewal is not None
        return renewal

    async def renew(
        self, member: str, known: int, lease_ms: int, clock_ms: int, *, is_past_safe: bool
    ) -> Renewal | None:
        """Renew a lease; None: the store does not know the member.

        Arguments:
            member: its id.
            known: the version up to which it has dropped what changed, -1 is nothing.
            lease_ms: how long its lease holds after this renewal.
            clock_ms: its reading of the members' clock.
            is_past_safe: every lease that was given before the server's run began has lapsed, so
                that nothing of what the former run may have lost is in use any more.

        Raises ``StoreError``; the lease may have been renewed then, which the member does not
        count.
        """
        return await self._call(
            "renew", member, known, lease_ms, clock_ms, is_past_safe=is_past_safe
        )

    async def _call(
        self, how: str, member: str, known: int, lease_ms: int, clock_ms: int, *, is_past_safe: bool
    ) -> Renewal | None:
        """Run ``member.lua``.

        The script keeps the run id that the data was last served under, and compares it with the
        run id that it is given. So that one must be the id of the server that runs the script. It
        is known only once there is a connection, hence the PING; and the script's own batch may
        have opened another connection, to another server, hence the loop. What that server said is
        thrown away, and it is asked again by its name. The lease was renewed twice then, which does
        no harm. That its past is safe was said of the former server, and is not repeated.
        """
        key = self._connection.key
        names = ("members", "version", "changes", "floor", "clock", "expiries", "run")
        keys = [key(name) for name in (*names, "schema", "data", "clocked")]
        settled = "settled" if is_past_safe else ""
        fresh = secrets.token_hex(8)
        if not self.run_id:
            await self._ask([("PING",)])
        while True:
            run_id = self.run_id
            arguments = [
                how,
                member,
                known,
                f"{lease_ms} {KNOWS}",
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
            settled = ""

    async def leave(self, *members: str) -> None:
        """Remove members that end in order, and the marks of their drains; raises ``StoreError``.
        Several, since a member that stops may have former ids that are still there."""
        await self._ask([self._remove(member, b"") for member in members])

    async def all(self) -> list[Member]:
        """Return the members; raises ``StoreError``."""
        [found] = await self._ask([("HGETALL", self._connection.key("members"))])
        return members_of(found)

    async def reap(self, member: Member) -> bool:
        """Remove a member unless it renewed its lease after all, and the marks of its drains.

        Return whether this call did: of several members that find the same one dead, one is told
        so, and takes care of what it has left behind. Raises ``StoreError``.
        """
        [removed] = await self._ask([self._remove(member.id, member.record)])
        return bool(removed)

    def _remove(self, member: str, record: bytes) -> Command:
        key = self._connection.key
        return self._connection.script("remove", [key("members"), key("draining")], member, record)


def members_of(found: dict[bytes, bytes]) -> list[Member]:
    """Return the members in the hash that holds them, as HGETALL returns it."""
    return [Member(name.decode(), record) for name, record in found.items()]


def _renewal(reply: Sequence[Any]) -> Renewal | None:
    """Read what ``member.lua`` returns. Its hash comes as a flat list, as Lua has it."""
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
