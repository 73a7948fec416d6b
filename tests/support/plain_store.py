"""A store in memory for what uses single commands only: strings, hashes and sorted sets."""

from __future__ import annotations

from typing import Any

from gearhorn.store.wire import Command
from support.scripted_store import ScriptedConnection

PIECE = 2  # names in one page of a scan


class PlainStore(ScriptedConnection):
    """Keys without their namespace -> a text, or a dict of texts. Sorted sets have text scores."""

    def __init__(self, **data: Any) -> None:
        super().__init__(self._reply)
        self.data: dict[str, Any] = data
        self.closed = 0

    async def check(self) -> None:
        """As a store that is fit for use."""

    async def close(self) -> None:
        """Count it."""
        self.closed += 1

    def _reply(self, command: Command) -> Any:
        name, key, *rest = command
        key = key.removeprefix("{test}:")
        parts = [str(part.decode() if isinstance(part, bytes) else part) for part in rest]
        return getattr(self, f"_{name.lower()}")(key, *parts)

    def _get(self, key: str) -> bytes | None:
        text = self.data.get(key)
        return None if text is None else text.encode()

    def _set(self, key: str, text: str) -> None:
        self.data[key] = text

    def _exists(self, key: str) -> int:
        return int(bool(self.data.get(key)))

    def _hgetall(self, key: str) -> dict[bytes, bytes]:
        return {name.encode(): text.encode() for name, text in self.data.get(key, {}).items()}

    def _hget(self, key: str, field: str) -> bytes | None:
        text = self.data.get(key, {}).get(field)
        return None if text is None else text.encode()

    _zscore = _hget

    def _zcard(self, key: str) -> int:
        return len(self.data.get(key, {}))

    def _hset(self, key: str, *pairs: str) -> None:
        self.data.setdefault(key, {}).update(zip(pairs[::2], pairs[1::2], strict=True))

    def _zadd(self, key: str, *pairs: str) -> None:
        self.data.setdefault(key, {}).update(zip(pairs[1::2], pairs[::2], strict=True))

    def _hdel(self, key: str, *fields: str) -> None:
        for field in fields:
            self.data.get(key, {}).pop(field, None)

    _zrem = _hdel

    def _unlink(self, key: str, *more: str) -> None:
        for name in (key, *(name.removeprefix("{test}:") for name in more)):
            self.data.pop(name, None)

    def _hscan(self, key: str, cursor: str, *_: str) -> list[Any]:
        at = int(cursor)
        pairs = list(self.data.get(key, {}).items())
        end = at + PIECE
        found = [text.encode() for pair in pairs[at:end] for text in pair]
        return [b"%d" % (end if end < len(pairs) else 0), found]

    _zscan = _hscan
