"""What the store's INFO comes to."""

from __future__ import annotations

import pytest

from gearhorn.messages.peers import StoreState
from gearhorn.store.info import state_of


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], StoreState()),
        (["# Memory", "maxmemory:0", "maxmemory_policy:allkeys-lru"], StoreState()),
        (["maxmemory:9", "maxmemory_policy:volatile-ttl"], StoreState()),
        (["maxmemory:9", "maxmemory_policy:allkeys-lru"], StoreState(evicts="allkeys-lru")),
        (["aof_enabled:0", "aof_last_write_status:ok"], StoreState(append_only=False)),
        (["aof_enabled:1", "aof_last_write_status:err"], StoreState(fails=True)),
        (["rdb_last_bgsave_status:err"], StoreState(fails=True)),
        (["role:master", "connected_slaves:2"], StoreState(replicas=2)),
        (["min_slaves_good_slaves:0", "connected_slaves:?"], StoreState(min_replicas=True)),
    ],
)
def test_what_a_store_says_of_itself(lines: list[str], expected: StoreState) -> None:
    half = len(lines) // 2
    sections = ["\r\n".join(part).encode() for part in (lines[:half], lines[half:])]
    assert state_of(sections) == expected
