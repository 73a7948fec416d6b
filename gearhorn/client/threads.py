"""Threads: where handlers run that would hold the event loop up.

Theory of operation. A handler may take ten minutes, and the connections must go on meanwhile: so
handlers have threads, and the event loop has another. What crosses between them is costly when it
crosses alone, above all waking a loop that sleeps in ``select``. So ends are collected: the first
thread to end something wakes the loop, and the others find that it is awake.

Rules: ``put`` and the call of ``done`` are on the loop's thread; nothing else is shared. The
threads are daemons: a handler that hangs does not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

log = logging.getLogger("gearhorn")

W = TypeVar("W")
R = TypeVar("R")


class Threads(Generic[W, R]):
    """Runs work in threads, each of which takes the next thing that waits.

    Arguments:
        count: how many threads.
        work: is called in a thread with what was put. What it raises is logged, and has no result.
        done: is called on the loop's thread with what was put and what ``work`` returned.
        name: what the threads are called.
    """

    def __init__(
        self, count: int, work: Callable[[W], R], done: Callable[[W, R], None], name: str
    ) -> None:
        self._work = work
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._todo: SimpleQueue[W | None] = SimpleQueue()
        self._ended: deque[tuple[W, R]] = deque()
        self._is_woken = False
        self._pid = os.getpid()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name} {number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, what: W) -> None:
        """Have something worked off."""
        self._todo.put(what)

    def close(self) -> None:
        """Begin nothing more; what a thread has in hand goes on, and its result is told as long as
        the loop runs."""
        with contextlib.suppress(Empty):  # the threads may take what is left first
            while True:
                self._todo.get_nowait()
        for _ in self._threads:
            self._todo.put(None)

    def _run(self) -> None:
        while True:
            what = self._todo.get()
            if what is None:
                return
            try:
                result = self._work(what)
            except BaseException:
                if os.getpid() != self._pid:
                    raise  # it ends the child
                log.exception("work in %s raised", threading.current_thread().name)
                del what
                continue  # a thread less would be one handler less, unnoticed
            if os.getpid() != self._pid:
                return  # the handler has forked, and this is the child
            self._ended.append((what, result))
            del what, result  # a thread that waits keeps no payload
            if not self._is_woken:
                self._is_woken = True
                try:
                    self._loop.call_soon_threadsafe(self._tell)
                except RuntimeError:
                    return  # the loop was closed: the program ends

    def _tell(self) -> None:
        """Tell what has ended. What ends from here on wakes the loop again."""
        self._is_woken = False
        ended = self._ended
        while ended:
            self._done(*ended.popleft())
