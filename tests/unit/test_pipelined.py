"""The pipelined connection, without a store. Real silence: tests/contract/test_store_links.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from support.scripted_store import Raised, ScriptedWire

from gearhorn.errors import StoreError, StoreReadOnly, StoreUnanswered
from gearhorn.store import pipelined as module
from gearhorn.store.pipelined import PipelinedConnection

PATIENCE_S = 20.0
LOST = Raised(StoreUnanswered("the store ended the connection"))
GET_A, GET_B = ("GET", "a"), ("GET", "b")


class Bed:
    """A pipelined connection, and what is opened for it in turn."""

    def __init__(self, *wires: ScriptedWire | StoreError, is_strict: bool = False) -> None:
        self.judged: list[Any] = []
        self.opened = 0
        self._wires = wires
        self.pipelined = PipelinedConnection(self, is_strict)  # type: ignore[arg-type]

    async def open_apart(self) -> ScriptedWire:
        self.opened += 1
        wire = self._wires[self.opened - 1]
        if isinstance(wire, StoreError):
            raise wire
        return wire

    def judge(self, replies: list[Any]) -> None:
        self.judged += replies

    def ask(self, *commands: tuple[str, ...], timeout_s: float = 5) -> asyncio.Task[list[Any]]:
        """Ask in a task of its own."""
        return asyncio.create_task(self.pipelined.ask(commands, timeout_s))


def on_bed(
    *wires: ScriptedWire | StoreError, is_strict: bool = False
) -> Callable[[Callable[[Bed], Coroutine[Any, Any, None]]], Callable[[], None]]:
    """Run a test with these connections to open."""

    def decorate(test: Callable[[Bed], Coroutine[Any, Any, None]]) -> Callable[[], None]:
        def run() -> None:
            async def main() -> None:
                bed = Bed(*wires, is_strict=is_strict)
                async with asyncio.timeout(PATIENCE_S):
                    await test(bed)
                await bed.pipelined.close()
                await turns()
                for wire in wires[: bed.opened]:
                    assert isinstance(wire, StoreError) or not wire.is_open, "one is left open"
                assert len(asyncio.all_tasks()) == 1, "tasks are left"

            asyncio.run(main())

        run.__name__ = test.__name__
        return run

    return decorate


async def turns() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


@on_bed(ScriptedWire())
async def test_more_is_sent_before_the_former_answer_and_answers_go_to_their_askers(
    bed: Bed,
) -> None:
    wire: Any = bed._wires[0]
    first, second = bed.ask(GET_A, GET_B), bed.ask(GET_B)
    await turns()
    assert wire.sent == [GET_A, GET_B, GET_B]
    wire.come(b"1", b"2")
    assert await first == [b"1", b"2"]
    assert not second.done()
    wire.come(b"3")
    assert await second == [b"3"]
    assert bed.judged == [b"1", b"2", b"3"]


@on_bed(ScriptedWire())
async def test_commands_are_made_for_the_server_that_they_go_to(bed: Bed) -> None:
    wire: Any = bed._wires[0]
    wire.run_id = "of this run"
    wire.come(b"1")
    asked = bed.pipelined.ask_server(lambda run_id: [("GET", run_id)], 5)
    await asked
    assert wire.sent == [("GET", "of this run")]


@on_bed(ScriptedWire())
async def test_a_refusal_is_an_answer_and_costs_nobody_else_anything(bed: Bed) -> None:
    refusal = StoreReadOnly("READONLY")
    wire: Any = bed._wires[0]
    wire.come(refusal, b"2")
    assert await bed.ask(GET_A) == [refusal]
    assert await bed.ask(GET_B) == [b"2"]
    assert bed.judged == [refusal, b"2"], "the connection may have to find the primary"


@pytest.mark.parametrize("is_strict", [False, True])
def test_what_is_unanswered_fails_together_and_a_strict_one_waits_to_be_mended(
    is_strict: bool,
) -> None:
    @on_bed(ScriptedWire(), ScriptedWire(b"2"), is_strict=is_strict)
    async def test(bed: Bed) -> None:
        wire: Any = bed._wires[0]
        asked = [bed.ask(GET_A), bed.ask(GET_B)]
        await turns()
        wire.come(LOST)
        for failed in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(failed, StoreUnanswered)
        if is_strict:
            with pytest.raises(StoreError, match="asked before has failed") as raised:
                await bed.ask(GET_B)
            assert not isinstance(raised.value, StoreUnanswered), "it was never sent"
            bed.pipelined.mend()
        assert await bed.ask(GET_B) == [b"2"]

    test()


@on_bed(ScriptedWire(), ScriptedWire(b"2"))
async def test_an_answer_that_is_late_ends_the_connection(bed: Bed) -> None:
    """The next one has no answers to skip that are still to come."""
    with pytest.raises(StoreUnanswered, match=r"no answer in 0\.01 s"):
        await bed.ask(GET_A, timeout_s=0.01)
    assert await bed.ask(GET_B) == [b"2"]


@on_bed(ScriptedWire())
async def test_an_asker_that_is_cancelled_takes_no_others_answer(bed: Bed) -> None:
    wire: Any = bed._wires[0]
    cancelled, other = bed.ask(GET_A), bed.ask(GET_B)
    await turns()
    cancelled.cancel()
    wire.come(b"1", b"2")
    assert await other == [b"2"]
    assert cancelled.cancelled()


@on_bed(
    StoreError("no connection in 1.5 s"),
    ScriptedWire(loaded=StoreReadOnly("READONLY")),
    ScriptedWire(loaded=LOST),
    is_strict=True,
)
async def test_where_no_connection_can_be_made_nothing_was_sent(bed: Bed) -> None:
    for _ in range(3):
        with pytest.raises(StoreError) as raised:
            await bed.ask(GET_A)
        assert not isinstance(raised.value, StoreUnanswered), "it is known: nothing was sent"
    assert [type(reply) for reply in bed.judged] == [StoreReadOnly]
    for wire in bed._wires[1:]:
        assert wire.sent == []  # type: ignore[union-attr]


@on_bed()
async def test_while_no_connection_is_made_the_time_of_the_asker_runs(bed: Bed) -> None:
    async def never() -> ScriptedWire:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    bed.open_apart = never  # type: ignore[method-assign]
    with pytest.raises(StoreError, match=r"no connection in 0\.01 s") as raised:
        await bed.ask(GET_A, timeout_s=0.01)
    assert not isinstance(raised.value, StoreUnanswered)


@on_bed(ScriptedWire(StoreError("NOSCRIPT No matching script")), ScriptedWire(b"2"))
async def test_where_scripts_are_unknown_a_new_connection_has_them_loaded(bed: Bed) -> None:
    """The commands behind it may have been carried out, so their fate is not known."""
    with pytest.raises(StoreUnanswered, match="NOSCRIPT"):
        await bed.ask(GET_A)
    assert await bed.ask(GET_B) == [b"2"]


@on_bed(ScriptedWire(b"1"), ScriptedWire(b"2"), is_strict=True)
async def test_a_connection_that_ended_while_nothing_was_asked_is_replaced(bed: Bed) -> None:
    wire: Any = bed._wires[0]
    assert await bed.ask(GET_A) == [b"1"]
    wire.is_fit = False
    assert await bed.ask(GET_B) == [b"2"], "nothing was lost, so a strict one goes on"


def test_an_idle_connection_is_asked_for_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP_S", 0.01)
    monkeypatch.setattr(module, "PING_S", 0.05)

    @on_bed(ScriptedWire(b"1", b"PONG"), ScriptedWire(b"2"), is_strict=True)
    async def test(bed: Bed) -> None:
        wire: Any = bed._wires[0]
        assert await bed.ask(GET_A) == [b"1"]
        while wire.is_open:  # the second sign of life does not come
            await asyncio.sleep(0.01)
        assert wire.sent == [GET_A, ("PING",), ("PING",)]
        assert await bed.ask(GET_B) == [b"2"], "a sign of life is nothing that was lost"

    test()


@on_bed(ScriptedWire())
async def test_at_the_end_what_is_unanswered_fails(bed: Bed) -> None:
    asked = bed.ask(GET_A)
    await turns()
    await bed.pipelined.close()
    with pytest.raises(StoreUnanswered, match="closed"):
        await asked
