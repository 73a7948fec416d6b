"""The listener: what the store's channel for every member tells, handed to the parts it concerns.

Rules: runs on the event loop; decides nothing. An event makes a part look sooner; each part looks
by itself too, since events may be lost.
"""

from __future__ import annotations

from gearhorn.durable.changed_lanes import ChangedLanes
from gearhorn.durable.deliverer import Deliverer
from gearhorn.durable.fetching import Fetching
from gearhorn.durable.ownership import Ownership
from gearhorn.durable.redrives import Redrives
from gearhorn.members.membership import Membership
from gearhorn.messages.events import (
    Appended,
    Leaving,
    MembersChanged,
    Redriven,
    Released,
    decode_event,
)
from gearhorn.tasks import Tasks


class Listener:
    """Hears the channel ``events``: a ``ChannelListener``.

    Arguments:
        deliverer: delivers messages that were appended.
        fetching: answers fetches that wait for such messages.
        changed_lanes: have lanes compared that were released.
        ownership: takes the lanes of a member that leaves.
        redrives: delivers messages that were put back.
        membership: is read again when a member came or went.
        tasks: run that reading.
    """

    def __init__(
        self,
        *,
        deliverer: Deliverer,
        fetching: Fetching,
        changed_lanes: ChangedLanes,
        ownership: Ownership,
        redrives: Redrives,
        membership: Membership,
        tasks: Tasks,
    ) -> None:
        self._deliverer = deliverer
        self._fetching = fetching
        self._changed_lanes = changed_lanes
        self._ownership = ownership
        self._redrives = redrives
        self._membership = membership
        self._tasks = tasks

    def hear(self, text: bytes) -> None:
        """Take an event; raises ``ValueError`` where it lacks a part."""
        match decode_event(text):
            case Appended(topic, last):
                self._deliverer.appended(topic, last)
                self._fetching.appended(topic)
            case Released(topic):
                self._changed_lanes.add(topic)
            case Redriven():
                self._redrives.hear()
            case Leaving(member):
                self._ownership.leaves(member)
            case MembersChanged():
                self._tasks.spawn(self._membership.refresh(), "members")

    def missed(self) -> None:
        """Have every part look for itself: anything may have been published unheard."""
        self._deliverer.missed()
        self._fetching.missed()
        self._changed_lanes.add_all()
