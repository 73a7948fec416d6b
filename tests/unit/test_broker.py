"""In which order a worker's parts are started and stopped, whenever the stop comes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, MutableMapping
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from gearhorn.broker import broker as broker_module
from gearhorn.broker.broker import Broker
from gearhorn.config import Config
from gearhorn.errors import StartError, StoreError

PARTS = (
    *("copies", "control", "deliveries", "membership", "durable", "changes", "limits", "burials"),
    *("backlog", "drops", "gossiper", "intake", "serving", "presences", "subscriptions", "store"),
    "policy",
)


class _Nothing:
    """What may be awaited, or not."""

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


class Part:
    """Stands for any part: notes what it is asked for."""

    def __init__(self, name: str, events: list[str]) -> None:
        self._name, self._events = name, events
        self.is_idle = self.takes_fanouts = True
        self.is_present = False
        self.id = "me"

    def __getattr__(self, what: str) -> Any:
        def note(*arguments: Any) -> Awaitable[None]:
            self._events.append(f"{self._name} {what}")
            return _Nothing()

        return note

    async def run(self, *arguments: Any) -> None:
        self._events.append(f"{self._name} run")
        await asyncio.Event().wait()


class Worker:
    """A broker whose parts note what they are asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.stop = asyncio.Event()
        self.joined = asyncio.Event()
        self.joined.set()
        parts: dict[str, Any] = {name: Part(name, self.events) for name in PARTS}
        self.places = SimpleNamespace(waiting=0, lingering=0)
        self.outbox = SimpleNamespace(places=self.places, is_idle=True)
        self.parts = SimpleNamespace(
            servers=["a:1"], duties=None, directory=None, outbox=self.outbox, **parts
        )
        self.parts.membership.joined = self.joined
        self.parts.intake.held = 0
        self.parts.copies.clients = [SimpleNamespace(running=5)]
        monkeypatch.setattr(broker_module, "wire", lambda config: self.parts)
        monkeypatch.setattr(broker_module, "_POLL_S", 0.0)
        monkeypatch.setattr(broker_module, "LINGER_S", 0.0)
        monkeypatch.setattr(broker_module, "Backoff", lambda: SimpleNamespace(next_s=lambda: 0.0))
        self.broker = Broker(Config())

    async def until(self, event: str) -> None:
        """Return once a part was asked for something."""
        while event not in self.events:
            await asyncio.sleep(0)


def on_worker(
    test: Callable[[Worker], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Run a worker beside a test, which stops it; return what the parts were asked for."""

    async def main() -> list[str]:
        worker = Worker(monkeypatch)
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            tasks.create_task(worker.broker.run(worker.stop))
            tasks.create_task(_stopping(worker))
        return worker.events

    async def _stopping(worker: Worker) -> None:
        await test(worker)
        worker.stop.set()

    return asyncio.run(main())


STARTED = [
    *("copies start", "control start", "deliveries start", "store check", "membership start"),
    *("durable start", "durable members_changed", "limits start", "gossiper start"),
    "intake start",
]
STOPPED = [
    *("gossiper stop", "membership leave", "durable members_changed", "durable stop"),
    *("limits stop", "drops flush", "subscriptions close", "presences stop", "burials finish"),
    *("intake stop", "control stop", "copies stop", "deliveries stop", "store close"),
]


def without_loops(events: list[str]) -> list[str]:
    return [event for event in events if not event.endswith(" run")]


def test_parts_are_started_from_the_inside_out_and_stopped_from_the_outside_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(worker: Worker) -> None:
        await worker.until("serving run")

    events = on_worker(test, monkeypatch)
    finished = ["intake stop_grabbing", "durable leave"]
    assert without_loops(events) == [*STARTED, *finished, *STOPPED]
    loops = {event for event in events if event.endswith(" run")}
    names = "changes", "burials", "backlog", "drops", "policy", "serving"
    assert loops == {f"{name} run" for name in names}


def test_a_stop_while_it_waits_for_its_lease_stops_what_was_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(worker: Worker) -> None:
        worker.joined.clear()
        await worker.until("membership start")

    events = on_worker(test, monkeypatch)
    assert events == [*STARTED[: STARTED.index("membership start") + 1], *STOPPED]


def failing(*errors: Exception) -> Callable[[], Awaitable[None]]:
    """A check of the store that fails so often, each time for one of these reasons."""
    left = list(errors)

    async def check() -> None:
        if left:
            raise left.pop(0)

    return check


def told(lines: list[MutableMapping[str, Any]], event: str, key: str) -> list[object]:
    """What the lines of one event say under a key."""
    return [line[key] for line in lines if line["event"] == event]


def test_a_store_that_does_not_answer_is_waited_for_and_each_reason_logged_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(worker: Worker) -> None:
        refused, loading = StoreError("refused"), StoreError("loading")
        worker.parts.store.check = failing(refused, refused, loading, loading)
        await worker.until("serving run")

    with capture_logs() as lines:
        on_worker(test, monkeypatch)
    assert told(lines, "store unreachable; retrying", "error") == ["refused", "loading"]


def test_a_store_of_another_release_ends_the_worker_and_what_was_started_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> list[str]:
        worker = Worker(monkeypatch)
        worker.parts.store.check = failing(StartError("another layout"))
        with pytest.raises(StartError, match="another layout"):
            await worker.broker.run(worker.stop)
        return worker.events

    assert asyncio.run(main()) == [*STARTED[:3], *STOPPED]


@pytest.mark.parametrize(("held", "lingering"), [(3, 0), (0, 2), (3, 2)])
def test_what_is_left_after_the_time_for_stopping_is_logged(
    held: int, lingering: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "STOP_S", 0.01)

    async def test(worker: Worker) -> None:
        await worker.until("serving run")
        worker.outbox.is_idle = False
        worker.parts.intake.held, worker.places.lingering = held, lingering

    in_hand = "stopped with work in hand; other members will be given it"
    discarded = "stopped before every receiver had taken its copy; those that wait are discarded"
    with capture_logs() as lines:
        on_worker(test, monkeypatch)
    assert told(lines, in_hand, "jobs") == [held] * bool(held)
    assert told(lines, discarded, "fanouts") == [lingering] * bool(lingering)
