"""Background tasks that are neither lost nor silent."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

AGAIN_S = 0.2

log = structlog.get_logger(__name__)


class Tasks:
    """Keeps references to running tasks, without which asyncio may collect them, and logs a crash
    with its traceback."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run ``work`` beside everything else; ``name`` says what crashed, should it."""
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("a part of the worker crashed", part=task.get_name(), exc_info=error)

    async def cancel(self) -> None:
        """End every task and wait until it has."""
        running = set(self._running)
        while running:
            for task in running:
                task.cancel()  # again: a library may swallow what comes at a bad moment
            _, running = await asyncio.wait(running, timeout=AGAIN_S)
