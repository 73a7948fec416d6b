"""Background tasks that are neither lost nor silent, and the loops that are kept running.

Theory of operation. A task that nobody awaits dies without a word, and a loop that died leaves a
worker that looks alive and does nothing. So tasks are started here only, in one of two ways:

* ``Tasks.spawn`` runs work that ends. A crash is logged once, with its traceback.
* ``Tasks.keep`` runs a loop that never ends. A crash is logged and counted, and the loop is started
  again after a back-off. ``Supervision`` knows every loop that is kept on an event loop.

A loop may be *vital*: the worker must not serve without it. When a vital loop has crashed
``CRASHES_IN_A_ROW`` times, each time within ``STEADY_S`` of its start, it *fails*: those who asked
``Supervision.on_change`` are told, and told again when it has run for ``STEADY_S``. It is started
again and again meanwhile, since there is no other way to find out whether it runs.

Rules for a loop: what it took from a queue and did not finish when it crashes, it hands back or
answers, before the exception leaves it; it can be started again on the state that is left.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import structlog

from gearhorn.timing import Backoff

AGAIN_S = 0.2  # between two attempts to cancel
FIRST_RESTART_S = 0.1  # the back-off between a crash and the next start
LONGEST_RESTART_S = 5.0
STEADY_S = 5.0  # a loop that has run for so long is well
CRASHES_IN_A_ROW = 5  # of a vital loop, then it fails

log = structlog.get_logger(__name__)


class Supervision:
    """Every loop that is kept on one event loop, and which of the vital ones fail now.

    ``restarts`` counts crashes by the loop's name since the process began.
    """

    _all: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Supervision]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self.restarts: Counter[str] = Counter()
        self._kept: dict[asyncio.Task[None], str] = {}
        self._failing: set[asyncio.Task[None]] = set()
        self._listeners: list[Callable[[], None]] = []

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Supervision:
        """Return the event loop's own."""
        return cls._all.setdefault(loop, cls())

    @property
    def kept(self) -> dict[asyncio.Task[None], str]:
        """The tasks of the loops that are kept, with their names."""
        return dict(self._kept)

    @property
    def failing(self) -> list[str]:
        """The names of the vital loops that fail, in alphabetical order."""
        return sorted(self._kept[task] for task in self._failing)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have ``listener`` called whenever ``failing`` has changed; it must not raise."""
        self._listeners.append(listener)

    def added(self, task: asyncio.Task[None], name: str) -> None:
        """A loop is kept from now on, by ``task``."""
        self._kept[task] = name

    def removed(self, task: asyncio.Task[None]) -> None:
        """A loop is kept no longer: it was cancelled."""
        self.runs(task)
        self._kept.pop(task, None)

    def fails(self, task: asyncio.Task[None]) -> None:
        """A vital loop has crashed too many times in a row."""
        if task not in self._failing:
            self._failing.add(task)
            self._tell()

    def runs(self, task: asyncio.Task[None]) -> None:
        """A loop has run steadily, or is kept no longer."""
        if task in self._failing:
            self._failing.remove(task)
            self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


class _Kept:
    """One loop that is kept: starts it, and starts it again when it has crashed."""

    def __init__(
        self, name: str, loop: Callable[[], Coroutine[Any, Any, None]], is_vital: bool
    ) -> None:
        self._name = name
        self._loop = loop
        self._is_vital = is_vital
        self._backoff = Backoff(FIRST_RESTART_S, LONGEST_RESTART_S)
        self._crashes = 0  # in a row
        self._supervision = Supervision.of(asyncio.get_running_loop())
        self.is_ending = False  # the task is being cancelled: it is not started again

    async def run(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        events = asyncio.get_running_loop()
        while True:
            steady = events.call_later(STEADY_S, self._is_steady, task)
            try:
                await self._loop()
                error: BaseException = RuntimeError("the loop ended, which it never should")
            except asyncio.CancelledError as cancelled:
                if task.cancelling():
                    raise
                error = cancelled  # of something that it awaited: a bug like any other
            except Exception as raised:
                error = raised
            finally:
                steady.cancel()
            if self.is_ending:
                return  # somebody below swallowed the cancellation
            self._crashed(task, error)
            del error  # its traceback keeps everything alive that the loop had in hand
            await asyncio.sleep(self._backoff.next_s())

    def _is_steady(self, task: asyncio.Task[None]) -> None:
        self._crashes = 0
        self._backoff.reset()
        self._supervision.runs(task)

    def _crashed(self, task: asyncio.Task[None], error: BaseException) -> None:
        self._crashes += 1
        self._supervision.restarts[self._name] += 1
        log.critical(
            "a part of the worker crashed; starting it again",
            part=self._name,
            crashes=self._crashes,
            exc_info=error,
        )
        if self._is_vital and self._crashes >= CRASHES_IN_A_ROW:
            self._supervision.fails(task)


class Tasks:
    """Starts tasks, keeps references to them, without which asyncio may collect them, and logs a
    crash with its traceback."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._kept: dict[asyncio.Task[None], _Kept] = {}

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run ``work``, which ends, beside everything else; ``name`` says what crashed, should it.

        Whoever must be answered when the work crashes is answered by the work itself.
        """
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def keep(
        self, name: str, loop: Callable[[], Coroutine[Any, Any, None]], *, is_vital: bool = False
    ) -> asyncio.Task[None]:
        """Run ``loop()``, which never ends, until ``cancel``; start it again whenever it crashes.

        ``is_vital``: the worker must not serve while it fails (see ``Supervision``).
        """
        kept = _Kept(name, loop, is_vital)
        task = self.spawn(kept.run(), name)
        supervision = Supervision.of(asyncio.get_running_loop())
        supervision.added(task, name)
        task.add_done_callback(supervision.removed)
        self._kept[task] = kept
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._kept.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("a part of the worker crashed", part=task.get_name(), exc_info=error)

    async def cancel(self) -> None:
        """End every task and wait until it has."""
        for kept in self._kept.values():
            kept.is_ending = True
        running = set(self._running)
        while running:
            for task in running:
                task.cancel()  # again: a library may swallow what comes at a bad moment
            _, running = await asyncio.wait(running, timeout=AGAIN_S)


def report_to_log(events: asyncio.AbstractEventLoop) -> None:
    """Have exceptions that nobody catches on an event loop logged as one line each.

    They come from timers and other calls that no task awaits; asyncio would write them to its own
    logger, traceback line by traceback line.
    """
    events.set_exception_handler(_report)


def _report(events: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    log.critical(
        "a call on the event loop failed",
        what=context.get("message", ""),
        exc_info=context.get("exception"),
    )
