"""Log lines wait in a bounded queue, and what writes them may take as long as it likes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import Iterator

import pytest
import structlog

from gearhorn.cli import logs
from gearhorn.cli.logs import QUEUED_BYTES, QUEUED_LINES, Writer, set_up_logs

WAIT_S = 10.0


class Disk:
    """Where lines go; it can be held, and made to fail."""

    def __init__(self) -> None:
        self.data = b""
        self.free = threading.Event()
        self.free.set()
        self.reached = threading.Event()
        self.is_full = False
        self.most = 1 << 30  # bytes that it takes in one write

    def write(self, data: memoryview) -> int:
        self.reached.set()
        assert self.free.wait(WAIT_S)
        if self.is_full:
            raise OSError("no space left")
        taken = bytes(data[: self.most])
        self.data += taken
        return len(taken)

    @property
    def lines(self) -> list[str]:
        return self.data.decode().splitlines()

    def hold(self, writer: Writer) -> None:
        """Have the writer stand in a write from now on."""
        self.free.clear()
        self.reached.clear()
        writer.put("first")
        assert self.reached.wait(WAIT_S)


def lost(count: int) -> str:
    return f"{count} lost"


def test_lines_are_written_in_order() -> None:
    disk = Disk()
    disk.most = 3
    writer = Writer(disk.write, lost)
    for number in range(100):
        writer.put(f"line {number}")
    writer.flush(WAIT_S)
    assert disk.lines == [f"line {number}" for number in range(100)]


def test_lines_that_do_not_fit_are_counted_and_the_count_is_a_line() -> None:
    disk = Disk()
    writer = Writer(disk.write, lost)
    disk.hold(writer)
    for number in range(QUEUED_LINES + 5):
        writer.put(f"{number}")
    disk.free.set()
    writer.flush(WAIT_S)
    writer.put("afterwards")
    writer.flush(WAIT_S)
    assert disk.lines[-3:] == [f"{QUEUED_LINES - 1}", "5 lost", "afterwards"]
    assert len(disk.lines) == 1 + QUEUED_LINES + 2


def test_what_waits_is_bounded_in_bytes() -> None:
    disk = Disk()
    writer = Writer(disk.write, lost)
    disk.hold(writer)
    for _ in range(20):
        writer.put("x" * (QUEUED_BYTES // 10))
    disk.free.set()
    writer.flush(WAIT_S)
    assert len(disk.lines) == 1 + 9


def test_a_disk_that_is_full_costs_the_lines_at_hand_only() -> None:
    disk = Disk()
    writer = Writer(disk.write, lost)
    disk.is_full = True
    writer.put("gone")
    writer.flush(WAIT_S)
    disk.is_full = False
    writer.put("here")
    writer.flush(WAIT_S)
    assert disk.lines == ["here"]


def test_flushing_has_an_end() -> None:
    disk = Disk()
    writer = Writer(disk.write, lost)
    disk.hold(writer)
    writer.flush(0.05)
    assert disk.lines == []
    disk.free.set()


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The reading end of what is written as standard error; everything is as before at the end."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    monkeypatch.setattr(logs, "_STDERR", writing)
    monkeypatch.setattr(logging.root, "handlers", logging.root.handlers)
    monkeypatch.setattr(logging.root, "level", logging.root.level)
    yield reading
    structlog.reset_defaults()
    os.close(writing)
    os.close(reading)


def test_what_libraries_log_is_one_line_of_ours(stderr: int) -> None:
    writer = set_up_logs("json", "info")

    async def fail() -> None:
        raise ValueError("a\nb")

    async def main() -> None:
        task = asyncio.create_task(fail())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task  # asyncio itself says that nobody looked at its exception

    asyncio.run(main())
    logging.getLogger("other").warning("two\nlines")
    writer.flush(WAIT_S)
    lines = [json.loads(line) for line in os.read(stderr, 1 << 16).splitlines()]
    assert [line["library"] for line in lines] == ["asyncio", "other"]
    assert "ValueError" in lines[0]["exception"]
    assert {line["event"] for line in lines} == {"a library reports"}
