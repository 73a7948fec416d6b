"""Keepers: who works lanes off. A lane tells its keeper that something happened to it.

Lanes are pure and know nothing of rounds; what they know is this protocol. ``HeldLanes`` is the
keeper of every lane that a member holds.

Rules: pure.
"""

from __future__ import annotations

from typing import Any, Protocol


class Keeper(Protocol):
    """Works lanes off."""

    def touch(self, lane: Any) -> None:
        """Something happened to a ``Lane``: work it off soon. It may be told so many times."""


class _NoKeeper:
    def touch(self, lane: Any) -> None:
        """Do nothing: no round works this lane off."""


NO_KEEPER = _NoKeeper()  # of a lane that is only asked, or that stands for none
