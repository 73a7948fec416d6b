"""The judges of subscriptions that are changed under fire."""

from __future__ import annotations

import pytest
from support.durable_changes import Drained, Optioned
from support.durable_history import DurableHistory
from support.wire import Assigned


def job(payload: bytes) -> Assigned:
    return Assigned(b"H:1", b"t_drained", b"", payload)


@pytest.mark.parametrize(
    ("kind", "thawed_s", "is_wrong"),
    [
        ("gearmand killed", 11.0, True),
        ("worker frozen", 9.0, False),
        ("gearmand and worker frozen", 10.5, False),
        ("worker frozen", 2.0, True),
    ],
)
def test_what_comes_after_a_drain_is_wrong_unless_a_worker_was_frozen(
    monkeypatch: pytest.MonkeyPatch, kind: str, thawed_s: float, is_wrong: bool
) -> None:
    history = DurableHistory({}, 1.0)
    drained = Drained(history, ["127.0.0.1:1"], "t", 1)
    history.fault(kind, 1.0).end_s = thawed_s
    drained._away.append((10.0, 12.0))
    for at_s, payload in ((9.9, b"before"), (11.5, b"within"), (12.1, b"after")):
        monkeypatch.setattr("support.durable_changes.time.monotonic", lambda at_s=at_s: at_s)
        drained.take(job(payload))
    assert drained.came == 3
    found = drained.violations()
    assert len(found) == is_wrong
    assert all("within" in line for line in found)


def test_what_was_replied_to_is_owed_until_it_has_come() -> None:
    history = DurableHistory({}, 1.0)
    optioned = Optioned(history, ["127.0.0.1:1"], "t", 1)
    for payload, topic in (("a", "t"), ("b", "t"), ("c", "another"), ("d", "t")):
        history.publish(payload, topic, 1.0)
        if payload != "d":
            history.reply(payload, "0123456789abcdef", 1)
    assert list(optioned.owed()) == ["a", "b"]
    optioned.take(job(b"a"))
    while not optioned.take(job(b'[{"payload": "b"}]')):
        assert list(optioned.owed()) == ["b"], "a batch that fails has not come"
    assert list(optioned.owed()) == []
