"""Long fan-outs go out little by little, and one topic's fan-outs in the order they came."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from support.limits import run

from gearhorn.fanout.portions import AHEAD, PORTION, Portions


class Servers:
    """Job servers that answer when the test lets them."""

    def __init__(self) -> None:
        self.unanswered: list[asyncio.Future[bool]] = []
        self.up = asyncio.Event()
        self.up.set()

    @property
    def is_up(self) -> bool:
        return self.up.is_set()

    async def came_up(self) -> None:
        await self.up.wait()

    def barriers(self) -> list[asyncio.Future[bool]]:
        self.unanswered.append(asyncio.get_running_loop().create_future())
        return [self.unanswered[-1]]

    def answer(self) -> None:
        """Answer the oldest portion."""
        self.unanswered.pop(0).set_result(True)


class Job:
    """What a fan-out's job is told."""

    def __init__(self) -> None:
        self.failures: list[str] = []

    def fail(self, text: str) -> None:
        self.failures.append(text)


class Fanout:
    """Writes down, in a log that several share, what it is asked to send."""

    def __init__(self, name: str, log: list[Any], *, breaks: bool = False) -> None:
        self.job: Any = Job()
        self._name = name
        self._log = log
        self._breaks = breaks

    def send_portion(self, indexes: Sequence[int]) -> None:
        if self._breaks:
            raise RuntimeError("a fault")
        self._log.append((self._name, indexes[0], len(indexes)))

    def sent(self) -> None:
        self._log.append((self._name, "sent"))


async def turn() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def portions_of(servers: Servers) -> Portions:
    return Portions(servers)  # type: ignore[arg-type]


def test_only_so_many_portions_are_ahead_of_the_answers() -> None:
    async def test() -> None:
        servers, log = Servers(), list[Any]()
        portions_of(servers).add("t", Fanout("long", log), range(4 * PORTION + 1))
        await turn()
        assert log == [("long", at * PORTION, PORTION) for at in range(AHEAD)]
        servers.answer()
        await turn()
        assert log[AHEAD:] == [("long", AHEAD * PORTION, PORTION)]
        for _ in range(2):
            servers.answer()
            await turn()
        assert log[-2:] == [("long", 4 * PORTION, 1), ("long", "sent")]

    run(test)


def test_a_later_fanout_of_the_topic_waits_and_that_of_another_topic_does_not() -> None:
    async def test() -> None:
        servers, log = Servers(), list[Any]()
        portions = portions_of(servers)
        portions.add("t", Fanout("long", log), range(3 * PORTION))
        portions.add("t", Fanout("next", log), range(1))
        portions.add("other", Fanout("other", log), range(1))
        await turn()
        assert {entry[0] for entry in log} == {"long", "other"}
        assert list(portions.topics) == ["t"]
        while servers.unanswered:
            servers.answer()
            await turn()
        own = [entry[0] for entry in log if entry[0] != "other"]
        assert own == ["long"] * 4 + ["next"] * 2
        assert not portions.topics

    run(test)


def test_lines_wait_for_a_server_that_is_up() -> None:
    async def test() -> None:
        servers, log = Servers(), list[Any]()
        servers.up.clear()
        portions_of(servers).add("t", Fanout("a", log), range(1))
        await turn()
        assert log == []
        servers.up.set()
        await turn()
        assert log == [("a", 0, 1), ("a", "sent")]

    run(test)


def test_a_fault_fails_its_own_fanout_only() -> None:
    async def test() -> None:
        servers, log = Servers(), list[Any]()
        portions, broken = portions_of(servers), Fanout("broken", log, breaks=True)
        portions.add("t", broken, range(1))
        portions.add("t", Fanout("next", log), range(1))
        await turn()
        assert broken.job.failures == ["internal error"]
        assert log == [("next", 0, 1), ("next", "sent")]

    run(test)


def test_waiting_until_sent_is_for_what_was_added_before() -> None:
    async def test() -> None:
        servers, log = Servers(), list[Any]()
        portions = portions_of(servers)
        portions.add("t", Fanout("long", log), range(3 * PORTION))
        waits = asyncio.ensure_future(portions.wait_sent(["t", "unknown"]))
        every = asyncio.ensure_future(portions.wait_sent(None))
        await turn()
        portions.add("t", Fanout("later", log), range(5 * PORTION))
        assert not waits.done()
        servers.answer()
        await turn()
        assert waits.done()
        assert every.done()
        assert ("later", "sent") not in log
        await portions.wait_sent(["unknown"])

    run(test)
