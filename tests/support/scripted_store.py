"""Doubles of the store's connection and wire, whose replies a test gives."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from gearhorn.errors import StoreError
from gearhorn.store.keys import Keys
from gearhorn.store.wire import Command

Answer = Callable[[Command], Any]


class ScriptedConnection:
    """Answers commands by a function; a script's command is its name, its keys and arguments."""

    def __init__(self, answer: Answer) -> None:
        self.keys = Keys("test", 0)
        self.key = self.keys.key
        self.channel = self.keys.channel
        self.run_id = "run"
        self.asked: list[Command] = []
        self._answer = answer

    def script(self, name: str, keys: Sequence[str], *arguments: Any) -> Command:
        """Return what stands for a script."""
        return (name, *keys, *arguments)

    async def each(self, commands: Sequence[Command], *_: Any, **__: Any) -> list[Any]:
        """Answer commands; a refusal stands in its place."""
        self.asked += commands
        return [self._answer(command) for command in commands]

    async def pipeline(self, commands: Sequence[Command], *_: Any, **__: Any) -> list[Any]:
        """Answer commands; raises the first refusal."""
        replies = await self.each(commands)
        for reply in replies:
            if isinstance(reply, StoreError):
                raise reply
        return replies

    read = pipeline
    read_each = each


class ScriptedWire:
    """A connection on which the test says what comes, a reply or an error to raise.

    Arguments:
        replies: what comes in turn, scripts that are loaded apart.
        run_id: the run of its server.
        loaded: the reply to each script that is loaded.
    """

    def __init__(self, *replies: Any, run_id: str = "run", loaded: Any = b"digest") -> None:
        self.run_id = run_id
        self._loaded = loaded
        self.unanswered = 0
        self.is_open = self.is_fit = True
        self.sent: list[Command] = []
        self._replies: deque[Any] = deque(replies)
        self._came = asyncio.Event()

    def come(self, *replies: Any) -> None:
        """Let replies come."""
        self._replies += replies
        self._came.set()

    def send(self, commands: Sequence[Command]) -> None:
        """Keep what is sent; scripts that are loaded are answered at once, before all else."""
        self.unanswered += len(commands)
        loads = [command for command in commands if command[:2] == ("SCRIPT", "LOAD")]
        self.sent += [command for command in commands if command not in loads]
        self._replies.extendleft([self._loaded] * len(loads))
        self._came.set()

    async def drain(self) -> None:
        """There is always room."""

    async def read(self) -> Any:
        """Return what came."""
        while not self._replies:
            self._came.clear()
            await self._came.wait()
        reply = self._replies.popleft()
        if isinstance(reply, Raised):
            raise reply.error
        self.unanswered -= 1
        return reply

    def close(self) -> None:
        """End it."""
        self.is_open = self.is_fit = False


class Raised:
    """An error that ``read`` raises, not one that the server replies with."""

    def __init__(self, error: Exception) -> None:
        self.error = error
