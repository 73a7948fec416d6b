"""Matchmaking: what counts as an answer, who is asked, and what is done before one is given."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence

import pytest

from gearhorn.broker.matchmaking import Matchmaker
from gearhorn.gearman.client import Result, Submission
from gearhorn.messages import Changed
from gearhorn.names import MATCHMAKING, queue_of
from gearhorn.store.members import Member

SINCE_S = 1000.0  # when the changes of these tests were known to be written
NEVER_S = 3600.0  # longer than any test


def peer(name: str = "peer") -> Member:
    return Member(name, b"1 0 10000")


class Known:
    """Stands for ``Membership``: the test says when a peer knows a version."""

    id = "me"

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, float]] = []
        self.over: list[asyncio.Future[None]] = []
        self.heard_: list[list[int]] = []

    def when_known(self, peer: Member, version: int, since_s: float) -> asyncio.Future[None]:
        self.asked.append((peer.id, version, since_s))
        self.over.append(asyncio.get_running_loop().create_future())
        return self.over[-1]

    def heard(self, versions: Sequence[int]) -> None:
        self.heard_.append(list(versions))


class Servers:
    """Stands for ``Cluster``: keeps what is submitted, and to which of the servers that are up."""

    def __init__(self) -> None:
        self.up = [0, 1]
        self.submitted: list[tuple[int, Submission]] = []

    @property
    def is_up(self) -> bool:
        return bool(self.up)

    def route(self, queue: bytes) -> int:
        return self.up[0]

    def submit(self, place: int, submission: Submission) -> None:
        self.submitted.append((place, submission))


class Job:
    """Stands for a job: writes down how it ended."""

    def __init__(self, arguments: bytes) -> None:
        self.arguments = arguments
        self.completed: list[bytes] = []
        self.failed: list[str] = []

    def complete(self, data: bytes = b"") -> None:
        self.completed.append(data)

    def fail(self, text: str = "") -> None:
        self.failed.append(text)


class Bench:
    """A matchmaker between the stand-ins."""

    def __init__(self) -> None:
        self.known = Known()
        self.servers = Servers()
        self.events: list[tuple[str, str]] = []
        self.settling: asyncio.Future[None] | None = None
        self.matchmaker = Matchmaker(
            self.known,  # type: ignore[arg-type]
            self.servers,  # type: ignore[arg-type]
            lambda topic: self.events.append(("drop", topic)),
            self._settle,
        )

    async def _settle(self, topics: Sequence[str]) -> None:
        self.events += [("settle", topic) for topic in topics]
        if self.settling is not None:
            await self.settling

    def tell(
        self, *changes: tuple[str, int], peers: Sequence[str] = ("peer",)
    ) -> asyncio.Task[None]:
        """Begin to tell peers of (topic, version) changes."""
        changed = [Changed(topic, version) for topic, version in changes]
        told = self.matchmaker.tell(changed, [peer(name) for name in peers], SINCE_S)
        return asyncio.create_task(told)

    @property
    def asked(self) -> list[str]:
        """The peers that were asked, once for each time."""
        prefix = queue_of(MATCHMAKING, "")
        heads = [one.heads[0] for _, one in self.servers.submitted]
        return [head[head.index(prefix) + len(prefix) :].decode() for head in heads]

    def answer(self, number: int, member: str = "peer", version: int = 1) -> None:
        """Let a question's job complete with this answer."""
        body = json.dumps({"member": member, "version": version}).encode()
        self.finish(number, Result(True, body, b"", False, False))

    def finish(self, number: int, result: Result) -> None:
        """Let a question's job end."""
        _, submission = self.servers.submitted[number]
        submission.outcome.finished(submission, 0, result)

    def fail(self, number: int) -> None:
        """Let a question's job fail, as who drains the queue does."""
        self.finish(number, Result(False, b"", b"", False, False))

    def handle(self, *changes: tuple[str, int, bool | None]) -> Job:
        """Be told of (topic, version, removed or left out) changes."""
        told = [
            {"topic": topic, "version": version} | ({} if removed is None else {"removed": removed})
            for topic, version, removed in changes
        ]
        job = Job(json.dumps({"member": "peer", "changes": told}).encode())
        self.matchmaker.handle("me", job)  # type: ignore[arg-type]
        return job


