"""Places: how many foreground fan-outs may wait, and how much memory what they hold may take.

Theory of operation. A foreground fan-out lives for as long as its slowest receiver, a day if its
timeout says so, and its job is out of the worker's hand meanwhile: the number of jobs in hand does
not bound how many there are. This does. A fan-out *waits* until it is replied to. After that it
*lingers* while a quorum has answered for it and other copies are still out: it has no payload then,
only ``COPY_BYTES`` for each copy, so many more may linger than wait. Where nothing is held yet, a
fan-out may enter however large it is: a limit that is set too low makes fan-outs slow, not
impossible.

Rules: runs on the event loop. A fan-out enters before anything is done for it and leaves whatever
becomes of it. What receivers send is counted in its place before it is kept; where there is no
room left it is not kept, and nothing else changes.
"""

from __future__ import annotations

from gearhorn.errors import Busy

LINGERING = 10  # fan-outs that are replied to, for each that may wait: small, if they are many
COPY_BYTES = 256  # of memory for a copy that a receiver has not finished
RESULTS_BYTES = 8 * 1024 * 1024  # of results in one receipt
REASONS_BYTES = 1024 * 1024  # of why the receivers of one fan-out failed


class Places:
    """The places of one member.

    Arguments:
        count: how many fan-outs may wait; ``LINGERING`` times as many may linger.
        size: bytes that all of them together may hold.

    ``waiting``, ``lingering`` and ``held`` are for others to read.
    """

    def __init__(self, count: int, size: int) -> None:
        self._count = count
        self._size = size
        self.waiting = 0  # fan-outs that are not replied to
        self.lingering = 0  # that are, with copies that receivers have not finished
        self.held = 0  # bytes, of both

    def enter(self, payload: int, copies: int) -> Place:
        """Take a place for a fan-out whose caller waits for receivers.

        Arguments:
            payload: its bytes, which it holds until it is replied to.
            copies: how many receivers it waits for.

        Raises ``Busy`` where there is none; where nothing is held, any fan-out may enter.
        """
        size = payload + copies * COPY_BYTES
        is_full = self.waiting >= self._count or self.lingering >= LINGERING * self._count
        if is_full or (self.held and not self.has_room(size)):
            option = "--max-foreground" if is_full else "--max-fanout-bytes"
            raise Busy(
                f"{self.waiting} foreground fan-outs wait for their receivers, {self.lingering} "
                f"are answered by a quorum, and {option} allows no more; try again later"
            )
        self.waiting += 1
        self.held += size
        return Place(self, payload, size)

    def has_room(self, size: int) -> bool:
        """Whether so many bytes more may be held."""
        return self.held + size <= self._size

    def hold(self, size: int) -> None:
        """A fan-out holds so many bytes more; fewer, where it is negative."""
        self.held += size

    def answer(self, size: int) -> None:
        """A fan-out that waited is replied to, and lingers; it holds ``size`` bytes less."""
        self.waiting -= 1
        self.lingering += 1
        self.held -= size

    def leave(self, is_waiting: bool, size: int) -> None:
        """A fan-out is over that waited until now, or that lingered, and held ``size`` bytes."""
        if is_waiting:
            self.waiting -= 1
        else:
            self.lingering -= 1
        self.held -= size


class Place:
    """What one foreground fan-out holds."""

    __slots__ = ("_held", "_is_left", "_is_waiting", "_payload", "_places")

    def __init__(self, places: Places, payload: int, held: int) -> None:
        self._places = places
        self._payload = payload
        self._held = held
        self._is_waiting = True
        self._is_left = False

    def take(self, size: int) -> bool:
        """Hold so many bytes more; without effect and False where they are too many."""
        if self._is_left or not self._places.has_room(size):
            return False
        self._held += size
        self._places.hold(size)
        return True

    def give(self, size: int) -> None:
        """Hold so many bytes less."""
        if not self._is_left:
            self._held -= size
            self._places.hold(-size)

    def answer(self) -> None:
        """The fan-out is replied to and holds its payload no more; copies may be out still."""
        if self._is_waiting and not self._is_left:
            self._is_waiting = False
            self._held -= self._payload
            self._places.answer(self._payload)

    def leave(self) -> None:
        """The fan-out is over, and holds nothing."""
        if self._is_left:
            return
        self._is_left = True
        self._places.leave(self._is_waiting, self._held)

    def __del__(self) -> None:
        if not self._is_left:  # a message may be dropped by those that log it
            self.leave()


class Share:
    """A part of a place for one kind of things, ``size`` bytes at most: see ``Room``."""

    __slots__ = ("_left", "_place")

    def __init__(self, place: Place, size: int) -> None:
        self._place = place
        self._left = size

    def take(self, size: int) -> bool:
        """Take bytes; without effect and False if there are not so many left."""
        if size > self._left or not self._place.take(size):
            return False
        self._left -= size
        return True

    def give(self, size: int) -> None:
        """Give bytes back."""
        self._left += size
        self._place.give(size)
