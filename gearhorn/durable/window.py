"""Windows: the deliveries of a lane that are not done, in the log's order.

The window is a doubly linked chain, because receivers finish in any order: a delivery that ends in
the middle leaves at a cost that does not depend on how many others there are. A list would be
searched and moved for each, and a lane may have a thousand deliveries under way.

How many links are in which state is counted along, since every round asks that of every lane.

Rules: pure. Each link writes its own two references only, so every change of the chain is a message
to each of the links that it concerns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from gearhorn.durable.states import State

_READY = State.READY  # an enumeration's member costs as much as the step that it is for


class Link:
    """One place in a window.

    ``through`` is where the position moves once this and everything before it are done, ``epoch``
    that of the message there. ``beyond`` counts the deliveries between this one and the next that
    are done. The constructor of ``Delivery`` sets all of these.
    """

    __slots__ = ("after", "before", "beyond", "epoch", "through")

    before: Any  # a link of the same class, or None
    after: Any
    through: int
    epoch: str
    beyond: int

    def lead_to(self, after: Any) -> None:
        """Have ``after`` as the next link; None: this one is the newest."""
        self.after = after

    def come_after(self, before: Any) -> None:
        """Have ``before`` as the former link; None: this one is the oldest."""
        self.before = before

    def leave(self) -> tuple[Any, Any]:
        """Leave the chain, in which the neighbours follow each other now; return both."""
        before, after = self.before, self.after
        if before is not None:
            before.lead_to(after)
        if after is not None:
            after.come_after(before)
        self.before = self.after = None
        return before, after

    def detach(self) -> Any:
        """Forget both neighbours, where the whole chain is given up; return the next one."""
        after, self.before, self.after = self.after, None, None
        return after

    def reach(self, through: int, epoch: str) -> None:
        """The messages behind this delivery, up to ``through``, need no delivery."""
        self.through, self.epoch = through, epoch

    def cover(self, done: Link) -> None:
        """The next link is done before this one: answer for what it would have done to the
        position."""
        self.beyond += done.beyond + 1
        if done.through > self.through:
            self.through, self.epoch = done.through, done.epoch

    def answer_for(self, link: Link) -> None:
        """The next link leaves as if it had never been made: answer for what it answered for."""
        self.beyond += link.beyond
        if link.through > self.through:
            self.through, self.epoch = link.through, link.epoch

    def cover_passed(self) -> None:
        """A message behind this delivery is done without another: under a former owner, or because
        it expired. It counts like one that was delivered, in the bound on how far a lane goes ahead
        of its oldest message."""
        self.beyond += 1

    def succeed(self, link: Link) -> None:
        """Stand where ``link`` stood, as far as the position is concerned."""
        self.through, self.epoch, self.beyond = link.through, link.epoch, link.beyond


class Stateful(Link):
    """A link with the state by which a window counts it. Whatever changes the state tells the lane,
    which keeps the counts (``Lane.moved``)."""

    __slots__ = ()
    state: Any  # State; a slot of the delivery


L = TypeVar("L", bound=Stateful)


class Window(Generic[L]):
    """The chain from its oldest link (``head``) to its newest (``tail``), and how many links are in
    which state. A base of ``Lane`` and no part of it: one look-up less for every message."""

    __slots__ = ("active", "beyond", "counts", "head", "tail")

    def __init__(self) -> None:
        self.head: L | None = None
        self.tail: L | None = None
        self.active = 0  # links
        self.beyond = 0  # deliveries that are done, behind one that is not
        self.counts = [0] * (max(State) + 1)  # deliveries by state; of those that are done, all

    @property
    def window(self) -> Iterator[L]:
        """The deliveries that are not done, in the log's order; the one that was yielded last may
        leave meanwhile."""
        link = self.head
        while link is not None:
            after = link.after
            yield link
            link = after

    @property
    def under_way(self) -> int:
        """How many jobs are with the job servers."""
        counts = self.counts
        return counts[State.SENT] + counts[State.TAKEN] + counts[State.WITHDRAWING]

    def append(self, link: L) -> None:
        """Add the newest link, which is ready and was made with ``tail`` before it."""
        tail = self.tail
        if tail is None:
            self.head = link
        else:
            tail.lead_to(link)
        self.tail = link
        self.active += 1
        self.counts[_READY] += 1

    def remove(self, link: L) -> bool:
        """Take a link out that is done; return whether it was the oldest. The link before one that
        was not answers for it from now on."""
        before, after = link.leave()
        self.active -= 1
        if after is None:
            self.tail = before
        if before is None:
            self.head = after
            self.beyond -= link.beyond
            return True
        before.cover(link)
        self.beyond += 1
        return False

    def pass_by(self, link: L) -> L | None:
        """Take a link out whose message is not delivered; return the one before it, which answers
        for it from now on, None where it was the oldest."""
        before: L | None
        before, after = link.leave()
        self.active -= 1
        if after is None:
            self.tail = before
        if before is None:
            self.head = after
            self.beyond -= link.beyond
        else:
            before.answer_for(link)
        return before

    def pull_ahead(self, other: L) -> None:
        """Have the newest link, which is not ``other``, stand in front of that."""
        link = self.tail
        assert link is not None
        self.tail, _ = link.leave()
        before = other.before
        link.come_after(before)
        link.lead_to(other)
        other.come_after(link)
        if before is None:
            self.head = link
        else:
            before.lead_to(link)

    def replace(self, link: L, links: Sequence[L]) -> None:
        """Put links, of which none has neighbours and each has the state of ``link``, in its place:
        the single messages of a batch that failed, in the log's order."""
        before, after = link.before, link.after
        link.detach()
        for former, following in zip((before, *links), (*links, after), strict=True):
            if former is None:
                self.head = following
            else:
                former.lead_to(following)
            if following is None:
                self.tail = former
            else:
                following.come_after(former)
        self.active += len(links) - 1
        self.counts[link.state] += len(links) - 1

    def detach_all(self) -> None:
        """Hold no link any more. Otherwise a shipment that still knows a link would keep the whole
        chain in memory, and freeing that would recurse as deep as the chain is long."""
        link = self.head
        while link is not None:
            link = link.detach()
        self.head = self.tail = None
        self.active = 0

    def next_ready(self, limit: int) -> list[L]:
        """Return the deliveries that may be sent, where ``limit`` may be under way.

        A delivery waits while ``limit`` deliveries before it are not done: a message that fails
        blocks those behind it, as the order demands, instead of being passed by ever more of them.
        """
        ready = self.counts[_READY]
        found: list[L] = []
        if self.active <= limit:  # all of them, and those are most likely the newest
            link = self.tail
            while link is not None and len(found) < ready:
                if link.state is _READY:
                    found.append(link)
                link = link.before
            found.reverse()
            return found
        # a batch was split, or the limit was higher: others may be under way behind the first ones
        return self.due(limit)

    def due(self, limit: int, is_due: Callable[[L], bool] | None = None) -> list[L]:
        """Return the same of those ready deliveries that are due (None: all). Others count for
        nothing: what is behind them does not wait for them."""
        found: list[L] = []
        spare = limit - self.under_way
        for link in self.window:
            if limit <= 0 or spare <= 0:
                break
            if link.state is _READY:
                if is_due is not None and not is_due(link):
                    continue
                found.append(link)
                spare -= 1
            limit -= 1
        return found
