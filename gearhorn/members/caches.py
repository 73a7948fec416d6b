"""Caches: what a member keeps of the store, as far as those who change it have to know.

What may be cached, and when it must be gone, is ruled by "Between workers" in docs/protocol.rst.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gearhorn.names import is_pattern


class Caches(Protocol):
    """Everything that a member has cached, and the copies that were made from it."""

    def drop(self, topic: str, is_durable: bool = True, client_id: str | None = None) -> None:
        """Forget what is cached of a topic, or of a pattern: it changed. The lists of the topics
        that a pattern matches go with ``drop_matching``.

        Arguments:
            topic: the name of the list (``names.list_name``) whose subscriptions changed.
            is_durable: whether its lanes may be concerned.
            client_id: whose subscription it was; empty where it was none, None where that is not
                known.
        """

    async def drop_matching(self, names: Sequence[str]) -> None:
        """Forget the lists of all topics that patterns match: those changed. Return once no fan-out
        can begin with one of them, little by little where they are many.

        Arguments:
            names: of the patterns' lists.
        """

    def forget(self) -> None:
        """Forget everything, also what is being read: any topic may have changed."""

    async def wait_sent(self, topics: Sequence[str] | None) -> None:
        """Return once no fan-out that holds a former list of these topics (None: of any), or of a
        topic that one of these patterns matches, is unsent."""


async def drop_changed(caches: Caches, names: Sequence[str]) -> None:
    """Have lists of these names forgotten, and those of the topics that patterns among them match.
    Without patterns that is one turn of the loop."""
    for name in names:
        caches.drop(name)
    patterns = [name for name in names if is_pattern(name)]
    if patterns:
        await caches.drop_matching(patterns)
