"""What a lane's new owner finds in the store: what is parked, put back, or done ahead of others.

A subscription may have a million parked messages. In one reply their sequences would hold the store
for 200 ms, and a Python list of them would take 40 MB. So they are read in pages, and kept in
arrays, which have 8 bytes for each.

Rules: any number of messages may be there; no command is about more than ``PAGE`` of them, and the
event loop has a turn after each page.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import AsyncIterator, Iterable
from operator import neg
from typing import NamedTuple

from gearhorn.store.connection import READ_TIMEOUT_S, Connection

FIRST = 100  # read of every lane together with others; a lane that has more is read by itself
PAGE = 5000  # then: a millisecond of the store, a few of the event loop


class Sequences(array):  # type: ignore[type-arg]  # Python 3.11 has no array[int]
    """Sequences of messages from which the lowest are taken first, as a lane does.

    They are kept in descending order: an array loses its end at no cost, while taking from its
    beginning would move all the rest. It is a subclass, not a wrapper, because a lane asks in each
    step whether there are any, and the truth of an array calls no Python.
    """

    def __new__(cls, ascending: Iterable[int] = ()) -> Sequences:
        """Keep these sequences, which ascend."""
        made = super().__new__(cls, "q", ascending)
        made.reverse()
        return made  # type: ignore[return-value]

    def popleft(self) -> int:
        """Take the lowest one; raises ``IndexError`` where there is none."""
        return int(self.pop())

    def lowest(self, count: int) -> list[int]:
        """Return the lowest ones in their order, as many as there are of so many."""
        return self[: -count - 1 : -1].tolist() if count else []

    def behind(self, sequence: int) -> Sequences:
        """Return a copy with those above ``sequence``."""
        copy = Sequences()
        copy.extend(self[: bisect_left(self, -sequence, key=neg)])
        return copy

    def pass_to(self, sequence: int) -> bool:
        """Take all up to ``sequence``; return whether that was one of them. The usual case, none
        that low, is told without a search."""
        if not self or self[-1] > sequence:
            return False
        at = bisect_left(self, -sequence, key=neg)
        found = self[at : at + 1].tolist() == [sequence]
        del self[at:]
        return found

    def has(self, sequence: int) -> bool:
        """Return whether ``sequence`` is one of them."""
        at = bisect_left(self, -sequence, key=neg)
        return self[at : at + 1].tolist() == [sequence]

    def count_between(self, first: int, end: int) -> int:
        """Return how many there are from ``first`` on and before ``end``."""
        low = bisect_left(self, 1 - end, key=neg)
        return bisect_left(self, 1 - first, key=neg) - low


def count_over(
    done: Iterable[tuple[int, int]], kept: Iterable[Sequences], first: int, end: int
) -> int:
    """Return how many messages from ``first`` on and before ``end`` a lane needs from its log no
    more: those in ranges that are done, and those that are kept elsewhere."""
    count = sum(max(0, min(last + 1, end) - max(begin, first)) for begin, last in done)
    return count + sum(sequences.count_between(first, end) for sequences in kept)


class Found(NamedTuple):
    """What a lane's new owner finds."""

    order: Sequences  # parked beyond the position
    redrives: Sequences  # put back, at any sequence: they are to be delivered again
    ahead: list[tuple[int, int]]  # done beyond the position: first and last of each range, sorted
    seen_redrive: int  # the number of the last redrive that is among ``redrives`` for certain


def range_of(text: bytes) -> tuple[int, int]:
    """Return the first and the last sequence of "FIRST-LAST"."""
    first, last = text.split(b"-")
    return int(first), int(last)


async def read_long(connection: Connection, pair: str, position: int) -> Found:
    """Read a lane of which there may be much; the caller must hold it.

    Messages may be put back or purged meanwhile: they move from the parked ones to those that were
    put back or are done. So the parked ones are read first, and each message is found in at least
    one of the three places. In the opposite order a message could move from a place that is not
    read yet to one that was read already, and the owner would never deliver it. The count of
    redrives is read before everything, so a redrive that comes meanwhile has a higher number than
    the one that is returned, and the owner reads what was put back again.

    Arguments:
        connection: to the store.
        pair: the subscription, as ``pair_of`` names it.
        position: of the lane; nothing up to it but what was put back is of use.

    Raises ``StoreError``.
    """
    key = connection.key
    [count] = await connection.pipeline([("GET", key("redrives"))])
    order, redrives = Sequences(), Sequences()
    for name, after, into in (("order", position, order), ("redrive", -1, redrives)):
        async for page in _pages(connection, key(name, pair), after):
            into.extend(map(int, page))
        into.reverse()
    ahead: dict[tuple[int, int], None] = {}  # in their order nearly, so that they are soon sorted
    async for page in _pages(connection, key("ahead", pair), position):
        ahead.update(dict.fromkeys(map(range_of, page)))
    return Found(order, redrives, sorted(ahead), int(count or 0))


async def _pages(connection: Connection, key: str, after: int) -> AsyncIterator[list[bytes]]:
    """Yield the members of a sorted set whose scores are above ``after``, page by page.

    Where scores are members, each comes once. Ranges may share a score, their end, and be parted by
    the end of a page; so the next page begins with that score, and such ranges come once more. Of
    ranges with one end that fill a page, those behind it are counted off.
    """
    bound, skipped = f"({after}", 0
    while True:
        command = "ZRANGEBYSCORE", key, bound, "+inf", "LIMIT", skipped, PAGE
        [page] = await connection.pipeline([command], READ_TIMEOUT_S)
        yield page
        if len(page) < PAGE:
            return
        first, is_range, last = page[-1].decode().partition("-")
        is_filled = is_range and page[0].endswith(b"-%s" % last.encode())
        bound = last if is_range else f"({first}"
        skipped = skipped + PAGE if is_filled else 0
