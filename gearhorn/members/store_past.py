"""The store's past: whether leases may hold that the store has forgotten.

Rules: pure; times are of ``timing.now_s``. A store that was restarted, replaced or emptied may have
lost what it acknowledged, members included. What such a member knows, and that it is there, cannot
be learnt; but its lease has lapsed one lease later, and until then no change counts as known.
"""

from __future__ import annotations


class StorePast:
    """What one member has seen of the store's runs and data, and until when changes wait."""

    def __init__(self) -> None:
        self.run_id: str | None = None  # under which it answered last
        self.is_same_run = True  # the data was served under this run all the time
        self.safe_from_s = float(
            "-inf"
        )  # no lease of a former run, or of lost data, holds after it
        self._data = ""  # the word that stands for the data
        self._safe_if_same_s: float | None = None  # ``safe_from_s`` from before a doubt

    def answered_under(self, run_id: str) -> bool:
        """Note under which run the store answers; return whether it is another one than before."""
        if run_id == self.run_id:
            return False
        is_first, self.run_id = self.run_id is None, run_id
        return not is_first

    def granted(self, is_same_run: bool) -> None:
        """The store has granted a lease, and said whether its data is of an earlier run."""
        self.is_same_run = is_same_run

    def lost(self, until_s: float) -> None:
        """The store may have lost what it acknowledged: changes wait so long."""
        self.safe_from_s = until_s
        self._safe_if_same_s = None

    def doubt(self, until_s: float) -> None:
        """The store does not know this member: it was removed by mistake, or the data is lost.
        Changes wait so long, unless ``joined`` finds the data again."""
        former_s = self._safe_if_same_s
        safe_from_s = self.safe_from_s if former_s is None else former_s
        self.lost(until_s)
        self._safe_if_same_s = safe_from_s

    def joined(self, data: str, until_s: float) -> bool:
        """This member has joined a store whose data this word stands for; return whether the data
        is other than before: then changes wait until ``until_s``."""
        former, self._data = self._data, data
        if former == data and self._safe_if_same_s is not None:
            self.safe_from_s = self._safe_if_same_s
        self._safe_if_same_s = None
        if former in ("", data):
            return False
        self.lost(until_s)
        return True
