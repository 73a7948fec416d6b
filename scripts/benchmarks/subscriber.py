"""A process that is one subscriber of many topics, with the library's blocking or asyncio face.

Rules: its handler counts a message and nothing else. The clock runs from the first message to the
last, whose acknowledgement is under way then; the one who starts this process sees by the queues,
when it has stopped, that all of them arrive. Resident memory is that at the last message.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any

import gearhorn
import gearhorn.aio
from benchmarks import numbered, programs
from benchmarks.processes import resident_bytes
from benchmarks.raw import ANSWER_S
from benchmarks.reception import Disorder, Reception


def _taking(
    reception: Reception[str], over: Callable[[], None]
) -> Callable[[gearhorn.Message], None]:
    def take(message: gearhorn.Message) -> None:
        try:
            reception.took(message.topic, numbered.sequence_of(message.data))
        except Disorder:
            over()  # an exception would be a failed attempt, of this message and of all that follow
            return
        if not reception.left and reception.is_over():
            over()

    return take


def _blocking(told: dict[str, Any], reception: Reception[str]) -> int:
    """Run the blocking face, whose handler is a function; return resident bytes."""
    over = threading.Event()
    take = _taking(reception, over.set)
    subscriber = gearhorn.Subscriber(told["client_id"], told["address"])
    for topic in told["topics"]:
        subscriber.on(topic, envelope=told["envelope"])(take)
    with subscriber:
        over.wait(ANSWER_S * 2)
        return resident_bytes(os.getpid())


async def _asyncio(told: dict[str, Any], reception: Reception[str]) -> int:
    """Run the asyncio face, whose handler is a coroutine function; return resident bytes."""
    over = asyncio.Event()
    take = _taking(reception, over.set)

    async def take_soon(message: gearhorn.Message) -> None:
        take(message)

    subscriber = gearhorn.aio.Subscriber(told["client_id"], told["address"])
    for topic in told["topics"]:
        subscriber.on(topic, envelope=told["envelope"])(take_soon)
    async with subscriber:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), ANSWER_S * 2)
        return resident_bytes(os.getpid())


def main() -> None:
    """Receive what the settings say, with the face that they name."""
    told = programs.settings()
    reception = Reception(told["topics"], told["each"], told["pids"])
    programs.answer("ready")
    if told["face"] == "asyncio":
        resident = asyncio.run(_asyncio(told, reception))
    else:
        resident = _blocking(told, reception)
    if reception.left:
        raise RuntimeError(f"it takes too long, or is out of order: {reception.missing()}")
    programs.answer(reception.result(resident=resident))


if __name__ == "__main__":
    main()
