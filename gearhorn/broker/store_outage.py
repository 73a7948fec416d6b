"""The store's outage: since when work waits for a store that does not answer."""

from __future__ import annotations

from gearhorn.durable.appends import Appends
from gearhorn.fanout.directory import Directory


class StoreOutage:
    """Looks at those whose work cannot go on without the store."""

    def __init__(self, directory: Directory, appends: Appends) -> None:
        self._waiting = directory, appends

    @property
    def since(self) -> float | None:
        """When the absence was first noticed that lasts, in the event loop's time; None: it does
        not."""
        sinces = [part.waiting_since for part in self._waiting]
        return min((since for since in sinces if since is not None), default=None)
