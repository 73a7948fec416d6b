"""Events on the store's channels, as texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gearhorn.messages.events import (
    Appended,
    Done,
    Leaving,
    MembersChanged,
    Redriven,
    Released,
    decode_done,
    decode_event,
    encode_done,
    encode_event,
)

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)


@given(topic=NAMES, client_id=NAMES)
def test_an_event_comes_as_it_was_published(topic: str, client_id: str) -> None:
    for event in (Redriven(topic, client_id), Released(topic), Leaving(topic), MembersChanged()):
        assert decode_event(encode_event(event).encode()) == event


def test_what_a_script_publishes_is_an_event() -> None:
    assert decode_event(b"appended\0news\x0017\x009") == Appended("news", 17, 9)  # as in append.lua
    assert decode_event(b"appended\0news\x0017") == Appended("news", 17), "of an older release"
    assert decode_event(b"redriven\0news\0bob") == Redriven("news", "bob")  # as in redrive.lua


def test_what_a_later_release_publishes_is_ignored() -> None:
    assert decode_event(b"painted\0news\0red") is None
    assert decode_event(b"released\0news\0red") == Released("news")


@pytest.mark.parametrize(
    "text", [b"appended", b"appended\0news", b"appended\0news\0many", b"released", b"leaving"]
)
def test_an_event_that_lacks_a_part_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"event|invalid literal"):
        decode_event(text)


@given(topic=NAMES, client_id=NAMES, sequence=st.integers(1), error=st.text())
def test_what_a_process_waits_for_is_told_line_by_line(
    topic: str, client_id: str, sequence: int, error: str
) -> None:
    error = error.encode(errors="replace").decode()
    lines = [
        encode_done(topic, client_id, sequence, error, epoch="e"),
        encode_done("t", "c", 1, "", epoch="e", is_expired=True),
    ]
    first, second = decode_done(b"\n".join(lines))
    assert first[:3] == (topic, client_id, sequence)
    assert first.error == error.replace("\n", " ").replace("\0", " ")
    assert (first.is_expired, first.epoch) == (False, "e")
    assert second == Done("t", "c", 1, "", True, "e")


def test_what_older_releases_tell_a_process_has_no_epoch() -> None:
    plain, expired = decode_done(b"t\0c\x001\0no\nt\0c\x002\0\0expired")
    assert plain == Done("t", "c", 1, "no")
    assert expired == Done("t", "c", 2, "", True)
