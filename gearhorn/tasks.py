"""Background tasks that are neither lost nor silent, and the loops that are kept running.

Theory of operation. A task that is not awaited dies without a word, and a loop that died leaves
a worker that looks alive and does nothing. So tasks are started here only, in one of two ways:

* ``Tasks.spawn`` runs work that ends. A crash is logged once, with its traceback.
* ``Tasks.keep`` runs a loop that never ends. A crash is logged and counted, and the loop is started
  again after a back-off. ``Supervision`` knows every loop that is kept on an event loop.

A loop may be *vital*: the worker must not serve without it. When a vital loop has crashed
``CRASHES_IN_A_ROW`` times, each time within ``STEADY_S`` of its start, it *fails*: those who asked
``Supervision.on_change`` are told, and told again when it has run for ``STEADY_S``. It is started
again and again meanwhile, since there is no other way to find out whether it runs.

Rules for a loop: what it took from a queue and did not finish when it crashes, it hands back or
answers, before the exception leaves it (``on_crash``); it can be started again on the state that is
left; where one piece of its work may crash it, it says ``went_well`` after each that did not.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from gearhorn.logger import get_logger
from gearhorn.timing import Backoff

AGAIN_S = 0.2  # between two attempts to cancel a task
FIRST_RESTART_S = 0.1  # the back-off between a crash and the next start
LONGEST_RESTART_S = 5.0
STEADY_S = 5.0  # a loop that has run for so long is well
CRASHES_IN_A_ROW = 5  # of a vital loop, then it fails

log = get_logger(__name__)


@contextlib.contextmanager
def on_crash(do: Callable[[], None]) -> Iterator[None]:
    """Call ``do`` if the block raises, and let the exception go on. ``do`` must not raise.

    It is not called where the block's task is being cancelled: what the task had in hand is then
    for other members.
    """
    try:
        yield
    except BaseException as error:
        if not (isinstance(error, asyncio.CancelledError) and _is_cancelled()):
            do()
        raise


def _is_cancelled() -> bool:
    """Whether the present task itself is cancelled, rather than something that it awaits.

    Both raise ``CancelledError``. A loop that took the second for the first would end in silence.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def went_well() -> None:
    """Of the kept loop that calls this: its former crashes are not in a row with later ones.

    For loops whose work can crash them piece by piece: four bad pieces among a thousand good ones
    must not make a member stand down. Without effect outside of a kept loop, as in tests.
    """
    task = asyncio.current_task()
    if task is not None:
        Supervision.of(asyncio.get_running_loop()).went_well(task)


