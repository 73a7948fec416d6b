"""The store's outage: since when work waits for a store that does not answer."""

from __future__ import annotations

from gearhorn.durable.appends import Appends
from gearhorn.fanout.directory import Directory


class StoreOutage:
    """Asks the two parts whose work waits for the store: lists to be read, messages to be logged.

    There is no probe of its own. The store counts as away while work waits for it, so that an idle
    member has nothing to give back and a store that answers slowly is not taken for one that is
    away.
    """

    def __init__(self, directory: Directory, appends: Appends) -> None:
        self._waiting = directory, appends

    @property
    def since(self) -> float | None:
        """Since when work has waited, in seconds of the event loop's clock; None: none waits."""
        sinces = [part.waiting_since for part in self._waiting]
        return min((since for since in sinces if since is not None), default=None)
