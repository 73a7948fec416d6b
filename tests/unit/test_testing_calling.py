"""A handler that is called in a test gets what a worker delivers, and its end is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.proxy import on_loop

import gearhorn
from gearhorn import Message, Park, Retry, aio
from gearhorn.testing.calling import Outcome, acall, call

ENDS: dict[str, Outcome] = {
    "answers": Outcome(b"yes"),
    "returns nothing": Outcome(b""),
    "acks": Outcome(b"by hand"),
    "fails": Outcome(reason="no disk"),
    "fails, retry": Outcome(reason="retry_after: 30", retry_after=30.0),
    "retries": Outcome(reason="retry_after: 2.5", retry_after=2.5),
    "asks": Outcome(reason="not yet"),
    "parks": Outcome(reason="park: no such table", parked="no such table"),
    "parks by hand": Outcome(reason="park: not mine", parked="not mine"),
    "breaks": Outcome(reason="ValueError: what?"),
    "exits": Outcome(reason="SystemExit: 3"),
}
RAISES = {"retries": Retry, "asks": Retry, "parks": Park, "breaks": ValueError, "exits": SystemExit}


def act(message: Message) -> Any:
    """Do as the message says."""
    match message.text:
        case "answers":
            return "yes"
        case "acks":
            message.ack("by hand")
            return "too late"
        case "fails":
            message.fail("no disk")
        case "fails, retry":
            message.fail("no disk", retry_after=30)
        case "retries":
            raise Retry("later", after=2.5)
        case "asks":
            raise Retry("not yet")
        case "parks":
            raise Park("no such table")
        case "parks by hand":
            message.park("not mine")
        case "breaks":
            raise ValueError("what?")
        case "exits":
            raise SystemExit(3)
    return None


def subscriber() -> gearhorn.Subscriber:
    made = gearhorn.Subscriber("web1", "nowhere.invalid")
    made.on("t", durable=True)(act)
    made.on("direct")(act)
    return made


def without_error(outcome: Outcome) -> Outcome:
    return Outcome(outcome.answer, outcome.reason, outcome.retry_after, outcome.parked)


@pytest.mark.parametrize("what", ENDS)
def test_the_outcome_says_what_the_handler_did(what: str) -> None:
    outcome = call(subscriber(), "t", what)
    assert without_error(outcome) == ENDS[what]
    assert type(outcome.error) is RAISES.get(what, type(None))
    assert outcome.acknowledged == (outcome.answer is not None)
    assert outcome.failed == (not outcome.acknowledged and outcome.parked is None)


@on_loop
@pytest.mark.parametrize("what", [what for what in ENDS if what != "exits"])
async def test_so_it_does_for_asyncio(what: str) -> None:
    made = aio.Subscriber("web1", "nowhere.invalid")
    threads = []

    @made.on("coroutine", durable=True)
    async def handle(message: Message) -> Any:
        await asyncio.sleep(0)
        threads.append(threading.current_thread())
        return act(message)

    @made.on("function", durable=True)
    def function(message: Message) -> Any:
        threads.append(threading.current_thread())
        return act(message)

    assert without_error(await acall(made, "coroutine", what)) == ENDS[what]
    assert without_error(await acall(made, "function", what)) == ENDS[what]
    assert threads[0] is threading.current_thread() is not threads[1]
    with pytest.raises(RuntimeError, match="an event loop runs here"):
        call(made, "coroutine", what)


def test_a_coroutine_runs_where_it_would() -> None:
    async def where(message: Message) -> str:
        return threading.current_thread().name

    made = subscriber()
    made.on("coroutine")(where)
    assert call(made, "coroutine").text == "gearhorn"
    own = aio.Subscriber("web1", "nowhere.invalid")
    own.on("coroutine")(where)
    assert call(own, "coroutine").text == threading.current_thread().name


def test_what_a_copy_cannot_ask_for_is_a_failure() -> None:
    for what in ("parks", "retries"):
        outcome = call(subscriber(), "direct", what)
        assert outcome.failed
        assert (outcome.retry_after, outcome.parked) == (None, None)


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("envelope", [False, True])
def test_the_message_is_as_from_a_worker(durable: bool, envelope: bool) -> None:
    seen: list[Message] = []
    made = gearhorn.Subscriber("web1", "nowhere.invalid")
    made.on("t", durable=durable, envelope=envelope)(seen.append)
    call(made, "t", b"\xff", headers={"Trace": "1"}, unique="u", at=7.0)
    [message] = seen
    assert (message.topic, message.client_id, message.data) == ("t", "web1", b"\xff")
    assert message.attempt == 1
    assert (message.position is not None) == durable
    if envelope:
        assert (message.headers, message.unique, message.at) == ({"trace": "1"}, "u", 7.0)
    else:
        assert (message.headers, message.unique, message.at) == ({}, None, 0.0)


def test_another_attempt_is_of_a_durable_message() -> None:
    seen: list[Message] = []
    made = gearhorn.Subscriber("web1", "nowhere.invalid")
    made.on("t")(seen.append)
    call(made, "t", attempt=3)
    assert seen[0].attempt == 3
    assert seen[0].position is not None


def test_the_body_is_decoded_into_its_type() -> None:
    made = gearhorn.Subscriber("web1", "nowhere.invalid")
    made.on("t", type=dict[str, int])(lambda body, message: body["n"] + 1)
    assert call(made, "t", {"n": 1}).json() == 2
    assert str(call(made, "t", "no").reason).startswith("DecodeError")


def test_the_handler_is_that_of_the_topic_or_of_a_pattern() -> None:
    made = gearhorn.Subscriber("web1", "nowhere.invalid")
    made.on("by.hand")
    made.on("a.*", pattern=True)(lambda message: f"pattern {message.topic}")
    made.on("a.b")(lambda message: f"literal {message.topic}")
    assert call(made, "a.b").text == "literal a.b"
    assert call(made, "a.c").text == "pattern a.c"
    with pytest.raises(LookupError, match=r"no handler for by.hand; there are handlers for: a\.\*"):
        call(made, "by.hand")
    with pytest.raises(gearhorn.BadName):
        call(made, "a.c d")


def test_observers_see_the_call() -> None:
    seen: list[str] = []

    class Seeing:
        @contextmanager
        def handling(self, message: Message, subscribed: str) -> Iterator[None]:
            seen.append(message.text)
            yield

    made = subscriber()
    made.observe(Seeing())
    call(made, "t", "answers")
    assert seen == ["answers"]
