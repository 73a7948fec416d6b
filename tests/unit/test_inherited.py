"""What a new owner finds in a lane, without a store. Very much of it, on real stores:
tests/contract/test_store_inherited.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.proxy import on_loop
from support.scripted_store import ScriptedConnection

from gearhorn.errors import StoreError
from gearhorn.store import inherited
from gearhorn.store.inherited import Sequences, range_of, read_long
from gearhorn.store.wire import Command

PAIR = "t\0alice"
numbers = st.lists(st.integers(1, 50), unique=True).map(sorted)


@given(numbers, st.integers(0, 55))
def test_sequences_are_a_sorted_list_from_which_the_lowest_are_taken(
    ascending: list[int], at: int
) -> None:
    found = Sequences(ascending)
    assert bool(found) == bool(ascending)
    assert found.lowest(len(ascending) + 1) == ascending
    assert found.lowest(at) == ascending[:at]
    assert found.has(at) == (at in ascending)
    behind = found.behind(at)
    assert behind.lowest(100) == [number for number in ascending if number > at]
    assert found.pass_to(at) == (at in ascending)
    assert found.lowest(100) == behind.lowest(100)
    assert [found.popleft() for _ in range(len(found))] == behind.lowest(100)


def test_of_no_sequences_none_can_be_taken() -> None:
    with pytest.raises(IndexError):
        Sequences().popleft()


def test_a_copy_does_not_change_with_the_original() -> None:
    original = Sequences([1, 2, 3])
    copy = original.behind(1)
    original.pass_to(3)
    assert copy.lowest(9) == [2, 3]


class Lane:
    """Sorted sets of one lane. ``meanwhile`` is called before each command, with its key."""

    def __init__(self, **sets: dict[str, int]) -> None:
        self.sets = sets
        self.redrives = 0
        self.meanwhile: Callable[[str], None] = lambda key: None

    def answer(self, command: Command) -> Any:
        kind = command[1].split(":")[1]
        self.meanwhile(kind)
        if command[0] == "GET":
            return b"%d" % self.redrives if self.redrives else None
        name, _, low, _, _, _, limit = command
        assert name == "ZRANGEBYSCORE"
        bound = float(str(low).lstrip("("))
        ordered = sorted((score, member) for member, score in self.sets.get(kind, {}).items())
        return [
            member.encode()
            for score, member in ordered
            if score > bound or (score == bound and not str(low).startswith("("))
        ][:limit]


def read(lane: Lane, position: int) -> Any:
    return read_long(ScriptedConnection(lane.answer), PAIR, position)  # type: ignore[arg-type]


def plain(*sequences: int) -> dict[str, int]:
    return {str(sequence): sequence for sequence in sequences}


@pytest.mark.parametrize("page", [3, 4, 5, 100])
def test_everything_is_found_whatever_the_pages(monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    monkeypatch.setattr(inherited, "PAGE", page)

    @on_loop
    async def test() -> None:
        # the ranges that end at 40 have one score
        ahead = {
            f"{first}-{last}": last for first, last in ((31, 31), (33, 36), (38, 40), (39, 40))
        }
        lane = Lane(order=plain(*range(1, 21)), redrive=plain(*range(3, 9)), ahead=ahead)
        lane.redrives = 7
        found = await read(lane, 10)
        assert found.order.lowest(99) == list(range(11, 21)), "the position has passed the others"
        assert found.redrives.lowest(99) == list(range(3, 9)), (
            "they are delivered wherever they are"
        )
        assert found.ahead == [(31, 31), (33, 36), (38, 40), (39, 40)]
        assert found.seen_redrive == 7

    test()


@pytest.mark.parametrize("to", ["redrive", "ahead"])
def test_a_message_that_moves_while_a_lane_is_read_is_found_at_least_once(
    monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    """Put back, it is delivered; purged, it is done."""
    monkeypatch.setattr(inherited, "PAGE", 2)

    @on_loop
    async def test() -> None:
        for moment in range(12):
            lane = Lane(order=plain(1, 2, 3, 4, 5), redrive={}, ahead={})
            calls = iter(range(100))

            def move(_: str, lane: Lane = lane, calls: Any = calls, moment: int = moment) -> None:
                if next(calls) == moment:
                    lane.sets["order"].pop("4")
                    lane.sets[to]["4" if to == "redrive" else "4-4"] = 4
                    lane.redrives += 1

            lane.meanwhile = move
            found = await read(lane, 0)
            is_put_back = found.redrives.has(4)
            assert found.order.has(4) or is_put_back or (4, 4) in found.ahead, moment
            assert is_put_back or to == "ahead" or found.seen_redrive == 0, "it is read later"

    test()


@on_loop
async def test_a_page_that_the_store_refuses_ends_the_reading() -> None:
    connection = ScriptedConnection(lambda command: StoreError("WRONGTYPE"))
    with pytest.raises(StoreError, match="WRONGTYPE"):
        await read_long(connection, PAIR, 0)  # type: ignore[arg-type]


def test_a_range_is_named_by_its_ends() -> None:
    assert range_of(b"3-17") == (3, 17)
