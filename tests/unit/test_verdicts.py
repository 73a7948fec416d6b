"""What a receiver's text asks for, and what is only a reason."""

from __future__ import annotations

import pytest

from gearhorn.messages.verdicts import Verdict, verdict_of

LIMIT = 20


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"retry_after: 30", 30.0),
        (b"retry_after:30", 30.0),
        (b"retry_after: 0", 0.0),
        (b"retry_after: 0.25\n", 0.25),
        (b"retry_after: 1e+06", 1e6),
        (b"retry_after:\t007 \r\n", 7.0),
    ],
)
def test_a_time_until_the_next_attempt(text: bytes, seconds: float) -> None:
    reason = text.decode().rstrip()
    assert verdict_of(text, LIMIT) == Verdict(reason, retry_after_s=seconds)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"park: no such user", "no such user"),
        (b"park:no such user\n", "no such user"),
        ("park: größer".encode(), "größer"),
        (b"park: first line\nsecond", "first line\nsecond"),
        (b"park: park: x", "park: x"),
        (b"park: retry_after: 3", "retry_after: 3"),
        (b"park: " + 30 * b"x", 20 * "x"),
        (b"park: \xff", "�"),
    ],
)
def test_a_message_is_to_be_parked(text: bytes, reason: str) -> None:
    assert verdict_of(text, LIMIT) == Verdict(reason, parks=True)


@pytest.mark.parametrize(
    "text",
    [
        b"disk full",
        b"retry_after:",
        b"retry_after: ",
        b"retry_after: soon",
        b"retry_after: -1",
        b"retry_after: nan",
        b"retry_after: inf",
        b"retry_after: 1_000",
        b"retry_after: 30 s",
        b"retry_after: 30, sorry",
        b"retry_after: 0x10",
        "retry_after: ٣".encode(),
        b"retry_after 30",
        b"Retry_After: 30",
        b" retry_after: 30",
        b"retry_after: 1e999",
        b"park:",
        b"park: \n",
        b"park: \xc2\xa0",
        b"park: \x1c",
        b"park",
        b"parked: x",
        b"Park: x",
        b"cannot park: x",
        b"\nretry_after: 3",
        b"\0park: x",
    ],
)
def test_any_other_text_is_a_reason(text: bytes) -> None:
    assert verdict_of(text, 100) == Verdict(text.decode())


def test_a_receiver_that_says_nothing_has_failed() -> None:
    assert verdict_of(b"", LIMIT) == Verdict("failed")


def test_a_reason_is_cut_and_made_text() -> None:
    assert verdict_of(30 * b"x", LIMIT) == Verdict(20 * "x")
    assert verdict_of(b"\xff", LIMIT) == Verdict("�")


def test_a_number_of_any_length_comes_to_an_end() -> None:
    verdict = verdict_of(b"retry_after: " + 4000 * b"9", 10)
    assert verdict == Verdict("retry_afte")
