"""Pieces of a reply are read as they come, and never fill the process."""

from __future__ import annotations

import asyncio

from support.proxy import on_loop

from gearhorn.client.pieces import PIECE_BYTES, Pieces


@on_loop
async def test_what_has_come_is_read_in_order_until_the_end() -> None:
    pieces = Pieces()
    pieces.put(b"1")
    read: list[bytes] = []

    async def reader() -> None:
        async for piece in pieces.read():
            read.append(piece)

    reading = asyncio.ensure_future(reader())
    await asyncio.sleep(0)
    assert read == [b"1"]
    for piece in (b"2", b"3"):
        pieces.put(piece)
        await asyncio.sleep(0)
    assert read == [b"1", b"2", b"3"]
    pieces.put(b"4")
    pieces.end()
    await reading
    assert read == [b"1", b"2", b"3", b"4"]


@on_loop
async def test_what_has_no_room_is_left_out() -> None:
    pieces = Pieces(2 * (10 + PIECE_BYTES))
    for number in range(5):
        pieces.put(b"%010d" % number)
    reading = pieces.read()
    assert await anext(reading) == b"%010d" % 0
    pieces.put(b"%010d" % 5)  # there is room again
    pieces.end()
    assert [piece async for piece in reading] == [b"%010d" % 1, b"%010d" % 5]
