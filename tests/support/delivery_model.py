"""What a durable subscription promises, whatever happens in whatever order.

A member delivers for two subscriptions of a topic with the code that runs in production; the job
server, its receivers, the store and time are simulated. They know what was published, acknowledged,
parked, put back and what failed, and say where that is not what docs/protocol.rst promises.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from gearhorn.messages.subscriptions import DurableOptions
from support.simulated_member import Member

OPTIONS = st.builds(
    DurableOptions,
    in_flight=st.sampled_from([1, 1, 2, 4]),
    batch=st.sampled_from([1, 1, 3]),
    max_attempts=st.integers(0, 3),
    max_backoff=st.just(20.0),
    timeout=st.just(10.0),
    latest=st.sampled_from([False, False, True, "k"]),
)
ACCIDENTS = st.sampled_from(
    [""] * 11
    + ["redrive", "drop", "steal", "close", "close", "down", "down", "restart"]
    + ["before", "after", "refuse", "slow", "stall", "stall", "stall", "reject"]
)


class Promise(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.member: Member | None = None

    @initialize(options=st.lists(OPTIONS, min_size=2, max_size=2))
    def begin(self, options: list[DurableOptions]) -> None:
        self.member = Member(options)
        self.go_on([False, True, False], [], 0, 0, "", 0, 0, 0, True)

    @rule(
        published=st.lists(st.booleans(), max_size=3),
        expires_s=st.sampled_from([0, 0, 0, 1, 4, 12, 40]),
        ends=st.lists(st.sampled_from([True, True, False]), max_size=3),
        taken=st.integers(0, 4),
        which=st.integers(0, 11),
        accident=ACCIDENTS,
        accepted=st.sampled_from([9, 9, 2, 1, 0]),
        seconds=st.sampled_from([0, 1, 3, 11, 20]),
        is_watched=st.booleans(),
        value=st.sampled_from(["", "a", "a", "b"]),
    )
    def go_on(
        self,
        published: list[bool],
        ends: list[bool],
        taken: int,
        which: int,
        accident: str,
        accepted: int,
        seconds: int,
        expires_s: int,
        is_watched: bool,
        value: str = "a",
    ) -> None:
        """Publishers, the job server and receivers do something each, perhaps there is an accident,
        and time passes."""
        member = self.member
        assert member is not None
        server, store = member.server, member.store
        member.is_hasty = store.is_slow or accident in ("slow", "stall")
        member.known = len(store.log)
        member.settle(
            lambda: member.publish(published, is_watched, expires_s, value),
            lambda: server.accept(accepted, which % 3 if accident == "reject" else -1),
        )
        server.take(taken)
        member.settle(*(lambda is_ok=is_ok: server.end(which, is_ok) for is_ok in ends))
        self._happen(accident, which)
        if is_watched:
            member.settle(member.watch)
            member.settle(server.answer)
        member.clock.s += seconds
        member.settle(member.quiet if store.is_slow else store.answer)
        member.settle(server.come_up, member.own)
        member.settle(member.quiet)
        if seconds == 0:
            server.orphans.clear()
        member.holds()

    def _happen(self, accident: str, which: int) -> None:
        member = self.member
        assert member is not None
        store, server = member.store, member.server
        kept = store.lanes[f"c{which % 2}"]
        store.is_slow = accident in ("slow", "stall")
        if accident in ("before", "after"):
            store.fault = accident
        elif accident == "stall":
            store.fault = "before"  # once it answers, which is later than what comes next
        elif accident == "refuse":
            store.fault = kept.client_id
        elif accident == "redrive":
            if store.redrive(kept, 1 + which % 3):
                member.settle(lambda: member.close(kept))
        elif accident == "drop":
            store.first = min(store.first + which % 4, max(len(store.log), 1))
        elif accident == "steal":
            store.steal(kept, which % 3)
        elif accident == "close":
            member.settle(lambda: member.close(kept))
        elif accident == "down":
            store.is_calm = False
            member.settle(server.go_down)
        elif accident == "restart":
            store.restart()

    def teardown(self) -> None:
        """When everything succeeds in the end, everything is delivered in the end."""
        if self.member is None:
            return
        member = self.member
        try:
            if not member.store.errors:
                member.store.fault = ""
                for _ in range(60 + 3 * len(member.store.log)):
                    if member.is_done():
                        break
                    self.go_on([], [True] * 20, 20, 0, "", 99, 20, 0, True)
                    member.server.orphans.clear()
                for _ in range(3):
                    self.go_on([], [], 0, 0, "", 99, 20, 0, True)
                member.ends_well()
        finally:
            member.end()


LATEST = st.builds(
    DurableOptions,
    in_flight=st.sampled_from([1, 2, 4]),
    max_attempts=st.integers(0, 3),
    max_backoff=st.just(20.0),
    timeout=st.just(10.0),
    latest=st.sampled_from([True, "k"]),
)


class PromiseOfLatest(Promise):
    """The same for two subscriptions that want the latest message only."""

    @initialize(options=st.lists(LATEST, min_size=2, max_size=2))
    def begin(self, options: list[DurableOptions]) -> None:
        super().begin(options)
