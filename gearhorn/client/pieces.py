"""Pieces of a reply that come ahead of its end, until they are read.

Rules: runs on the event loop. What waits to be read is bounded: a reader that is slower than the
answers come must not fill its process. Pieces without room are left out, so that the end of the
reply has to say all of it once more, as a receipt does ("Answers as they come" in
docs/protocol.rst).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from gearhorn.gearman.results import Bound

WAITING_BYTES = 20 * 1024 * 1024  # more than the answers of one message are long
PIECE_BYTES = 100  # that a piece takes besides its own


class Pieces:
    """What has come, to be iterated over by one reader.

    Arguments:
        size: bytes that may wait to be read.
    """

    def __init__(self, size: int = WAITING_BYTES) -> None:
        self._room = Bound(size)
        self._waiting: deque[bytes] = deque()
        self._is_over = False
        self._changed = asyncio.Event()

    def put(self, piece: bytes) -> None:
        """Take a piece; without effect where there is no room for it."""
        if self._room.take(len(piece) + PIECE_BYTES):
            self._waiting.append(piece)
            self._changed.set()

    def end(self, _: object = None) -> None:
        """Nothing more comes; what waits can still be read. The argument is what a future gives to
        those that it tells of its end, and has no effect."""
        self._is_over = True
        self._changed.set()

    async def read(self) -> AsyncIterator[bytes]:
        """Yield the pieces as they come, until ``end``."""
        while True:
            while self._waiting:
                piece = self._waiting.popleft()
                self._room.give(len(piece) + PIECE_BYTES)
                yield piece
            if self._is_over:
                return
            self._changed.clear()
            await self._changed.wait()
