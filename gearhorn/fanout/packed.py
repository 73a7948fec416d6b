"""Long lists of subscriptions, packed: what a topic with a million of them is kept as.

Theory of operation. A million Python objects cannot be made, walked through, freed or seen by the
garbage collector without holding the event loop for a moment that every fan-out notices. So a long
list has no object for each subscription: its client_ids are joined, a page of 256 into one
``bytes``, and a page is split while its copies are made. What some subscriptions have besides (a
limit, an overflow) lies in arrays, by their index in the list. So a few thousand objects are freed
with it.

Rules: pure; nothing changes once it is made, but for the page that was split last. Client_ids hold
no control character, so NUL separates them. They are in ascending order of their bytes within each
of the two parts of a list, those that take bare payloads and those that take envelopes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import overload

LONG = 10_000  # subscriptions; longer lists are packed, and sent in portions
PAGE = 256  # client_ids joined into one object: a portion of copies splits one page, or two
_NUL = b"\0"


class Packed(Sequence[bytes]):
    """Names with one prefix, in pages, which are split when they are read.

    A sequence like any other, but quick only where it is read in order or a page at a time: to read
    names at random splits a page for each.

    Arguments:
        prefix: what all names begin with.
        pages: client_ids joined with NUL, in the list's order.
        counts: how many each page has.
        second: the page that begins a new ascending order, behind that of the pages before it.
    """

    __slots__ = ("_at", "_firsts", "_length", "_open", "_pages", "_starts", "prefix", "second")

    def __init__(self, prefix: bytes, pages: list[bytes], counts: Sequence[int], second: int):
        self.prefix = prefix
        self.second = second
        self._pages = pages
        self._firsts = [page.partition(_NUL)[0] for page in pages]
        self._starts: list[int] = []
        self._length = 0
        for count in counts:
            self._starts.append(self._length)
            self._length += count
        self._at = -1  # the page that is split
        self._open: list[bytes] = []

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            prefix, chosen = self.prefix, range(*index.indices(self._length))
            return [prefix + client for client in self.clients(chosen)]
        if not -self._length <= index < self._length:
            raise IndexError(index)
        index %= self._length
        page = bisect_right(self._starts, index) - 1
        return self.prefix + self._split(page)[index - self._starts[page]]

    def __iter__(self) -> Iterator[bytes]:
        prefix = self.prefix
        for page in self._pages:
            for client in page.split(_NUL):
                yield prefix + client

    def clients(self, indexes: Sequence[int]) -> list[bytes]:
        """Return the client_ids at ascending indexes, without the prefix.

        Each page that they lie in is split once, so they should lie close together.
        """
        found: list[bytes] = []
        at, end = 0, len(indexes)
        while at < end:
            page = bisect_right(self._starts, indexes[at]) - 1
            start, clients = self._starts[page], self._split(page)
            till = bisect_left(indexes, start + len(clients), at)
            found += [clients[index - start] for index in indexes[at:till]]
            at = till
        return found

    def find(self, client: bytes) -> int | None:
        """Return the index of a client_id; None where it is not in the list.

        Its page is found by bisection in each of the two orders, and its place in the page by
        counting separators: the page need not be split for that.
        """
        middle, end = self.second, len(self._pages)
        for low, high in ((0, middle), (middle, end)):
            page = bisect_right(self._firsts, client, low, high) - 1
            if page < low:
                continue
            text = _NUL + self._pages[page] + _NUL
            place = text.find(_NUL + client + _NUL)
            if place >= 0:
                return self._starts[page] + text.count(_NUL, 0, place)
        return None

    def page_of(self, index: int) -> int:
        """Return which page an index lies in."""
        return bisect_right(self._starts, index) - 1

    def start_of(self, number: int) -> int:
        """Return the index of the first client_id of a page."""
        return self._starts[number]

    def page(self, number: int) -> list[bytes]:
        """Return the client_ids of a page."""
        return self._split(number)

    @property
    def page_count(self) -> int:
        """How many pages there are."""
        return len(self._pages)

    def _split(self, page: int) -> list[bytes]:
        """Return the client_ids of a page; the page that was split last is kept split, since a
        portion reads its page several times."""
        if page != self._at:
            self._at, self._open = page, self._pages[page].split(_NUL)
        return self._open


class Packer:
    """Makes pages of client_ids that come in ascending order, in pieces of any size.

    Every page but the last of each kind is full, whatever the pieces. ``pages`` and ``counts`` are
    what ``Packed`` takes, complete after ``end``; ``length`` counts those that were added.
    """

    def __init__(self) -> None:
        self.pages: list[bytes] = []
        self.counts: list[int] = []
        self.length = 0
        self._rest: list[bytes] = []

    def add(self, clients: Sequence[bytes]) -> None:
        """Add the next client_ids."""
        self.length += len(clients)
        rest = self._rest
        rest += clients
        whole = len(rest) - len(rest) % PAGE
        for at in range(0, whole, PAGE):
            self._pack(rest[at : at + PAGE])
        del rest[:whole]

    def end(self) -> None:
        """No more come: pack what has not filled a page."""
        if self._rest:
            self._pack(self._rest)
            self._rest = []

    def _pack(self, clients: Sequence[bytes]) -> None:
        self.pages.append(_NUL.join(clients))
        self.counts.append(len(clients))


class Text(Sequence[str]):
    """The names of a packed list as text: the durable client_ids of a long list."""

    __slots__ = ("_names",)

    def __init__(self, names: Packed) -> None:
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [name.decode() for name in self._names[index]]
        return self._names[index].decode()

    def __iter__(self) -> Iterator[str]:
        return map(bytes.decode, self._names)

    def without(self, exclude: Iterable[str]) -> Subset:
        """Return the names that are not excluded, without making an object for each."""
        return Subset(self, AllBut.named(self._names, exclude))


class Subset(Sequence[str]):
    """Those of a packed list's names that are at certain indexes, read when they are asked for.

    Arguments:
        names: all of them.
        indexes: which, in the order in which they are to come.
    """

    __slots__ = ("_indexes", "_names")

    def __init__(self, names: Text, indexes: Sequence[int]) -> None:
        self._names = names
        self._indexes = indexes

    def __len__(self) -> int:
        return len(self._indexes)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._names[at] for at in self._indexes[index]]
        return self._names[self._indexes[index]]


class AllBut(Sequence[int]):
    """The indexes from 0 to before ``length``, in ascending order, without those that are ``gone``.

    A portion of such a list is found by bisection: the n-th index that is left is n, plus how many
    of those that are gone stand before it. So an ``exclude`` of 10,000 names out of a million costs
    10,000 numbers, not 990,000.
    """

    __slots__ = ("_gone", "_length", "_shifted")

    def __init__(self, length: int, gone: Sequence[int]) -> None:
        self._gone = array("I", sorted(set(gone)))
        # behind how many of those that are left each gone one stood
        self._shifted = array("I", (index - at for at, index in enumerate(self._gone)))
        self._length = length - len(self._gone)

    @classmethod
    def named(cls, names: Packed, exclude: Iterable[str]) -> AllBut:
        """Return the indexes of a packed list without those of some client_ids; what is not in
        the list has none."""
        found = (names.find(client_id.encode()) for client_id in exclude)
        return cls(len(names), [index for index in found if index is not None])

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(self._length))]
        if not -self._length <= index < self._length:
            raise IndexError(index)
        index %= self._length
        return index + bisect_right(self._shifted, index)

    def __iter__(self) -> Iterator[int]:
        ends = [*self._gone, self._length + len(self._gone)]
        starts = [0, *(index + 1 for index in self._gone)]
        return chain.from_iterable(map(range, starts, ends))


class OwnLimits(Sequence[tuple[int, int]]):
    """(index, max_backlog) of those with a limit of their own, in ascending order of indexes.

    Arguments:
        indexes: of the queues in the list.
        limits: theirs, in copies.
        lowest: the lowest limit above some values, by value, found while the list was read: to look
            for it later would go through a million.
    """

    __slots__ = ("_indexes", "_limits", "lowest")

    def __init__(self, indexes: array[int], limits: array[int], lowest: Mapping[int, int]) -> None:
        self._indexes = indexes
        self._limits = limits
        self.lowest = lowest

    def __len__(self) -> int:
        return len(self._indexes)

    @overload
    def __getitem__(self, index: int) -> tuple[int, int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[int, int]]: ...
    def __getitem__(self, index: int | slice) -> tuple[int, int] | list[tuple[int, int]]:
        if isinstance(index, slice):
            return list(zip(self._indexes[index], self._limits[index], strict=True))
        return self._indexes[index], self._limits[index]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._indexes, self._limits, strict=True)


class Overflows(Mapping[int, str]):
    """What happens at the limit, by index, of those where that is not the usual.

    Arguments:
        indexes: of the queues in the list, ascending.
        codes: for each of them a place in ``names``.
        names: what can happen, as subscriptions call it.
    """

    __slots__ = ("_codes", "_indexes", "_names")

    def __init__(self, indexes: array[int], codes: bytearray, names: Sequence[str]) -> None:
        self._indexes = indexes
        self._codes = codes
        self._names = names

    def __len__(self) -> int:
        return len(self._indexes)

    def __iter__(self) -> Iterator[int]:
        return iter(self._indexes)

    def __getitem__(self, index: int) -> str:
        at = bisect_left(self._indexes, index)
        if at == len(self._indexes) or self._indexes[at] != index:
            raise KeyError(index)
        return self._names[self._codes[at]]
