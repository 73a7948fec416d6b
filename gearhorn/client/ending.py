"""Ending: how a program that runs a subscriber is told to end, once and again.

A process manager sends SIGTERM, waits, and then kills. So the first signal ends the subscriber in
good order, and a second one ends it at once. A job that was not answered is handed out
again either way.

Rules: runs on the event loop; signals are caught only where the caller asks for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterator
from typing import Any, NamedTuple


class Told(NamedTuple):
    """Whether a subscriber was told to end, and told again."""

    first: asyncio.Event
    second: asyncio.Event

    @classmethod
    def not_yet(cls) -> Told:
        """Return one that was told nothing."""
        return cls(asyncio.Event(), asyncio.Event())

    def again(self) -> None:
        """It is told to end."""
        (self.second if self.first.is_set() else self.first).set()


@contextlib.contextmanager
def signals(told: Told) -> Iterator[None]:
    """Tell on SIGTERM and SIGINT."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, told.again)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def first(*works: Coroutine[Any, Any, Any]) -> None:
    """Do several things until one of them is done, and end the others. Raises what that raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
