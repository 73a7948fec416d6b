"""Receipts, answers and results say what the worker said."""

from __future__ import annotations

import pytest

from gearhorn.client.results import (
    Answer,
    Answers,
    Failure,
    Position,
    Published,
    Receipt,
    Results,
    Streamed,
    published_of,
    receipt_of,
    streamed,
)
from gearhorn.errors import Busy, GearhornError
from gearhorn.messages.logs import Logged
from gearhorn.messages.receipts import encode_receipt


def test_a_number_is_a_count_of_copies() -> None:
    assert published_of(b"3") == Published(3)
    assert published_of(b"") == Published(0)


def test_a_receipt_of_the_background_has_drops_and_the_place_in_the_log() -> None:
    reply = encode_receipt(2, dropped=["a"], logged=Logged(7, "0123456789abcdef", False))
    assert published_of(reply) == Published(2, ("a",), Position(7, "0123456789abcdef"))


def test_a_receipt_comes_back_whole() -> None:
    reply = encode_receipt(
        5,
        delivered=["a", "b"],
        failed={"c": "disk full"},
        pending=["d"],
        dropped=["e"],
        results={"a": b"yes", "b": b"\xff"},
        omitted=["f"],
    )
    receipt = receipt_of(reply)
    assert receipt == Receipt(
        5,
        ("a", "b"),
        {"c": "disk full"},
        ("d",),
        ("e",),
        {"a": b"yes", "b": b"\xff"},
        ("f",),
        {},
        None,
    )
    assert (receipt.addressed, receipt.succeeded) == (5, 2)


def test_those_that_did_not_fit_count() -> None:
    receipt = Receipt(9, ("a",), unlisted={"delivered": 3, "failed": 4, "results_omitted": 2})
    assert (receipt.addressed, receipt.succeeded) == (8, 4)


def test_answers_are_by_client() -> None:
    answers = Answers(Receipt(4, ("a", "b"), {"c": "no"}, ("d",), ("e",), {"a": b'{"up": 3}'}))
    assert dict(answers) == {"a": Answer("a", b'{"up": 3}'), "b": Answer("b", b"")}
    assert answers["a"].json() == {"up": 3}
    assert answers["a"].text == '{"up": 3}'
    assert answers.failed == {"c": "no"}
    assert answers.missing == ("d", "e")
    assert repr(answers) == "<2 answers, 1 failed, 2 missing>"


def test_results_tell_which_failed() -> None:
    error = Busy("later")
    results = Results([Published(1), error, Published(2)])
    assert list(results) == [Published(1), error, Published(2)]
    assert results.failed == {1: error}
    assert repr(results) == "<2 published, 1 failed>"
    with pytest.raises(Busy):
        results.raise_any()
    Results([Published(1)]).raise_any()
    assert isinstance(error, GearhornError)


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [
        (b'{"client_id": "a", "result": "x", "seconds": 0.5}', Answer("a", b"x", 0.5)),
        (b'{"client_id": "a", "result_base64": "/w==", "seconds": 1}', Answer("a", b"\xff", 1.0)),
        (b'{"client_id": "a", "error": "no", "seconds": 2}', Failure("a", "no", 2.0)),
        (b'{"client_id": "a", "omitted": true}', Answer("a", b"", omitted=True)),
    ],
)
def test_pieces_of_a_stream(chunk: bytes, expected: Answer | Failure) -> None:
    assert streamed(chunk) == expected


def test_a_streamed_answer_may_be_without_a_result() -> None:
    assert streamed(b'{"client_id":"a","seconds":0.5,"omitted":true}\n') == Answer(
        "a", b"", 0.5, omitted=True
    )
    assert streamed(b'{"client_id":"a","seconds":0.5}\n') == Answer("a", b"", 0.5)


def test_each_host_is_told_of_once_and_the_receipt_tells_of_the_rest() -> None:
    told = Streamed()
    assert told.take(b'{"client_id":"a","seconds":0.5,"result":"yes"}') == Answer("a", b"yes", 0.5)
    assert told.take(b'{"client_id":"a","seconds":0.9,"error":"again"}') is None
    assert told.take(b'{"client_id":"b","seconds":0.5,"error":"no"}') == Failure("b", "no", 0.5)
    receipt = Receipt(
        9,
        ("a", "c", "d"),
        {"b": "no", "e": "disk full"},
        ("f",),
        ("g",),
        {"a": b"yes", "c": b"late"},
        omitted=("d",),
        expired=("h",),
    )
    assert list(told.rest(receipt)) == [
        Answer("c", b"late"),
        Answer("d", b"", omitted=True),
        Failure("f", "no answer"),
        Failure("g", "queue full"),
        Failure("h", "expired"),
        Failure("e", "disk full"),
    ]


def test_what_has_expired_was_addressed() -> None:
    receipt = receipt_of(encode_receipt(0, expired=["a", "b"]))
    assert (receipt.expired, receipt.addressed, receipt.succeeded) == (("a", "b"), 2, 0)
    assert Answers(receipt).missing == ("a", "b")
