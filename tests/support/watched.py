"""Runs a worker as its own process would, and measures how long its event loop stands still.

`watched.py REPORT (-m MODULE | SCRIPT) [ARGUMENT...]`. REPORT is a file of 8 bytes that the starter
has mapped: the longest standstill so far, in nanoseconds. It is written at once, so that a killed
worker has told it; the starter may set it back to 0.

A standstill is the wall time of one turn of the loop, from the return of `select` to its next call,
without the time in which the thread was ready and had no processor (the kernel counts that in
`schedstat`): so a busy machine does not count, while computing, garbage collection and blocking
system calls do. A process that was stopped (SIGSTOP) takes a SIGCONT when it goes on; of the turn
in which that comes only the processor time counts.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import runpy
import selectors
import signal
import struct
import sys
import time
from typing import Any

_NS = struct.Struct("=q")
SIZE = _NS.size
# Shorter turns are not looked at closer: what it costs to ask the kernel is spent on long ones.
NOTABLE_NS = 5_000_000


def read_ns(report: mmap.mmap) -> int:
    """The longest standstill in nanoseconds."""
    return int(_NS.unpack_from(report)[0])


def reset(report: mmap.mmap) -> None:
    """Begin anew."""
    _NS.pack_into(report, 0, 0)


class Watch(selectors.DefaultSelector):
    """The selector of an event loop: what happens between two of its selects is a turn."""

    def __init__(self, report: mmap.mmap) -> None:
        super().__init__()
        self._report = report
        self._schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        self._began_ns = self._cpu_ns = self._waited_ns = 0
        self._was_stopped = False
        signal.signal(signal.SIGCONT, self._continued)

    def _continued(self, *_: Any) -> None:
        self._was_stopped = True

    def _ready_ns(self) -> int:
        """How long the thread has been ready and had no processor."""
        return int(os.pread(self._schedstat, 64, 0).split()[1])

    def select(self, timeout: float | None = None) -> Any:
        """End a turn, wait, and begin the next."""
        if self._began_ns and time.monotonic_ns() - self._began_ns > NOTABLE_NS:
            self._note()
        found = super().select(timeout)
        self._was_stopped = False
        self._waited_ns = self._ready_ns()
        self._cpu_ns = time.thread_time_ns()
        self._began_ns = time.monotonic_ns()
        return found

    def _note(self) -> None:
        took = time.monotonic_ns() - self._began_ns - (self._ready_ns() - self._waited_ns)
        if self._was_stopped:
            took = time.thread_time_ns() - self._cpu_ns
        if took > read_ns(self._report):
            _NS.pack_into(self._report, 0, took)


class _Policy(asyncio.DefaultEventLoopPolicy):
    """Makes loops that are watched."""

    def __init__(self, report: mmap.mmap) -> None:
        super().__init__()
        self._report = report

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(Watch(self._report))


def main() -> None:
    """Watch, and run what the command line says."""
    sys.path.pop(0)  # this directory has modules of everyday names
    path, *command = sys.argv[1:]
    with open(path, "r+b") as file:
        report = mmap.mmap(file.fileno(), SIZE)
    asyncio.set_event_loop_policy(_Policy(report))
    if command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        sys.path.insert(0, os.path.dirname(command[0]))
        runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    main()