def run(test: Callable[[Bench], Coroutine[None, None, None]], patience_s: float = NEVER_S) -> None:
    async def main() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gearhorn.broker.matchmaking.PATIENCE_S", patience_s)
            await test(Bench())

    asyncio.run(main())


async def turn() -> None:
    """Let everything that is ready happen; nobody's patience of no time outlasts it."""
    for _ in range(10):
        await asyncio.sleep(0)


# Telling


def test_a_question_names_every_change_and_goes_ahead_of_other_jobs() -> None:
    async def test(bench: Bench) -> None:
        told = bench.tell(("a", 1), ("b", 2))
        await turn()
        [(_, submission)] = bench.servers.submitted
        assert bench.asked == ["peer"]
        assert submission.foreground
        unique, _, body = submission.tail[1:].partition(b"\0")
        assert unique == b"", "gearmand would coalesce what has one"
        assert json.loads(body) == {
            "member": "me",
            "changes": [
                {"topic": "a", "version": 1, "removed": True},
                {"topic": "b", "version": 2, "removed": True},
            ],
        }
        bench.answer(0, version=2)
        await turn()
        assert told.done()

    run(test)


def test_without_peers_there_is_nothing_to_wait_for() -> None:
    async def test(bench: Bench) -> None:
        told = bench.tell(("t", 1), peers=())
        await turn()
        assert told.done()
        assert bench.servers.submitted == []

    run(test)


def test_all_peers_are_asked_at_once_and_every_one_has_to_answer() -> None:
    async def test(bench: Bench) -> None:
        names = ["alice", "bob", "carol"]
        told = bench.tell(("t", 1), peers=names)
        await turn()
        assert bench.asked == names
        for number in (2, 0, 1):
            assert not told.done()
            bench.answer(number, names[number])
            await turn()
        assert told.done()
        assert bench.known.asked == [], "nobody needed the store"

    run(test)


@pytest.mark.parametrize(
    ("member", "version"), [("another", 7), ("peer", 6), ("another", 6), ("me", 7), ("", 7)]
)
def test_an_answer_with_a_foreign_id_or_a_lower_version_does_not_count(
    member: str, version: int
) -> None:
    async def test(bench: Bench) -> None:
        told = bench.tell(("a", 7), ("b", 3))
        await turn()
        bench.answer(0, member, version)
        await turn()
        assert not told.done()
        assert bench.known.asked == [("peer", 7, SINCE_S)], "it is for its lease to say"
        bench.known.over[0].set_result(None)
        await turn()
        assert told.done()

    run(test)


@pytest.mark.parametrize(
    "body", [b"", b"7", b"{}", b'{"member":"peer"}', b'{"member":"peer","version":"7"}', b"\xff"]
)
def test_anything_else_is_no_answer(body: bytes) -> None:
    async def test(bench: Bench) -> None:
        told = bench.tell(("t", 7))
        await turn()
        bench.finish(0, Result(True, body, b"", False, False))
        await turn()
        assert not told.done()
        bench.known.over[0].set_result(None)
        await turn()
        assert told.done()

    run(test)


def test_an_answer_of_a_later_version_counts() -> None:
    async def test(bench: Bench) -> None:
        told = bench.tell(("t", 7))
        await turn()
        bench.answer(0, version=8)
        await turn()
        assert told.done()

    run(test)


def test_a_job_that_failed_is_no_answer_whatever_it_says() -> None:
    async def test(bench: Bench) -> None:
        told = bench.tell(("t", 7))
        await turn()
        body = b'{"member":"peer","version":7}'
        bench.finish(0, Result(False, body, body, False, False))
        await turn()
        assert not told.done()
        bench.known.over[0].set_result(None)
        await turn()
        assert told.done()

    run(test)


def test_a_question_that_the_job_server_refuses_is_not_answered() -> None:
    async def test(bench: Bench) -> None:
        told = bench.tell(("t", 7))
        await turn()
        _, submission = bench.servers.submitted[0]
        submission.refused = [(0, b"QUEUE_FULL")]
        submission.outcome.accepted(submission)
        await turn()
        assert not told.done()
        assert bench.known.asked == [("peer", 7, SINCE_S)]
        bench.known.over[0].set_result(None)
        await turn()
        assert told.done()

    run(test)


