"""Duties: what follows for the parts of a worker from what happens to its membership.

Rules: decides nothing and keeps nothing. ``membership`` lies below the parts that its events
concern, so it calls a protocol (``Duties``), and this class forwards each event to those parts.
"""

from __future__ import annotations

from collections.abc import Sequence

from gearhorn.broker.coherence import Coherence
from gearhorn.durable.service import DurableTopics
from gearhorn.members.burials import Burials
from gearhorn.members.change_queue import ChangeQueue
from gearhorn.members.membership import Duties
from gearhorn.members.presence import Presences


class MemberDuties(Duties):
    """The duties of a member, each forwarded to the part that fulfils it.

    Arguments:
        caches: forgets and waits.
        presences: serves the queues that bear the member's id.
        burials: empties queues of members that have gone.
        durable: delivers, and has to know who the members are.
        changes: takes the changes that this member makes by itself.
    """

    def __init__(
        self,
        *,
        caches: Coherence,
        presences: Presences,
        burials: Burials,
        durable: DurableTopics,
        changes: ChangeQueue,
    ) -> None:
        self._caches = caches
        self._presences = presences
        self._burials = burials
        self._durable = durable
        self._changes = changes

    async def appear(self, member: str) -> None:
        """Serve a member's own queues; return once the job servers know."""
        await self._presences.appear(member)

    async def disappear(self, member: str) -> None:
        """Stop serving a member's own queues, and fail what waits there. Lanes that it had under
        that id are shared out anew."""
        await self._presences.disappear(member)
        self._durable.members_changed()

    def abandon(self) -> None:
        """The lease is lost: others deliver for this member's durable subscriptions."""
        self._durable.abandon()

    def drop(self, topic: str, is_durable: bool = True, client_id: str | None = None) -> None:
        """A topic changed: see ``Caches.drop``."""
        self._caches.drop(topic, is_durable, client_id)

    async def drop_matching(self, names: Sequence[str]) -> None:
        """Patterns changed: see ``Caches.drop_matching``."""
        await self._caches.drop_matching(names)

    def forget(self) -> None:
        """Any topic may have changed."""
        self._caches.forget()

    async def wait_sent(self, topics: Sequence[str] | None) -> None:
        """Return once no fan-out that holds a former list of these topics is unsent."""
        await self._caches.wait_sent(topics)

    def expire(self, pairs: Sequence[tuple[str, str]]) -> None:
        """End subscriptions whose time is over."""
        self._changes.expire(pairs)

    def bury(self, member: str) -> None:
        """Fail what waits for a member that was removed, and share out the lanes that it had."""
        self._burials.add(member)
        self._durable.members_changed()
