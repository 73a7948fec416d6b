"""What the supervisor of a trio hears and says, and which processes count as started."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.lifelines import tied

from gearhorn.standalone import trio
from gearhorn.standalone.child import HOST, Child, PortTaken


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


# A fork of a process that has threads may stand still, and pytest may have some: so these children
# belong to a process of their own, as in the supervisor.
CHILDREN = """
import os, signal, sys
from pathlib import Path
from gearhorn.standalone.child import Process, StandaloneError

log = Path(sys.argv[1])
try:
    Process("it", [str(log)], log)
except StandaloneError as error:
    assert "it cannot be run" in str(error), error
else:
    raise AssertionError("it runs")

ended = Process("it", ["sh", "-c", "echo no luck; exit 3"], log)
os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
try:
    ended.check_alive()
except StandaloneError as error:
    assert str(error) == "it ended with status 3 as it started\\nno luck", error
else:
    raise AssertionError("it lives")

frozen = Process("it", ["sleep", "1000"], log)
frozen.check_alive()
os.kill(frozen.pid, signal.SIGSTOP)
frozen.kill()
try:
    os.kill(frozen.pid, 0)
except ProcessLookupError:
    print("fine")
"""


def test_what_ends_is_told_with_its_last_words_and_what_is_frozen_is_killed(tmp_path: Path) -> None:
    ran = subprocess.run(
        tied([sys.executable, "-c", CHILDREN, str(tmp_path / "log")]),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("fine\n", "")
