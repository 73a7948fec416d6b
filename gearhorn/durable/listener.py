"""The listener: what the store's channels tell, handed to the parts that it concerns.

Rules: decides nothing. An event makes a part look sooner; each part looks by itself too, since
events may be lost.
"""

from __future__ import annotations

from gearhorn.durable.deliverer import Deliverer
from gearhorn.durable.fetching import Reading
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
    """Hears the channel ``events``.

    Arguments:
        deliverer: delivers messages that were appended.
        reading: answers fetches that wait for such messages.
        ownership: takes lanes that were released, or whose owner leaves.
        redrives: delivers messages that were put back.
        membership: is read again when a member came or went.
        tasks: run that reading.
    """

    def __init__(
        self,
        *,
        deliverer: Deliverer,
        reading: Reading,
        ownership: Ownership,
        redrives: Redrives,
        membership: Membership,
        tasks: Tasks,
    ) -> None:
        self._deliverer = deliverer
        self._reading = reading
        self._ownership = ownership
        self._redrives = redrives
        self._membership = membership
        self._tasks = tasks

    def hear(self, text: bytes) -> None:
        """Take an event; raises ``ValueError`` where it lacks a part."""
        match decode_event(text):
            case Appended(topic, last):
                self._deliverer.appended(topic, last)
                self._reading.appended(topic)
            case Released(topic):
                self._ownership.changed(topic)
            case Redriven():
                self._redrives.hear()
            case Leaving(member):
                self._ownership.leaves(member)
            case MembersChanged():
                self._tasks.spawn(self._membership.refresh(), "members")

    def missed(self) -> None:
        """Have every part look for itself: anything may have been published unheard."""
        self._deliverer.missed()
        self._reading.missed()
        self._ownership.refresh()
