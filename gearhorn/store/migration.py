"""Migration: makes this release's layout of keys of the former one.

What an operator does is in docs/operations.rst, "Another release".

Theory of operation. Members of two layouts must not write one store: one would not keep what the
other relies on. So the number of the layout is taken away first, which lets no member start, and
the new one is written last. In between stands neither, "4 to 5". A migration that is interrupted is
begun again, and does no harm where it was done before.

A member that still runs would go on in the old layout. So every record of a member is watched for
as long as its lease: one that moves belongs to a member that lives, and nothing is changed then.

Rules: in pieces, so that the store answers others meanwhile. Raises ``StoreError`` where the store
does not answer, and ``StartError`` where there is nothing that can be migrated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gearhorn.errors import StartError
from gearhorn.store.census import Census
from gearhorn.store.connection import READ_TIMEOUT_S, Connection
from gearhorn.store.keys import BETWEEN, FORMER, SCHEMA, WITH_PATTERNS
from gearhorn.store.members import Member, members_of

MARGIN_S = 1.0  # that a lease is watched longer than it lasts
TOLD = 1000  # topics between two tellings of how far it is


async def migrate(connection: Connection, tell: Callable[[int], None]) -> int:
    """Make the present layout of the former one; return how many topics were counted.

    On a store of the present layout it counts all topics anew, too, which mends counters.

    Arguments:
        connection: to the store.
        tell: is told now and then how many topics have been counted.

    Raises ``StartError`` where a member runs, or the store holds another layout; ``StoreError``.
    """
    key = connection.key
    [layout] = await connection.pipeline([("GET", key("schema"))])
    number = (layout or b"").removesuffix(WITH_PATTERNS)
    if number not in (FORMER, SCHEMA, BETWEEN):
        found = "nothing" if layout is None else f"layout {layout.decode(errors='replace')!r}"
        raise StartError(
            f"the store holds {found} in this namespace; this release migrates layout "
            f"{FORMER.decode()!r} to {SCHEMA.decode()!r} only"
        )
    await _wait_unused(connection)
    await connection.pipeline([("SET", key("schema"), BETWEEN)])
    census, count = Census(connection), 0
    async for topic in census.topics():
        await census.mend(topic)
        count += 1
        if not count % TOLD:
            tell(count)
    await _wait_unused(connection)
    [has_patterns] = await connection.pipeline([("EXISTS", key("patterns"))])
    layout = SCHEMA + WITH_PATTERNS if has_patterns else SCHEMA
    await connection.pipeline([("SET", key("schema"), layout)])
    return count


async def _wait_unused(connection: Connection) -> None:
    """Return once no member can be running; raises ``StartError`` where one renews its lease."""
    members = await _members(connection)
    if not members:
        return
    await asyncio.sleep(max(member.lease_s for member in members.values()) + MARGIN_S)
    for name, member in (await _members(connection)).items():
        if members.get(name) != member:
            raise StartError(f"the worker {name} runs: stop every worker of this namespace first")


async def _members(connection: Connection) -> dict[str, Member]:
    """Return the members' records, by their ids."""
    [found] = await connection.pipeline([("HGETALL", connection.key("members"))], READ_TIMEOUT_S)
    return {member.id: member for member in members_of(found)}
