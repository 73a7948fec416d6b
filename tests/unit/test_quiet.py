"""Lanes that were taken over are opened when nothing of their former owner runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from support.delivering import Admin, Client
from support.proxy import on_loop
from support.windows import settling

from gearhorn.durable.lanes import Lane
from gearhorn.durable.quiet import Quiet
from gearhorn.timing import now_s


class Away(Admin):
    """A job server that does not answer."""

    async def running(self) -> dict[bytes, int]:
        raise OSError("away")


def poll(admins: Sequence[Admin], ups: Sequence[bool], *lanes: Lane) -> list[Lane]:
    """The lanes that are opened by one poll of these job servers."""
    opened: list[Lane] = []
    clients = [Client() for _ in ups]
    for client, is_up in zip(clients, ups, strict=True):
        client.is_up = is_up
    deliverer: Any = SimpleNamespace(
        held=SimpleNamespace(busy=dict.fromkeys(lanes)), quiet=opened.append
    )
    servers: Any = SimpleNamespace(admins=list(admins), clients=clients)
    asyncio.run(Quiet(deliverer, servers)._poll(lanes))
    return opened


def taken(wait_s: float = 60.0) -> Lane:
    """A lane that was just taken, and waits for so long at most."""
    lane = settling()
    lane.wait_until_s = now_s() + wait_s
    return lane


def busy() -> Admin:
    """A job server with a receiver at work on the lane's queue."""
    admin = Admin()
    admin.busy = {b"t_me"}
    return admin


@pytest.mark.parametrize(
    ("admins", "ups", "is_opened"),
    [
        ([Admin()], [True], True),
        ([busy()], [True], False),
        ([Admin(), busy()], [True, True], False),
        ([Admin(), busy()], [True, False], False),  # its receivers may be at work
        ([Admin(), Away()], [True, True], False),  # nobody knows yet
        ([Admin(), Away()], [True, False], True),  # the others decide
        ([Away()], [False], False),  # nothing is known
    ],
)
def test_a_lane_is_opened_once_it_is_known_that_nothing_runs(
    admins: list[Admin], ups: list[bool], is_opened: bool
) -> None:
    lane = taken()
    assert poll(admins, ups, lane) == [lane] * is_opened


def test_a_lane_waits_for_its_time_out_at_most() -> None:
    late, early = taken(-1.0), taken()
    assert poll([busy()], [True], late, early) == [late]


@on_loop
async def test_lanes_are_polled_until_none_waits() -> None:
    lane = taken()
    held = SimpleNamespace(busy={lane: None})
    opened = asyncio.Event()

    def quiet(lane: Lane) -> None:
        del held.busy[lane]
        opened.set()

    deliverer: Any = SimpleNamespace(held=held, quiet=quiet)
    servers: Any = SimpleNamespace(admins=[Admin()], clients=[Client()])
    loop = asyncio.create_task(Quiet(deliverer, servers).run())
    await asyncio.wait_for(opened.wait(), 10)
    loop.cancel()
    assert servers.admins[0].tables == 1
