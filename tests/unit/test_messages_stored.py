"""What messages tell of themselves, and those that the store keeps."""

from __future__ import annotations

import json
import math

import msgspec
import pytest

from gearhorn.errors import BadRequest
from gearhorn.messages.fanout import Fanout, decode_fanout
from gearhorn.messages.logs import FailureHistory, Info, Parked, decode_parked, parked_head
from gearhorn.messages.subscriptions import pause_left_s

LIMIT = 100_000


def decoded(payload: str, **more: object) -> Fanout:
    """A fan-out whose payload is given as its JSON text."""
    rest = "".join(f', "{key}": {json.dumps(value)}' for key, value in more.items())
    return decode_fanout(f'{{"topic": "t", "payload": {payload}{rest}}}'.encode(), LIMIT)


@pytest.mark.parametrize("filler", ["", "x" * 20_000], ids=["short", "long"])
def test_half_a_character_is_no_payload(filler: str) -> None:
    with pytest.raises(BadRequest, match=r"payload|JSON"):
        decoded(f'"{filler}\\ud800"')


@pytest.mark.parametrize(
    ("text", "reason"),
    [("QQ=", "multiple of four"), ("Q===", "not base64")],
)
def test_what_is_no_base64_is_refused(text: str, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        decoded(json.dumps(text), encoding="base64")


def test_a_message_without_its_payload_has_its_other_parts() -> None:
    message = decoded('"text"', headers={"kind": "a"}, quorum="50%")
    bare = message.without_payload()
    assert (message.payload, bare.payload) == (b"text", b"")
    assert bare.size == 0 < message.size
    assert (bare.topic, bare.quorum) == (message.topic, message.quorum)


@pytest.mark.parametrize(
    ("paused_ms", "left_s"), [(0, 0.0), (999, 0.0), (1000, 0.0), (2500, 1.5), (-1, math.inf)]
)
def test_a_pause_ends_at_its_time(paused_ms: int, left_s: float) -> None:
    assert pause_left_s(paused_ms, 1000) == left_s


@pytest.mark.parametrize("size", [0, 31, 300, 70_000])
def test_a_parked_message_is_its_head_and_the_payload_behind_it(size: int) -> None:
    """As ``park.lua`` puts them together."""
    history = FailureHistory(attempts=2, first_at=1.0, at=2.0, error="no such user")
    parked = Parked("epoch", history, Info(at=3.0, headers={"kind": "a"}), b"x" * size)
    whole = parked_head(parked) + msgspec.msgpack.encode(parked.payload)
    assert decode_parked(whole) == parked
