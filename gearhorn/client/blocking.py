"""The blocking face: one event loop in a thread, and methods that wait for coroutines on it.

Theory of operation. A process has one such thread, begun when something is first asked for. After a
fork the child has no threads but one, while the objects that were made before are still there, as
under gunicorn and uwsgi, where an application is imported before the workers are forked. So the
child begins a loop of its own, and every object makes its connections anew on it. The parent's loop
is kept in the child, and never touched: its file descriptors are shared, and closing the loop would
take the parent's sockets out of the parent's ``epoll``.

Rules: whatever waits can be interrupted (``KeyboardInterrupt``); the coroutine is cancelled then.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

log = logging.getLogger("gearhorn")

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")


class LoopThread:
    """An event loop that runs in a daemon thread.

    It goes on after a task that raises ``SystemExit`` or stops the loop: every call in the process
    waits for this loop, and would wait without end.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="gearhorn", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        pid = os.getpid()
        while not self._loop.is_closed():
            try:
                self._loop.run_forever()
            except BaseException:
                if os.getpid() != pid:
                    raise  # a task has forked, and this is the child
                log.exception("a task would have ended the event loop")

    def soon(self, what: Callable[[], None]) -> None:
        """Have a function called on the loop."""
        self._loop.call_soon_threadsafe(what)

    def call(self, work: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine on the loop; return what it returns, or raise what it raises.

        Raises ``RuntimeError`` on the loop's own thread, which would wait for itself.
        """
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("this would wait for its own thread; use gearhorn.aio here")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


class _Process:
    """The loop thread of this process, made when it is first asked for.

    Asking takes no lock once it is made: that is the way of every call. The lock is for the first
    calls, should several threads make them at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: LoopThread | None = None
        self._former: list[LoopThread] = []  # of the parent: never touched

    def thread(self) -> LoopThread:
        """Return the loop thread."""
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = LoopThread()
        return self._thread

    def forked(self) -> None:
        """This is a child: the parent's thread is not here, and its lock may be taken."""
        if self._thread is not None:
            self._former.append(self._thread)
        self._thread = None
        self._lock = threading.Lock()


_process = _Process()
os.register_at_fork(after_in_child=_process.forked)


def call_soon(what: Callable[[], None]) -> None:
    """Have a function called on the loop of this process."""
    _process.thread().soon(what)


class Face(ABC, Generic[C]):
    """A blocking object in front of one for asyncio, which each process has of its own.

    After a fork the child makes the object anew at its first use. The parent's is kept, not closed:
    it would say goodbye on sockets that the parent still uses.

    Arguments:
        make: makes the object for asyncio.
    """

    def __init__(self, make: Callable[[], C]) -> None:
        self._make = make
        self._made: tuple[int, C] | None = None
        self._former: list[C] = []  # the parent's: never touched
        self._make_lock = threading.Lock()

    @property
    def core(self) -> C:
        """The object for asyncio of this process."""
        made, pid = self._made, os.getpid()
        if made is not None and made[0] == pid:
            return made[1]
        with self._make_lock:
            made = self._made
            if made is None or made[0] != pid:
                if made is not None:
                    self._former.append(made[1])
                made = self._made = (pid, self._make())
        return made[1]

    def call(self, work: Coroutine[Any, Any, R]) -> R:
        """Wait for a coroutine."""
        return _process.thread().call(work)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """End the connections."""


def blocking(
    method: Callable[Concatenate[C, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Face[C], P], R]:
    """Return a method that waits for a coroutine method of the object behind the face.

    It has the coroutine method's arguments, docstring and errors. So each rule is written, and
    described, once: where it is carried out.
    """

    @functools.wraps(method)
    def wait(face: Face[C], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return face.call(method(face.core, *args, **kwargs))

    return wait


def iterating(
    method: Callable[Concatenate[C, P], AsyncIterator[R]],
) -> Callable[Concatenate[Face[C], P], Iterator[R]]:
    """Return a method that iterates over what an asynchronous method yields.

    Each item is a call on the loop. An iterator that is left early ends the asynchronous one too,
    which may hold a request that waits at a worker. What the caller is left with is why it was
    left, ``KeyboardInterrupt`` for one, and not what ending it may raise.
    """

    @functools.wraps(method)
    def iterate(face: Face[C], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        steps = _Steps(method(face.core, *args, **kwargs))
        try:
            while True:
                try:
                    yield face.call(steps.next())
                except _Over:
                    return
        except BaseException:
            with contextlib.suppress(Exception):
                face.call(steps.close())
            raise

    return iterate


class _Steps(Generic[R]):
    """The steps of an asynchronous iterator, each in a task of its own.

    An iterator cannot be closed while it runs. So ``close`` waits for the step that was
    interrupted, which ends once it is cancelled, and has not yet when the caller is interrupted.
    """

    def __init__(self, items: AsyncIterator[R]) -> None:
        self._items: Any = items
        self._step: asyncio.Task[Any] | None = None

    async def next(self) -> R:
        """Return the next item; raises ``_Over`` where there is none."""
        self._step = asyncio.current_task()
        try:
            item: R = await anext(self._items)
        except StopAsyncIteration as error:
            raise _Over from error
        return item

    async def close(self) -> None:
        """End the iterator, and the step that it is in."""
        if self._step is not None:
            if not self._step.cancelling():  # once is enough: again would cut its ending short
                self._step.cancel()
            await asyncio.wait([self._step])
        await self._items.aclose()


class _Over(Exception):
    """Nothing more is yielded: a future does not take ``StopAsyncIteration`` as it is."""
