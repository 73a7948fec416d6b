"""A worker's parts as they are wired: nothing runs yet, and what is shared is one object."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest

from gearhorn.broker.wiring import Parts, wire
from gearhorn.config import Config
from gearhorn.errors import StartError
from gearhorn.tasks import Supervision

CONFIG = Config(servers=(("a", 1), ("b", 2)))


def on_parts(test: Callable[[Parts], None], config: Config = CONFIG) -> None:
    async def main() -> None:
        test(wire(config))

    asyncio.run(main())


def test_nothing_runs_when_the_parts_are_built() -> None:
    def test(parts: Parts) -> None:
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert Supervision.of(asyncio.get_running_loop()).kept == {}
        job_servers = parts.copies, parts.control, parts.deliveries
        assert not any(servers.is_up for servers in job_servers)
        assert not parts.membership.joined.is_set()
        assert not parts.presences.is_present

    on_parts(test)


def test_each_part_is_an_object_of_its_own() -> None:
    def test(parts: Parts) -> None:
        built = [getattr(parts, field.name) for field in fields(parts)]
        assert len({id(part) for part in built}) == len(built)

    on_parts(test)


def test_each_kind_of_request_has_a_worker_for_each_job_server() -> None:
    def test(parts: Parts) -> None:
        intake = parts.intake
        for kind in (intake.fanouts, intake.changes, intake.readings):
            assert [worker.server for worker in kind] == parts.servers

    on_parts(test)


def test_a_lease_that_the_membership_gives_up_is_the_one_that_lists_are_used_under(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def test(parts: Parts) -> None:
        at_s = 1000.0
        monkeypatch.setattr("gearhorn.fanout.directory.now_s", lambda: at_s)
        parts.membership.lease.grant(at_s)
        assert parts.directory._lease.usable_until_s > at_s
        parts.membership.stand_down()
        assert parts.directory._lease.usable_until_s < at_s

    on_parts(test)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (replace(CONFIG, redis="http://store"), "--redis: "),
        (replace(CONFIG, ssl_ca=Path("no such file")), "--ssl-ca no such file: "),
        (replace(CONFIG, ssl_key=Path("key")), "--ssl-cert and --ssl-key need --ssl-ca"),
    ],
)
def test_what_waiting_cannot_mend_is_an_error(config: Config, text: str) -> None:
    with pytest.raises(StartError, match=text):
        on_parts(lambda parts: None, config)