def test_a_question_that_is_merely_accepted_is_not_answered() -> None:
    async def test(bench: Bench) -> None:
        told = bench.tell(("t", 7))
        await turn()
        _, submission = bench.servers.submitted[0]
        submission.outcome.accepted(submission)
        await turn()
        assert not told.done()
        bench.answer(0, version=7)
        await turn()
        assert told.done()

    run(test)


# Silence


def test_a_peer_that_answers_late_has_answered() -> None:
    async def test(bench: Bench) -> None:
        told = bench.tell(("t", 7))
        await turn()
        assert bench.known.asked == [("peer", 7, SINCE_S)]
        assert not told.done()
        bench.answer(0, version=7)
        await turn()
        assert told.done()
        assert bench.known.over[0].cancelled(), "nobody looks for it any more"

    run(test, patience_s=0)


def test_a_peer_that_fails_late_is_left_to_its_lease() -> None:
    async def test(bench: Bench) -> None:
        told = bench.tell(("t", 7))
        await turn()
        bench.fail(0)
        await turn()
        assert not told.done()
        bench.known.over[0].set_result(None)
        await turn()
        assert told.done()

    run(test, patience_s=0)


def test_a_silent_peer_is_asked_no_more_until_it_answered() -> None:
    async def test(bench: Bench) -> None:
        first = bench.tell(("t", 1))
        await turn()
        for number, version in enumerate((2, 3), 1):
            told = bench.tell(("t", version))
            await turn()
            assert bench.asked == ["peer"]
            assert bench.known.asked[number] == ("peer", version, SINCE_S)
            assert not told.done()
            bench.known.over[number].set_result(None)
            await turn()
            assert told.done(), "it renewed with the change, has gone, or its lease lapsed"
        assert not first.done()
        bench.answer(0, version=1)
        await turn()
        assert first.done()
        told = bench.tell(("t", 4))
        await turn()
        assert bench.asked == ["peer", "peer"]
        bench.answer(1, version=4)
        await turn()
        assert told.done()

    run(test, patience_s=0)


def test_a_silent_peer_whose_change_is_known_still_owes_its_answer() -> None:
    async def test(bench: Bench) -> None:
        told = bench.tell(("t", 1))
        await turn()
        bench.known.over[0].set_result(None)
        await turn()
        assert told.done()
        bench.tell(("t", 2))
        await turn()
        assert bench.asked == ["peer"], "a dead peer costs one job in gearmand and no more"

    run(test, patience_s=0)


def test_an_answer_to_an_old_question_does_not_tell_of_a_new_change() -> None:
    async def test(bench: Bench) -> None:
        bench.tell(("t", 1))
        await turn()
        second = bench.tell(("t", 2))
        await turn()
        bench.answer(0, version=1)
        await turn()
        assert not second.done()

    run(test, patience_s=0)


def test_a_silent_peer_delays_nobody_else() -> None:
    async def test(bench: Bench) -> None:
        bench.tell(("t", 1), peers=["silent"])
        await turn()
        told = bench.tell(("t", 2), peers=["silent", "peer"])
        await turn()
        assert bench.asked == ["silent", "peer"]
        bench.answer(1, version=2)
        await turn()
        assert bench.known.asked[1:] == [("silent", 2, SINCE_S), ("peer", 2, SINCE_S)]
        assert not told.done()
        bench.known.over[1].set_result(None)
        await turn()
        assert told.done()

    run(test, patience_s=0)


def test_of_two_questions_under_way_as_a_peer_falls_silent_the_first_is_what_it_owes() -> None:
    async def test(bench: Bench) -> None:
        first = bench.tell(("t", 1), peers=["alice"])
        second = bench.tell(("t", 2), peers=["alice"])
        await turn()
        assert bench.asked == ["alice", "alice"], "nobody knew yet that it is silent"
        bench.answer(1, "alice", 2)
        await turn()
        assert (first.done(), second.done()) == (False, True)
        bench.answer(0, "alice", 1)
        await turn()
        assert first.done()
        third = bench.tell(("t", 3), peers=["alice"])
        await turn()
        assert len(bench.asked) == 3
        assert not third.done()

    run(test, patience_s=0)


# Job servers


