"""Batches of commands, without a store: what is asked again, and what an error says is known.

What real servers do: tests/contract/test_store_refusals.py, tests/contract/test_store_links.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import structlog
from support.scripted_store import Raised, ScriptedWire

from gearhorn.errors import StartError, StoreError, StoreReadOnly, StoreUnanswered
from gearhorn.store import connection as module
from gearhorn.store.connection import ASKED_AGAIN, Connection
from gearhorn.store.keys import SCHEMA
from gearhorn.store.scripts import SCRIPTS
from gearhorn.store.wire import Wire

PATIENCE_S = 20.0
GET_A, GET_B, GET_C = ("GET", "a"), ("GET", "b"), ("GET", "c")
UNKNOWN = StoreError("NOSCRIPT No matching script")
READONLY = StoreReadOnly("READONLY You can't write against a read only replica.")
MASTER, REPLICA = [b"master", 0, []], [b"slave", b"other", 6379]
ROLE = ("ROLE",)


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a test of a connection to which these wires are opened in turn."""

    def run(
        test: Callable[[Connection], Coroutine[Any, Any, None]], *wires: ScriptedWire | StoreError
    ) -> None:
        left = list(wires)

        async def open_next(_: Any) -> Any:
            if not left:
                await asyncio.Event().wait()
            wire = left.pop(0)
            if isinstance(wire, StoreError):
                raise wire
            return wire

        async def main() -> None:
            connection = Connection("redis://a", "test")
            async with asyncio.timeout(PATIENCE_S):
                await test(connection)
            await connection.close()
            for wire in wires:
                assert isinstance(wire, StoreError) or wire in left or not wire.is_open

        monkeypatch.setattr(Wire, "open", open_next)
        asyncio.run(main())

    return run


def test_a_url_that_is_none_keeps_a_worker_from_starting() -> None:
    with pytest.raises(StartError, match="--redis: expected"):
        Connection("http://a", "test")


def test_replies_come_in_order_and_a_refusal_is_raised_or_stands_in_its_place(
    on: Callable[..., None],
) -> None:
    refusal = StoreError("ERR no")

    async def test(connection: Connection) -> None:
        assert await connection.each([GET_A, GET_B, GET_C]) == [b"1", refusal, b"3"]
        with pytest.raises(StoreError, match="ERR no"):
            await connection.pipeline([GET_A, GET_B])
        assert await connection.pipeline([GET_C]) == [b"6"], "the connection goes on"

    on(test, ScriptedWire(b"1", refusal, b"3", b"4", refusal, b"6"))


def test_from_the_first_script_that_is_not_known_on_all_is_asked_again(
    on: Callable[..., None],
) -> None:
    wire = ScriptedWire(b"1", UNKNOWN, b"3", b"2", b"3 again")

    async def test(connection: Connection) -> None:
        assert await connection.pipeline([GET_A, GET_B, GET_C]) == [b"1", b"2", b"3 again"]
        assert wire.sent == [GET_A, GET_B, GET_C, GET_B, GET_C]
        assert wire.unanswered == 0

    on(test, wire)


def test_a_server_that_goes_on_forgetting_scripts_is_not_asked_without_an_end(
    on: Callable[..., None],
) -> None:
    wire = ScriptedWire(*[UNKNOWN] * 10)

    async def test(connection: Connection) -> None:
        with pytest.raises(StoreError, match="NOSCRIPT"):
            await connection.pipeline([GET_A])
        assert len(wire.sent) == 1 + ASKED_AGAIN

    on(test, wire)


def test_where_scripts_cannot_be_loaded_the_store_says_why(on: Callable[..., None]) -> None:
    refusal = StoreError("NOPERM this user may not load scripts")
    wire = ScriptedWire(b"1", UNKNOWN, UNKNOWN, loaded=refusal)

    async def test(connection: Connection) -> None:
        assert await connection.each([GET_A, GET_B]) == [b"1", refusal]
        assert wire.unanswered == 0, f"{len(SCRIPTS)} loads were answered"

    on(test, wire)


def test_without_a_connection_it_is_known_that_nothing_was_carried_out(
    on: Callable[..., None],
) -> None:
    async def test(connection: Connection) -> None:
        for text in ("refused", "no connection in 0.01 s"):
            with pytest.raises(StoreError, match=text) as raised:
                await connection.each([GET_A], 0.01)
            assert not isinstance(raised.value, StoreUnanswered)

    on(test, StoreError("connection refused"))


def test_a_lost_or_late_answer_leaves_open_what_was_carried_out_and_is_not_asked_for_again(
    on: Callable[..., None],
) -> None:
    lost = ScriptedWire(b"1", Raised(StoreUnanswered("the store ended the connection")))
    late = ScriptedWire()

    async def test(connection: Connection) -> None:
        with pytest.raises(StoreUnanswered, match="ended"):
            await connection.each([GET_A, GET_B])
        with pytest.raises(StoreUnanswered, match=r"no answer in 0\.01 s"):
            await connection.each([GET_A], 0.01)
        assert await connection.each([GET_C]) == [b"3"]
        assert (lost.sent, late.sent) == ([GET_A, GET_B], [GET_A])

    on(test, lost, late, ScriptedWire(b"3"))


