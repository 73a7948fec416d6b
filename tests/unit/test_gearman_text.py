"""Text commands on a kept connection, trims, and tables, against lines that a test writes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gearhorn.gearman import packets
from gearhorn.gearman.admin import Admin
from gearhorn.gearman.kept import Kept
from gearhorn.gearman.packets import Splitter
from gearhorn.gearman.results import DISCARDED
from gearhorn.gearman.server import Server
from gearhorn.gearman.trimming import Trimmer

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def against(serve: Serve, test: Callable[[Server, list[int]], Awaitable[None]]) -> None:
    """Run a test against a server on a port of its own; it is told of each connection."""

    async def main() -> None:
        connections: list[int] = []

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.append(len(connections))
            try:
                await serve(reader, writer)
            except ConnectionError:
                pass
            finally:
                writer.close()

        async with await asyncio.start_server(accept, "127.0.0.1") as listening:
            port = listening.sockets[0].getsockname()[1]
            await asyncio.wait_for(test(Server("127.0.0.1", port), connections), 20)

    asyncio.run(main())


async def each_line_ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every line."""
    while await reader.readline():
        writer.write(b"OK\r\n")


def table(*lines: bytes) -> Serve:
    """Answer every command with a table."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            writer.write(b"".join(line + b"\n" for line in lines) + b".\n")

    return serve


def test_commands_share_one_connection() -> None:
    async def test(server: Server, connections: list[int]) -> None:
        admin = Admin(server, None)
        await admin.limit([(b"q", 5)] * 120, lambda: True)
        await admin.cancel([b"H:1"], lambda: True)
        assert connections == [0]
        admin.close()

    against(each_line_ok, test)


def test_nothing_is_sent_for_handles_of_a_former_session() -> None:
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            got.append(line)
            writer.write(b"OK\r\n")

    async def test(server: Server, _: list[int]) -> None:
        admin = Admin(server, None)
        await admin.cancel([b"H:1"], lambda: False)
        await admin.cancel([b"H:2"], lambda: True)
        assert got == [b"cancel job H:2\r\n"]
        admin.close()

    against(serve, test)


def test_a_connection_that_fails_is_replaced_once_and_goes_on_with_what_is_left() -> None:
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answered = 0
        while line := await reader.readline():
            if len(got) == 3 and answered:  # the first connection ends here
                return
            got.append(line)
            answered += 1
            writer.write(b"OK\r\n")

    async def test(server: Server, connections: list[int]) -> None:
        admin = Admin(server, None)
        await admin.cancel([b"H:1"], lambda: True)  # now the connection is a used one
        await admin.cancel([b"H:%d" % number for number in range(2, 6)], lambda: True)
        assert connections == [0, 1]
        assert got == [b"cancel job H:%d\r\n" % number for number in range(1, 6)]
        admin.close()

    against(serve, test)


def test_a_table_is_parsed_from_the_right_and_strange_lines_are_left_out() -> None:
    lines = b"plain\t3\t1\t2", b"with\ttab\t1\t0\t0", b"half", b"no\tnumber\tx\t1", b"\t7\t0\t0"

    async def test(server: Server, _: list[int]) -> None:
        admin = Admin(server, None)
        assert await admin.backlog() == {b"plain": 3, b"with\ttab": 1, b"": 7}
        assert await admin.running() == {b"plain": 1}
        assert await admin.waiting([b"plain", b"unknown"]) == {b"plain": 2, b"unknown": 0}

    against(table(*lines), test)


def test_jobs_that_came_back_from_a_receiver_are_told_by_their_retries() -> None:
    async def test(server: Server, _: list[int]) -> None:
        assert await Admin(server, None).returned() == {b"H:2", b"H:3"}

    against(table(b"H:1\t0\t0\t1", b"H:2\t1\t0\t1", b"H:3\t12\t0\t1", b"strange"), test)


@pytest.mark.parametrize(
    ("answer", "found"), [(b"ERR UNKNOWN_COMMAND\r\n", set()), (b".\n", set())]
)
def test_a_server_that_has_no_such_table_tells_nothing(answer: bytes, found: set[bytes]) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)

    async def test(server: Server, _: list[int]) -> None:
        assert await Admin(server, None).returned() == found

    against(serve, test)


def test_half_a_table_is_an_error_that_says_so() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"plain\t3\t1\t2\npla")

    async def test(server: Server, _: list[int]) -> None:
        with pytest.raises(ConnectionError, match="no whole answer to b'status"):
            await Admin(server, None).backlog()

    against(serve, test)


def test_those_who_wait_are_told_when_the_server_goes_down() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def test(server: Server, _: list[int]) -> None:
        admin = Admin(server, None)
        asking = [
            asyncio.ensure_future(admin.cancel([b"H:1"], lambda: True)),
            asyncio.ensure_future(admin.cancel([b"H:2"], lambda: True)),
            asyncio.ensure_future(admin.backlog()),
        ]
        await asyncio.sleep(0.1)
        admin.server_down()
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        assert [isinstance(outcome, OSError) for outcome in outcomes] == [True] * 3

    against(silent, test)


def test_a_kept_connection_that_was_closed_is_not_used() -> None:
    async def one_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"OK\r\n")  # and closes

    async def test(server: Server, connections: list[int]) -> None:
        kept = Kept(server, None)

        async def ask(streams: Any) -> None:
            streams[1].write(b"hello\r\n")
            assert await streams[0].readline() == b"OK\r\n"

        await kept.use(ask)
        await asyncio.sleep(0.05)  # the end arrives
        await kept.use(ask)
        assert connections == [0, 1]
        kept.close()

    against(one_line, test)


def test_a_line_without_an_end_is_an_error_of_the_connection() -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"x" * (1 << 20))
        await writer.drain()

    async def test(server: Server, _: list[int]) -> None:
        with pytest.raises(ConnectionError, match="not an answer"):
            await Admin(server, None).cancel([b"H:1"], lambda: True)

    against(endless, test)


def test_a_trim_discards_the_oldest_and_says_that_no_receiver_failed() -> None:
    got: list[tuple[int, bytes]] = []
    jobs = [b"H:1", b"H:2"]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = b""
        while chunk := await reader.read(1 << 16):
            data += chunk.replace(b"\0REQ", b"\0RES")  # so that it can be split
            for kind, body in Splitter(1 << 20).feed(data):
                got.append((abs(kind), body))
                if kind == packets.GRAB_JOB_UNIQ and jobs:
                    assigned = jobs.pop(0) + b"\0q\0\0payload"
                    writer.write(_answer(packets.JOB_ASSIGN_UNIQ, assigned))
                elif kind == packets.GRAB_JOB_UNIQ:
                    writer.write(_answer(packets.NO_JOB, b""))
                elif kind == packets.ECHO_REQ:
                    writer.write(_answer(packets.ECHO_RES, b""))
            data = b""

    async def test(server: Server, _: list[int]) -> None:
        trimmer = Trimmer(server, None)
        assert await trimmer.trim(b"q", lambda: 3) == 2
        trimmer.close()
        assert (packets.WORK_WARNING, b"H:1\0" + DISCARDED) in got
        failed = [body for kind, body in got if kind == packets.WORK_FAIL]
        assert failed == [b"H:1", b"H:2"]
        assert got[-1][0] == packets.ECHO_REQ, "with its answer the jobs are gone"

    against(serve, test)


def test_a_trim_that_fails_midway_tells_what_it_has_discarded() -> None:
    """Each of those is a drop, which would be counted nowhere else."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(2):
            assigned = b"H:%d\0q\0\0payload" % number
            writer.write(_answer(packets.JOB_ASSIGN_UNIQ, assigned))
        await reader.readuntil(b"H:1\0" + DISCARDED)

    async def test(server: Server, connections: list[int]) -> None:
        trimmer = Trimmer(server, None)
        assert await trimmer.trim(b"q", lambda: 5) == 2
        assert await trimmer.trim(b"q", lambda: 5) == 2
        assert connections == [0, 1], "one that failed is not used again"
        trimmer.close()

    against(serve, test)


def test_a_trim_of_a_server_that_breaks_the_protocol_is_an_error() -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def test(server: Server, _: list[int]) -> None:
        with pytest.raises(ConnectionError, match=r"breaks the protocol|closed by the server"):
            await Trimmer(server, None).trim(b"q", lambda: 3)

    against(nonsense, test)


def _answer(kind: int, body: bytes) -> bytes:
    return b"\0RES" + kind.to_bytes(4) + len(body).to_bytes(4) + body
