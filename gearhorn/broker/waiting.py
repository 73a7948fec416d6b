"""Waiting: foreground fan-outs that wait until durable receivers have done with a message.

Law: runs on the event loop. Whoever delivers tells the process that waits; because words may be
lost, and a repeated message had another waiter, positions are looked at now and then too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import structlog

from gearhorn.errors import StoreError
from gearhorn.store.lanes import Lanes

LOOK_S = 0.5
_PARKED = "too many attempts"  # where whoever parked it did not tell

log = structlog.get_logger(__name__)


class Waiter(Protocol):
    """A fan-out that waits for durable receivers."""

    def done(self, client_id: str, error: str) -> None:
        """A receiver has done with the message; ``error`` is why it was parked, or nothing."""

    def missing(self) -> Sequence[str]:
        """Return the durable client_ids that are waited for."""


class Waiting:
    """Who waits for what, by topic and sequence."""

    def __init__(self, store: Lanes) -> None:
        self._store = store
        self._waiters: dict[str, dict[int, list[Waiter]]] = {}

    def add(self, topic: str, sequence: int, waiter: Waiter) -> None:
        """Have ``waiter`` told."""
        self._waiters.setdefault(topic, {}).setdefault(sequence, []).append(waiter)

    def remove(self, topic: str, sequence: int, waiter: Waiter) -> None:
        """Tell it no more; without effect where it does not wait."""
        sequences = self._waiters.get(topic, {})
        waiters = sequences.get(sequence, [])
        if waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del sequences[sequence]
                if not sequences:
                    del self._waiters[topic]

    def hear(self, words: bytes) -> None:
        """Take what members tell of messages that are done with."""
        for line in words.decode().split("\n"):
            topic, client_id, sequence, error = line.split("\0")
            self._tell(topic, int(sequence), client_id, error)

    def _tell(self, topic: str, sequence: int, client_id: str, error: str) -> None:
        for waiter in list(self._waiters.get(topic, {}).get(sequence, ())):
            waiter.done(client_id, error)

    async def run(self) -> None:
        """Look at the positions of topics that are waited for, for ever."""
        waited: dict[str, set[int]] = {}  # at the former look
        while True:
            await asyncio.sleep(LOOK_S)
            for topic, former in waited.items():
                sequences = [n for n in self._waiters.get(topic, {}) if n in former]
                if sequences:
                    try:
                        await self._look(topic, sequences)
                    except StoreError as error:
                        log.debug("positions are not known", error=str(error))
            waited = {topic: set(sequences) for topic, sequences in self._waiters.items()}

    async def _look(self, topic: str, sequences: Sequence[int]) -> None:
        positions = await self._store.positions(topic)
        done: list[tuple[str, int]] = []
        for sequence in sequences:
            missing = {
                client_id
                for waiter in self._waiters.get(topic, {}).get(sequence, ())
                for client_id in waiter.missing()
            }
            for client_id in missing:
                held = positions.get(client_id)
                if held is not None and held.position >= sequence:
                    done.append((client_id, sequence))
        if done:
            parked = await self._store.are_parked(topic, done)
            for (client_id, sequence), is_parked in zip(done, parked, strict=True):
                self._tell(topic, sequence, client_id, _PARKED if is_parked else "")
