"""Being worked off: whether a round has taken a lane up, and what the lane holds until it is over.

Something may happen to a lane while a round works it off. That round may have passed the place
where it would have noticed; so the lane is worked off once more. Something that happens while the
lane waits for a round is noticed by that one, and asks for no other.

Rules: pure.
"""

from __future__ import annotations

from typing import TypeVar

from gearhorn.durable.delivery import Attempts
from gearhorn.durable.window import Window

D = TypeVar("D", bound=Attempts)


class Worked(Window[D]):
    """A window whose deliveries are sent by rounds; a base of ``Lane``, as ``Window`` is.

    ``laden`` are the deliveries that hold payloads, until the round is over. ``is_dirty`` says that
    something happened which no round has taken up.
    """

    __slots__ = ("in_round", "is_dirty", "laden")

    def __init__(self) -> None:
        super().__init__()
        self.laden: list[D] = []
        self.is_dirty = False
        self.in_round = False

    def stir(self) -> bool:
        """Something happened to the lane; return whether no round that is under way, and none
        that is to come, knows of it."""
        was_dirty, self.is_dirty = self.is_dirty, True
        return not was_dirty and not self.in_round

    def begin_round(self) -> None:
        """The lane is worked off now."""
        self.is_dirty, self.in_round = False, True

    def end_round(self) -> bool:
        """The lane was worked off; return whether something happened to it meanwhile. What it
        could not send it will read again."""
        if self.laden:
            for delivery in self.laden:
                delivery.strip()
            self.laden.clear()
        self.in_round = False
        return self.is_dirty
