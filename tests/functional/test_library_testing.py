"""What users' tests run against: it serves, breaks when told to, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cluster import eventually
from support.lifelines import tied
from support.proxy import on_loop
from support.servers import ROOT, missing

import gearhorn
from gearhorn import testing
from gearhorn.standalone.servers import find_gearmand

BLOCK = re.compile(
    r"^\.\. code-block:: python\n    :name: (?P<name>test_\w+)\n(?P<code>(?:\n|    .*\n)+)", re.M
)
# A test that is killed while the job server stands still and a forked child holds what it held.
KILLED = """
import os, sys, time
from gearhorn import testing

running = testing.standalone()
running.freeze_job_server()
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(600)
"""
# Before the examples of the documents, and behind them: the last of them that uses the servers
# leaves them without a worker.
FIRST = """
import sys

FOUND = {name for name in sys.modules if name.partition(".")[0] == "gearhorn"}

def test_nothing_was_imported_before():
    assert FOUND == {"gearhorn", "gearhorn.testing", "gearhorn.testing.plugin"}

def test_it_breaks(gearhorn):
    gearhorn.freeze_job_server()
"""
LAST = """
def test_it_works(gearhorn, gearhorn_topic):
    assert gearhorn.publisher().publish(gearhorn_topic, "hello").copies == 0
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[testing.Standalone]:
    """One that the tests of this module share; each leaves it whole."""
    with testing.standalone() as running:
        yield running


def blocks(document: str) -> dict[str, str]:
    """The programs of a document, by their names."""
    text = (ROOT / "docs" / document).read_text()
    return {found["name"]: textwrap.dedent(found["code"]) for found in BLOCK.finditer(text)}


def descendants_of(process: int) -> set[int]:
    """The process ids of a process's children, and of theirs."""
    found = set()
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            found |= {child, *descendants_of(child)}
    return found


