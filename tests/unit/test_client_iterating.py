"""Blocking iterators: however they are left, what is behind them ends, and the reason is told."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gearhorn.client.blocking import Face, iterating


class Core:
    """Yields numbers, then waits: the caller is interrupted meanwhile where that is asked for."""

    def __init__(self) -> None:
        self.did: list[str] = []

    async def numbers(self, *, interrupts: bool = False, fails: bool = False) -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
            if interrupts:
                await asyncio.sleep(0.05)  # the caller waits by now
                os.kill(os.getpid(), signal.SIGUSR1)
                await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.05)  # the end of what is interrupted takes a moment
            self.did.append("ended")
            if fails:
                raise RuntimeError("the end failed")


class Numbers(Face[Core]):
    numbers = iterating(Core.numbers)

    def close(self) -> None:
        """Nothing is open."""


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("fails", [False, True])
def test_an_interrupt_is_raised_as_it_is_once_the_iterator_has_ended(fails: bool) -> None:
    face = Numbers(Core)
    former = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(face.numbers(interrupts=True, fails=fails))
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert face.core.did == ["ended"]


def test_one_that_is_left_or_used_up_has_ended() -> None:
    face = Numbers(Core)
    numbers: Any = face.numbers()
    assert next(numbers) == 1
    numbers.close()
    assert face.core.did == ["ended"]
    assert list(face.numbers()) == [1, 2]
    assert face.core.did == ["ended"] * 2