@pytest.mark.parametrize("is_accepted", [False, True])
def test_a_lost_job_server_asks_again_through_another(is_accepted: bool) -> None:
    async def test(bench: Bench) -> None:
        told = bench.tell(("t", 7))
        await turn()
        place, submission = bench.servers.submitted[0]
        assert place == 0
        bench.servers.up = [1]
        if is_accepted:
            submission.outcome.accepted(submission)
            bench.finish(0, Result(False, b"", b"", False, lost=True))
        else:
            submission.outcome.lost(submission)
        await turn()
        assert [place for place, _ in bench.servers.submitted] == [0, 1]
        again = bench.servers.submitted[1][1]
        assert (again.heads, again.tail) == (submission.heads, submission.tail)
        assert bench.known.asked == [], "it is the same question, and there is time"
        assert not told.done()
        bench.answer(1, version=7)
        await turn()
        assert told.done()

    run(test)


@pytest.mark.parametrize("is_accepted", [False, True])
def test_with_no_job_server_left_the_lease_decides(is_accepted: bool) -> None:
    async def test(bench: Bench) -> None:
        told = bench.tell(("t", 7))
        await turn()
        _, submission = bench.servers.submitted[0]
        bench.servers.up = []
        if is_accepted:
            bench.finish(0, Result(False, b"", b"", False, lost=True))
        else:
            submission.outcome.lost(submission)
        await turn()
        assert len(bench.servers.submitted) == 1
        assert bench.known.asked == [("peer", 7, SINCE_S)]
        assert not told.done()
        bench.known.over[0].set_result(None)
        await turn()
        assert told.done()

    run(test)


def test_while_no_job_server_is_up_the_lease_decides_and_nobody_counts_as_silent() -> None:
    async def test(bench: Bench) -> None:
        bench.servers.up = []
        told = bench.tell(("t", 7))
        await turn()
        assert bench.known.asked == [("peer", 7, SINCE_S)]
        bench.known.over[0].set_result(None)
        await turn()
        assert told.done()
        bench.servers.up = [1]
        bench.tell(("t", 8))
        await turn()
        assert bench.asked == ["peer"]

    run(test, patience_s=0)


# Being told


def test_lists_are_dropped_before_the_answer_is_given() -> None:
    async def test(bench: Bench) -> None:
        order: list[str] = []
        job = Job(b'{"member":"peer","changes":[{"topic":"t","version":7,"removed":false}]}')
        bench.matchmaker._drop = lambda topic: order.append(f"drop {topic}")
        job.complete = lambda data=b"": order.append("answer")  # type: ignore[method-assign]
        bench.matchmaker.handle("me", job)  # type: ignore[arg-type]
        assert order == ["drop t", "answer"]

    run(test)


def test_an_answer_names_the_member_that_was_asked_and_the_highest_version() -> None:
    async def test(bench: Bench) -> None:
        job = bench.handle(("a", 9, False), ("b", 7, False))
        assert [json.loads(data) for data in job.completed] == [{"member": "me", "version": 9}]
        assert bench.events == [("drop", "a"), ("drop", "b")]
        assert bench.known.heard_ == [[9, 7]]

    run(test)


@pytest.mark.parametrize("removed", [True, None])
def test_of_a_removal_the_answer_waits_for_what_holds_the_old_list(removed: bool | None) -> None:
    async def test(bench: Bench) -> None:
        bench.settling = asyncio.get_running_loop().create_future()
        job = bench.handle(("added", 6, False), ("removed", 7, removed))
        await turn()
        assert bench.events == [("drop", "added"), ("drop", "removed"), ("settle", "removed")]
        assert job.completed == []
        assert bench.known.heard_ == [], "nor is it known in the store"
        other = bench.handle(("another", 8, False))
        assert len(other.completed) == 1, "nobody else waits"
        bench.settling.set_result(None)
        await turn()
        assert [json.loads(data) for data in job.completed] == [{"member": "me", "version": 7}]
        assert bench.known.heard_ == [[8], [6, 7]]

    run(test)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"member":"peer"}', b'{"changes":[]}', b"\0"])
def test_who_says_something_else_is_refused_and_nothing_is_dropped(body: bytes) -> None:
    async def test(bench: Bench) -> None:
        job = Job(body)
        bench.matchmaker.handle("me", job)  # type: ignore[arg-type]
        assert len(job.failed) == 1
        assert job.failed[0].startswith("bad_request: ")
        assert (job.completed, bench.events, bench.known.heard_) == ([], [], [])

    run(test)
