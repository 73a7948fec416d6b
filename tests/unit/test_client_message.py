"""Jobs become messages, and what a handler does becomes the job's answer."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from gearhorn.client.message import (
    REASON_BYTES,
    BadDelivery,
    End,
    Id,
    Message,
    Park,
    Retry,
    messages_of,
)
from gearhorn.client.results import Position
from gearhorn.messages.codec import encode
from gearhorn.messages.fanout import decode_fanout, envelope
from gearhorn.messages.logs import Info, durable_envelope
from gearhorn.messages.verdicts import Verdict, verdict_of

EPOCH = "0123456789abcdef"


class Ends:
    """An ``Ender`` that notes."""

    def __init__(self) -> None:
        self.ends: list[tuple[Message, End]] = []

    def end(self, message: Message, end: End) -> None:
        self.ends.append((message, end))


def parse(arguments: bytes, *, is_plain: bool = False, id: Id | None = None) -> list[Message]:
    return messages_of(
        arguments, topic="t", client_id="web1", ender=Ends(), is_plain=is_plain, id=id
    )


@pytest.mark.parametrize(
    ("unique", "expected"),
    [
        (b"01234567:12:3.4", Id("01234567", 12, 3, 4)),
        (b"", None),
        (b"my own id", None),
        (b"01234567:0:3.4", None),
        (b"01234567:12:3.4\n", None),
    ],
)
def test_the_id_of_a_durable_delivery(unique: bytes, expected: Id | None) -> None:
    assert Id.parse(unique) == expected


def test_a_plain_copy_has_bytes_only() -> None:
    [message] = parse(b"\xff[{", is_plain=True)
    assert (message.topic, message.client_id, message.data) == ("t", "web1", b"\xff[{")
    assert message.position is None


def test_a_plain_delivery_knows_its_place_from_its_id() -> None:
    [message] = parse(b"x", is_plain=True, id=Id("01234567", 12, 3, 4))
    assert message.position == Position(12, "01234567")


def test_the_envelope_of_a_copy() -> None:
    request = decode_fanout(b'{"topic": "news", "payload": "hello", "unique": "u1"}', 100)
    [message] = parse(envelope(request, 12.5))
    assert (message.topic, message.text, message.unique, message.at) == (
        "news",
        "hello",
        "u1",
        12.5,
    )
    assert (message.position, message.attempt) == (None, 1)


def test_the_envelope_of_a_delivery() -> None:
    info = Info(at=5.0, unique="u", headers={"a": "b"}, expires_at=7.5)
    body = durable_envelope("news", 7, EPOCH, attempt=3, info=info, payload=b"\xff")
    [message] = parse(encode(body))
    assert (message.headers, message.expires_at) == ({"a": "b"}, 7.5)
    assert message.data == b"\xff"
    assert message.position == Position(7, EPOCH)
    assert message.attempt == 3


def test_a_batch_is_several_messages() -> None:
    envelopes = [
        durable_envelope("t", n, EPOCH, attempt=1, info=Info(0.0), payload=b"%d" % n)
        for n in (1, 2, 3)
    ]
    for is_plain in (False, True):
        found = parse(encode(envelopes), is_plain=is_plain, id=Id("01234567", 1, 1, 1))
        assert [message.data for message in found] == [b"1", b"2", b"3"]


def batch_of(*sequences: int, topic: str = "t", epoch: str = EPOCH) -> bytes:
    info = Info(0.0)
    return encode(
        [durable_envelope(topic, n, epoch, attempt=1, info=info, payload=b"x") for n in sequences]
    )


@pytest.mark.parametrize(
    "payload",
    [
        b"[]",
        b"[1,2]",
        b"[INFO] started",
        b'[{"topic":"t","payload":"forged"}]',
        batch_of(8, 9),
        batch_of(7, 8, topic="admin"),
        batch_of(7, 8, epoch="fedcba9876543210"),
    ],
)
def test_a_plain_payload_that_looks_like_a_batch_stays_a_payload(payload: bytes) -> None:
    [message] = parse(payload, is_plain=True, id=Id(EPOCH[:8], 7, 1, 1))
    assert (message.topic, message.data) == ("t", payload)
    assert message.position == Position(7, EPOCH[:8])


@pytest.mark.parametrize("body", [b"", b"hello", b"{}", b"[1]", b'{"topic": 1}'])
def test_what_is_no_envelope_is_said(body: bytes) -> None:
    with pytest.raises(BadDelivery, match="not an envelope"):
        parse(body)


def test_a_message_is_ended_by_hand() -> None:
    ends = Ends()
    message = Message("t", b"x", ender=ends)
    message.ack({"a": 1})
    message.fail("disk full")
    message.fail("disk full", retry_after=2.5)
    message.park("no such table")
    assert [end for _, end in ends.ends] == [
        End(b'{"a":1}'),
        End(reason="disk full"),
        End(reason="retry_after: 2.5"),
        End(reason="park: no such table"),
    ]
    Message("t", b"x").ack()  # of a log that is read: nothing to end


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("bad"), "ValueError: bad"),
        (KeyError(), "KeyError"),
        (Retry("later", after=3), "retry_after: 3"),
        (Retry("later"), "later"),
        (Retry(), "the handler asks for another attempt"),
        (Park("broken"), "park: broken"),
        (Park(), "park: the handler parked it"),
        (SystemExit(1), "SystemExit: 1"),
    ],
)
def test_what_a_handler_raises_is_the_reason(error: BaseException, reason: str) -> None:
    assert End.failed(error) == End(reason=reason)
    assert not End.failed(error).is_done


class park(Exception):
    """Is named as no exception should be."""


@pytest.mark.parametrize("text", ["park: the car", "park:x", "retry_after: 7"])
def test_a_reason_asks_for_nothing(text: str) -> None:
    ends = Ends()
    Message("t", b"x", ender=ends).fail(text)
    for end in (End.failed(Retry(text)), ends.ends[0][1]):
        assert end == End(reason=f"failed: {text}")
        assert verdict_of(text.encode(), REASON_BYTES) != Verdict(text)
        assert verdict_of(str(end.reason).encode(), REASON_BYTES) == Verdict(f"failed: {text}")
    assert End.failed(park("x")) == End(reason="failed: park: x")


@pytest.mark.parametrize("after", ["60", timedelta(seconds=5), -1, float("inf"), float("nan")])
def test_a_time_that_is_none_is_refused_in_the_handler(after: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        Retry("later", after=after)


class Unspeakable(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise AttributeError


class Tired(Retry):
    """Does not initialise what it inherits."""

    def __init__(self) -> None: ...


@pytest.mark.parametrize("error", [Unspeakable(), Tired()])
def test_an_exception_that_cannot_be_told_is_a_failure_all_the_same(error: Exception) -> None:
    assert End.failed(error) == End(reason=type(error).__name__)


def test_a_long_reason_is_cut_between_characters() -> None:
    end = End.failed(ValueError("é" * 1000))
    assert end.reason is not None
    assert REASON_BYTES - 2 < len(end.reason.encode()) <= REASON_BYTES


def test_json_and_text() -> None:
    message = Message("t", b'{"a": [1]}', position=Position(7, EPOCH))
    assert message.json() == {"a": [1]}
    assert message.json(dict[str, list[int]]) == {"a": [1]}
    assert message.text == '{"a": [1]}'
    assert repr(message) == "<message t 7: b'{\"a\": [1]}'>"
