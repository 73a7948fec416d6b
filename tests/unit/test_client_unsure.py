"""What may have been carried out is never said to be surely undone, whatever later tries say."""

from __future__ import annotations

from typing import Any

import pytest
from support.proxy import on_loop
from support.scripted import Cut, Refusal, Scripted

from gearhorn.client.jobs import known_after
from gearhorn.client.many import Outgoing
from gearhorn.client.publisher import Publisher
from gearhorn.errors import BadName, Busy, NotConnected, TimedOut, Unavailable, Unsure


def first_then_busy(first: BaseException) -> Any:
    """A script that answers what has no unique, by which a test waits for its connection; of the
    others the first one meets ``first``, and all that follow are refused as busy."""
    left = [first]

    def script(_: Scripted, function: str, request: Any) -> Any:
        if "unique" not in request:
            return 1
        raise left.pop() if left else Refusal("busy: later")

    return script


@pytest.mark.parametrize("first", [Cut(), Refusal("unavailable: the store")])
@on_loop
async def test_what_was_lost_stays_unsure_when_later_tries_are_refused(
    first: BaseException,
) -> None:
    async with (
        Scripted(first_then_busy(first)) as server,
        Publisher(server.address) as publisher,
    ):
        await publisher.publish("t")
        with pytest.raises(Unsure):
            await publisher.publish("t", unique="u", timeout=1.0)


@on_loop
async def test_so_it_does_among_many() -> None:
    async with (
        Scripted(first_then_busy(Cut())) as server,
        Publisher(server.address) as publisher,
    ):
        await publisher.publish("t")
        [result] = await publisher.publish_many([Outgoing("t", "x", unique="u")], timeout=1.0)
        assert isinstance(result, Unsure)


def test_the_doubt_is_told_and_the_last_error() -> None:
    unsure = known_after(Unsure("a went down"), Busy("later"))
    assert type(unsure) is Unsure
    assert str(unsure) == "a went down; it was tried again: busy: later"


def test_what_says_more_than_the_doubt_is_told_itself() -> None:
    for error in (BadName("no"), Unsure("x"), TimedOut("x"), Unavailable("x")):
        assert known_after(Unsure("lost"), error) is error
    busy = Busy("later")
    assert known_after(None, busy) is busy
    assert known_after(NotConnected("x"), busy) is busy