class Supervision:
    """Every loop that is kept on one event loop, and which of the vital ones fail now.

    It belongs to the event loop and not to the worker, so that a part need not be handed it; tests
    that run several members in one process see all of their loops.

    ``restarts`` counts crashes by the loop's name since the process began.
    """

    _all: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Supervision]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self.restarts: Counter[str] = Counter()
        self._kept: dict[asyncio.Task[Any], _Kept] = {}
        self._failing: set[_Kept] = set()
        self._listeners: list[Callable[[], None]] = []

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Supervision:
        """Return the event loop's own."""
        return cls._all.setdefault(loop, cls())

    @property
    def kept(self) -> dict[asyncio.Task[Any], str]:
        """The tasks of the loops that are kept, with their names."""
        return {task: kept.name for task, kept in self._kept.items()}

    @property
    def failing(self) -> list[str]:
        """The names of the vital loops that fail, in alphabetical order."""
        return sorted(kept.name for kept in self._failing)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have ``listener`` called whenever ``failing`` has changed; it must not raise."""
        self._listeners.append(listener)

    def added(self, task: asyncio.Task[Any], kept: _Kept) -> None:
        """A loop is kept from now on, by ``task``."""
        self._kept[task] = kept

    def removed(self, task: asyncio.Task[Any]) -> None:
        """A loop is kept no longer: it was cancelled."""
        self.runs(self._kept.pop(task))

    def went_well(self, task: asyncio.Task[Any]) -> None:
        """The loop that a task keeps has done a piece of its work."""
        kept = self._kept.get(task)
        if kept is not None:
            kept.went_well()

    def crashed(self, kept: _Kept) -> None:
        """A loop has crashed, ``kept.crashes`` times in a row."""
        self.restarts[kept.name] += 1
        if kept.is_vital and kept.crashes >= CRASHES_IN_A_ROW and kept not in self._failing:
            self._failing.add(kept)
            self._tell()

    def runs(self, kept: _Kept) -> None:
        """A loop has run steadily, or is kept no longer."""
        if kept in self._failing:
            self._failing.remove(kept)
            self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


class _Kept:
    """A loop that is kept: starts it, and starts it again when it has crashed.

    The back-off and the count of crashes start over when a run has lasted ``STEADY_S``, which a
    timer notices while the loop runs: a loop that works says nothing by itself.
    """

    def __init__(
        self, name: str, loop: Callable[[], Coroutine[Any, Any, None]], is_vital: bool
    ) -> None:
        self.name = name
        self.is_vital = is_vital
        self.crashes = 0  # in a row
        self._loop = loop
        self._backoff = Backoff(FIRST_RESTART_S, LONGEST_RESTART_S)
        self._supervision = Supervision.of(asyncio.get_running_loop())
        self.is_ending = False  # the task is being cancelled: it is not started again

    def went_well(self) -> None:
        """A piece of its work is done: former crashes are not in a row with later ones."""
        self.crashes = 0

    def end(self) -> None:
        """Its task is being cancelled: start it no more."""
        self.is_ending = True

    async def run(self) -> None:
        """Run the loop again and again until the task is cancelled.

        A loop that returns counts as crashed: it never should, and its work would stand still. A
        cancellation of something that it awaited is a crash, too; one of the task itself ends it.
        Libraries have swallowed that, so ``is_ending`` is asked besides.
        """
        events = asyncio.get_running_loop()
        while True:
            steady = events.call_later(STEADY_S, self._is_steady)
            try:
                await self._loop()
                error: BaseException = RuntimeError("the loop ended, which it never should")
            except asyncio.CancelledError as cancelled:
                if _is_cancelled():
                    raise
                error = cancelled  # of something that it awaited: a bug like any other
            except Exception as raised:
                error = raised
            finally:
                steady.cancel()
            if self.is_ending:
                return  # something below swallowed the cancellation
            self._crashed(error)
            del error  # its traceback keeps everything alive that the loop had in hand
            await asyncio.sleep(self._backoff.next_s())

    def _is_steady(self) -> None:
        """The present run has lasted ``STEADY_S``: called by its timer."""
        self.crashes = 0
        self._backoff.reset()
        self._supervision.runs(self)

    def _crashed(self, error: BaseException) -> None:
        self.crashes += 1
        log.critical(
            "a part of the worker crashed; starting it again",
            part=self.name,
            crashes=self.crashes,
            exc_info=error,
        )
        self._supervision.crashed(self)


class Tasks:
    """Starts tasks, keeps references to them, without which asyncio may collect them, and logs a
    crash with its traceback.

    Each part has one of its own, and ends what it started with ``cancel`` when it stops.
    """

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._kept: dict[asyncio.Task[None], _Kept] = {}

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run ``work``, which ends, beside everything else; ``name`` says what crashed, should it.

        A caller that must be answered when the work crashes is answered by the work itself.
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
        supervision.added(task, kept)
        task.add_done_callback(supervision.removed)
        self._kept[task] = kept
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._kept.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("a part of the worker crashed", part=task.get_name(), exc_info=error)

    async def cancel(self) -> None:
        """End every task and wait until it has.

        It does not return before they have: the caller goes on to close what they use.
        """
        for kept in self._kept.values():
            kept.end()
        running = set(self._running)
        while running:
            for task in running:
                task.cancel()  # again: a library may swallow what comes at a bad moment
            _, running = await asyncio.wait(running, timeout=AGAIN_S)


def report_to_log(events: asyncio.AbstractEventLoop) -> None:
    """Have exceptions that are not caught on an event loop logged as one line each.

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
