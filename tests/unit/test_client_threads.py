"""Work crosses to threads, and its results come back on the loop."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from support.proxy import on_loop

from gearhorn.client import ending
from gearhorn.client.blocking import Face, blocking, call_soon, iterating
from gearhorn.client.threads import Threads


@on_loop
async def test_everything_comes_back_on_the_loop() -> None:
    ended: list[tuple[int, int, str]] = []

    def double(number: int) -> int:
        assert threading.current_thread().name.startswith("test ")
        return 2 * number

    def done(number: int, result: int) -> None:
        ended.append((number, result, threading.current_thread().name))

    here = threading.current_thread().name
    threads = Threads(3, double, done, "test")
    for number in range(1000):
        threads.put(number)
    while len(ended) < 1000:
        await asyncio.sleep(0.01)
    assert sorted(ended) == [(number, 2 * number, here) for number in range(1000)]
    threads.close()


@on_loop
async def test_one_thread_keeps_the_order_and_a_slow_one_holds_no_other_up() -> None:
    ended: list[int] = []
    gate = threading.Event()
    threads: Threads[int, Any] = Threads(
        2, lambda n: n or gate.wait(10), lambda n, _: ended.append(n), "test"
    )
    for number in range(100):
        threads.put(number)
    while len(ended) < 99:
        await asyncio.sleep(0.01)
    assert ended == list(range(1, 100))
    gate.set()
    while len(ended) < 100:
        await asyncio.sleep(0.01)
    threads.close()


@on_loop
async def test_a_thread_outlives_work_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[int] = []
    threads: Threads[int, int] = Threads(1, lambda n: 6 // n, lambda _, n: ended.append(n), "test")
    for number in (0, 1):
        threads.put(number)
    async with asyncio.timeout(30):
        while not ended:
            await asyncio.sleep(0.01)
    assert ended == [6]
    assert "ZeroDivisionError" in caplog.text
    threads.close()


@on_loop
async def test_after_the_close_nothing_is_begun() -> None:
    begun: list[int] = []
    gate = threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        gate.wait(10)

    threads = Threads(1, work, lambda *_: None, "test")
    for number in range(3):
        threads.put(number)
    while not begun:
        await asyncio.sleep(0.01)
    threads.close()
    gate.set()
    await asyncio.sleep(0.1)
    assert begun == [0]


class Core:
    """What is behind a face."""

    async def add(self, a: int, b: int = 1) -> int:
        """Add."""
        await asyncio.sleep(0)
        if a < 0:
            raise ValueError(a)
        return a + b

    async def count(self, limit: int) -> object:
        """Count."""
        for number in range(limit):
            await asyncio.sleep(0)
            yield number

    async def wait(self) -> None:
        """Wait without end."""
        await asyncio.sleep(3600)

    async def close(self) -> None:
        """Close."""


class Sync(Face[Core]):
    def __init__(self) -> None:
        super().__init__(Core)

    add = blocking(Core.add)
    count = iterating(Core.count)  # type: ignore[var-annotated,arg-type]
    wait = blocking(Core.wait)
    close = blocking(Core.close)


def test_a_face_waits_for_coroutines() -> None:
    with Sync() as face:
        assert face.add(2) == 3
        assert face.add(2, b=5) == 7
        with pytest.raises(ValueError, match="-1"):
            face.add(-1)
        assert list(face.count(3)) == [0, 1, 2]
        assert face.add.__doc__ == "Add."


def test_a_face_is_used_from_many_threads() -> None:
    face = Sync()
    found: list[int] = []

    def add() -> None:
        found.extend(face.add(number) for number in range(200))

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 1600


def test_what_waits_is_interrupted() -> None:
    # a shell starts what runs in the background with SIGINT ignored
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    face = Sync()
    timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            face.wait()
    finally:
        signal.signal(signal.SIGINT, former)
    assert face.add(1) == 2


def test_on_its_own_thread_it_says_so_instead_of_waiting() -> None:
    face, errors = Sync(), []

    def add() -> None:
        try:
            face.add(1)
        except RuntimeError as error:
            errors.append(str(error))

    call_soon(add)
    until_s = time.monotonic() + 10
    while not errors and time.monotonic() < until_s:
        time.sleep(0.01)
    assert errors == ["this would wait for its own thread; use gearhorn.aio here"]


def leave() -> None:
    raise SystemExit(3)


@pytest.mark.parametrize("end", [leave, lambda: asyncio.get_running_loop().stop()])
def test_the_loop_outlives_what_would_end_it(end: Callable[[], None]) -> None:
    found: list[int] = []
    call_soon(end)
    thread = threading.Thread(target=lambda: found.append(Sync().add(1)), daemon=True)
    thread.start()
    thread.join(30)
    assert found == [2]


def test_a_forked_child_has_a_loop_of_its_own() -> None:
    face = Sync()
    assert face.add(1) == 2
    before = face.core
    child = os.fork()
    if not child:
        ok = face.core is not before and face.add(2) == 3
        os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert face.core is before
    assert face.add(3) == 4


@on_loop
async def test_the_first_to_end_ends_the_others() -> None:
    cancelled = []

    async def wait() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def fail() -> None:
        raise KeyError

    await ending.first(wait(), asyncio.sleep(0))
    with pytest.raises(KeyError):
        await ending.first(wait(), fail())
    assert cancelled == [True, True]


@on_loop
async def test_signals_tell_once_and_again() -> None:
    told = ending.Told.not_yet()
    with ending.signals(told):
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(told.first.wait(), 10)
        assert not told.second.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.wait_for(told.second.wait(), 10)
