"""A connection to what is no store, or one that refuses: one try, an error that tells why in the
store's words, and nothing left open. What a real store does: tests/contract/test_store_refusals.py.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.proxy import on_loop

from gearhorn.errors import StoreError, StoreReadOnly, StoreUnanswered
from gearhorn.store.url import parse_url
from gearhorn.store.wire import Wire

PATIENCE_S = 20.0
GREETING = b"%1\r\n$5\r\nproto\r\n:3\r\n"  # to HELLO
RUN = b"$13\r\nrun_id:0abc\r\n\r\n"  # to INFO


class Peer:
    """What listens: it sends ``replies``, one for each command that begins, and counts who came."""

    def __init__(self, replies: list[bytes]) -> None:
        self.came = 0
        self.asked = b""
        self.left = asyncio.Event()
        self._replies = replies

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came += 1
        left = list(self._replies)
        while chunk := await reader.read(1 << 16):
            self.asked += chunk
            for _ in range(chunk.count(b"*")):
                if not left:
                    writer.close()
                    break
                writer.write(left.pop(0))
        writer.close()
        self.left.set()


async def open_at(path: Path, replies: list[bytes], user: str = "") -> tuple[Wire, Peer]:
    peer = Peer(replies)
    async with asyncio.timeout(PATIENCE_S):
        server = await asyncio.start_unix_server(peer.serve, path / "s")
        try:
            return await Wire.open(parse_url(f"unix://{user}{path / 's'}")), peer
        except StoreError:
            await peer.left.wait()
            assert peer.came == 1
            raise
        finally:
            server.close()


@pytest.mark.parametrize(
    ("replies", "user", "expected", "words"),
    [
        ([], "", StoreError, "the store ended the connection; a server that has reached its maxcl"),
        ([b"-ERR max number of clients reached\r\n"], "", StoreError, "ERR max number of clients"),
        ([b"-NOAUTH who are you\r\n"], "", StoreError, "NOAUTH who are you"),
        ([b"-WRONGPASS no\r\n"], "me:secret@", StoreError, "WRONGPASS no"),
        ([b"-MASTERDOWN gone\r\n"], "", StoreReadOnly, "MASTERDOWN gone"),
        ([b"+OK\r\n"] * 9, "me:secret@", StoreError, "the store does not speak RESP3"),
        ([b":1\r\n"] * 9, "", StoreError, "the store does not speak RESP3"),
        ([b"HTTP/1.1 400 Bad Request\r\n"], "", StoreError, "Protocol error"),
    ],
)
@on_loop
async def test_what_refuses_is_tried_once_and_its_words_are_told_whole(
    tmp_path: Path, replies: list[bytes], user: str, expected: type[StoreError], words: str
) -> None:
    with pytest.raises(StoreError) as caught:
        await open_at(tmp_path, replies, user)
    assert type(caught.value) is expected
    assert str(caught.value).startswith(words)
    assert "secret" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@on_loop
async def test_an_error_in_an_answer_and_what_comes_on_a_channel_are_returned(
    tmp_path: Path,
) -> None:
    # A server that does not know CLIENT SETINFO is a store all the same. Over a Unix socket
    # redis-py logs in twice.
    unknown = b"-ERR unknown subcommand\r\n"
    login = [GREETING, unknown, unknown]
    wire, peer = await open_at(
        tmp_path,
        [
            *login,
            *login,
            RUN,
            b"-MOVED 1 a:1\r\n",
            b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n",
        ],
    )
    assert wire.run_id == "0abc"
    wire.send([("GET", "a"), ("GET", "b"), ("GET", "c")])
    reply = await wire.read()
    assert type(reply) is StoreReadOnly
    assert str(reply) == "MOVED 1 a:1"
    assert await wire.read() == [b"message", b"c", b"x"]
    with pytest.raises(StoreUnanswered, match="the store ended the connection"):
        await wire.read()
    assert wire.unanswered == 1
    wire.close()
    await asyncio.wait_for(peer.left.wait(), PATIENCE_S)
    assert peer.asked.count(b"GET") == 3
