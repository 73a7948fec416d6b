"""What signals do before a worker serves and while it does."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from gearhorn.cli import process
from gearhorn.cli.process import Stopping, heed_signals

Handlers = dict[int, Any]


class Loop:
    """Takes signal handlers, and writes down that it was stopped."""

    def __init__(self) -> None:
        self.handlers: dict[int, tuple[Callable[..., None], tuple[Any, ...]]] = {}
        self.is_stopped = False

    def add_signal_handler(self, number: int, call: Callable[..., None], *arguments: Any) -> None:
        self.handlers[number] = call, arguments

    def stop(self) -> None:
        self.is_stopped = True

    def signal(self, number: int) -> None:
        call, arguments = self.handlers[number]
        call(*arguments)


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> Handlers:
    """What `heed_signals` has the process do about each signal; nothing is set for real."""
    found: Handlers = {}
    monkeypatch.setattr(signal, "signal", found.__setitem__)
    return found


@pytest.fixture(autouse=True)
def nothing_came() -> Iterator[None]:
    yield
    process._came.clear()


def serving() -> tuple[Loop, Stopping]:
    loop = Loop()
    return loop, Stopping(cast(asyncio.AbstractEventLoop, loop))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_before_it_serves_a_signal_ends_the_process_as_an_exception(
    handlers: Handlers, number: int
) -> None:
    heed_signals()
    with pytest.raises(SystemExit) as ending:
        handlers[number](number, None)
    assert ending.value.code == 0


def test_a_hang_up_is_passed_over(handlers: Handlers) -> None:
    heed_signals()
    assert handlers[signal.SIGHUP] is signal.SIG_IGN
    loop, stopping = serving()
    loop.signal(signal.SIGHUP)
    assert not stopping.asked.is_set()
    assert not loop.is_stopped


def test_a_signal_that_came_too_early_is_not_lost(handlers: Handlers) -> None:
    heed_signals()
    with pytest.raises(SystemExit):  # as Python drops it in a destructor
        handlers[signal.SIGTERM](signal.SIGTERM, None)
    _, stopping = serving()
    assert stopping.asked.is_set()
    assert stopping.at_once is None


def test_the_first_signal_asks_and_the_second_does_not_wait() -> None:
    loop, stopping = serving()
    assert not stopping.asked.is_set()
    loop.signal(signal.SIGTERM)
    assert stopping.asked.is_set()
    assert (loop.is_stopped, stopping.at_once) == (False, None)
    loop.signal(signal.SIGINT)
    assert (loop.is_stopped, stopping.at_once) == (True, signal.SIGINT)
