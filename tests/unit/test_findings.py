"""What the doctor makes of what it is told."""

from __future__ import annotations

from typing import Any

import pytest

from gearhorn.cli.commands import doctor, progress, servers, settings
from gearhorn.cli.commands.findings import (
    FAIL,
    OK,
    SHOWN,
    WARN,
    Finding,
    Findings,
    Queues,
    of_clocks,
    of_members,
    of_servers,
    of_store,
)
from gearhorn.cli.commands.servers import Asked, Queue

A, B = "a:4730", "b:4730"
STORE = {
    "evicts": None,
    "append_only": True,
    "fails": False,
    "replicas": 1,
    "min_replicas": True,
}


def member(name: str, **changes: Any) -> dict[str, Any]:
    known = {"state": "clustered", "servers": [A, B], "down": [], "release": "1", "ahead": 0.0}
    return {"member": name, "store": STORE, **known, **changes}


def levels(found: Any) -> list[str]:
    return [one.level for one in found]


def test_findings_of_one_kind_are_bounded() -> None:
    findings = Findings()
    assert findings.level == OK
    for number in range(SHOWN + 5):
        findings.add(Finding(WARN, "hosts", str(number), "x"))
    findings.add(Finding(OK, "clocks", "", "x"))
    assert (findings.level, len(findings.all())) == (WARN, SHOWN + 2)
    assert findings.all()[-1].text == "5 more like these"
    findings.add(Finding(FAIL, "hosts", "", "x"))
    assert findings.level == FAIL
    assert findings.has("hosts")
    assert not findings.has("store")


@pytest.mark.parametrize(
    ("version", "level", "text"),
    [
        ("1.1.20+ds", OK, "known faults: 12 bytes"),
        ("2.0.0", OK, "known faults: 12 bytes"),
        ("gear-0.16.0", OK, "gear-0.16.0, answers"),
        ("1.1.19", WARN, "1.1.19, answers"),
        ("", WARN, "of no known release"),
    ],
)
def test_a_release_is_known_or_not(version: str, level: str, text: str) -> None:
    [found] = of_servers({A: Asked(A, {}, version)}, [])
    assert found.level == level
    assert text in found.text


def test_many_jobs_make_gearmand_slow() -> None:
    jobs = {"q": Queue(100_000, 0, 1)}
    assert levels(of_servers({A: Asked(A, jobs, "1.1.20")}, [])) == [OK, WARN]
    assert levels(of_servers({A: Asked(A, jobs, "gear-1")}, [])) == [OK]


def test_who_reaches_a_server() -> None:
    away = {A: Asked(A, {}, error="refused")}
    assert levels(of_servers(away, [])) == [FAIL]
    assert levels(of_servers(away, [member("m")])) == [WARN]
    assert levels(of_servers(away, [member("m", down=[A])])) == [FAIL, FAIL]
    [_, found] = of_servers({B: Asked(B, {}, "2.0.0")}, [member("m"), member("n", down=[B])])
    assert (found.level, found.text) == (FAIL, "1 of 2 members have no connection to it: n")


def test_how_members_are() -> None:
    assert levels(of_members([member("m"), member("n")])) == [OK, OK]
    [found, _] = of_members([member("m", state="isolated")])
    assert (found.level, found.subject) == (FAIL, "m")
    unheard = {"member": "n", "state": "unknown", "servers": [], "release": ""}
    assert levels(of_members([member("m"), unheard])) == [WARN, OK]
    assert levels(of_members([member("m"), member("n", servers=[B, A])])) == [OK, OK]
    assert levels(of_members([member("m"), member("n", servers=[A])])) == [OK, FAIL]
    assert levels(of_members([member("m"), member("n", release="2")])) == [OK, OK, WARN]


def test_clocks() -> None:
    assert levels(of_clocks([member("m"), member("n", ahead=-0.4)], 0.9)) == [OK]
    ahead, behind = of_clocks([member("m"), member("n", ahead=-3.0)], 2.0)
    assert (ahead.subject, ahead.text) == ("this host", "2.0 s ahead of the worker that answered")
    assert (behind.subject, behind.text) == ("n", "3.0 s behind the worker that answered")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [OK, OK, OK]),
        ({"append_only": False}, [WARN, OK, OK]),
        ({"fails": True}, [FAIL, OK, OK]),
        ({"evicts": "allkeys-lru"}, [OK, FAIL, OK]),
        ({"replicas": 0}, [OK, OK, WARN]),
        ({"min_replicas": False}, [OK, OK, WARN]),
    ],
)
def test_how_the_store_keeps_what_it_is_given(changes: dict[str, Any], expected: list[str]) -> None:
    assert levels(of_store([member("m", store=STORE | changes)])) == expected


def test_a_store_of_which_no_member_tells() -> None:
    assert levels(of_store([member("m", store=None), {"member": "n", "state": "unknown"}])) == [
        WARN
    ]


def judged(queues: dict[str, Queue], **subscriptions: Any) -> list[tuple[str, str, str]]:
    """Judge subscriptions of topic ``t`` at one job server; return level, check and subject."""
    findings = Findings()
    judge = Queues({A: Asked(A, queues)}, [member("m")], findings)
    for client, durable in subscriptions.items():
        judge.see("t", client, {"queue": f"t_{client}", "durable": durable})
    judge.finish()
    return [one[:3] for one in findings.all()]


WELL = [(OK, "hosts", ""), (OK, "dead queues", "")]


@pytest.mark.parametrize(
    ("queue", "durable", "level"),
    [
        (Queue(3, 0, 1), None, None),
        (Queue(0, 0, 0), None, WARN),
        (Queue(1, 0, 0), None, FAIL),
        (Queue(0, 0, 0), {"lag": 2}, FAIL),
        (Queue(0, 0, 0), {"lag": 0}, WARN),
        (Queue(0, 0, 0), {"lag": 2, "pull": True}, None),
        (Queue(0, 0, 0), {"lag": 2, "paused": True}, None),
    ],
)
def test_a_queue_needs_a_receiver(queue: Queue, durable: Any, level: str | None) -> None:
    expected = (level, "receivers", "t/a") if level else (OK, "receivers", "")
    found = judged({"t_a": queue}, a=durable)
    assert expected in found
    assert set(found) == {expected, *WELL}


def test_jobs_of_no_subscription_are_dead() -> None:
    queues = {
        "t_gone": Queue(2, 0, 0),
        "__gossip_m": Queue(1, 0, 0),
        "__gossip_dead": Queue(1, 0, 0),
        "not-ours": Queue(1, 0, 0),
    }
    assert (WARN, "dead queues", "t_gone") in judged(queues)
    assert sum(check == "dead queues" for _, check, _ in judged(queues)) == 1


def test_nothing_is_said_of_queues_where_no_server_answers() -> None:
    findings = Findings()
    judge = Queues({A: Asked(A, {}, error="away")}, [], findings)
    judge.see("t", "a", {"queue": "t_a"})
    judge.finish()
    assert findings.all() == []


def test_hosts_of_a_table_of_workers() -> None:
    table = b"""30 10.0.0.1 - : t_a fanout
31 10.0.0.2 some name : t_a
32 10.0.0.1 x : t_a t_b
33 10.0.0.1 - :
.
"""
    assert servers._hosts(table) == {"t_a": ["10.0.0.1", "10.0.0.2"]}


def test_where_standard_error_is_no_terminal_progress_is_silent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = progress.Progress(settings.Settings({}), "things", 10)
    told.tell(5)
    told.end(10)
    assert capsys.readouterr().err == ""
    assert doctor._CODES == {OK: 0, WARN: 3, FAIL: 1}
