"""Until when changes wait after the store was restarted, emptied or doubted."""

from __future__ import annotations

from gearhorn.members.store_past import StorePast

NEVER = float("-inf")


def test_the_first_run_is_no_other_one() -> None:
    past = StorePast()
    assert not past.answered_under("a")
    assert not past.answered_under("a")
    assert past.answered_under("b")
    assert past.safe_from_s == NEVER


def test_a_loss_lets_changes_wait() -> None:
    past = StorePast()
    past.lost(10.0)
    assert past.safe_from_s == 10.0


def test_a_doubt_is_taken_back_where_the_data_is_the_same() -> None:
    past = StorePast()
    assert not past.joined("data", 5.0), "nothing was known before"
    past.doubt(20.0)
    assert past.safe_from_s == 20.0
    assert not past.joined("data", 30.0)
    assert past.safe_from_s == NEVER


def test_other_data_lets_changes_wait_from_the_join_on() -> None:
    past = StorePast()
    past.joined("data", 5.0)
    past.doubt(20.0)
    assert past.joined("other", 30.0)
    assert past.safe_from_s == 30.0


def test_a_second_doubt_does_not_forget_what_was_before_the_first() -> None:
    past = StorePast()
    past.joined("data", 5.0)
    past.lost(8.0)
    past.doubt(20.0)
    past.doubt(25.0)
    assert not past.joined("data", 30.0)
    assert past.safe_from_s == 8.0


def test_a_loss_after_a_doubt_counts_whatever_the_join_finds() -> None:
    past = StorePast()
    past.joined("data", 5.0)
    past.doubt(20.0)
    past.lost(22.0)
    assert not past.joined("data", 30.0)
    assert past.safe_from_s == 22.0
