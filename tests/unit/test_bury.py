"""Burying a queue at a server that answers what no job server does."""

from __future__ import annotations

import asyncio

import pytest

from gearhorn.gearman import bury as module
from gearhorn.gearman.bury import bury
from gearhorn.gearman.drain import Drained
from gearhorn.gearman.server import Server


@pytest.mark.parametrize("answer", [b"", b"x" * 200_000])
def test_what_is_no_answer_is_a_failure_like_any_other(
    monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    async def drained(*_: object) -> Drained:
        return Drained(0, ())

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(ConnectionError, match=r"closed|not an answer"):
                await bury(Server("127.0.0.1", port), None, b"q")

    monkeypatch.setattr(module, "drain", drained)
    asyncio.run(main())
