"""Links to job servers: slow ones are kept, dead and dishonest ones are given up and made anew."""

from __future__ import annotations

import os
import resource
import struct
import threading
import time
from collections.abc import Callable

import pytest
from support.cluster import Cluster, Worker, eventually
from support.lines import Line, Session, answer
from support.wire import JOB_ASSIGN_UNIQ, JOB_CREATED, NO_JOB, STATUS_RES, Outcome, admin

MakeCluster = Callable[..., Cluster]
CONNECTIONS = 8  # of a worker to one job server
FANOUT = b"\0\0\0\x01\0\0\0\x06fanout"  # CAN_DO fanout
LARGE = "x" * 8_000_000
BROKEN = "job server breaks the protocol; reconnecting"


def behind(cluster: Cluster, line: Line, *options: str) -> Worker:
    """A worker that reaches the job server over a line."""
    worker = Worker([line.address], cluster.store.url, *options)
    cluster.workers.append(worker)
    return worker


def waiting(cluster: Cluster, queue: str) -> int:
    for row in admin(cluster.address, "status"):
        name, total, *_ = row.rsplit("\t", 3)
        if name == queue:
            return int(total)
    return 0


def links(line: Line) -> list[Session]:
    """The connections that were no single questions."""
    return [session for session in line.sessions if b"gearhorn-" in session.said]


def works(cluster: Cluster, timeout_s: float = 40.0) -> None:
    """A publish is answered with success; one in the hands of a dying connection is given again."""
    outcome = cluster.run("fanout", timeout_s, topic="news", payload="x", background=True)
    assert outcome.kind == "complete", outcome


def test_a_slow_line_is_kept_as_long_as_something_leaves(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(workers=0)
    with Line(cluster.address, bytes_s=700_000) as line:
        worker = behind(cluster, line, "--lease", "30").ready()
        cluster.subscribe("large", "alice")
        cluster.subscribe("small", "bob")
        outcomes: list[Outcome] = []

        def publish() -> None:
            outcomes.append(
                cluster.run("fanout", 120.0, topic="large", payload=LARGE, background=True)
            )

        thread = threading.Thread(target=publish)
        thread.start()
        eventually(lambda: any(len(one.said) >= 50_000 for one in line.sessions))
        small = cluster.run("fanout", 120.0, topic="small", payload="x", background=True)
        thread.join()
        assert [one.data for one in [*outcomes, small]] == [b"1", b"1"]
        assert waiting(cluster, "large_alice") == 1
        assert len(links(line)) == CONNECTIONS
        assert "connection lost" not in worker.log()


@pytest.mark.parametrize(
    ("said", "is_broken"),
    [
        (answer(NO_JOB) * 3, True),
        (answer(JOB_ASSIGN_UNIQ, b"H:1\0f"), True),
        (answer(JOB_ASSIGN_UNIQ, b"H:1\0f\0\0x") * 200, True),
        (b"\0RES" + struct.pack(">II", NO_JOB, 0xFFFFFFFF), True),
        (b"no Gearman at all", True),
        (b"\0RES" + struct.pack(">II", NO_JOB, 512 * 1024 * 1024), False),
    ],
    ids=[
        "surplus NO_JOB",
        "half a job",
        "surplus jobs",
        "4 GiB",
        "noise",
        "512 MiB that never come",
    ],
)
def test_what_no_job_server_says_costs_one_connection(
    make_cluster: MakeCluster, said: bytes, is_broken: bool
) -> None:
    cluster = make_cluster(workers=0)
    with Line(cluster.address) as line:
        worker = behind(cluster, line).ready()
        cluster.subscribe("news", "alice")
        [session] = line.speaking_of(FANOUT)
        session.inject(said)
        eventually(lambda: session.is_over, 40.0)
        works(cluster)
        assert len(links(line)) == CONNECTIONS + 1
        complaints = [row for row in worker.log().splitlines() if "level=info" not in row]
        assert len(complaints) == is_broken
        assert all(BROKEN in row for row in complaints)


@pytest.mark.parametrize(
    "said",
    [
        answer(STATUS_RES),
        answer(STATUS_RES, b"H:1\x001\x001\x000\x000"),
        answer(JOB_CREATED, b"H:1"),
    ],
    ids=["empty status", "surplus status", "surplus acceptance"],
)
def test_a_wrong_answer_to_a_client_costs_one_connection(
    make_cluster: MakeCluster, said: bytes
) -> None:
    cluster = make_cluster(workers=0)
    with Line(cluster.address) as line:
        worker = behind(cluster, line).ready()
        cluster.subscribe("news", "alice")
        for session in line.speaking_of(b"exceptions"):
            session.inject(said)
            eventually(lambda one=session: one.is_over, 20.0)
        works(cluster)
        complaints = [row for row in worker.log().splitlines() if "level=info" not in row]
        assert len(complaints) == 3  # copies, control, deliveries
        assert all(BROKEN in row for row in complaints)


def test_a_worker_is_ready_only_when_it_takes_fanouts(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(workers=0)
    with Line(cluster.address, most=CONNECTIONS - 1) as line:
        worker = behind(cluster, line)
        eventually(lambda: "event=joined" in worker.log())
        eventually(lambda: len(line.sessions) == CONNECTIONS - 1)
        time.sleep(0.5)
        assert "event=ready" not in worker.log()
        line.most += 1
        worker.ready()
        cluster.subscribe("news", "alice")
        works(cluster)


def test_a_link_that_lacks_file_descriptors_says_so(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(workers=0)
    with Line(cluster.address) as line:
        worker = behind(cluster, line).ready()
        cluster.subscribe("news", "alice")
        number = worker.process.pid
        soft, hard = resource.prlimit(number, resource.RLIMIT_NOFILE)
        highest = max(int(name) for name in os.listdir(f"/proc/{number}/fd"))
        resource.prlimit(number, resource.RLIMIT_NOFILE, (highest - CONNECTIONS // 2, hard))
        for session in links(line):
            session.close()
        eventually(lambda: "no connection can be opened" in worker.log(), 30.0)
        resource.prlimit(number, resource.RLIMIT_NOFILE, (soft, hard))
        works(cluster)
        [row, *_] = [row for row in worker.log().splitlines() if "no connection can" in row]
        assert "level=error" in row
        assert "open files" in row
