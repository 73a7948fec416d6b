"""The watch on the workers' event loops sees what it is there for."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.cluster import Cluster
from support.standstill import Standstill
from support.tracing import IS_TRACED

# conftest.py passes the standstills of traced workers over: they say nothing about the code.
pytestmark = pytest.mark.skipif(IS_TRACED, reason="what is traced stands still for longer")
COMPUTES = "while time.thread_time() < 0.6: pass"
BLOCKS = "time.sleep(0.4)"
TURNS = "pass"


def run(directory: Path, what: str, program: str = "") -> float:
    """The longest standstill of a program whose loop does `what` in one of its turns."""
    script = directory / "program.py"
    script.write_text(
        program
        or f"import asyncio, time\nasync def main():\n    await asyncio.sleep(0.1)\n    {what}\n"
        "    await asyncio.sleep(0.1)\nasyncio.run(main())\n"
    )
    standstill = Standstill(directory / "report")
    subprocess.run([sys.executable, *standstill.watched, script], check=True)
    longest_s = standstill.longest_s
    standstill.reset()  # it is not this test's own
    return longest_s


def test_a_loop_that_computes_stands_still(tmp_path: Path) -> None:
    assert run(tmp_path, COMPUTES) > 0.1


def test_a_loop_that_blocks_stands_still(tmp_path: Path) -> None:
    assert 0.35 < run(tmp_path, BLOCKS) < 0.8


def test_a_loop_that_turns_does_not(tmp_path: Path) -> None:
    assert run(tmp_path, TURNS) < 0.1


def test_a_worker_that_was_frozen_did_not_stand_still(cluster: Cluster) -> None:
    worker = cluster.workers[0]
    for _ in range(3):
        worker.freeze()
        time.sleep(0.4)
        worker.thaw()
        time.sleep(0.1)
    assert worker.standstill.longest_s < 0.25


def test_a_standstill_fails_the_test(pytester_directory: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", pytester_directory],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1, found.stdout
    assert "stood still for 0." in found.stdout
    assert "2 passed, 1 error" in found.stdout, found.stdout


@pytest.fixture
def pytester_directory(tmp_path: Path) -> Path:
    """A test directory with this suite's conftest and one test that stands still unsaid."""
    root = Path(__file__).resolve().parents[1]
    (tmp_path / "conftest.py").write_text((root / "conftest.py").read_text())
    (tmp_path / "pytest.ini").write_text(
        f"[pytest]\npythonpath = {root}\naddopts = --import-mode=importlib --strict-markers\n"
        "markers =\n    may_stand(seconds, reason): as in the suite\n"
    )
    stand = """
import subprocess, sys
import pytest
from support.standstill import Standstill

PROGRAM = '''
import asyncio, time
async def main():
    time.sleep(0.4)
    await asyncio.sleep(0)
asyncio.run(main())
'''

def stand(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    watched = Standstill(tmp_path / "report").watched
    subprocess.run([sys.executable, *watched, script], check=True)

def test_unsaid(tmp_path):
    stand(tmp_path)

@pytest.mark.may_stand(5, "it is the test of the mark")
def test_said(tmp_path):
    stand(tmp_path)
"""
    (tmp_path / "test_stand.py").write_text(stand)
    return tmp_path
