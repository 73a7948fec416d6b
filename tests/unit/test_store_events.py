"""Listening to the store's channels, without a store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from support.scripted_store import Raised, ScriptedWire
from support.store import Heard

from gearhorn.errors import StoreError, StoreUnanswered
from gearhorn.store import events as module
from gearhorn.store.events import Events

NOPERM = StoreError("NOPERM this user may not use the channels")


class Bed:
    """One listener, and the connections that are opened for it in turn."""

    def __init__(self, *wires: ScriptedWire) -> None:
        self.heard = Heard()
        self.opened = 0
        self._wires = wires
        self.events = Events(self, {"news": self.heard})  # type: ignore[arg-type]

    async def open_apart(self) -> ScriptedWire:
        """Return the next one; the last one comes again."""
        self.opened += 1
        return self._wires[min(self.opened, len(self._wires)) - 1]

    async def until(self, check: Callable[[], bool]) -> None:
        """Listen until it is so."""
        listening = asyncio.create_task(self.events.run())
        async with asyncio.timeout(10):
            while not check():
                await asyncio.sleep(0.001)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


CONFIRMED: list[Any] = [b"subscribe", b"news", 1]


def message(text: bytes) -> list[Any]:
    return [b"message", b"news", text]


def test_a_listener_may_have_missed_anything_before_its_channels_are_confirmed() -> None:
    async def test() -> None:
        bed = Bed(ScriptedWire(CONFIRMED, message(b"one"), message(b"two")))
        await bed.until(lambda: bed.heard.texts == [b"one", b"two"])
        assert bed.heard.gaps == 1

    asyncio.run(test())


def test_after_a_lost_connection_anything_may_have_been_missed_again() -> None:
    async def test() -> None:
        lost = Raised(StoreUnanswered("gone"))
        first = ScriptedWire(CONFIRMED, message(b"one"), lost)
        bed = Bed(first, ScriptedWire(CONFIRMED, message(b"two")))
        await bed.until(lambda: bed.heard.texts == [b"one", b"two"])
        assert bed.heard.gaps == 2
        assert not first.is_open

    asyncio.run(test())


def test_a_listener_that_raises_is_heard_again() -> None:
    class Picky(Heard):
        def hear(self, text: bytes) -> None:
            super().hear(text)
            if text == b"bad":
                raise ValueError(text)

    async def test() -> None:
        bed = Bed(ScriptedWire(CONFIRMED, message(b"bad"), message(b"good")))
        picky = Picky()
        bed.events = Events(bed, {"news": picky})  # type: ignore[arg-type]
        await bed.until(lambda: picky.texts == [b"bad", b"good"])
        assert bed.opened == 1

    asyncio.run(test())


def test_where_the_user_may_not_listen_everything_may_be_missed_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "DEAF_S", 0.01)

    async def test() -> None:
        bed = Bed(*(ScriptedWire(NOPERM) for _ in range(100)))
        await bed.until(lambda: bed.heard.gaps >= 2)
        assert bed.opened >= 2

    asyncio.run(test())


def test_a_connection_without_a_sign_of_life_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENT_S", 0.01)
    monkeypatch.setattr(module, "LOST_S", 0.01)

    async def test() -> None:
        silent = ScriptedWire(CONFIRMED)
        bed = Bed(silent, ScriptedWire(CONFIRMED, message(b"there")))
        await bed.until(lambda: bed.heard.texts == [b"there"])
        assert ("PING",) in silent.sent
        assert not silent.is_open

    asyncio.run(test())
