"""The connections on which a member takes jobs: one for each kind and job server."""

from __future__ import annotations

from typing import Any

import pytest

from gearhorn.broker import intake as intake_module
from gearhorn.broker.intake import Intake
from gearhorn.gearman.server import Server

SERVERS = [Server("a", 1), Server("b", 2)]


class FakeWorker:
    """A worker that notes what it is made of and asked for."""

    events: list[str]

    def __init__(self, server: Server, tls: object, client_id: bytes, **options: Any) -> None:
        self.server, self.options = server, options
        self.is_up = False
        self.held = 0

    @property
    def is_idle(self) -> bool:
        return not self.held

    def _note(self, what: str) -> None:
        [name] = self.options["functions"]
        self.events.append(f"{what} {name.decode()}")

    def start(self) -> None:
        self._note("start")

    def stop_grabbing(self) -> None:
        self._note("stop_grabbing")

    async def stop(self) -> None:
        self._note("stop")


@pytest.fixture
def intake(monkeypatch: pytest.MonkeyPatch) -> Intake:
    monkeypatch.setattr(intake_module, "Worker", FakeWorker)
    FakeWorker.events = []
    made = Intake(SERVERS, None, b"me")
    for kind, name in ((made.fanouts, b"f"), (made.changes, b"c"), (made.readings, b"r")):
        made.serve(kind, [name], lambda job: None, request_bytes=10, in_hand=5)
    return made


def test_each_kind_has_a_worker_for_each_job_server(intake: Intake) -> None:
    for kind in (intake.fanouts, intake.changes, intake.readings):
        workers: list[Any] = list(kind)
        assert [worker.server for worker in workers] == SERVERS
        assert {(worker.options["limit"], worker.options["in_hand"]) for worker in workers} == {
            (10, 5)
        }
    assert len(set(intake.all)) == 6


def test_fanouts_are_taken_last(intake: Intake) -> None:
    intake.start()
    assert FakeWorker.events == [f"start {name}" for name in "ccrrff"]


def test_one_job_server_is_enough_to_take_fanouts(intake: Intake) -> None:
    workers: list[Any] = intake.all
    for worker in workers:
        worker.is_up = worker not in intake.fanouts
    assert not intake.takes_fanouts
    worker = intake.fanouts[1]
    worker.is_up = True  # type: ignore[misc]
    assert intake.takes_fanouts


def test_jobs_of_every_kind_are_in_hand(intake: Intake) -> None:
    assert intake.is_idle
    workers: list[Any] = intake.all
    for number, worker in enumerate(workers):
        worker.held = number
    assert intake.held == 15
    assert not intake.is_idle
