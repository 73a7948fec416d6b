"""How long a store's commands take, on a machine whose processors others use as well.

A store's log of slow commands has wall time, so an interruption counts for the command that it
hits. The same work is done several times, and of each command its best try counts: what others do
to the machine would have to hit one and the same command in every try.
"""

from __future__ import annotations

from typing import Any

ENTRIES = 10_000  # what the store keeps of one try; its default of 128 loses the first ones


class SlowCommands:
    """The slow commands of a store, try by try.

    Arguments:
        store: a client of it.
        above_us: what is quicker counts as nothing.
    """

    def __init__(self, store: Any, above_us: int) -> None:
        self._store = store
        self._tries: list[dict[bytes, int]] = []
        store.config_set("slowlog-log-slower-than", above_us)
        store.config_set("slowlog-max-len", ENTRIES)

    def begin(self) -> None:
        """Forget what came before the next try."""
        self._store.slowlog_reset()

    def end(self) -> None:
        """Keep what the try took."""
        took: dict[bytes, int] = {}
        for entry in self._store.slowlog_get(ENTRIES):
            name = entry["command"]
            if name.startswith(b"EVALSHA"):  # its arguments have numbers that differ in each try
                name = b" ".join(name.split()[:2])
            took[name] = max(took.get(name, 0), entry["duration"])
        self._tries.append(took)

    @property
    def slowest_us(self) -> int:
        """The longest that any command took in its best try, in microseconds."""
        names = {name for took in self._tries for name in took}
        return max((min(took.get(name, 0) for took in self._tries) for name in names), default=0)
