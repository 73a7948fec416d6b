"""The durable side as a whole: what it builds without a store, and what it passes on."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import AsyncMock, Mock

from support.delivering import Cluster
from support.fanouts import message
from support.proxy import on_loop

from gearhorn.durable.service import DurableTopics
from gearhorn.errors import StoreError
from gearhorn.messages.events import MembersChanged


def durable() -> DurableTopics:
    """The durable side of a member that has not begun."""
    store = Mock()
    store.channel = lambda *names: ":".join(names)
    servers: Any = Cluster()
    servers.on_change = Mock()
    membership = Mock(clock_ms=0)
    return DurableTopics(
        store=store, membership=membership, job_servers=servers, process="tag", drops=Mock()
    )


@on_loop
async def test_it_is_idle_until_a_message_comes() -> None:
    topics = durable()
    assert topics.is_idle
    topics.appends.add(Mock(), message(b""), Mock(), Mock())
    assert not topics.is_idle


@on_loop
async def test_nothing_is_waited_for_while_nothing_is_logged_and_no_lane_is_held() -> None:
    await asyncio.wait_for(durable().wait_logged(None), 10)


@on_loop
async def test_changes_and_a_lost_lease_have_lanes_compared() -> None:
    topics = durable()
    changed = topics._changed_lanes
    changed.take()
    topics.changed("t", "alice")
    assert changed.take().pairs == {("t", "alice")}
    topics.abandon()
    assert changed.take().is_all


@on_loop
async def test_the_others_are_told_of_members_where_the_store_answers() -> None:
    topics = durable()
    for error in (None, StoreError("away")):
        tell = AsyncMock(side_effect=error)
        topics.lanes.tell = tell  # type: ignore[method-assign]
        topics.members_changed()
        await asyncio.sleep(0.01)
        tell.assert_awaited_once_with(MembersChanged())
