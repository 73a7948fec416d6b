"""Whether what came on a subscription that is changed under fire must not have come.

Rules: pure. The functions are told what was taken and what was asked, and when, and yield what is
wrong, in words. Times are seconds of one monotonic clock: a delivery's time is noted after it came,
a request's beginning before it leaves, and its end after its answer came, so that no claim rests on
a delay.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from support.durable_history import DeliveryId, Fault, Message

GRACE_S = 1.0  # between a job's arrival at a host and the host's note of it
FLIGHT_S = 5.0  # what a frozen worker had given to its sockets arrives within this time


class Taken(NamedTuple):
    """A job that a host took: its messages as {sequence: payload}, and when it was done (infinite:
    it failed)."""

    at_s: float
    id: DeliveryId
    messages: Mapping[int, str]
    done_s: float


class Away(NamedTuple):
    """The subscription did not exist from the drain's answer until it was asked for again. By then
    `last` was the highest sequence that a publisher knew."""

    from_s: float
    to_s: float
    last: int


class Span(NamedTuple):
    """Options were in force, from the answer of one subscribe until the next was asked: these, or
    (not certain) any that were asked for before and may have come into force late."""

    from_s: float
    to_s: float
    in_flight: int
    is_pulled: bool
    is_certain: bool = True


def fresh(taken: Sequence[Taken]) -> list[Taken]:
    """Leave out deliveries of a lower TERM than the queue had seen, as receivers do."""
    found: list[Taken] = []
    highest = 0
    for one in sorted(taken, key=lambda one: one.at_s):
        highest = max(highest, one.id.term)
        if one.id.term == highest:
            found.append(one)
    return found


def came_while_away(
    taken: Sequence[Taken],
    aways: Sequence[Away],
    messages: Mapping[str, Message],
    faults: Sequence[Fault],
) -> Iterator[str]:
    """What came between a drain and the next subscription, and what was logged by then and came
    later. A worker that was frozen meanwhile may have had an old copy in its sockets."""
    thaws = [
        (fault.begin_s, fault.end_s + FLIGHT_S)
        for fault in faults
        if "worker" in fault.kind and "frozen" in fault.kind
    ]
    begins_s = [away.from_s for away in aways]
    for one in taken:
        number = bisect_left(begins_s, one.at_s)
        if not number:
            continue
        away = aways[number - 1]  # the one before: sequences only grow
        for sequence, payload in one.messages.items():
            is_new = messages[payload].first_s > away.from_s
            if one.at_s < away.to_s:
                is_wrong = is_new or one.at_s > away.from_s + GRACE_S
            else:
                is_wrong = sequence <= away.last
            if is_wrong and (is_new or not _falls_in(one.at_s, away.from_s, thaws)):
                yield (
                    f"{payload} came at {one.at_s:.3f}; drained at {away.from_s:.3f}, "
                    f"subscribed again at {away.to_s:.3f} after sequence {away.last}"
                )


def _falls_in(at_s: float, from_s: float, thaws: Sequence[tuple[float, float]]) -> bool:
    return any(begin_s < at_s and from_s < end_s for begin_s, end_s in thaws)


def came_too_often(
    taken: Sequence[Taken],
    redrives: Sequence[tuple[float, float]],
    faults: Sequence[Fault],
    near_s: float,
) -> Iterator[str]:
    """What one member gave out once more although no redrive, asked and answered at these times,
    came after its failure, and no job server was lost. (A take-over has another TERM, and what the
    job server hands out again after a lost connection has the same id.)"""
    losses = [(fault.begin_s, fault.end_s + near_s) for fault in faults if "gearmand" in fault.kind]
    by_payload: dict[str, list[Taken]] = defaultdict(list)
    for one in fresh(taken):
        for payload in one.messages.values():
            by_payload[payload].append(one)
    for payload, runs in by_payload.items():
        for before, after in pairwise(runs):
            if before.id.term != after.id.term or before.id == after.id:
                continue
            failed = math.isinf(before.done_s)
            is_redriven = failed and any(
                asked_s < after.at_s and before.at_s < answered_s
                for asked_s, answered_s in redrives
            )
            is_lost = any(begin_s < after.at_s < end_s for begin_s, end_s in losses)
            if not is_redriven and not is_lost:
                how = "failed" if failed else "done"
                yield f"{payload} was {how} at {before.at_s:.3f}, came again at {after.at_s:.3f}"


def strict(spans: Sequence[Span]) -> list[Span]:
    """The spans in which one delivery may be under way, those in a row as one."""
    found: list[Span] = []
    is_going = False
    for span in spans:
        is_strict = span.is_certain and span.in_flight == 1 and not span.is_pulled
        if is_strict and is_going:
            found[-1] = found[-1]._replace(to_s=span.to_s)
        elif is_strict:
            found.append(span)
        is_going = is_strict
    return found


def disordered(
    taken: Sequence[Taken], spans: Sequence[Span], messages: Mapping[str, Message]
) -> Iterator[str]:
    """What began before a message ahead of it was finished, while one delivery may be under way.
    Only what was published since is judged: older messages may have been under way together."""
    begun_s: dict[int, float] = {}
    done_s: dict[int, float] = {}
    first_s = {
        sequence: message.first_s
        for message in messages.values()
        for _, sequence in message.replies
    }
    for one in fresh(taken):
        for sequence, payload in one.messages.items():
            begun_s.setdefault(sequence, one.at_s)
            done_s[sequence] = min(done_s.get(sequence, math.inf), one.done_s)
            first_s[sequence] = messages[payload].first_s
    for span in strict(spans):
        mine = sorted(
            sequence for sequence, at_s in first_s.items() if span.from_s < at_s < span.to_s
        )
        for place, after in enumerate(mine):
            after_s = begun_s.get(after, math.inf)
            for before in mine[:place] if after_s < span.to_s else ():
                is_together = begun_s.get(before) == after_s  # in one job
                if done_s.get(before, math.inf) > after_s and not is_together:
                    yield f"sequence {after} began at {after_s:.3f}, before {before} was done"


def came_while_pulled(
    taken: Sequence[Taken], spans: Sequence[Span], messages: Mapping[str, Message]
) -> Iterator[str]:
    """What was published to a subscription that is pulled, and delivered all the same."""
    for span in spans:
        if span.is_certain and span.is_pulled:
            for one in taken:
                for payload in one.messages.values():
                    if span.from_s < messages[payload].first_s and one.at_s < span.to_s:
                        yield f"{payload} came at {one.at_s:.3f}, pulled from {span.from_s:.3f} on"


def came_outdated(taken: Sequence[Taken], value_of: Callable[[str], str]) -> Iterator[str]:
    """What was begun, or tried again, after something newer of its value was begun. (What the job
    server hands out again after a lost connection has the same id.)"""
    newest: dict[str, int] = {}
    seen: set[DeliveryId] = set()
    for one in fresh(taken):
        if one.id in seen:
            continue
        seen.add(one.id)
        for sequence, payload in one.messages.items():
            value = value_of(payload)
            if sequence < newest.get(value, 0):
                yield f"{payload} ({sequence}) came at {one.at_s:.3f}, after {newest[value]}"
            newest[value] = max(newest.get(value, 0), sequence)


def seek_order(sequences: Sequence[int], acked: int, note: Callable[[str], None]) -> None:
    """Note what is wrong with the sequences of one fetch: each is above the one before, and all
    are above what was acknowledged."""
    for before, after in pairwise((acked, *sequences)):
        if after <= before:
            note(f"sequence {after} was fetched after {before}, acknowledged up to {acked}")
