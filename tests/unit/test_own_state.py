"""Where the figures of a member's state come from."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

from gearhorn import __version__
from gearhorn.broker.own_state import OwnState
from gearhorn.gearman.server import Server
from gearhorn.messages.peers import StoreState


def test_the_state_adds_up_what_the_parts_count() -> None:
    def worker(held: int, taken: int, failed: int) -> Any:
        return SimpleNamespace(held=held, taken=taken, failed=failed)

    parts: dict[str, Any] = {
        "membership": SimpleNamespace(id="me", known=12, reaped=3),
        "directory": SimpleNamespace(size=(2, 30)),
        "durable": SimpleNamespace(deliverer=SimpleNamespace(count=4)),
        "job_servers": SimpleNamespace(
            clients=[
                SimpleNamespace(accepted=100, server=Server("a", 1), is_up=True),
                SimpleNamespace(accepted=11, server=Server("b", 2), is_up=False),
            ]
        ),
        "places": SimpleNamespace(waiting=5),
        "intake": SimpleNamespace(
            fanouts=[worker(1, 20, 2), worker(2, 22, 0)], changes=[worker(9, 9, 6)]
        ),
        "policy": SimpleNamespace(state=StoreState(replicas=1)),
    }
    state = OwnState(servers=[Server("a", 1), Server("b", 2)], **parts).now("clustered")
    assert (state.member, state.state, state.pid) == ("me", "clustered", os.getpid())
    assert state.servers == [str(Server("a", 1)), str(Server("b", 2))]
    assert (state.version, state.release) == (12, __version__)
    assert (state.topics, state.subscriptions) == (2, 30)
    assert state.in_flight == 1 + 2 + 5, "jobs in hand, and those that wait in the foreground"
    assert (state.lanes, state.fanouts, state.copies) == (4, 20 + 22, 111)
    assert (state.errors, state.reaped) == (2 + 6, 3)
    assert 0 <= state.uptime < 10
    assert state.down == [str(Server("b", 2))]
    assert state.store == StoreState(replicas=1)
