"""Since when a member's work has waited for the store."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gearhorn.broker.store_outage import StoreOutage


@pytest.mark.parametrize(
    ("lists", "messages", "since"),
    [(None, None, None), (5.0, None, 5.0), (None, 3.0, 3.0), (5.0, 3.0, 3.0)],
)
def test_the_store_is_away_since_work_first_waited_for_it(
    lists: float | None, messages: float | None, since: float | None
) -> None:
    parts: list[Any] = [SimpleNamespace(waiting_since=value) for value in (lists, messages)]
    assert StoreOutage(*parts).since == since
