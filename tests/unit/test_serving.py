"""What a member gives back when it cannot work, and when it takes jobs again."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from support.proxy import on_loop

from gearhorn.broker import serving as serving_module
from gearhorn.broker.serving import STORE_WAIT_S, Serving
from gearhorn.tasks import Supervision


class FakeWorker:
    """One worker, and whether it serves."""

    def __init__(self) -> None:
        self.serves = True

    def start(self) -> None:
        self.serves = True

    async def give_back(self) -> None:
        self.serves = False


class Bed:
    """A member's serving, with a store and a vital part that the test has fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(serving_module, "CHECK_S", 0.0)
        self.fanout, self.change = FakeWorker(), FakeWorker()
        self.outage = SimpleNamespace(since=None)
        self.failing: list[str] = []
        self.lease: list[str] = []
        supervision = SimpleNamespace(on_change=lambda _: None)
        monkeypatch.setattr(Supervision, "of", lambda loop: supervision)
        self._supervision = supervision
        intake: Any = SimpleNamespace(all=[self.fanout, self.change], fanouts=[self.fanout])
        holder: Any = SimpleNamespace(
            stand_down=lambda: self.lease.append("down"), stand_up=lambda: self.lease.append("up")
        )
        self._serving = Serving(intake, holder, self.outage)  # type: ignore[arg-type]

    async def check(self) -> tuple[bool, bool]:
        """Have it check; return whether fan-outs and changes are taken."""
        self._supervision.failing = self.failing
        running = asyncio.create_task(self._serving.run())
        await asyncio.sleep(0.02)
        running.cancel()
        return self.fanout.serves, self.change.serves


@on_loop
async def test_fanouts_are_given_back_while_the_store_is_away_for_long() -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        bed = Bed(monkeypatch)
        now_s = asyncio.get_running_loop().time()
        bed.outage.since = now_s - STORE_WAIT_S + 10
        assert await bed.check() == (True, True)
        bed.outage.since = now_s - STORE_WAIT_S - 1
        assert await bed.check() == (False, True)
        bed.outage.since = None
        assert await bed.check() == (True, True)
        assert bed.lease == []


@on_loop
async def test_a_member_whose_vital_part_fails_gives_all_back_and_its_lease_up() -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        bed = Bed(monkeypatch)
        bed.failing = ["changes"]
        assert await bed.check() == (False, False)
        bed.failing = ["appends", "changes"]
        assert await bed.check() == (False, False)
        assert bed.lease == ["down"], "it is given up once, however many parts fail"
        bed.failing = []
        assert await bed.check() == (True, True)
        assert bed.lease == ["down", "up"]


@on_loop
async def test_fanouts_stay_given_back_when_only_the_part_runs_again() -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        bed = Bed(monkeypatch)
        bed.failing = ["changes"]
        bed.outage.since = asyncio.get_running_loop().time() - STORE_WAIT_S - 1
        assert await bed.check() == (False, False)
        bed.failing = []
        assert await bed.check() == (False, True)
