"""When what was written leaves: at the end of a turn, in the order of the writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gearhorn.gearman.turns import Turn


class Recorder:
    """A connection that writes down when it is flushed."""

    def __init__(self, name: str, events: list[str], on_flush: Callable[[], None] | None = None):
        self._name = name
        self._events = events
        self._on_flush = on_flush

    def flush(self) -> None:
        self._events.append(f"{self._name} flushed")
        if self._on_flush is not None:
            self._on_flush()

    def broke(self, event: str, error: Exception) -> None:
        self._events.append(f"{self._name} broke: {error}")


def test_a_turn_without_a_read_ends_by_itself_once() -> None:
    async def main() -> list[str]:
        events: list[str] = []
        turn = Turn.of(asyncio.get_running_loop())
        turn.add(Recorder("a", events))
        turn.add(Recorder("b", events))
        events.append("written")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return events

    assert asyncio.run(main()) == ["written", "a flushed", "b flushed"]


def test_a_turn_that_reads_ends_with_the_read() -> None:
    async def main() -> list[str]:
        events: list[str] = []
        turn = Turn.of(asyncio.get_running_loop())
        turn.begin()
        turn.add(Recorder("a", events))
        await asyncio.sleep(0)
        events.append("handled")
        turn.end()
        return events

    assert asyncio.run(main()) == ["handled", "a flushed"]


def test_one_that_raises_breaks_alone() -> None:
    def fail() -> None:
        raise ValueError("a fault")

    async def main() -> list[str]:
        events: list[str] = []
        turn = Turn.of(asyncio.get_running_loop())
        turn.begin()
        turn.add(Recorder("a", events, fail))
        turn.add(Recorder("b", events))
        turn.end()
        return events

    assert asyncio.run(main()) == ["a flushed", "a broke: a fault", "b flushed"]


def test_what_is_woken_by_a_flush_is_for_the_next_turn() -> None:
    async def main() -> list[str]:
        events: list[str] = []
        turn = Turn.of(asyncio.get_running_loop())
        late = Recorder("late", events)
        turn.begin()
        turn.add(Recorder("a", events, lambda: turn.add(late)))
        turn.end()
        events.append("ended")
        await asyncio.sleep(0)
        return events

    assert asyncio.run(main()) == ["a flushed", "ended", "late flushed"]


def test_each_loop_has_its_own() -> None:
    async def own() -> Turn:
        assert Turn.of(asyncio.get_running_loop()) is Turn.of(asyncio.get_running_loop())
        return Turn.of(asyncio.get_running_loop())

    assert asyncio.run(own()) is not asyncio.run(own())
