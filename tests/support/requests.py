"""Requests for tests without a job server."""

from __future__ import annotations

import asyncio
import json
from typing import Any


class Job:
    """One request, and what became of it."""

    function = b"request"
    oversized = False
    is_given_back = False

    def __init__(self, **request: Any) -> None:
        self.arguments = json.dumps(request).encode()
        self.replied: bytes | None = None
        self.failed = ""
        self.waits = 0  # how often its grab was given back
        self.is_lost = False
        self._ended = asyncio.Event()

    def complete(self, data: bytes = b"") -> None:
        self.replied = data
        self._ended.set()

    def fail(self, text: str = "") -> None:
        self.failed = text
        self._ended.set()

    def wait(self) -> None:
        self.waits += 1

    async def reply(self) -> Any:
        """Return what it was replied, or why it failed."""
        async with asyncio.timeout(10):
            await self._ended.wait()
        return self.failed or json.loads(self.replied or b"null")
