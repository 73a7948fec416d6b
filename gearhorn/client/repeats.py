"""Repeats: which deliveries this process has finished, and which are out of date.

Rules: pure. A delivery may come twice after a fault, and late ("Deliveries" in docs/protocol.rst).
A receiver that keeps exact order completes, without processing it, what carries a lower TERM than
it has seen, or a message that it has finished. Bounded: ``limit`` messages are remembered.
"""

from __future__ import annotations

from collections import OrderedDict

from gearhorn.client.message import Id, Message

Key = tuple[str, str, int]  # queue, the first eight digits of the epoch, sequence


def key_of(queue: str, message: Message) -> Key | None:
    """Return what names a message of a log at one subscription; None: it is of no log."""
    position = message.position
    return None if position is None else (queue, position.epoch[:8], position.sequence)


class Repeats:
    """What was finished, the newest ``limit`` messages of it.

    The TERM alone does not tell repeats apart: the same worker delivers a message again, under the
    same TERM, where it did not hear that it was finished. The names of messages alone do not tell
    late deliveries apart: the message may be one that is yet to come in its order.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._done: OrderedDict[Key, None] = OrderedDict()
        self._terms: dict[str, int] = {}  # by queue, the highest that was seen

    def judge(self, queue: str, id: Id) -> bool:
        """Take the id of a delivery; return whether it is out of date: a newer one was seen.

        Then another worker delivers by now, and answers for the order of what it sends.
        """
        highest = self._terms.get(queue, 0)
        if id.term < highest:
            return True
        self._terms[queue] = id.term
        return False

    def has(self, key: Key | None) -> bool:
        """Whether a message was finished."""
        return key in self._done

    def finish(self, key: Key | None) -> None:
        """A message was finished."""
        if key is None or not self._limit:
            return
        self._done[key] = None
        if len(self._done) > self._limit:
            self._done.popitem(last=False)
