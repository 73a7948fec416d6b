"""Processes as the kernel sees them: seconds of CPU and resident bytes, from /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process and its threads have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


class Neighbours:
    """How many cores programs that are not ours have used since this was made.

    Ours are this process and its children, of which those count that have ended. Time that a
    hypervisor took away is the neighbours'.
    """

    def __init__(self) -> None:
        self._began = self._both_s()
        self._began_at = time.perf_counter()

    def cores(self) -> float:
        """Cores, on the average."""
        machine, ours = (now - then for now, then in zip(self._both_s(), self._began, strict=True))
        return max(0.0, machine - ours) / (time.perf_counter() - self._began_at)

    def _both_s(self) -> tuple[float, float]:
        # cpu user nice system idle iowait irq softirq steal
        fields = [int(field) for field in Path("/proc/stat").read_text().split()[1:9]]
        return (sum(fields[:3]) + fields[7]) * _TICK_S, sum(os.times()[:4])


class Busy:
    """How much of a core each of some processes used between ``start`` and ``stop``."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._began: dict[str, float] = {}
        self._began_at = 0.0

    def start(self) -> Self:
        """Begin to count."""
        self._began = {name: cpu_s(pid) for name, pid in self._pids.items()}
        self._began_at = time.perf_counter()
        return self

    def stop(self) -> dict[str, float]:
        """Return the share of one core by name; 1 is all of it."""
        seconds = time.perf_counter() - self._began_at
        return {n: (cpu_s(pid) - self._began[n]) / seconds for n, pid in self._pids.items()}
