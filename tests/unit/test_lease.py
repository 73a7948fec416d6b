"""Until when cached lists may be used."""

from __future__ import annotations

import pytest

from gearhorn.members.lease import SAFE_PART, Lease

NEVER = float("-inf")


def test_nothing_is_usable_before_the_first_grant() -> None:
    lease = Lease(10.0, stale_s=60.0)
    assert (lease.until_s, lease.usable_until_s) == (NEVER, NEVER)


def test_a_grant_counts_from_when_it_was_asked_for_and_less_than_others_wait() -> None:
    lease = Lease(10.0)
    lease.grant(100.0)
    assert lease.until_s == lease.usable_until_s == 100.0 + 10.0 * SAFE_PART
    assert lease.until_s < 110.0


def test_lists_are_not_used_stale_unless_a_renewal_failed() -> None:
    lease = Lease(10.0, stale_s=60.0)
    lease.grant(100.0)
    assert lease.usable_until_s == lease.until_s
    lease.store_is_lost()
    assert lease.usable_until_s == lease.until_s + 60.0
    assert lease.until_s == pytest.approx(109.9), "the lease itself is no longer for it"


def test_failing_again_does_not_add_up() -> None:
    lease = Lease(10.0, stale_s=60.0)
    lease.grant(100.0)
    for _ in range(3):
        lease.store_is_lost()
    assert lease.usable_until_s == lease.until_s + 60.0


def test_a_renewal_that_succeeds_ends_the_stale_time() -> None:
    lease = Lease(10.0, stale_s=60.0)
    lease.grant(100.0)
    lease.store_is_lost()
    lease.grant(105.0)
    assert lease.usable_until_s == lease.until_s == pytest.approx(114.9)


def test_without_stale_seconds_a_lost_store_changes_nothing() -> None:
    lease = Lease(10.0)
    lease.grant(100.0)
    lease.store_is_lost()
    assert lease.usable_until_s == lease.until_s == pytest.approx(109.9)


def test_what_has_ended_is_usable_no_more_however_the_store_fares() -> None:
    lease = Lease(10.0, stale_s=60.0)
    lease.grant(100.0)
    lease.store_is_lost()
    lease.end()
    assert (lease.until_s, lease.usable_until_s) == (NEVER, NEVER)
    lease.store_is_lost()
    assert (lease.until_s, lease.usable_until_s) == (NEVER, NEVER)
    lease.grant(200.0)
    assert lease.usable_until_s == pytest.approx(209.9)
