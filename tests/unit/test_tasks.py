"""Loops that are kept: started again when they crash, counted, and told of when they fail."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
import structlog

from gearhorn import tasks
from gearhorn.tasks import CRASHES_IN_A_ROW, Supervision, Tasks, report_to_log

BEARABLE_S = 10.0


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "FIRST_RESTART_S", 0.001)
    monkeypatch.setattr(tasks, "LONGEST_RESTART_S", 0.002)
    monkeypatch.setattr(tasks, "AGAIN_S", 0.01)


def run(test: Coroutine[Any, Any, None]) -> list[Any]:
    """Run a test and return what was logged."""

    async def main() -> None:
        async with asyncio.timeout(BEARABLE_S):
            await test

    with structlog.testing.capture_logs() as logged:
        asyncio.run(main())
    return logged


class Crashing:
    """A loop that crashes at its first `crashes` starts and then waits."""

    def __init__(self, crashes: int) -> None:
        self.left = crashes
        self.starts = 0
        self.runs = asyncio.Event()

    async def __call__(self) -> None:
        self.starts += 1
        if self.left:
            self.left -= 1
            raise ValueError("a bug")
        self.runs.set()
        await asyncio.Event().wait()


def supervision() -> Supervision:
    return Supervision.of(asyncio.get_running_loop())


def test_a_loop_that_crashes_is_started_again_logged_and_counted() -> None:
    async def test() -> None:
        kept, loop = Tasks(), Crashing(3)
        task = kept.keep("mill", loop)
        await loop.runs.wait()
        assert loop.starts == 4
        assert supervision().restarts == {"mill": 3}
        assert supervision().kept == {task: "mill"}
        await kept.cancel()
        await asyncio.sleep(0)
        assert supervision().kept == {}

    logged = run(test())
    assert [(line["log_level"], line["part"], line["crashes"]) for line in logged] == [
        ("critical", "mill", count) for count in (1, 2, 3)
    ]
    assert all(isinstance(line["exc_info"], ValueError) for line in logged)


def test_a_loop_that_ends_is_started_again() -> None:
    async def test() -> None:
        kept, twice = Tasks(), asyncio.Event()
        starts = 0

        async def loop() -> None:
            nonlocal starts
            starts += 1
            if starts == 2:
                twice.set()
                await asyncio.Event().wait()

        kept.keep("mill", loop)
        await twice.wait()
        await kept.cancel()

    assert len(run(test())) == 1


def test_a_cancellation_that_nobody_asked_for_is_a_crash() -> None:
    async def test() -> None:
        kept, twice = Tasks(), asyncio.Event()
        gone = asyncio.get_running_loop().create_future()
        gone.cancel()
        starts = 0

        async def loop() -> None:
            nonlocal starts
            starts += 1
            if starts == 2:
                twice.set()
            await gone if starts == 1 else await asyncio.Event().wait()

        kept.keep("mill", loop)
        await twice.wait()
        await kept.cancel()

    assert len(run(test())) == 1


def test_a_loop_that_swallows_its_cancellation_is_not_started_again() -> None:
    async def test() -> None:
        kept = Tasks()
        starts = 0

        async def loop() -> None:
            nonlocal starts
            starts += 1
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise OSError("the connection was closed") from None

        task = kept.keep("mill", loop)
        await asyncio.sleep(0.01)
        await kept.cancel()
        assert task.done()
        assert starts == 1

    assert run(test()) == []


def test_a_vital_loop_fails_after_many_crashes_in_a_row_until_it_runs_steadily(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "STEADY_S", 0.05)

    async def test() -> None:
        kept, loop = Tasks(), Crashing(CRASHES_IN_A_ROW + 2)
        told: list[tuple[list[str], int]] = []
        recovered = asyncio.Event()

        def listen() -> None:
            told.append((supervision().failing, loop.starts))
            if not supervision().failing:
                recovered.set()

        supervision().on_change(listen)
        kept.keep("mill", loop, is_vital=True)
        await recovered.wait()
        await kept.cancel()
        assert told == [(["mill"], CRASHES_IN_A_ROW), ([], CRASHES_IN_A_ROW + 3)]

    run(test())


def test_a_loop_that_is_not_vital_never_fails_and_few_crashes_do_not_either() -> None:
    async def test() -> None:
        kept = Tasks()
        many, few = Crashing(CRASHES_IN_A_ROW + 2), Crashing(CRASHES_IN_A_ROW - 1)
        told: list[list[str]] = []
        supervision().on_change(lambda: told.append(supervision().failing))
        kept.keep("many", many)
        kept.keep("few", few, is_vital=True)
        await many.runs.wait()
        await few.runs.wait()
        assert told == []
        await kept.cancel()

    run(test())


def test_a_failing_loop_that_is_cancelled_fails_no_longer() -> None:
    async def test() -> None:
        kept, failed = Tasks(), asyncio.Event()
        supervision().on_change(failed.set)
        kept.keep("mill", Crashing(10**6), is_vital=True)
        await failed.wait()
        assert supervision().failing == ["mill"]
        await kept.cancel()
        await asyncio.sleep(0)
        assert supervision().failing == []

    run(test())


def test_work_that_crashes_is_logged_once() -> None:
    async def test() -> None:
        async def work() -> None:
            raise ValueError("a bug")

        task = Tasks().spawn(work(), "errand")
        await asyncio.wait([task])
        await asyncio.sleep(0)

    [line] = run(test())
    assert line["part"] == "errand"
    assert isinstance(line["exc_info"], ValueError)


def test_an_exception_in_a_timer_is_one_line_of_the_log() -> None:
    async def test() -> None:
        events = asyncio.get_running_loop()
        report_to_log(events)

        def fail() -> None:
            raise ValueError("a bug")

        events.call_soon(fail)
        await asyncio.sleep(0)

    [line] = run(test())
    assert line["log_level"] == "critical"
    assert isinstance(line["exc_info"], ValueError)
