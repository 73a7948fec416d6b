"""What tests of durable topics ask and read: requests, unique ids, and what is told of lanes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from support.cluster import eventually
from support.foreign import Raw, Taker, receipt
from support.wire import Assigned, admin

QUICK = {"timeout": 0.5, "max_backoff": 0.1}


class Id(NamedTuple):
    """The unique id of a delivery, `EPOCH8:SEQUENCE:TERM.N`."""

    epoch8: str
    sequence: int
    term: int
    number: int


def id_of(job: Assigned) -> Id:
    """Read a delivery's unique id; ValueError if it is none."""
    epoch8, sequence, attempt = job.unique.decode().split(":")
    term, number = attempt.split(".")
    return Id(epoch8, int(sequence), int(term), int(number))


def ask(raw: Raw, function: str, **request: Any) -> dict[str, Any]:
    """Run a request that must succeed, and return its JSON reply."""
    outcome = raw.ask(function, **request)
    assert (outcome.kind, outcome.warnings) == ("complete", []), outcome
    decoded = json.loads(outcome.data)
    assert isinstance(decoded, dict)
    return decoded


def subscribe(raw: Raw, topic: str, *clients: str, durable: Any = True, **options: Any) -> None:
    """Subscribe durably."""
    for client in clients:
        ask(raw, "subscribe_fanout", topic=topic, client_id=client, durable=durable, **options)


def publish(raw: Raw, topic: str, *payloads: Any, **options: Any) -> list[dict[str, Any]]:
    """Publish in the background, one after the other; return the receipts."""
    requests = ({"topic": topic, "payload": one, "background": True} | options for one in payloads)
    return [receipt(raw.ask("fanout", **request, receipt=True)) for request in requests]


def fetch(raw: Raw, topic: str, **request: Any) -> dict[str, Any]:
    """Read a log, from its beginning unless told otherwise."""
    if "client_id" not in request:
        request.setdefault("after", 0)
    return ask(raw, "fetch_fanout", topic=topic, **request)


def sequences(fetched: dict[str, Any]) -> list[int]:
    """The numbers of the messages in a reply to a fetch or to a list of parked ones."""
    messages = fetched["parked"] if "parked" in fetched else fetched["messages"]
    return [one["sequence"] for one in messages]


def parked(raw: Raw, topic: str, client: str, **request: Any) -> list[dict[str, Any]]:
    """The messages that are parked for a subscription."""
    reply = ask(raw, "parked_fanout", topic=topic, client_id=client, action="list", **request)
    assert {"parked"} <= reply.keys() <= {"parked", "after"}
    return list(reply["parked"])


def lane(raw: Raw, topic: str, client: str) -> dict[str, Any]:
    """What is told of a durable subscription."""
    told = ask(raw, "describe_fanout", topic=topic)["topics"][topic]["subscriptions"][client]
    return {**told, **(told.get("durable") or {})}


def position(raw: Raw, topic: str, client: str) -> int:
    """Up to where a durable subscription has done with the log."""
    return int(lane(raw, topic, client)["position"])


def reaches(raw: Raw, topic: str, client: str, sequence: int) -> None:
    """Wait until a durable subscription has done with the log up to this message."""
    eventually(lambda: position(raw, topic, client) == sequence)


def log_of(raw: Raw, topic: str) -> dict[str, Any]:
    """What is told of a topic's log."""
    return dict(ask(raw, "describe_fanout", topic=topic)["topics"][topic]["log"])


def on_queue(raw: Raw, queue: str) -> tuple[int, int]:
    """How many jobs the job server has of a queue, and how many of them receivers have."""
    for line in admin(raw.address, "status"):
        name, total, running, _ = line.rsplit("\t", 3)
        if name == queue:
            return int(total), int(running)
    return 0, 0


def fail(taker: Taker, *reasons: bytes, timeout: float = 5.0) -> list[Assigned]:
    """Take a delivery for each of the reasons, and let it fail with this as the warning."""
    jobs = []
    for reason in reasons:
        jobs.append(taker.take(timeout))
        taker.warn(jobs[-1].handle, reason)
        taker.fail(jobs[-1].handle)
    return jobs


def for_a_while(holds: Callable[[], bool], seconds: float = 0.2) -> None:
    """AssertionError unless it holds now and goes on to hold."""
    deadline = time.monotonic() + seconds
    while True:
        assert holds()
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)
