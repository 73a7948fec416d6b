"""What is kept of what receivers send, and which room it takes."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass, field

import pytest

from gearhorn.gearman.results import DONE, REASON_BYTES, Awaited, Bound, Result, Room


class Outcome:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.pieces: list[bytes] = []

    def came(self, submission: object, index: int, data: bytes) -> None:
        self.pieces.append(data)

    def finished(self, submission: object, index: int, result: Result) -> None:
        self.results.append(result)


@dataclass
class Sent:
    """A submission, as far as results concern it."""

    results: Room | None = None
    reasons: Room | None = None
    is_streamed: bool = False
    outcome: Outcome = field(default_factory=Outcome)

    @property
    def result(self) -> Result:
        """The only result that was told."""
        [result] = self.outcome.results
        return result


def left(room: Bound) -> int:
    """Return how many bytes a room has left, and take them."""
    size = 0
    while room.take(1):
        size += 1
    return size


@pytest.fixture
def sent() -> Sent:
    """A submission with ten bytes for results and ten for reasons."""
    return Sent(Bound(10), Bound(10))


def test_a_room_gives_what_it_has_and_no_more() -> None:
    room = Bound(10)
    assert room.take(10)
    assert not room.take(1)
    room.give(4)
    assert not room.take(5)
    assert room.take(4)
    assert room.take(0)


def test_pieces_become_one_result_and_stay_taken(sent: Sent) -> None:
    awaited = Awaited(sent, 3)
    awaited.add(b"abc")
    awaited.add(b"")
    awaited.add(b"def")
    awaited.finish(True)
    assert (sent.result.ok, sent.result.data, sent.result.text) == (True, b"abcdef", b"")
    assert isinstance(sent.results, Bound)
    assert left(sent.results) == 4


def test_an_end_without_anything_makes_no_result_of_its_own(sent: Sent) -> None:
    Awaited(sent, 0).finish(True)
    assert sent.result is DONE


def test_what_does_not_fit_is_missing_whole_and_gives_its_room_back(sent: Sent) -> None:
    awaited = Awaited(sent, 0)
    awaited.add(b"12345678")
    awaited.add(b"901")
    awaited.add(b"2")  # it would fit, but the beginning is gone
    awaited.finish(True)
    assert (sent.result.oversized, sent.result.data) == (True, b"")
    assert isinstance(sent.results, Bound)
    assert left(sent.results) == 10


def test_of_a_result_that_nobody_wants_nothing_is_kept() -> None:
    sent = Sent()
    awaited = Awaited(sent, 0)
    awaited.add(b"data")
    awaited.finish(True)
    assert sent.result is DONE


def test_an_oversized_packet_needs_no_room() -> None:
    sent = Sent()
    awaited = Awaited(sent, 0)
    awaited.cut()
    awaited.finish(True)
    assert (sent.result.ok, sent.result.oversized) == (True, True)


def test_a_later_warning_takes_the_place_of_an_earlier_one(sent: Sent) -> None:
    awaited = Awaited(sent, 0)
    awaited.warn(b"12345678")
    awaited.warn(b"123456789")
    awaited.finish(False)
    assert (sent.result.ok, sent.result.text) == (False, b"123456789")
    assert isinstance(sent.reasons, Bound)
    assert left(sent.reasons) == 1


def test_a_warning_without_room_is_missing(sent: Sent) -> None:
    awaited = Awaited(sent, 0)
    awaited.warn(b"short")
    awaited.warn(b"longer than ten")
    awaited.finish(False)
    assert sent.result.text == b""
    assert isinstance(sent.reasons, Bound)
    assert left(sent.reasons) == 10


def test_without_a_room_a_warning_is_cut() -> None:
    sent = Sent()
    awaited = Awaited(sent, 0)
    awaited.warn(b"x" * (REASON_BYTES + 1))
    awaited.finish(False)
    assert sent.result.text == b"x" * REASON_BYTES


def test_a_failure_keeps_the_warning_and_drops_the_data(sent: Sent) -> None:
    awaited = Awaited(sent, 0)
    awaited.add(b"data")
    awaited.warn(b"why")
    awaited.finish(False)
    assert (sent.result.data, sent.result.text, sent.result.oversized) == (b"", b"why", False)
    assert isinstance(sent.results, Bound)
    assert left(sent.results) == 10


def test_the_text_of_an_exception_comes_instead_of_the_warning(sent: Sent) -> None:
    awaited = Awaited(sent, 0)
    awaited.warn(b"warning")
    awaited.finish(False, b"exception")
    assert sent.result.text == b"exception"


@pytest.mark.parametrize(("ok", "lost"), [(True, False), (False, True)])
def test_success_and_a_lost_server_drop_the_warning(sent: Sent, ok: bool, lost: bool) -> None:
    awaited = Awaited(sent, 0)
    awaited.warn(b"warning")
    awaited.finish(ok, lost=lost)
    assert (sent.result.ok, sent.result.lost, sent.result.text) == (ok, lost, b"")
    assert isinstance(sent.reasons, Bound)
    assert left(sent.reasons) == 10


def test_what_is_forgotten_gives_its_room_back_and_tells_nothing(sent: Sent) -> None:
    awaited = Awaited(sent, 0)
    awaited.add(b"data")
    awaited.warn(b"warning")
    awaited.forget()
    awaited.add(b"more")
    awaited.warn(b"more")
    awaited.finish(True)
    assert sent.outcome.results == []
    assert isinstance(sent.results, Bound)
    assert isinstance(sent.reasons, Bound)
    assert (left(sent.results), left(sent.reasons)) == (10, 10)


def test_what_is_withdrawn_says_so_until_the_server_has_answered(sent: Sent) -> None:
    awaited = Awaited(sent, 0)
    awaited.withdraw(True)
    assert awaited.is_withdrawn
    awaited.withdraw(False)
    assert not awaited.is_withdrawn


def test_many_small_pieces_take_no_more_memory_than_the_room_is_charged_with() -> None:
    count = 100_000
    sent = Sent(Bound(2 * count))
    awaited = Awaited(sent, 0)
    pieces = [b"%02d" % number for number in range(100)]
    tracemalloc.start()
    try:
        for number in range(count):
            awaited.add(bytes(memoryview(pieces[number % 100])))  # an object of its own
        snapshot = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    # other threads of this process may allocate meanwhile
    mine = [tracemalloc.Filter(True, name) for name in ("*/gearman/results.py", __file__)]
    held = sum(trace.size for trace in snapshot.filter_traces(mine).traces)
    assert held < 2 * (2 * count)
    awaited.finish(True)
    assert sent.result.data == b"".join(pieces) * (count // 100)


def test_pieces_of_what_is_streamed_are_handed_on_and_take_no_room() -> None:
    sent = Sent(Bound(10), is_streamed=True)
    awaited = Awaited(sent, 0)
    for piece in (b"a", b"", 20 * b"b"):
        awaited.piece(piece)
    awaited.add(b"end")
    awaited.finish(True)
    assert sent.outcome.pieces == [b"a", b"", 20 * b"b"]
    assert (sent.result.data, sent.result.oversized) == (b"end", False)


def test_pieces_are_kept_where_nothing_is_streamed(sent: Sent) -> None:
    awaited = Awaited(sent, 0)
    awaited.piece(b"one ")
    awaited.piece(b"two")
    awaited.finish(True)
    assert sent.outcome.pieces == []
    assert sent.result.data == b"one two"


def test_what_is_forgotten_or_cut_is_not_handed_on() -> None:
    sent = Sent(Bound(10), is_streamed=True)
    awaited, other = Awaited(sent, 0), Awaited(sent, 1)
    awaited.forget()
    awaited.piece(b"late")
    other.cut()
    other.piece(b"behind one that was too long")
    assert sent.outcome.pieces == []


def test_a_copy_that_was_forgotten_keeps_nothing_of_what_comes_after(sent: Sent) -> None:
    awaited = Awaited(sent, 0)
    awaited.warn(b"busy")
    awaited.forget()
    awaited.warn(b"x" * REASON_BYTES)
    awaited.piece(b"y" * 10)
    assert (awaited.warning, awaited.data) == (b"", b"")
    assert isinstance(sent.reasons, Bound)
    assert left(sent.reasons) == 10
