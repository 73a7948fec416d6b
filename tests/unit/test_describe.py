"""What a page of a description is made of, from what the store and other parts know."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from support.proxy import on_loop

from gearhorn.broker import describe
from gearhorn.broker.describe import Descriptions
from gearhorn.messages.logs import FailureHistory
from gearhorn.messages.peers import MemberState
from gearhorn.messages.subscriptions import decode_options
from gearhorn.patterns import Trie
from gearhorn.store.lanes import LaneCounts, LaneRecord
from gearhorn.store.listing import Stored

LOG = {"epoch": "e", "first": "3", "last": "9", "bytes": "70", "floor": "20", "dropped": "1"}
FAILED = FailureHistory(4, 1.0, 2.0, "no")


def stored(client_id: str, options: bytes = b"{}", drops: int = 0) -> Stored:
    return Stored(client_id, decode_options(options), drops)


class Job:
    """A job whose outcome is kept."""

    oversized = False

    def __init__(self, **request: object) -> None:
        self.arguments = json.dumps(request).encode()
        self.reply: Any = None
        self.failure: bytes | str | None = None

    def complete(self, data: bytes) -> None:
        self.reply = json.loads(data)

    def fail(self, text: bytes | str) -> None:
        self.failure = text


class Bed:
    """Descriptions of what the test puts into the store."""

    def __init__(self, *pages: tuple[str, list[Stored]], more: bool = False) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.records = {"alice": LaneRecord("me", 7, 5)}
        self.patterns: list[str] = []
        self.logs: dict[str, dict[str, str]] = {}
        self.recent: tuple[dict[bytes, int], float | None] = ({b"t_alice": 2}, 99.0)

        async def page(*arguments: Any) -> Any:
            self.asked.append(arguments)
            return list(pages), more

        async def logs(names: list[str]) -> Any:
            return [self.logs.get(name) for name in names]

        async def records(topic: str, clients: list[str]) -> Any:
            return {name: self.records[name] for name in clients if name in self.records}

        async def counts(pairs: list[tuple[str, str]]) -> Any:
            return [LaneCounts(1, {6: FAILED}, 2, 0) for _ in pairs]

        async def matching(topic: str) -> list[str]:
            return Trie(self.patterns).matching(topic)

        async def recent() -> Any:
            return self.recent

        parts: dict[str, Any] = {
            "gossiper": SimpleNamespace(known=lambda: [MemberState("me")]),
            "listing": SimpleNamespace(page=page),
            "durable": SimpleNamespace(
                log=SimpleNamespace(describe=logs),
                lanes=SimpleNamespace(records=records, counts=counts),
            ),
            "backlog": SimpleNamespace(recent=recent),
            "clock": SimpleNamespace(clock_ms=0),
            "patterns": SimpleNamespace(matching=matching),
            "summaries": None,
        }
        self._descriptions = Descriptions(**parts, max_backlog=100)

    async def ask(self, **request: object) -> Job:
        """One request, answered."""
        job = Job(**request)
        self._descriptions.handle(job)  # type: ignore[arg-type]
        async with asyncio.timeout(10):
            while job.reply is None and job.failure is None:
                await asyncio.sleep(0)
        return job


@on_loop
async def test_a_subscription_is_told_with_its_options_and_its_backlog() -> None:
    bed = Bed(("t", [stored("alice", b'{"max_backlog":5}', 3), stored("bob")]))
    found = (await bed.ask()).reply["topics"]["t"]["subscriptions"]
    assert (found["alice"]["queue"], found["alice"]["max_backlog"]) == ("t_alice", 5)
    assert (found["alice"]["drops"], found["alice"]["backlog"]) == (3, 2)
    assert (found["bob"]["max_backlog"], found["bob"]["backlog"]) == (100, 0)


@on_loop
async def test_a_backlog_that_no_job_server_told_is_left_out() -> None:
    bed = Bed(("t", [stored("alice")]))
    bed.recent = ({}, None)
    found = (await bed.ask()).reply["topics"]["t"]["subscriptions"]["alice"]
    assert "backlog" not in found


@on_loop
async def test_a_durable_subscription_is_told_with_its_place_in_the_log() -> None:
    durable = b'{"durable":{"in_flight":2}}'
    bed = Bed(("t", [stored("alice", durable), stored("new", durable), stored("bob")]))
    bed.logs["t"] = LOG
    topic = (await bed.ask()).reply["topics"]["t"]
    assert (topic["log"]["first"], topic["log"]["last"], topic["log"]["bytes"]) == (3, 9, 50)
    lane = topic["subscriptions"]["alice"]["durable"]
    assert (lane["position"], lane["lag"], lane["attempts"], lane["parked"]) == (5, 4, 4, 1)
    assert lane["expired"] == 2
    assert (lane["member"], lane["term"], lane["in_flight"]) == ("me", 7, 2)
    assert "durable" not in topic["subscriptions"]["new"], "its lane has no record yet"
    assert "durable" not in topic["subscriptions"]["bob"]


@pytest.mark.parametrize("owner", ["-", "?", "pull"])
def test_what_is_no_member_is_not_told_as_one(owner: str) -> None:
    async def test() -> None:
        bed = Bed(("t", [stored("alice", b'{"durable":{}}')]))
        bed.logs["t"] = LOG
        bed.records["alice"] = LaneRecord(owner, 7, 5)
        topic = (await bed.ask()).reply["topics"]["t"]
        assert topic["subscriptions"]["alice"]["durable"]["member"] is None

    asyncio.run(test())


@on_loop
async def test_a_cursor_leads_on_from_the_last_subscription_of_a_page() -> None:
    bed = Bed(("t", [stored("alice")]), ("u", [stored("bob")]), more=True)
    reply = (await bed.ask(limit=2)).reply
    assert reply["cursor"] == "u bob"
    await bed.ask(limit=2, cursor=reply["cursor"])
    assert bed.asked == [(None, None, 2), (None, ("u", "bob"), 2)]


@on_loop
async def test_a_topic_with_a_log_alone_is_there_and_one_with_nothing_is_unknown() -> None:
    bed = Bed()
    bed.logs["logged"] = LOG
    assert (await bed.ask(topic="logged")).reply["topics"]["logged"]["subscriptions"] == {}
    assert str((await bed.ask(topic="other")).failure).startswith("unknown: ")


@on_loop
async def test_others_have_their_turn_while_a_large_page_is_made() -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(describe, "STEP", 2)
        clients = [f"c{number}" for number in range(7)]
        durable = b'{"durable":{}}'
        bed = Bed(("t", [stored(client, durable) for client in clients]))
        bed.logs["t"] = LOG
        bed.records = {client: LaneRecord("me", 1, number) for number, client in enumerate(clients)}
        found = (await bed.ask(limit=1000)).reply["topics"]["t"]["subscriptions"]
        assert [found[client]["durable"]["position"] for client in clients] == list(range(7))


@on_loop
async def test_a_topic_is_told_with_the_patterns_that_match_it() -> None:
    bed = Bed(("t", [stored("alice")]))
    bed.patterns = [" >", " *", " u"]
    told = (await bed.ask(topic="t")).reply
    assert told["topics"]["t"]["patterns"] == ["*", ">"]
    assert "patterns" not in told
    assert "patterns" not in (await bed.ask()).reply["topics"]["t"]


@on_loop
async def test_a_topic_that_patterns_match_alone_is_known() -> None:
    bed = Bed()
    bed.patterns = [" *"]
    told = (await bed.ask(topic="t")).reply
    assert told["topics"] == {"t": {"subscriptions": {}, "patterns": ["*"]}}
    assert str((await bed.ask(topic="t.u")).failure).startswith("unknown: topic t.u has neither")


@on_loop
async def test_patterns_are_told_apart_from_topics() -> None:
    bed = Bed((" t.*", [stored("bob")]), ("t.*", [stored("alice")]), more=True)
    told = (await bed.ask()).reply
    assert told["topics"].keys() == told["patterns"].keys() == {"t.*"}
    assert told["patterns"]["t.*"]["subscriptions"].keys() == {"bob"}
    assert told["cursor"] == "t.* alice"
    bed = Bed((" t.*", [stored("bob")]), more=True)
    told = (await bed.ask(topic="t.*", pattern=True, cursor=" t.* anna")).reply
    assert told["cursor"] == " t.* bob"
    assert bed.asked == [(" t.*", (" t.*", "anna"), 100)]


@on_loop
async def test_a_pattern_without_subscriptions_is_unknown() -> None:
    failure = (await Bed().ask(topic="t.*", pattern=True)).failure
    assert failure == "unknown: pattern t.* has no subscriptions"
    failure = (await Bed().ask(pattern=True)).failure
    assert str(failure).startswith("bad_request: pattern: expected a topic besides")
