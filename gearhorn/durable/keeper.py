"""Keepers: who works lanes off. A lane tells its keeper that something happened to it.

Rules: pure.
"""

from __future__ import annotations

from typing import Any, Protocol


class Keeper(Protocol):
    """Who works off lanes."""

    def touch(self, lane: Any) -> None:
        """Something happened to a ``Lane``: work it off soon."""


class _Nobody:
    def touch(self, lane: Any) -> None:
        """The lane is only looked at."""


NOBODY = _Nobody()
