"""What a run of the tests has started does not outlive it, whatever ends the run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import lifelines
from support.cluster import eventually

TESTS = Path(__file__).resolve().parents[1]
RUN = """
from support.cluster import Cluster
from support.servers import EmbeddedGearman, Gearmand, Redis

cluster = Cluster([Gearmand(), EmbeddedGearman()], Redis())
cluster.store.freeze()
servers = *cluster.job_servers, cluster.store
print(*(server.pid for server in servers), cluster.workers[0].process.pid, flush=True)
input()
"""


@pytest.mark.skipif(lifelines._SETPRIV is None, reason="setpriv (util-linux) is not installed")
def test_servers_and_workers_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RUN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(TESTS), "PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)},
    ) as run:
        assert run.stdout is not None
        pids = run.stdout.readline().split()
        assert len(pids) == 4, "what the run started"
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)
        run.kill()
        eventually(lambda: not any(is_running(pid) for pid in pids))


def is_running(pid: str) -> bool:
    """Whether a process is there; one that only waits to be reaped is not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
