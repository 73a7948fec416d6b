"""Parked messages as a worker asks for them, without a store. What scripts do with them:
tests/contract/test_store_parked.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from support.proxy import on_loop
from support.scripted_store import ScriptedConnection

from gearhorn.errors import BadRequest, StoreError, StoreNoWrites, StoreRefused, StoreUnanswered
from gearhorn.messages.logs import FailureHistory, Info, Parked, encode_parked
from gearhorn.store import parked as module
from gearhorn.store.parked import ParkedMessages, pairs_of
from gearhorn.store.wire import Command
from gearhorn.timing import Backoff

LOST = StoreUnanswered("no answer in 1.5 s")


def message(payload: bytes) -> bytes:
    """A parked message, as the store keeps it."""
    return encode_parked(Parked("e", FailureHistory(1, 1.0, 2.0, "no"), Info(1.0), payload))


class Store:
    """Parked messages of one subscription, all with one size, and what was asked of them."""

    def __init__(self, count: int = 0, size: int = 10) -> None:
        self.left = list(range(1, count + 1))
        self.size = size
        self.taken: dict[int, list[int]] = {}  # by request, how many and the last: asked once
        self.faults: list[StoreError] = []  # of the next scripts, after they were carried out
        self.refused: dict[str, StoreError] = {}  # by command
        self.asked: list[Command] = []
        connection: Any = ScriptedConnection(self._answer)
        self.connection = connection
        self.messages = ParkedMessages(connection)

    def _answer(self, command: Command) -> Any:
        self.asked.append(command)
        if command[0] in self.refused:
            return self.refused[command[0]]
        if command[0] == "ZRANGE":
            _, _, first, last = command
            return [b"%d" % n for n in self.left[first : None if last == -1 else last + 1]]
        if command[0] == "HSTRLEN":
            return self.size
        if command[0] == "HMGET":
            return [message(b"%d" % n) if n in self.left else None for n in command[2:]]
        assert command[0] == "redrive"
        *_, last, limit, _, _, number, after = command
        if number not in self.taken:
            possible = [n for n in self.left if n > after and (last == "+inf" or n <= last)]
            chosen = possible[:limit]
            self.left = [n for n in self.left if n not in chosen]
            self.taken[number] = [len(chosen), max([after, *chosen])]
        return self.faults.pop(0) if self.faults else self.taken[number]

    @property
    def scripts(self) -> int:
        return sum(command[0] == "redrive" for command in self.asked)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces that a test can count, and tries for which it need not wait."""
    monkeypatch.setattr(module, "MOVED", 3)
    monkeypatch.setattr(Backoff, "next_s", lambda self: 0.0)


@pytest.mark.parametrize(
    ("limit", "taken", "scripts"),
    [(None, 7, 3), (7, 7, 3), (4, 4, 2), (3, 3, 1), (99, 7, 3)],
)
def test_messages_are_taken_in_pieces_and_no_more_than_were_asked_for(
    limit: int | None, taken: int, scripts: int
) -> None:
    store = Store(7)
    assert asyncio.run(store.messages.take_parked("t", "c", "purge", limit)) == taken
    assert store.left == list(range(taken + 1, 8))
    assert store.scripts == scripts


@on_loop
async def test_messages_that_are_parked_meanwhile_are_not_taken() -> None:
    """Otherwise a redrive for a receiver that always fails would not end."""
    store = Store(4)
    original = store.connection.pipeline

    async def pipeline(commands: list[Command], *more: Any) -> Any:
        replies = await original(commands, *more)
        store.left.append(max([*store.left, 4]) + 1)
        return replies

    store.connection.pipeline = pipeline
    assert await store.messages.take_parked("t", "c", "redrive", None) == 4
    assert min(store.left) == 5


@on_loop
async def test_a_piece_whose_answer_is_lost_is_taken_once() -> None:
    store = Store(7)
    store.faults = [LOST, LOST]
    assert await store.messages.take_parked("t", "c", "redrive", 5) == 5
    assert store.left == [6, 7]
    numbers = [command[-2] for command in store.asked if command[0] == "redrive"]
    assert numbers == [1, 1, 1, 2], "the same request is asked again under its number"


@on_loop
async def test_an_answer_that_stays_away_ends_the_request() -> None:
    store = Store(7)
    store.faults = [LOST] * module.TRIES
    with pytest.raises(StoreUnanswered):
        await store.messages.take_parked("t", "c", "redrive", None)
    assert store.scripts == module.TRIES


@pytest.mark.parametrize("error", [StoreRefused("WRONGTYPE"), StoreNoWrites("OOM")])
def test_a_refusal_is_not_asked_for_again(error: StoreError) -> None:
    store = Store(7)
    store.faults = [error]
    with pytest.raises(type(error)):
        asyncio.run(store.messages.take_parked("t", "c", "redrive", None))
    assert store.scripts == 1


@pytest.mark.parametrize(("reply", "check"), [(None, None), ([-1], BadRequest)])
def test_where_nothing_can_be_taken_it_is_said_why(reply: Any, check: Any) -> None:
    store = Store(1)
    store.refused["redrive"] = reply
    if check is None:
        assert asyncio.run(store.messages.take_parked("t", "c", "redrive", None)) is None
    else:
        with pytest.raises(check, match="a subscription with pull is not delivered to"):
            asyncio.run(store.messages.take_parked("t", "c", "redrive", None))


def payloads(found: Any) -> Any:
    return [
        lane if isinstance(lane, StoreError) else [entry and entry.payload for entry in lane]
        for lane in found
    ]


@pytest.mark.parametrize(
    ("limit", "found"),
    [
        (1000, [[b"1", b"2", None], [b"3"]]),
        (30, [[b"1", b"2", None], []]),
        (20, [[b"1", b"2"], []]),
        (1, [[b"1"], []]),
    ],
)
def test_messages_that_were_put_back_are_read_as_far_as_bytes_go(
    limit: int, found: list[list[bytes | None]]
) -> None:
    """The first one comes whatever its size, so that a lane goes on."""
    store = Store(5)
    wanted = [("t", "a", [1, 2, 99]), ("t", "b", [3])]
    assert payloads(asyncio.run(store.messages.put_back(wanted, limit))) == found


@pytest.mark.parametrize("command", ["HMGET", "HSTRLEN"])
def test_a_lane_that_the_store_refuses_costs_no_other_one(command: str) -> None:
    store = Store(5)
    refusal = StoreRefused("WRONGTYPE")
    original: Callable[[Command], Any] = store._answer

    def answer(asked: Command) -> Any:
        is_refused = asked[1].endswith("\0a") and asked[0] in (command, "HMGET")
        return refusal if is_refused else original(asked)

    store.connection._answer = answer
    wanted = [("t", "a", [1]), ("t", "b", [2])]
    assert payloads(asyncio.run(store.messages.put_back(wanted, 1000))) == [refusal, [b"2"]]


@on_loop
async def test_nothing_is_asked_of_the_store_for_nothing() -> None:
    store = Store()
    assert await store.messages.parked("t", "c", []) == []
    assert await store.messages.put_back([], 1000) == []
    assert store.asked == []


@pytest.mark.parametrize("found", [[], [b"a", b"1", b"b", b"2.5"], [[b"a", 1.0], [b"b", 2.5]]])
def test_scores_come_flat_or_in_pairs(found: list[Any]) -> None:
    assert list(pairs_of(found)) == ([(b"a", 1.0), (b"b", 2.5)] if found else [])
