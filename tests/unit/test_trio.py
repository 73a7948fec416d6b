"""What the supervisor of a trio hears and says, and which processes count as started."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import pytest

from gearhorn.standalone import trio
from gearhorn.standalone.child import HOST, Child, PortTaken, Process, StandaloneError


def lines(parent: int, *chunks: bytes) -> list[str]:
    """What comes of these chunks, and the end of the input behind them."""
    source, sink = os.pipe()
    try:
        for chunk in chunks:
            os.write(sink, chunk)
        os.close(sink)
        return list(trio.lines_of(parent, source))
    finally:
        os.close(source)


def test_lines_come_whole_until_the_input_ends() -> None:
    assert lines(os.getppid(), b"thaw\nkill_", b"worker\n", b"half") == ["thaw", "kill_worker"]


def test_without_the_parent_nothing_more_is_heard() -> None:
    assert lines(os.getpid(), b"thaw\n") == [], "this process is not its own parent"


def test_an_answer_is_a_line_and_a_reader_that_has_gone_is_no_error() -> None:
    source, sink = os.pipe()
    trio.tell({"ok": "a\nb"}, sink)
    said = os.read(source, 1 << 16)
    assert (said.count(b"\n"), json.loads(said)) == (1, {"ok": "a\nb"})
    os.close(source)
    trio.tell({"ok": None}, sink)
    os.close(sink)


def test_a_port_that_is_taken_is_told_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=f"it: port {port} is taken"):
            Child("it", ["none"], tmp_path / "log", question=b"", answer=b"", port=port)


def test_a_program_that_is_missing_or_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(StandaloneError, match="it cannot be run"):
        Process("it", [str(tmp_path / "none")], tmp_path / "log")
    process = Process("it", ["sh", "-c", "echo no luck; exit 3"], tmp_path / "log")
    process.kill()
    process = Process("it", ["sh", "-c", "echo no luck; exit 3"], tmp_path / "log")
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(StandaloneError, match=r"it ended with status 3 as it started\nno luck"):
        process.check_alive()


def test_a_frozen_process_is_killed_all_the_same(tmp_path: Path) -> None:
    process = Process("it", ["sleep", "1000"], tmp_path / "log")
    os.kill(process.pid, signal.SIGSTOP)
    process.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
