"""What the store's channel of events tells, and whom it concerns."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import Mock, call

import pytest

from gearhorn.durable.listener import Listener
from gearhorn.messages.events import Leaving, MembersChanged, Redriven, Released, encode_event
from gearhorn.tasks import Tasks


class Parts:
    """The listener, and mocks of what it tells, which keep the calls in order."""

    def __init__(self) -> None:
        self.told = Mock()
        self.refreshed = 0
        self.tasks = Tasks()
        membership = Mock()
        membership.refresh = self._refresh
        self.listener = Listener(
            deliverer=self.told.deliverer,
            fetching=self.told.fetching,
            changed_lanes=self.told.changed_lanes,
            ownership=self.told.ownership,
            redrives=self.told.redrives,
            membership=membership,
            tasks=self.tasks,
        )

    async def _refresh(self) -> None:
        self.refreshed += 1


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (
            b"appended\0news\x007\x003",
            [call.deliverer.appended("news", 7, 3), call.fetching.appended("news")],
        ),
        (encode_event(Released("news")).encode(), [call.changed_lanes.add("news")]),
        (encode_event(Redriven("news", "bob")).encode(), [call.redrives.hear()]),
        (encode_event(Leaving("host-1")).encode(), [call.ownership.leaves("host-1")]),
        (b"painted\0red", []),
    ],
)
def test_an_event_is_told_to_the_parts_that_it_concerns(text: bytes, calls: list[Any]) -> None:
    parts = Parts()
    parts.listener.hear(text)
    assert parts.told.mock_calls == calls


def test_a_change_of_members_is_read_by_a_task() -> None:
    async def test() -> None:
        parts = Parts()
        parts.listener.hear(encode_event(MembersChanged()).encode())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert parts.refreshed == 1

    asyncio.run(test())


def test_after_a_gap_every_part_looks_for_itself() -> None:
    parts = Parts()
    parts.listener.missed()
    assert parts.told.mock_calls == [
        call.deliverer.missed(),
        call.fetching.missed(),
        call.changed_lanes.add_all(),
    ]
