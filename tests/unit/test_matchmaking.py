"""Matchmaking: who is asked, what counts as an answer, and what is done without one."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from support.matchmaking import SINCE_S, Bench, run, turn

from gearhorn.gearman.results import Result
from gearhorn.messages.peers import Changed

# Telling


async def only_the_lease_tells(bench: Bench, told: asyncio.Task[Any]) -> None:
    """The peer does not count as told until the membership says that it needs no answer."""
    assert not told.done()
    bench.known.over[0].set_result(None)
    await turn()
    assert told.done()


def test_a_question_names_every_change_and_goes_ahead_of_other_jobs() -> None:
    async def test(bench: Bench) -> None:
        told = bench.tell(("a", 1), Changed("b", 2, removed=False, durable=False, client="c"))
        await turn()
        [(_, submission)] = bench.servers.submitted
        assert bench.asked == ["peer"]
        assert submission.foreground
        unique, _, body = submission.tail[1:].partition(b"\0")
        assert unique == b"", "gearmand would coalesce what has one"
        assert json.loads(body) == {
            "member": "me",
            "changes": [
                {"topic": "a", "version": 1, "removed": True, "durable": True, "client": None},
                {"topic": "b", "version": 2, "removed": False, "durable": False, "client": "c"},
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
        bench.finish(0, Result(True, body))
        await turn()
        await only_the_lease_tells(bench, told)

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
        bench.finish(0, Result(False, body, body))
        await turn()
        await only_the_lease_tells(bench, told)

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
        await only_the_lease_tells(bench, told)

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
            bench.finish(0, Result(False, lost=True))
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
            bench.finish(0, Result(False, lost=True))
        else:
            submission.outcome.lost(submission)
        await turn()
        assert len(bench.servers.submitted) == 1
        assert bench.known.asked == [("peer", 7, SINCE_S)]
        await only_the_lease_tells(bench, told)

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


# Peers that have gone


def test_a_question_to_a_peer_that_has_gone_is_given_up_and_its_queue_is_emptied() -> None:
    async def test(bench: Bench) -> None:
        bench.known.members("peer", "other")
        told = bench.tell(("a", 1), peers=["peer", "other"])
        await turn()
        bench.answer(1, "other")
        await turn()
        bench.known.members("other")
        assert bench.buried == ["peer"], "it may have been asked after it was buried"
        bench.known.over[0].set_result(None)
        await told
        bench.known.members("other", "another")
        assert bench.buried == ["peer"]
        again = bench.tell(("a", 2), peers=["other", "another"])
        await turn()
        assert bench.asked == ["peer", "other", "other", "another"]
        bench.answer(2, "other", 2)
        bench.answer(3, "another", 2)
        await again

    run(test, patience_s=0.0)


def test_telling_returns_the_peers_that_have_not_answered() -> None:
    async def test(bench: Bench) -> None:
        bench.known.members("peer", "other")
        told = bench.tell(("a", 1), peers=["peer", "other"])
        await turn()
        bench.answer(1, "other")
        await turn()
        bench.known.over[0].set_result(None)
        assert [late.id for late in await told] == ["peer"]

    run(test, patience_s=0.0)


def test_a_peer_that_had_gone_before_it_was_asked_is_forgotten_too() -> None:
    async def test(bench: Bench) -> None:
        bench.known.members("other")
        told = bench.tell(("a", 1))
        await turn()
        assert bench.buried == []
        bench.known.over[0].set_result(None)
        await told
        assert bench.buried == ["peer"]
        bench.fail(0)
        bench.known.members("another")
        assert bench.buried == ["peer"]

    run(test, patience_s=0.0)
