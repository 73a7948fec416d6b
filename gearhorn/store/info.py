"""Info: what the store's ``INFO`` says of how well it keeps what it is given.

``CONFIG GET`` would say more, but is among the dangerous commands that the worker's user does not
have ("Redis or Valkey" in docs/operations.rst); ``INFO`` it has.

Rules: pure. A line that is missing says nothing bad: stores that are alike leave some out.
"""

from __future__ import annotations

from collections.abc import Iterable

from gearhorn.messages.peers import StoreState


def state_of(sections: Iterable[bytes]) -> StoreState:
    """Return what the sections memory, persistence and replication of ``INFO`` come to.

    The ``volatile`` policies take keys with an expiry, and none of gearhorn's has one. The line
    ``min_slaves_good_slaves`` is there only where ``min-replicas-to-write`` is set.
    """
    found: dict[str, str] = {}
    for section in sections:
        lines = section.decode(errors="replace").splitlines()
        found |= dict(line.split(":", 1) for line in lines if ":" in line)
    policy = found.get("maxmemory_policy", "noeviction")
    is_bounded = found.get("maxmemory", "0") != "0"
    is_safe = policy == "noeviction" or policy.startswith("volatile-")
    writes = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
    replicas = found.get("connected_slaves", "0")
    return StoreState(
        evicts=policy if is_bounded and not is_safe else None,
        append_only=found.get("aof_enabled", "1") != "0",
        fails=any(found.get(write, "ok") == "err" for write in writes),
        replicas=int(replicas) if replicas.isdigit() else 0,
        min_replicas="min_slaves_good_slaves" in found,
    )
