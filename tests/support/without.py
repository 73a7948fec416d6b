"""A worker that breaks one rule between workers: `without.py RULE [worker arguments]`.

The rule is switched off in this process by replacing a method; the product has no hook for it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

from gearhorn.cli.worker import run
from gearhorn.fanout.directory import Directory, _Pending
from gearhorn.fanout.known_patterns import KnownPatterns
from gearhorn.gearman.drain import _Drain
from gearhorn.gearman.worker import Job
from gearhorn.members.change_requests import Request
from gearhorn.members.changes import Changes
from gearhorn.members.lease import Lease
from gearhorn.members.matchmaking import Matchmaker
from gearhorn.members.membership import Duties, Membership
from gearhorn.messages.codec import encode
from gearhorn.messages.peers import MatchmakingAnswer
from gearhorn.names import is_pattern
from gearhorn.patterns import Matcher
from gearhorn.store.members import Member
from gearhorn.store.subscriptions import Applied


def _nothing(*_: Any) -> None:
    """Take the place of something that matters."""


async def _nothing_later(*_: Any) -> None:
    """Take the place of something that matters, and is waited for."""


class _Negligent:
    """Something of which some methods do nothing."""

    def __init__(self, whole: Any, *neglected: str) -> None:
        self._whole = whole
        self._neglected = neglected

    def __getattr__(self, name: str) -> Any:
        if name not in self._neglected:
            return getattr(self._whole, name)
        return _nothing_later if name == "drop_matching" else _nothing


def _answer_without(*neglected: str) -> None:
    original = Matchmaker.__init__

    def start(self: Matchmaker, *, caches: Any, **rest: Any) -> None:
        original(self, caches=_Negligent(caches, *neglected), **rest)

    Matchmaker.__init__ = start  # type: ignore[method-assign]


def answers() -> None:
    """Answer a peer, and keep the list."""
    _answer_without("drop", "drop_matching")


def match() -> None:
    """Answer a peer that a pattern changed, and keep the lists of the topics that it matches."""
    _answer_without("drop_matching")


def _neglect(*neglected: str) -> None:
    original = Membership.start

    def start(self: Membership, duties: Duties) -> None:
        original(self, _Negligent(duties, *neglected))

    Membership.start = start  # type: ignore[method-assign]


def catch_up() -> None:
    """Renew the lease, say that every change is known, and keep the lists that changed."""
    _neglect("drop", "drop_matching")


def catch_up_match() -> None:
    """The same, with the lists of topics that a pattern matches which changed."""
    _neglect("drop_matching")


def part() -> None:
    """Keep the list of a pattern that changed, though those that it is a part of are dropped."""
    original = Directory.drop

    def drop(self: Directory, topic: str) -> None:
        if not is_pattern(topic):
            original(self, topic)

    Directory.drop = drop  # type: ignore[method-assign]


def overtake() -> None:
    """Let a read that began before a pattern changed serve those who come later."""

    async def drop_matching(self: Directory, names: Sequence[str]) -> None:
        for topic in Matcher(names).among([*self._young.by_name, *self._old.by_name]):
            self._discard(topic)

    Directory.drop_matching = drop_matching  # type: ignore[method-assign]


def word() -> None:
    """Go by the patterns that there were when they were read first."""
    original = KnownPatterns.matching

    async def matching(self: KnownPatterns, topic: str, word: bytes | None = None) -> list[str]:
        if self.count:
            return self._trie.matching(topic)
        return await original(self, topic, word)

    KnownPatterns.matching = matching  # type: ignore[method-assign]


def lapse() -> None:
    """Use lists for ever, lease or not."""
    Lease.usable_until_s = property(lambda self: math.inf, _nothing)  # type: ignore[assignment]


def emptied() -> None:
    """Join anew after a lapse with the lists of before."""
    _neglect("forget")


def read() -> None:
    """Let a read that began before its topic changed serve those who come later."""
    _Pending.end = _nothing  # type: ignore[method-assign, assignment]


def repeat() -> None:
    """Answer a subscribe that changes nothing at once: the first one has told everybody."""
    original = Changes._finish

    async def finish(
        self: Changes,
        batch: Sequence[Request],
        applied: Sequence[Applied],
        peers: Sequence[Member],
        since_s: float,
    ) -> None:
        both = list(zip(batch, applied, strict=True))
        repeated = [one for one in both if one[0].change.kind == "subscribe" and one[1].existed]
        for request, outcome in repeated:
            request.complete(outcome)
        rest = [one for one in both if one not in repeated]
        batch, applied = [one for one, _ in rest], [one for _, one in rest]
        await original(self, batch, applied, peers, since_s)

    Changes._finish = finish  # type: ignore[method-assign]


async def _at_once(self: Membership) -> None:
    """Wait for nothing."""


def settled() -> None:
    """Answer changes in a new run of the store before leases of the former one have lapsed."""
    Membership.when_leases_hold = _at_once  # type: ignore[method-assign]


def complete(self: _Drain, job: Job) -> None:
    """Discard a drained job as if its receiver had finished it."""
    self.count += 1
    member = job.function.decode().partition("__matchmaking_")[2]
    job.complete(encode(MatchmakingAnswer(member, 2**53)) if member else b"")


def drain() -> None:
    """Complete what is drained."""
    _Drain._discard = complete  # type: ignore[method-assign]


RULES: dict[str, Callable[[], None]] = {
    one.__name__: one
    for one in (
        *(answers, catch_up, lapse, emptied, read, repeat, settled, drain),
        *(match, catch_up_match, part, overtake, word),
    )
}

if __name__ == "__main__":
    RULES[sys.argv.pop(1)]()
    run()