def is_alive(process: int) -> bool:
    """Whether a process runs."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in ("Z", "X")
    return False


def until_gone(processes: set[int]) -> None:
    """Wait until these processes have ended; kill those that do not."""
    try:
        eventually(lambda: not any(map(is_alive, processes)), 20, f"left: {processes}")
    finally:
        for process in filter(is_alive, processes):
            os.kill(process, signal.SIGKILL)


def test_messages_go_all_the_way(shared: testing.Standalone, topic: str) -> None:
    with shared.lent() as running:
        subscriber = running.subscriber("web1")
        subscriber.on(topic)(lambda message: message.text.upper())
        subscriber.on(f"{topic}-durable", durable=True)(print)
        subscriber.start()
        publisher = running.publisher()
        assert publisher.ask(topic, "hello")["web1"].text == "HELLO"
        assert publisher.deliver(f"{topic}-durable", "hello").delivered == ("web1",)
        assert list(running.admin().describe(topic)["subscriptions"]) == ["web1"]
    assert not publisher.connected
    assert not subscriber.healthy()


@on_loop
async def test_so_they_do_for_asyncio() -> None:
    """With gearmand, too, so that both job servers are started once."""
    program = find_gearmand(None) or missing("gearmand")
    with testing.standalone(gearmand=program) as running:
        subscriber = running.aio.subscriber("web1")

        @subscriber.on("t")
        async def handle(message: gearhorn.Message) -> str:
            return message.text.upper()

        async with subscriber, running.aio.publisher() as publisher, running.aio.admin() as admin:
            assert (await publisher.ask("t", "hello"))["web1"].text == "HELLO"
            assert len(await admin.members()) == 1


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("envelope", [False, True])
def test_a_handler_that_is_called_gets_what_a_worker_delivers(
    shared: testing.Standalone, topic: str, durable: bool, envelope: bool
) -> None:
    with shared.lent() as running:
        seen: list[gearhorn.Message] = []
        subscriber = running.subscriber("web1")
        subscriber.on(topic, durable=durable, envelope=envelope)(seen.append)
        subscriber.start()
        details: dict[str, Any] = {"unique": "u"}
        if envelope:
            details["headers"] = {"Trace": "1"}
        assert running.publisher().publish(topic, {"n": 1}, **details).copies == 1
        eventually(lambda: seen)
        testing.call(subscriber, topic, {"n": 1}, **details)
        delivered, called = seen
        for name in ("topic", "client_id", "data", "headers", "attempt", "unique", "expires_at"):
            assert getattr(delivered, name) == getattr(called, name), name
        assert (delivered.position is None) == (called.position is None) == (not durable)


def test_a_publisher_sends_again_when_it_is_not_recorded(
    shared: testing.Standalone, topic: str
) -> None:
    with shared.lent() as running:
        running.admin().subscribe(topic, "web1")
        running.admin().subscribe(topic, "web2")
        publisher = running.publisher()
        with testing.record(publisher) as published:
            recorded = publisher.publish_many([(topic, "x"), ("__no", "x")])
        sent = publisher.publish_many([(topic, "x"), ("__no", "x")])
        assert [recorded[0].copies, sent[0].copies] == [1, 2]
        assert str(recorded[1]) == str(sent[1]), "it is refused in the same words"
        assert published == [(topic, "x")]


def test_a_killed_worker_leaves_requests_waiting(shared: testing.Standalone, topic: str) -> None:
    with shared.lent() as running:
        subscriber = running.subscriber("web1")
        seen: list[str] = []
        subscriber.on(topic)(lambda message: seen.append(message.text))
        subscriber.start()
        publisher = running.publisher()
        assert publisher.publish(topic, "before").copies == 1
        running.kill_worker()
        running.kill_worker()
        assert running.log() == ""
        with pytest.raises(gearhorn.TimedOut):
            publisher.publish(topic, "waits", timeout=0.2)
        running.start_worker()
        assert "event=ready" in running.log()
        assert publisher.publish(topic, "now").copies == 1
        eventually(lambda: sorted(seen) == ["before", "now", "waits"])


def test_a_frozen_job_server_answers_once_it_is_thawed(
    shared: testing.Standalone, topic: str
) -> None:
    with shared.lent() as running:
        publisher = running.publisher()
        assert publisher.publish(topic, "before").copies == 0
        running.freeze_job_server()
        with pytest.raises(gearhorn.TimedOut):
            publisher.publish(topic, "meanwhile", timeout=0.2)
        running.kill_worker()
        with pytest.raises(testing.StandaloneError, match="while the job server is frozen"):
            running.start_worker()
        running.thaw()
        running.start_worker()
        assert publisher.publish(topic, "after", timeout=20).copies == 0


def test_what_it_is_killed_with_goes_too() -> None:
    killed = subprocess.Popen(tied([sys.executable, "-c", KILLED]), stdout=subprocess.PIPE)
    with killed:
        assert killed.stdout is not None
        child = int(killed.stdout.readline())
        begun = descendants_of(killed.pid)
        assert len(begun) == 5, "the forked child, the supervisor, and its three"
        killed.kill()
    try:
        until_gone(begun - {child})
    finally:
        os.kill(child, signal.SIGKILL)


def test_without_its_supervisor_it_ends_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEARHORN_MAX_PAYLOAD", "nothing that a worker takes")
    before = descendants_of(os.getpid())
    running = testing.standalone(options=("--max-payload", "1k"))
    try:
        with pytest.raises(gearhorn.TooLarge):
            running.publisher().publish("t", "x" * 2000)
        begun = descendants_of(os.getpid()) - before
        [supervisor] = (process for process in begun if len(descendants_of(process)) == 3)
        lending = contextlib.ExitStack()
        publisher = lending.enter_context(running.lent()).publisher()
        assert publisher.publish("t").copies == 0
        os.kill(supervisor, signal.SIGKILL)
        until_gone(begun - {supervisor})
        with pytest.raises(testing.StandaloneError, match="have ended"):
            lending.close()
        assert publisher.core._jobs is None, "it is closed all the same"
        with pytest.raises(testing.StandaloneError, match="have ended"):
            running.kill_worker()
    finally:
        running.close()
        running.close()


def test_a_start_that_fails_says_why_and_leaves_nothing() -> None:
    before = descendants_of(os.getpid())
    with pytest.raises(testing.StandaloneError, match=r"(?s)gearhorn-worker ended.*--lease"):
        testing.standalone(options=("--lease", "nothing"))
    with pytest.raises(testing.StandaloneError, match="no program no-such-gearmand"):
        testing.standalone(gearmand="no-such-gearmand")
    assert descendants_of(os.getpid()) - before == set()


def test_the_plugin_shares_one_and_mends_what_a_test_broke(tmp_path: Path) -> None:
    """The examples of the documents run in the same run, and so on the same servers."""
    (tmp_path / "test_first.py").write_text(FIRST)
    (tmp_path / "test_worker_is_back.py").write_text(LAST)
    for name, code in blocks("library.rst").items():
        (tmp_path / f"{name}.py").write_text(code)
    plain = ("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:hypothesispytest")
    ran = subprocess.run(
        tied([sys.executable, "-m", "pytest", "-q", *plain, "."]),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "9 passed" in ran.stdout, ran.stdout + ran.stderr
