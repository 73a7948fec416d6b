"""How often members talk, and what they make of what they hear."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from gearhorn.broker import gossiper
from gearhorn.broker.gossiper import JOBS_PER_S, Gossiper
from gearhorn.messages.codec import encode
from gearhorn.messages.peers import MemberState
from gearhorn.store.members import Member


class Job:
    """A job of the member's own queue."""

    def __init__(self, body: bytes) -> None:
        self.arguments = body
        self.outcome = ""

    def complete(self, data: bytes = b"") -> None:
        self.outcome = "complete"

    def fail(self, text: str = "") -> None:
        self.outcome = text


def with_talk(test: Callable[[Gossiper, Any], None], peers: int = 0, listeners: int = 0) -> None:
    async def main() -> None:
        members = {f"m{n}": Member(f"m{n}", b"1 0 10000") for n in range(peers)}
        lease = SimpleNamespace(until_s=1e18)
        membership: Any = SimpleNamespace(peers=members, count=peers + 1, id="me", lease=lease)
        unused: Any = None
        talk = Gossiper(
            membership=membership,
            job_servers=unused,
            lists=unused,
            own=SimpleNamespace(now=lambda state: MemberState("me")),  # type: ignore[arg-type]
            burials=unused,
            interval_s=1.0,
        )
        if listeners:
            talk._listeners = SimpleNamespace(queues=[b""] * listeners)  # type: ignore[assignment]
        test(talk, membership)

    asyncio.run(main())


@pytest.mark.parametrize(("members", "listeners"), [(2, 0), (10, 0), (15, 3), (100, 0), (100, 5)])
def test_all_members_together_talk_within_bounds(members: int, listeners: int) -> None:
    def test(talk: Gossiper, _: Any) -> None:
        jobs = members * (members - 1 + listeners)
        assert jobs / talk.interval_s <= JOBS_PER_S
        if members <= 10:
            assert talk.interval_s == 1.0

    with_talk(test, peers=members - 1, listeners=listeners)


def test_who_has_gone_is_forgotten_and_who_was_never_heard_is_named() -> None:
    def test(talk: Gossiper, membership: Any) -> None:
        for member in ("m0", "m1"):
            job: Any = Job(encode(MemberState(member, state="clustered")))
            talk.hear(job)
            assert job.outcome == "complete"
        known = {one.member: one.state for one in talk.known()}
        assert known == {"me": "unknown", "m0": "clustered", "m1": "clustered", "m2": "unknown"}
        del membership.peers["m0"]
        assert {one.member for one in talk.known()} == {"me", "m1", "m2"}

    with_talk(test, peers=3)


def test_how_far_a_clock_is_ahead_is_kept_as_it_was_heard() -> None:
    def test(talk: Gossiper, _: Any) -> None:
        told: Any = Job(encode(MemberState("m0", at=time.time() + 60, ahead=7.0)))
        talk.hear(told)
        ahead = {one.member: one.ahead for one in talk.known()}
        assert ahead["me"] == 0.0
        assert 50 < ahead["m0"] <= 60

    with_talk(test, peers=1)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"member": 1}', b"\xff"])
def test_what_is_no_gossip_is_refused(body: bytes) -> None:
    def test(talk: Gossiper, _: Any) -> None:
        job: Any = Job(body)
        talk.hear(job)
        assert job.outcome.startswith("bad_request: ")

    with_talk(test, peers=1)


def test_who_hears_nobody_for_three_intervals_is_isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(gossiper, "now_s", lambda: now[0])

    def test(talk: Gossiper, membership: Any) -> None:
        states = []
        for seconds, peers in ((0, {}), (1, membership.peers), (1, membership.peers)):
            now[0] += seconds
            saved, membership.peers = membership.peers, peers
            talk._judge()
            states.append(talk.state)
            membership.peers = saved
        now[0] += 3
        talk._judge()
        states.append(talk.state)
        job: Any = Job(encode(MemberState("m0")))
        talk.hear(job)
        talk._judge()
        states.append(talk.state)
        membership.lease.until_s = 0.0
        talk._judge()
        states.append(talk.state)
        assert states == [
            *("solitary", "clustered", "clustered", "isolated", "clustered", "isolated")
        ]

    with_talk(test, peers=2)
