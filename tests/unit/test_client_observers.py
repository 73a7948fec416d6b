"""Observers see each request of a publisher, change it, answer it, and learn what came of it."""

from __future__ import annotations

import pytest
from support.proxy import on_loop

import gearhorn
from gearhorn import aio
from gearhorn.client.observers import Exchange, Observed, Operation
from gearhorn.client.payloads import Request, request_of
from gearhorn.errors import GearhornError

NOWHERE = "nowhere.invalid"


class Marks:
    """An observer that adds a header, and notes how each request ends."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self._name = name
        self._notes = notes

    def requested(self, operation: Operation, request: Request) -> Exchange:
        headers = {**(request.headers or {}), self._name: str(len(request.headers or ()))}
        marked = request_of(request.topic, "x", headers=headers)
        return Mark(marked, self._name, self._notes)


class Mark:
    reply: bytes | GearhornError | None = None

    def __init__(self, request: Request, name: str, notes: list[str]) -> None:
        self.request = request
        self._name = name
        self._notes = notes

    def ended(self, outcome: object) -> None:
        self._notes.append(f"{self._name}: {outcome!r}")


def test_observers_see_what_those_before_them_made_and_the_end_in_reverse() -> None:
    notes: list[str] = []
    observers = [Marks("a", notes), Marks("b", notes)]
    observed = Observed(observers, "publish", request_of("t", "x"))
    assert observed.request.headers == {"a": "0", "b": "1"}
    assert observed.reply is None
    observed.ended(7)
    assert notes == ["b: 7", "a: 7"]


class Answers:
    """An observer that answers: with an error where the payload says so."""

    def __init__(self) -> None:
        self.seen: list[tuple[Operation, Request]] = []

    def requested(self, operation: Operation, request: Request) -> Exchange:
        self.seen.append((operation, request))
        mark = Mark(request, "answer", [])
        mark.reply = gearhorn.Busy("no") if request.topic == "busy" else b'{"copies": 3}'
        return mark


def observed_publisher(notes: list[str]) -> tuple[gearhorn.Publisher, Answers]:
    publisher, answers = gearhorn.Publisher(NOWHERE), Answers()
    publisher.observe(Marks("a", notes))
    publisher.observe(answers)
    return publisher, answers


def test_each_way_to_publish_is_seen_and_what_is_answered_is_not_sent() -> None:
    notes: list[str] = []
    publisher, answers = observed_publisher(notes)
    assert publisher.publish("t").copies == 3
    with pytest.raises(gearhorn.Busy):
        publisher.publish("busy")
    results = publisher.publish_many([("t", "x"), ("busy", "x")])
    assert (results[0].copies, list(results.failed)) == (3, [1])
    publisher.deliver("t")
    publisher.ask("t")
    assert list(publisher.ask_iter("t")) == []
    kinds = ["publish"] * 4 + ["deliver", "ask", "ask"]
    assert [operation for operation, _ in answers.seen] == kinds
    assert all(request.headers == {"a": "0"} for _, request in answers.seen)
    heads = ["Published", "Busy", "Published", "Busy", "Receipt", "<0 answers", "Receipt"]
    for note, head in zip(notes, heads, strict=True):
        assert note.startswith(f"a: {head}")
    assert publisher.core._jobs is None


def test_too_few_receivers_are_seen_as_what_the_caller_is_told() -> None:
    notes: list[str] = []
    publisher = gearhorn.Publisher(NOWHERE)
    publisher.observe(Marks("a", notes))

    class Pending(Answers):
        def requested(self, operation: Operation, request: Request) -> Exchange:
            mark = Mark(request, "answer", [])
            mark.reply = b'{"copies": 1, "pending": ["web1"]}'
            return mark

    publisher.observe(Pending())
    with pytest.raises(gearhorn.NotDelivered):
        publisher.deliver("t")
    assert notes[0].startswith("a: NotDelivered(")


def test_an_observer_that_is_taken_away_sees_no_more() -> None:
    notes: list[str] = []
    publisher = gearhorn.Publisher(NOWHERE)
    marks, answers = Marks("a", notes), Answers()
    publisher.observe(marks)
    publisher.observe(answers)
    publisher.unobserve(marks)
    publisher.unobserve(marks)
    publisher.publish("t")
    assert notes == []
    assert len(answers.seen) == 1


@on_loop
async def test_so_it_is_for_asyncio() -> None:
    notes: list[str] = []
    publisher = aio.Publisher(NOWHERE)
    assert not publisher.is_observed
    publisher.observe(Marks("a", notes))
    publisher.observe(Answers())
    assert publisher.is_observed
    assert (await publisher.publish("t")).copies == 3
    assert len(notes) == 1
