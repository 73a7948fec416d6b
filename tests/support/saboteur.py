"""A worker whose tasks can be made to raise: `saboteur.py [worker arguments]`.

Commands come as lines of JSON on the standard input, answers leave on the standard output. Nothing
of the product is changed: every task of its event loop runs a coroutine that raises when it is told
to, at the very await where it waits then, as if what it waits for had raised.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from gearhorn.broker.broker import Broker
from gearhorn.cli.worker import run
from gearhorn.tasks import Supervision, Tasks


class Sabotage(Exception):
    """What a task is made to raise."""


class Breakable(Coroutine[Any, Any, Any]):
    """A coroutine that raises `Sabotage` where it waits, once for each `break_it`."""

    def __init__(self, inner: Coroutine[Any, Any, Any]) -> None:
        self._inner = inner
        self._is_due = False
        self.task: asyncio.Task[Any] | None = None

    def break_it(self) -> None:
        """Raise where it waits now: what it waits for is cancelled, and it is told of a fault."""
        assert self.task is not None
        self._is_due = True
        self.task.cancel()

    def send(self, value: Any) -> Any:
        return self._inner.send(value)

    def throw(self, kind: Any, value: Any = None, trace: Any = None) -> Any:
        if self._is_due:
            self._is_due = False
            assert self.task is not None
            self.task.uncancel()
            return self._inner.throw(Sabotage("a fault that a test has made"))
        return self._inner.throw(kind if value is None else value)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()


class Saboteur:
    """Carries out what the test commands, in the worker's event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._main = asyncio.current_task()
        self._tasks: dict[str, Breakable] = {}  # by a key of its own
        self._doomed: set[str] = set()  # loops that crash at every start
        self._count = 0
        self._loop.set_task_factory(self._make)
        self._doom_kept_loops()
        os.set_blocking(0, False)
        self._input = b""
        self._loop.add_reader(0, self._read)

    def _make(self, loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> asyncio.Future[Any]:
        breakable = Breakable(work)
        task: asyncio.Task[Any] = asyncio.Task(breakable, loop=loop, **more)
        breakable.task = task
        self._count += 1
        key = str(self._count)
        self._tasks[key] = breakable
        task.add_done_callback(lambda _: self._tasks.pop(key))
        return task

    def _doom_kept_loops(self) -> None:
        original = Tasks.keep
        doomed = self._doomed

        def keep(tasks: Tasks, name: str, loop: Callable[[], Any], **more: Any) -> Any:
            async def maybe() -> None:
                if name in doomed:
                    raise Sabotage("a fault that a test has made, again")
                await loop()

            return original(tasks, name, maybe, **more)

        Tasks.keep = keep  # type: ignore[method-assign,assignment]

    def _read(self) -> None:
        data = os.read(0, 1 << 16)
        if not data:
            self._loop.remove_reader(0)
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            print(json.dumps(self._obey(*json.loads(line))), flush=True)

    def _obey(self, command: str, *names: str) -> Any:
        supervision = Supervision.of(self._loop)
        if command == "tasks":  # key: [name, whether it keeps a loop]
            kept = supervision.kept
            tasks = {key: self._task(key) for key in self._tasks}
            return {key: [task.get_name(), task in kept] for key, task in tasks.items()}
        if command == "break":
            for name in names:
                if name in self._tasks:
                    self._tasks[name].break_it()
        elif command == "doom":
            self._doomed.update(names)
            for task, name in supervision.kept.items():
                if name in names:
                    self._key_of(task).break_it()
        elif command == "spare":
            self._doomed.clear()
        return supervision.restarts

    def _task(self, key: str) -> asyncio.Task[Any]:
        task = self._tasks[key].task
        assert task is not None
        return task

    def _key_of(self, task: asyncio.Task[Any]) -> Breakable:
        return next(one for one in self._tasks.values() if one.task is task)


def _install() -> None:
    original = Broker.run

    async def start(self: Broker, stop: asyncio.Event) -> None:
        Saboteur()
        await original(self, stop)

    Broker.run = start  # type: ignore[method-assign]


if __name__ == "__main__":
    _install()
    sys.argv[0] = "gearhorn-worker"
    run()
