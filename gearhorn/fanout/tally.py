"""Tallies: what became of each copy of a foreground fan-out, and the reply that says so.

Theory of operation. A fan-out may have a million copies, so each is one byte here, by its index in
the list, and only what a receiver returned is kept besides. The reply names the copies in the order
of the list, which is how a long list can be read: ``steps`` goes through it a slice at a time, and
its caller lets the loop turn in between. Names stop being gathered when they fill a reply; the
others are counted.

Rules: pure. A copy is in one state at a time. Nothing changes any more once a reply is made.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from gearhorn.fanout.copies import Subscribers
from gearhorn.messages.events import LOG_DROPPED
from gearhorn.messages.logs import Logged
from gearhorn.messages.receipts import REPLY_BYTES, encode_failures, encode_receipt

# What can have become of a copy. Queues that get none are EXCLUDED, so that there is a state for
# each index in the list.
STATES = 7
PENDING, HELD, DELIVERED, FAILED, DROPPED, EXPIRED, EXCLUDED = range(STATES)
ENDED = bytes((DROPPED, FAILED, EXPIRED))  # states that a failure names
LATE = bytes((*ENDED, PENDING, HELD))  # those at the timeout
ALL = bytes((*LATE, DELIVERED))  # those that a receipt names
SLICE = 2048  # queues that are named in one step
QUEUE_FULL, TOO_LATE = "queue full", "expired"  # reasons beside those of receivers
_FRAME_BYTES = 3  # of JSON around a name
_Found = TypeVar("_Found")


class Tally:
    """What became of the copies, and of durable receivers.

    Arguments:
        subscribers: the list.
        chosen: the indexes that there are copies for; None: all.
    """

    def __init__(self, subscribers: Subscribers, chosen: Sequence[int] | None) -> None:
        count = len(subscribers.queues)
        self._subscribers = subscribers
        self._is_merged = subscribers.own is not subscribers  # a client_id may be there twice
        if chosen is None:
            self._states = bytearray(count)
        else:
            self._states = bytearray([EXCLUDED]) * count
            for index in chosen:
                self._states[index] = PENDING
        self._counts = [0] * STATES
        self._reasons: dict[int, str] = {}
        self._results: dict[int, bytes] = {}
        self._omitted: set[int] = set()
        self._acknowledged: dict[str, None] = {}  # garbage collection walks through lists
        self._parked: dict[str, str] = {}
        self._lapsed: dict[str, None] = {}

    @property
    def succeeded(self) -> int:
        """How many receivers have succeeded."""
        return self._counts[DELIVERED] + len(self._acknowledged)

    @property
    def unsent(self) -> int:
        """How many copies no server keeps: they were dropped, or not sent as the message had
        expired."""
        return self._counts[DROPPED] + self._counts[EXPIRED]

    def _move(self, index: int, state: int) -> None:
        """Put a copy into another state; the counts make ``succeeded`` and ``unsent`` cheap, which
        are asked for with each receiver that finishes."""
        self._counts[self._states[index]] -= 1
        self._counts[state] += 1
        self._states[index] = state

    def deliver(self, index: int) -> None:
        """A receiver has completed its copy."""
        self._move(index, DELIVERED)

    def keep(self, index: int, data: bytes) -> None:
        """Keep what the receiver of a delivered copy returned, for a receipt."""
        self._results[index] = data

    def omit(self, index: int) -> None:
        """What the receiver of a delivered copy returned was too long to be kept; a receipt says
        so."""
        self._omitted.add(index)

    def fail(self, index: int, reason: str) -> None:
        """A receiver has failed; ``reason`` may be empty."""
        self._move(index, FAILED)
        if reason:
            self._reasons[index] = reason

    def drop(self, index: int) -> None:
        """There was no room for a copy."""
        self._move(index, DROPPED)

    def expire(self, indexes: Iterable[int]) -> None:
        """The message expired before these copies were sent."""
        for index in indexes:
            self._move(index, EXPIRED)

    def hold(self, index: int) -> None:
        """A copy waits for room."""
        self._move(index, HELD)

    def send(self, index: int) -> None:
        """There is room for it."""
        self._move(index, PENDING)

    def held(self) -> Iterator[int]:
        """Yield the copies that wait for room."""
        index = self._states.find(HELD)
        while index >= 0:
            yield index
            index = self._states.find(HELD, index + 1)

    def acknowledge(self, client_id: str, error: str, is_expired: bool = False) -> None:
        """A durable receiver has done with the message.

        Arguments:
            client_id: the receiver's. It has no copy in the list, so it is kept by name.
            error: why the message was parked for it, or ``LOG_DROPPED``; empty where it was not.
            is_expired: whether the message expired before it was begun; else it was acknowledged.
        """
        if is_expired:
            self._lapsed[client_id] = None
        elif error:
            self._parked[client_id] = why_parked(error)
        else:
            self._acknowledged[client_id] = None

    def steps(self, states: bytes, reason: str = "") -> Generator[None, None, Named]:
        """Name the copies in certain states, a slice of the list with each step.

        Arguments:
            states: which, as bytes.
            reason: what the reply says beside each name, as it is written in JSON; it takes room
                too.

        Returns the names; what receivers returned is with them, of those slices that had room.
        """
        named = Named(len(reason) + _FRAME_BYTES)
        for at, found, names in self._slices(states):
            if not named.add(states, found, names):
                yield
                continue
            self._tell(named, at, names)
            yield
        return named

    def _tell(self, named: Named, at: int, names: list[str]) -> None:
        """Add what the receivers of a slice from ``at`` on returned."""
        for index, name in enumerate(names, at):
            if index in self._reasons:
                named.failed[name] = self._reasons[index]
            elif index in self._results:
                named.results.setdefault(name, self._results[index])
            elif index in self._omitted:
                named.omitted.append(name)

    def _slices(self, wanted: bytes) -> Iterator[tuple[int, bytes, list[str]]]:
        """Yield the index of a slice's first queue, the states of its copies, and the client_ids;
        slices without any copy in the wanted states are left out."""
        for at in range(0, len(self._states), SLICE):
            states = bytes(self._states[at : at + SLICE])
            if not any(state in states for state in wanted):
                continue
            yield at, states, self._subscribers.client_ids(at, at + SLICE)

    def receipt(
        self, named: Named, copies: int, awaited: Sequence[str], logged: Logged | None
    ) -> bytes:
        """Return the receipt ("Receipt" in docs/protocol.rst).

        Arguments:
            named: what ``steps`` returned, for all states.
            copies: how many are accepted, durable receivers among them.
            awaited: durable receivers that have not done with the message.
            logged: where the message stands in its topic's log, if it has one.
        """
        names, missing = named.names, named.missing
        unlisted = {
            "delivered": missing[DELIVERED],
            "failed": missing[FAILED],
            "pending": missing[PENDING] + missing[HELD],
            "dropped": missing[DROPPED],
            "expired": missing[EXPIRED],
        }
        failed = named.reasons() | self._parked
        dropped, expired, pending, delivered = self._once(
            failed,
            names[DROPPED],
            [*names[EXPIRED], *self._lapsed],
            [*names[PENDING], *names[HELD], *awaited],
            [*names[DELIVERED], *self._acknowledged],
        )
        return encode_receipt(
            copies,
            delivered=delivered,
            failed=failed,
            pending=pending,
            dropped=dropped,
            expired=expired,
            results=named.results,
            omitted=named.omitted,
            logged=logged,
            unlisted={key: count for key, count in unlisted.items() if count},
        )

    def failures(self, named: Named, late: str, awaited: Sequence[str]) -> bytes:
        """Return why the fan-out failed, by client_id ("The reply" in docs/protocol.rst).

        Arguments:
            named: what ``steps`` returned, for the states that the reply names.
            late: the reason of what has not finished.
            awaited: the durable receivers that count as late.
        """
        pairs = [(name, QUEUE_FULL) for name in named.names[DROPPED]]
        pairs += named.reasons().items()
        pairs += ((name, late) for name in (*named.names[PENDING], *named.names[HELD]))
        pairs += self._parked.items()
        pairs += ((name, TOO_LATE) for name in (*named.names[EXPIRED], *self._lapsed))
        pairs += ((name, late) for name in awaited)
        if self._is_merged:
            pairs = list(dict(reversed(pairs)).items())[::-1]
        return encode_failures(pairs, sum(named.missing))

    def _once(self, failed: Mapping[str, str], *groups: list[str]) -> tuple[list[str], ...]:
        """Return groups of client_ids, each only in the first group that it is in, and in none if
        it has failed. Only of a merged list a client_id may have several copies."""
        if not self._is_merged:
            return groups
        seen, left = set(failed), []
        for group in groups:
            left.append([name for name in dict.fromkeys(group) if name not in seen])
            seen.update(group)
        return tuple(left)


def why_parked(error: str) -> str:
    """Return the reason of a durable receiver whose message was parked with ``error``, or dropped
    by the log ("The reply" in docs/protocol.rst)."""
    return error if error == LOG_DROPPED else f"parked: {error}"


class Named:
    """Client_ids by the state of their copies, as many as a reply has room for.

    Arguments:
        more: how many bytes each name takes in the reply besides its own.

    The room is charged by slices: the slice
    that goes over it is counted whole and not named, and so is every later one. So the names that a
    reply has are the first ones of the list, without gaps.
    """

    def __init__(self, more: int) -> None:
        self._more = more
        self.names: list[list[str]] = [[] for _ in range(STATES)]
        self.missing = [0] * STATES  # that had no room
        self.failed: dict[str, str] = {}
        self.results: dict[str, bytes] = {}
        self.omitted: list[str] = []
        self._room = REPLY_BYTES

    def add(self, wanted: bytes, states: bytes, names: list[str]) -> bool:
        """Add the names of one slice; return whether there was room for them."""
        self._room -= sum(map(len, names)) + self._more * len(names)
        for state in wanted:
            count = states.count(state)
            if self._room < 0:
                self.missing[state] += count
            elif count == len(names):
                self.names[state] += names
            elif count:
                pairs = zip(states, names, strict=True)
                self.names[state] += [name for found, name in pairs if found == state]
        return self._room >= 0

    def reasons(self) -> dict[str, str]:
        """Return why the copies failed that did."""
        return dict.fromkeys(self.names[FAILED], "failed") | self.failed


def exhaust(steps: Generator[None, None, _Found]) -> _Found:
    """Take all steps at once; return what they return."""
    try:
        while True:
            next(steps)
    except StopIteration as end:
        found: _Found = end.value
        return found
