"""The listener: what the store's channel for every member tells, handed to the parts it concerns.

Redis keeps nothing of what it publishes, so an event is lost with the connection that would have
brought it. No part may rest on events: each polls as well, and an event only makes it do so sooner.
When the connection is there again, ``missed`` has every part behave as if everything had happened.

Rules: runs on the event loop; decides nothing.
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
        """Take an event as it was published. One of an unknown kind, as a later release may have,
        is passed over. Raises ``ValueError`` where it lacks a part."""
        match decode_event(text):
            case Appended(topic, last, first):
                self._deliverer.appended(topic, last, first)
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
        """Have every part find out by itself: anything may have been published unheard. Left out
        are redrives and members, which are polled every few seconds in any case."""
        self._deliverer.missed()
        self._fetching.missed()
        self._changed_lanes.add_all()
