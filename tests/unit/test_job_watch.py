"""Who has taken what: asked one by one, or where many wait after a look at the table."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

from support.delivering import Bed
from support.proxy import on_loop
from support.windows import entries

from gearhorn.durable.job_watch import JobWatcher
from gearhorn.durable.states import Event, LaneEvent, State


def looks_of(bed: Bed) -> JobWatcher:
    """What looks after the lanes of a bed."""
    deliverer: Any = SimpleNamespace(held=bed.held, outcomes=bed.outcomes)
    cluster: Any = bed.cluster
    return JobWatcher(deliverer, cluster)


def waiting_lanes(bed: Bed, count: int) -> None:
    """So many lanes, each with a job that waits."""
    for number in range(count):
        bed.send(bed.lane(f"t{number}", timeout=2.0))


@on_loop
async def test_a_few_deliveries_are_asked_for_one_by_one() -> None:
    bed = Bed()
    waiting_lanes(bed, 10)
    looks = looks_of(bed)
    await looks.poll(0.1, 100)
    assert (len(bed.client.asked), bed.admin.tables) == (0, 0), "none is due"
    await looks.poll(0.3, 100)
    assert (len(bed.client.asked), bed.admin.tables) == (10, 0)
    await looks.poll(0.35, 100)
    assert len(bed.client.asked) == 10, "nor soon again"


@on_loop
async def test_of_ten_thousand_that_wait_those_are_asked_for_whose_queues_run_something() -> None:
    bed = Bed()
    waiting_lanes(bed, 10_000)
    looks = looks_of(bed)
    bed.admin.busy = {b"t7_me", b"t9999_me", b"another"}
    await looks.poll(0.3, 250)
    assert (len(bed.client.asked), bed.admin.tables) == (2, 1)
    for told in bed.client.asked:
        told(True, True)
    taken = [one for lane in bed.held.all() for one in lane.window if one.state is State.TAKEN]
    assert sorted(one.lane.topic for one in taken) == ["t7", "t9999"]
    await looks.poll(0.31, 250)
    assert bed.admin.tables == 1, "nothing is due"


@on_loop
async def test_lanes_that_close_are_asked_for_before_all_others() -> None:
    bed = Bed()
    waiting_lanes(bed, 1000)
    closing = bed.held.find("t500")["me"]
    bed.held.close(closing)
    await looks_of(bed).poll(0.3, 10)
    assert len(bed.client.asked) == 1
    [delivery] = closing.window
    bed.client.asked[0](True, False)
    assert delivery.state is State.WITHDRAWING


@on_loop
async def test_a_list_of_jobs_is_read_ever_more_seldom_for_a_delivery_that_waits() -> None:
    bed = Bed()
    waiting_lanes(bed, 3)
    looks = looks_of(bed)
    reads = [at for at in range(2, 400, 2) if looks._suspects(float(at))]
    gaps = [b - a for a, b in itertools.pairwise(reads)]
    assert reads[0] == 2
    assert gaps == sorted(gaps)
    assert (gaps[0], gaps[-1]) == (2, 60)


@on_loop
async def test_a_job_on_which_a_receiver_died_has_its_time() -> None:
    bed = Bed()
    [delivery] = bed.send(bed.lane(timeout=1000))
    looks = looks_of(bed)
    await looks.poll_deaths(2.0)
    assert delivery.state is State.SENT
    bed.admin.dead = {b"H:0"}
    await looks.poll_deaths(10.0)
    assert delivery.state is State.TAKEN  # type: ignore[comparison-overlap]


@on_loop
async def test_a_death_on_a_job_that_is_over_says_nothing_of_the_next_attempt() -> None:
    bed = Bed()
    one = bed.lane(timeout=1000)
    [delivery] = bed.send(one)
    job = delivery.job

    def sent_anew() -> None:
        delivery.unship(Event.LOSE)
        assert delivery.refill(entries(1, 1))
        bed.outcomes.shipping.add(delivery)
        bed.outcomes.shipping.ship(1.0)

    bed.admin.dead, bed.admin.meanwhile = {b"H:0"}, sent_anew
    await looks_of(bed).poll_deaths(10.0)
    assert delivery.job is not job
    assert delivery.state is State.SENT


@on_loop
async def test_a_death_on_a_job_of_a_lane_that_was_lost_meanwhile_starts_no_time() -> None:
    bed = Bed()
    one = bed.lane(timeout=1000)
    [delivery] = bed.send(one)

    def lose() -> None:
        one.apply(LaneEvent.FENCE)
        bed.outcomes.end(one)

    bed.admin.dead, bed.admin.meanwhile = {b"H:0"}, lose
    await looks_of(bed).poll_deaths(10.0)
    assert delivery.state is State.SENT
    assert delivery.timer is None
