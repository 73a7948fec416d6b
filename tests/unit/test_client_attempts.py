"""One run of a handler: what it gets, who sees it, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.proxy import on_loop

from gearhorn.client.attempts import attempt, attempt_async
from gearhorn.client.message import End, Message, Park, Retry
from gearhorn.client.session import Registration

SEVEN = Message("t", b"7")


class Seen:
    """Notes the runs that it sees, under a name."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self._name = name
        self._notes = notes

    @contextmanager
    def handling(self, message: Message, subscribed: str) -> Iterator[None]:
        self._notes.append(f"{self._name} begins {subscribed} {message.text}")
        try:
            yield
        except BaseException as error:
            self._notes.append(f"{self._name} sees {type(error).__name__}")
            raise
        self._notes.append(f"{self._name} ends")


def registered(handler: Callable[..., Any], **options: Any) -> Registration:
    return Registration("t", "web1", {}, is_plain=True, handler=handler, **options)


def test_a_handler_gets_the_body_in_its_type() -> None:
    seen: list[Any] = []
    registration = registered(lambda body, message: seen.append((body, message)), type=int)
    assert attempt(registration, SEVEN) == End(b"")
    assert seen == [(7, SEVEN)]
    end = attempt(registration, Message("t", b"seven"))
    assert end.reason is not None
    assert end.reason.startswith("DecodeError: ")
    assert len(seen) == 1


@pytest.mark.parametrize("error", [ValueError("x"), Retry("x", 1.0), Park("x")])
def test_what_a_handler_raises_is_logged(error: Exception, caplog: Any) -> None:
    caplog.set_level("INFO", "gearhorn")

    def handler(message: Message) -> None:
        raise error

    assert attempt(registered(handler), SEVEN) == End.failed(error)
    [record] = caplog.records
    assert record.levelname == ("ERROR" if isinstance(error, ValueError) else "INFO")


@on_loop
@pytest.mark.parametrize("raises", [False, True])
async def test_observers_see_the_run_as_one_within_the_other(raises: bool) -> None:
    notes: list[str] = []

    def handler(message: Message) -> str:
        notes.append("runs")
        if raises:
            raise Park("no")
        return "yes"

    async def coroutine(message: Message) -> str:
        await asyncio.sleep(0)
        return handler(message)

    observers = [Seen("first", notes), Seen("second", notes)]
    expected = ["first begins t 7", "second begins t 7", "runs"]
    expected += ["second sees Park", "first sees Park"] if raises else ["second ends", "first ends"]
    end = End(reason="park: no") if raises else End(b"yes")
    assert attempt(registered(handler, observers=observers), SEVEN) == end
    assert notes == expected
    notes.clear()
    assert await attempt_async(registered(coroutine, observers=observers), SEVEN) == end
    assert notes == expected


def test_an_answer_that_cannot_be_sent_is_a_failure_that_observers_see() -> None:
    notes: list[str] = []
    end = attempt(registered(lambda _: object(), observers=[Seen("it", notes)]), SEVEN)
    assert end.reason is not None
    assert notes == ["it begins t 7", "it sees TypeError"]


class Outcome(BaseException):
    """As test frameworks raise."""


@pytest.mark.parametrize("error", [SystemExit(3), Outcome(), KeyboardInterrupt()])
def test_a_coroutine_cannot_end_the_loop_that_it_runs_on(error: BaseException) -> None:
    async def handler(message: Message) -> None:
        raise error

    ends: list[End] = []

    def run() -> None:  # not on the main thread, as with the blocking subscriber
        ends.append(asyncio.run(attempt_async(registered(handler), SEVEN)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert ends == [End.failed(error)]


def test_the_end_of_an_attempt_from_outside_is_no_failure() -> None:
    async def interrupted(message: Message) -> None:
        signal.raise_signal(signal.SIGINT)

    async def waiting(message: Message) -> None:
        await asyncio.sleep(0)

    running = attempt_async(registered(interrupted), SEVEN)
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            running.send(None)
    finally:
        signal.signal(signal.SIGINT, former)
    waits = attempt_async(registered(waiting), SEVEN)
    waits.send(None)
    with pytest.raises(GeneratorExit):
        waits.throw(GeneratorExit)


def fork_and_exit() -> str:
    """Return how a child ends that leaves the program."""
    child = os.fork()
    if not child:
        sys.exit(7)
    return str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


@on_loop
async def test_a_child_that_a_coroutine_forks_ends_by_its_exit() -> None:
    here = os.getpid()

    async def handler(message: Message) -> str:
        return fork_and_exit()

    try:
        end = await attempt_async(registered(handler), SEVEN)
    except SystemExit:
        os._exit(7)
    if os.getpid() != here:
        os._exit(1)  # the child took its exit for a failed attempt
    assert end == End(b"7")