def test_a_server_that_is_no_primary_is_left_and_that_is_logged_now_and_then(
    on: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    former, apart = ScriptedWire(READONLY), ScriptedWire()
    times = iter([100.0, 100.0 + module.COMPLAIN_S, 101.0 + module.COMPLAIN_S])
    monkeypatch.setattr(module, "now_s", lambda: next(times))

    async def test(connection: Connection) -> None:
        await connection.open_apart()
        with structlog.testing.capture_logs() as logged:
            for _ in range(3):
                assert await connection.each([GET_A]) == [READONLY]
        assert [line["event"] for line in logged] == ["store is no primary; connecting anew"] * 2
        assert not former.is_open
        assert not apart.is_open, "those that others keep end as well"

    on(test, apart, former, ScriptedWire(READONLY), ScriptedWire(READONLY))


def test_reads_are_a_primarys_or_raise(on: Callable[..., None]) -> None:
    primary = ScriptedWire(b"1", MASTER, b"2", StoreError("NOPERM no ROLE"), b"3", REPLICA)

    async def test(connection: Connection) -> None:
        assert await connection.read([GET_A]) == [b"1"]
        with pytest.raises(StoreError, match="NOPERM"):
            await connection.read([GET_A])
        with pytest.raises(StoreReadOnly, match="the server's role is slave"):
            await connection.read([GET_A])
        assert primary.sent == [GET_A, ROLE] * 3, "the role is asked for behind the reads"
        assert not primary.is_open

    on(test, primary)


def test_a_read_that_is_refused_costs_the_others_nothing(on: Callable[..., None]) -> None:
    refusal = StoreError("WRONGTYPE")

    async def test(connection: Connection) -> None:
        assert await connection.read_each([GET_A, GET_B]) == [refusal, b"2"]
        with pytest.raises(StoreError, match="WRONGTYPE"):
            await connection.read([GET_A, GET_B])

    on(test, ScriptedWire(refusal, b"2", MASTER, refusal, b"2", MASTER))


def test_whether_the_store_is_there_is_asked_besides_all_reads(on: Callable[..., None]) -> None:
    busy, reserved = ScriptedWire(), ScriptedWire(b"PONG", MASTER, b"PONG", REPLICA)

    async def test(connection: Connection) -> None:
        reading = asyncio.create_task(connection.read([GET_A]))
        await asyncio.sleep(0.01)
        assert await connection.is_there()
        assert not await connection.is_there(), "a replica does not count"
        busy.come(b"1", MASTER)
        assert await reading == [b"1"], "what is under way is finished"

    on(test, busy, reserved)


def test_a_connection_to_another_run_ends_the_use_of_the_former_ones(
    on: Callable[..., None],
) -> None:
    idle = ScriptedWire(b"1", run_id="former")
    used = ScriptedWire(run_id="former")
    apart = ScriptedWire(run_id="former")

    async def test(connection: Connection) -> None:
        assert await connection.each([GET_A]) == [b"1"]
        await connection.open_apart()
        assert connection.run_id == "former"
        lease = asyncio.create_task(connection.each([GET_B], reserved=True))
        await asyncio.sleep(0.01)
        assert await connection.open_apart() is not None
        assert connection.run_id == "new"
        assert not idle.is_open
        assert not apart.is_open
        used.come(b"2")
        assert await lease == [b"2"], "a batch under way is finished"
        assert not used.is_open

    on(test, idle, apart, used, ScriptedWire(run_id="new"))


MEMORY = b"# Memory\r\nmaxmemory:%d\r\nmaxmemory_policy:%s\r\n"
KEEPS = MEMORY % (0, b"allkeys-lru")


def test_an_empty_store_gets_the_layout_and_one_with_ours_is_taken(
    on: Callable[..., None],
) -> None:
    info = (KEEPS, b"", b"")  # three sections
    wire = ScriptedWire(None, b"OK", SCHEMA, *info, SCHEMA, *info)

    async def test(connection: Connection) -> None:
        await connection.check()
        await connection.check()
        writes = [command for command in wire.sent if command[0] == "SET"]
        assert writes == [("SET", connection.key("schema"), SCHEMA, "NX")]

    on(test, wire)


def test_of_two_releases_that_begin_at_once_one_is_refused(on: Callable[..., None]) -> None:
    async def test(connection: Connection) -> None:
        with pytest.raises(StartError, match="layout '99'"):
            await connection.check()

    on(test, ScriptedWire(None, None, b"99"))


@pytest.mark.parametrize(
    ("memory", "is_taken"),
    [
        (KEEPS, True),
        (MEMORY % (1000, b"noeviction"), True),
        (MEMORY % (1000, b"volatile-ttl"), True),
        (MEMORY % (1000, b"allkeys-lru"), False),
        (MEMORY % (1000, b"a policy of tomorrow"), False),
        (b"# a server that tells neither\r\n", True),
    ],
)
def test_a_store_that_takes_keys_is_refused(
    on: Callable[..., None], memory: bytes, is_taken: bool
) -> None:
    async def test(connection: Connection) -> None:
        if is_taken:
            await connection.check()
        else:
            with pytest.raises(StartError, match="maxmemory-policy"):
                await connection.check()

    on(test, ScriptedWire(SCHEMA, memory, b"", b""))
