"""Caches: what a member keeps of the store, as far as those who change it have to know.

What may be cached, and when it must be gone, is ruled by "Between workers" in docs/protocol.rst.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Caches(Protocol):
    """Everything that a member has cached, and the copies that were made from it."""

    def drop(self, topic: str, is_durable: bool = True, client_id: str | None = None) -> None:
        """Forget what is cached of a topic: it changed.

        Arguments:
            topic: whose subscriptions changed.
            is_durable: whether its lanes may be concerned.
            client_id: whose subscription it was; empty where it was none, None where that is not
                known.
        """

    def forget(self) -> None:
        """Forget everything, also what is being read: any topic may have changed."""

    async def wait_sent(self, topics: Sequence[str] | None) -> None:
        """Return once no fan-out that holds a former list of these topics (None: of any) is
        unsent."""
