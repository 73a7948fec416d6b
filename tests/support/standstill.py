"""The longest standstill of the event loop of every worker that a test starts."""

from __future__ import annotations

import mmap
import weakref
from pathlib import Path
from typing import ClassVar

from support import watched

# What kind 4 of large work is held to: half of it is the machine's, where others use it too.
LOOP_S = 0.05


class Standstill:
    """Of one worker, which runs under `watched.py`: `watched` goes before its own command line.

    It can be read after the worker's end.
    """

    # of every worker whose test has a reference to it, or that has ended in the present test
    _all: ClassVar[weakref.WeakSet[Standstill]] = weakref.WeakSet()
    _kept: ClassVar[list[Standstill]] = []

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(watched.SIZE))
        with path.open("r+b") as file:
            self._report = mmap.mmap(file.fileno(), watched.SIZE)
        self.watched = [watched.__file__, str(path)]
        self._all.add(self)
        self._kept.append(self)

    @property
    def longest_s(self) -> float:
        """The longest one since the test began, in seconds."""
        return watched.read_ns(self._report) / 1e9

    def reset(self) -> None:
        """Begin anew."""
        watched.reset(self._report)

    @classmethod
    def begin(cls) -> None:
        """A test begins: nothing has stood still yet."""
        cls._kept.clear()
        for one in list(cls._all):
            one.reset()

    @classmethod
    def longest_of_all_s(cls) -> float:
        """The longest one of any worker since the test began."""
        return max((one.longest_s for one in list(cls._all)), default=0.0)
